"""No target means one thing to the gateway and another to the upstream: what was judged arrives byte for byte, or nothing does.

What a target may mean is worked out here a second time, from part 7.3 of the contract, never by the gateway's own code. `must` holds the
readings that the contract names; `may` adds those that the gateway lists beyond it. A rule that protects has to hold for all of `must`;
nothing is refused that `may` does not explain.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass

import pytest
import pytest_asyncio

from tests.support.lanes import LANES
from tests.support.wire import Client, Wire, wired

pytestmark = pytest.mark.asyncio(loop_scope="module")

DENIED, GATED = 451, 401
RULES = [
    {"name": "garden", "match": {"path": "/park/garden/**"}, "allow": True},
    {"name": "park", "match": {"path": "/park/**"}, "deny": {"status": DENIED}},
    {"name": "admin", "match": {"path": "/admin/**"}, "deny": {"status": DENIED}},
    {"name": "deep", "match": {"path": "/a/b/secret"}, "deny": {"status": DENIED}},
    {"name": "vault", "match": {"path": "/vault/**"}, "require": "human"},
]
# Two hosts, two upstreams: one reads paths without regard to case, as is assumed of everybody, the other one with it.
EXACT = "exact.test"
ROUTES = [{"host": EXACT, "upstream": "exact"}, {"upstream": "app"}]


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=LANES)
async def wire(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Wire]:
    async with wired(
        LANES[request.param],
        tmp_path_factory.mktemp("targets"),
        upstreams=("app", "exact"),
        spec={"exact": {"case_insensitive": False}},
        hosts=(EXACT,),
        rules=RULES,
        routes=ROUTES,
        transactions={"max_per_address": 100_000},
    ) as made:
        yield made


# -- what a target may mean ---------------------------------------------------------------------------------------------


def decoded(path: bytes) -> bytes:
    out, rest = b"", path
    while (at := rest.find(b"%")) >= 0:
        digits = rest[at + 1 : at + 3]
        if re.fullmatch(rb"[0-9A-Fa-f]{2}", digits):
            out, rest = out + rest[:at] + bytes.fromhex(digits.decode()), rest[at + 3 :]
        else:
            out, rest = out + rest[: at + 1], rest[at + 1 :]
    return out + rest


def resolved(path: bytes, *, slash: bool = True) -> bytes:
    """RFC 3986 section 5.2.4. slash: a last dot segment leaves one, as there; file systems leave none."""
    left = path
    out: list[bytes] = []
    while left:
        if left.startswith(b"/./"):
            left = left[2:]
        elif left.startswith(b"/../"):
            left = left[3:]
            del out[-1:]
        elif left in {b"/.", b"/.."}:
            del out[len(out) - (left == b"/..") :]
            return b"".join(out) + (b"/" if slash or not out else b"")
        else:
            end = left.find(b"/", 1)
            end = len(left) if end < 0 else end
            out.append(left[:end])
            left = left[end:]
    return b"".join(out)


Server = Callable[[bytes], bytes]
MUST: tuple[Server, ...] = (
    resolved,
    lambda path: re.sub(rb"/{2,}", b"/", path),
    lambda path: path.replace(b"\\", b"/"),
    lambda path: b"/".join(segment.split(b";")[0] for segment in path.split(b"/")),
    lambda path: path.split(b"#")[0],
)
MAY: tuple[Server, ...] = (
    *MUST,
    lambda path: resolved(path, slash=False),
    lambda path: path.split(b"?")[0],
    lambda path: re.sub(rb"^/{2,}[^/]*", b"", path) or b"/",
)


def meanings(path: bytes, servers: tuple[Server, ...]) -> frozenset[bytes]:
    """All that a chain of such servers makes of a path if at most two of them decode it."""
    seen: set[tuple[bytes, int]] = set()
    todo = [(path, 0)]
    while todo:
        at = todo.pop()
        if at in seen:
            continue
        seen.add(at)
        text, decodings = at
        todo += [(server(text), decodings) for server in servers if text.startswith(b"/")]
        if decodings < 2:
            todo.append((decoded(text), decodings + 1))
    return frozenset(text for text, _ in seen)


def below(root: str) -> Callable[[str], bool]:
    return lambda path: path == root or path.startswith(root + "/")


PROTECTED = (below("/admin"), lambda path: path == "/a/b/secret")
PARK, GARDEN, VAULT = below("/park"), below("/park/garden"), below("/vault")


def decisions(meant: frozenset[bytes], *, folds: bool) -> str:
    """What the rules above say of a request that has all these readings."""
    texts = [each.decode("utf-8", "surrogateescape") for each in meant]
    folded = [*texts, *[text.casefold() for text in texts]] if folds else texts
    if all(map(GARDEN, folded)):
        return "allow"
    if any(map(PARK, folded)) or any(rule(text) for rule in PROTECTED for text in folded):
        return "deny"
    return "gate" if any(map(VAULT, folded)) else "allow"


def unreadable(target: bytes) -> bool:
    """A reason that the contract, or the docs of the settings, name for a 400: nobody can say what it means."""
    path = target.split(b"?")[0]
    if not target.startswith(b"/") or re.search(rb"[^!-~]", target):
        return True
    found = list(meanings(path, MAY))
    if len(found) > 64:
        return True
    once = [decoded(text) for text in found]
    lenient = rb"[\x00-\x1f\x7f]|[\xc0\xc1]|\xe0[\x80-\x9f]|\xf0[\x80-\x8f]|%[uU][0-9A-Fa-f]{4}"
    return any(re.search(lenient, text) for text in (*found, *once))


# -- asking -------------------------------------------------------------------------------------------------------------


@dataclass
class Asking:
    """Many requests over one connection for as long as it lasts."""

    wire: Wire
    client: Client | None = None

    async def ask(self, target: bytes, *, host: bytes = b"", method: bytes = b"GET") -> tuple[int, list[bytes]]:
        """The status, and the targets that arrived."""
        if self.client is None or self.client.over.done():
            self.client = await self.wire.client()
        client = self.client
        client.came = b""
        self.wire.upstream.clear()
        name = host + b":%d" % self.wire.front.port if host else self.wire.front.host
        before = self.wire.decided()
        client.transport.write(b"%b %b HTTP/1.1\r\nHost: %b\r\nAccept: application/json\r\n\r\n" % (method, target, name))
        while not (whole := _whole(client.came)) and not client.over.done():
            await client.until(len(client.came) + 1)
        assert whole, client.came
        status, closes = whole
        if closes:
            await client.end()
        self.wire.sound()
        decided = self.wire.decided()
        decided.subtract(before)
        upstream = self.wire.upstream
        assert (decided["allow"], upstream.broken, upstream.stubs) == (len(upstream.arrived), [], []), target
        return status, [request.target for request in upstream.arrived]


def _whole(came: bytes) -> tuple[int, bool] | None:
    """The status of an answer that is all there, and whether the connection ends behind it."""
    head, end, body = came.partition(b"\r\n\r\n")
    length = re.search(rb"(?i)\r\ncontent-length: ([0-9]+)", head)
    if not end or (length and len(body) < int(length[1])):
        return None
    return int(head[9:12]), bool(re.search(rb"(?i)\r\nconnection: close", head)) or not length


async def _hold(asking: Asking, target: bytes) -> str:
    """One target in both hosts: what arrives is what was sent and may pass; what is refused has a reason. Says what became of it."""
    path = target.split(b"?")[0]
    must, may = meanings(path, MUST), meanings(path, MAY)
    for host, folds in ((b"", True), (EXACT.encode(), False)):
        status, seen = await asking.ask(target, host=host)
        needed, possible = decisions(must, folds=folds), decisions(may, folds=folds)
        if status == 400:
            assert unreadable(target), f"{target!r} is refused and can be read"
            assert seen == []
            became = "refused"
        elif status == 200:
            assert seen == [target], f"{target!r} arrived as {seen!r}"
            assert needed == "allow", f"{target!r} passed, and some server reads it as {sorted(must)}"
            became = "passed"
        else:
            assert seen == [], f"{target!r} got {status} and arrived"
            assert status in (DENIED, GATED), f"{target!r} got {status}"
            assert possible == {DENIED: "deny", GATED: "gate"}[status], f"{target!r} got {status}, which no reading explains"
            became = "stopped"
    return became


# -- the corpus ---------------------------------------------------------------------------------------------------------

SLASHES = ["/", "//", "%2f", "%2F", "%252f", "%25252f", "\\", "%5c", "%255C", "/./", "/%2e/", "/;/", ";/", ";a=1/", "%3b/", "/.;/", "/.//"]
PARENTS = ["..", "%2e%2e", ".%2e", "%2E.", "%252e%252e", "%252e.", "..;", "..;x=1", "%2e%2e%3b", "..%3bx", "....", "%25252e%25252e", "..."]
ENDS = [
    "", "/", "/.", "/..", "?", "?x=/../b", "#", "#x", "#/..", "%23", "%2523x", "%3f", "%253f", "%3fx=1", ";", ";x", "%3b", "%253b", ".",
    "..", "%2e", "%20", "%09", "%00", "%0a", "%7f", "\\", "%5c", "%", "%zz", "%2", "::$DATA", "~", "%ff", "%c3%a4", "*", "+", "%2b",
]  # fmt: skip


def words(word: str) -> list[str]:
    """A word in the spellings that some server undoes, and some that none does."""
    first, rest = word[0], word[1:]
    once = f"%{ord(first):02x}"
    return [
        word, word.upper(), word.title(), once + rest, once.upper().replace("%", "%25") + rest, f"%2525{ord(first):02x}{rest}",
        "".join(f"%{ord(c):02X}" for c in word), "".join(f"%25{ord(c):02x}" for c in word), f"%{ord(first.upper()):02x}{rest}",
    ]  # fmt: skip


def hostile() -> Iterator[str]:
    for word in ("admin", "vault"):
        for spelling in words(word):
            yield from (f"/{spelling}{end}" for end in ENDS)
        yield from (f"{slash}{word}" for slash in SLASHES)
        yield from (f"/{slash}{word}{slash}x" for slash in SLASHES)
        yield from (f"/x{slash}{parent}{slash}{word}" for slash in SLASHES for parent in PARENTS)
        yield from (f"/x/y/{parent}{slash}{parent}{slash}{word}" for slash in ("/", "%2f", "%5c", "\\") for parent in PARENTS)
        yield from (f"/x{one}{parent}{other}{word}" for one in ("/", "%2f", "%252f") for other in ("//", "%5c", ";/") for parent in PARENTS)
        yield from (f"/{word}{slash}{parent}{slash}x" for slash in ("/", "%2f", "\\", "/;/") for parent in PARENTS)
        yield from (
            f"/{word[:2]}{noise}{word[2:]}" for noise in ("%00", "%09", "%0d%0a", "/", "%2f", ";", "%3b", "#", "%23", "?", "%", "%25", "\\")
        )
        yield from (f"/{word[:2]}{dot}{word[2:]}" for dot in (".", "..", "%2e", "/../", "/./", "/x/../", "%e2%80%8b", "%c2%ad", "+", "%20"))
    yield from (
        f"/park{slash}garden{end}"
        for slash in SLASHES
        for end in ("", "/rose", "/..", "/%2e%2e", "/../x", ";x", "#", "/..;/x", "/.", "%2f..")
    )
    yield from (f"/{park}/{garden}" for park in words("park") for garden in words("garden"))
    yield from (
        f"/a{one}b{other}secret{end}" for one in SLASHES for other in ("/", "%2f", "\\", "//") for end in ("", "/", ";x", "%2f", "?x")
    )


ODD = [
    # overlong UTF-8, and what lenient decoders make of it
    "/%c0%af..%c0%afadmin", "/..%c0%afadmin", "/%c0%2fadmin", "/%e0%80%afadmin", "/%f0%80%80%afadmin", "/%c1%9cadmin",
    "/%c0%ae%c0%ae/admin", "/%25c0%25afadmin", "/%c1%81dmin", "/%e0%9f%bf", "/%f0%8f%bf%bf", "/%f8%80%80%80%afadmin",
    "/%fc%80%80%80%80%afadmin",
    # no UTF-8, surrogates, beyond Unicode, compatibility forms
    "/%ff", "/%fe%ff", "/%80", "/%bf/admin", "/%ed%a0%80", "/%ed%bf%bf", "/%f4%90%80%80", "/%c3%28", "/%e2%28%a1", "/%e4dmin",
    "/%ef%bc%8fadmin", "/%ef%bc%a1dmin", "/%e2%81%84admin", "/%e2%88%95admin", "/..%ef%bc%8fadmin", "/%ef%bc%8e%ef%bc%8e/admin",
    "/%ef%bb%bfadmin", "/%e2%80%aeadmin",
    # characters that fold to ASCII, and those that do not
    "/a/b/%c5%bfecret", "/a/b/%c5%bfECRET", "/a/b/%e2%84%aaecret", "/par%e2%84%aa", "/par%e2%84%aa/garden", "/adm%c4%b1n", "/adm%c4%b0n",
    "/adm%69n", "/ADM%49N",
    # escapes of other systems
    "/%u0061dmin", "/%U0061dmin", "/%u002fadmin", "/x/%u002e%u002e/admin", "/%25u0061dmin", "/%2525u0061dmin", "/%u006", "/%u00zz",
    "/%u2215admin", "/&#47;admin", "/&sol;admin", "/\\x2fadmin", "/\\u0061dmin", "/=3Dadmin", "/%x61dmin", "/0x2fadmin",
    # what only looks like an escape
    "/%", "/%%", "/%2", "/%2%66admin", "/%%32%66admin", "/%25%32%66admin", "/%%61dmin", "/%25%36%31dmin", "/%2g", "/%g2", "/% 61dmin",
    "/%-1", "/%+61",
    # queries and fragments
    "/?", "/??", "/?/admin", "/x?/../admin", "/x?%2f..%2fadmin", "/x?#/admin", "/x#?/admin", "/admin#/../x", "/admin%23/../x",
    "/x%23/../admin", "/x%3f/../admin", "/x%253f/../admin", "/x%3f/../../admin", "/admin%3f/../x", "/x?a=%00", "/x?\\..\\admin", "/x?//",
    "/#", "/##", "/#admin", "/x#/../admin", "/x?next=http://127.0.0.1/admin", "/http://127.0.0.1/admin", "/http:/admin",
    "/https:%2f%2fx%2fadmin", "//admin", "//x/admin", "///admin", "//x//admin", "/\\x/admin", "//x@y/admin", "//[::1]/admin", "/@/admin",
    "//user:pw@127.0.0.1:80/admin",
    # dots
    "/.", "/..", "/../", "/./", "/...", "/..../admin", "/.admin", "/.../admin", "/..admin", "/admin..", "/admin../x", "/x/.../admin",
    "/.%00./admin", "/..%20/admin", "/..%09/admin", "/x/..%0d/admin", "/%2e", "/%2e%2e", "/%252e", "/../../../../../../etc/passwd",
    "/..;/..;/admin", "/..%5c..%5cadmin", "/.\\./admin", "/x/.;./admin", "/x/%2e;/../admin", "/admin%2e", "/admin%20", "/admin.%20",
    "/admin%2520", "/admin%20.", "/ADMIN%2f", "/admin::$INDEX_ALLOCATION",
    # everything at once, to the bound of readings
    "/x/..;a/%2e%2e%2f//\\admin#?", "/%2f%5c%3b%23%3f%2e%2e/;/\\//#admin", "/a;b/c;d/e;f//g\\h/../i#j%2fk%5cl%3bm%252e%252e/n?o",
    "/;%2f;%5c;//..;#/%2e", "/" + "%25" * 30 + "61dmin", "/" + "/".join(f"{c};{c}" for c in "abcdefgh"), "/" + "/%2e" * 20 + "/admin",
    "/" + "x/../" * 20 + "admin", "/" + "%2f%2e%2e" * 10 + "/admin", "/" + "\\..\\" * 10 + "admin", "/" + ";/" * 20 + "admin",
    # plain ones
    "/", "/x", "/~x/_.-", "/x/y.z", "/a+b", "/:b@c!$&'()*,=", "/[x]", "/{x}", "/x|y", '/"<>^`', "/.well-known/x", "/x.", "/x..", "/x~1",
    "/adminx", "/xadmin", "/x/admin", "/admin.php", "/admin-x", "/a/b/secretx", "/a/b/secret.", "/a/secret", "/vaults", "/parking",
    "/park/gardens", "/park/garden.",
]  # fmt: skip

BATCH = 250
CORPUS = list(dict.fromkeys([*hostile(), *ODD]))


@pytest.mark.parametrize("start", range(0, len(CORPUS), BATCH))
async def test_a_hostile_target_arrives_as_it_was_judged_or_not_at_all(wire: Wire, start: int) -> None:
    asking = Asking(wire)
    for target in CORPUS[start : start + BATCH]:
        await _hold(asking, target.encode())


async def test_the_corpus_is_not_one_sided(wire: Wire) -> None:
    """Each of the three ends is really reached, and the model is no stranger to the gateway."""
    asking = Asking(wire)
    became = {
        target: await _hold(asking, target) for target in (b"/x%2fy", b"/%2e%2e/admin", b"/%c0%afadmin", b"/park/garden/rose", b"/vault/..")
    }
    assert became == {
        b"/x%2fy": "passed",
        b"/%2e%2e/admin": "stopped",
        b"/%c0%afadmin": "refused",
        b"/park/garden/rose": "passed",
        b"/vault/..": "stopped",
    }


@pytest.mark.parametrize("place", ["path", "query", "end", "start"])
async def test_a_byte_that_is_not_printable_is_refused_wherever_it_stands(wire: Wire, place: str) -> None:
    """They stand in no target (RFC 3986 section 2, RFC 9112 section 3.2)."""
    for byte in {*range(0x21), *range(0x7F, 0x100)} - set(b" \r\n"):
        raw = bytes([byte])
        target = {"path": b"/x%by" % raw, "query": b"/x?a%bb" % raw, "end": b"/x" + raw, "start": raw + b"/x"}[place]
        outcome = await wire.exchange(b"GET %b HTTP/1.1\r\nHost: GATEWAY.TEST:80\r\nConnection: close\r\n\r\n" % target)
        assert (outcome.statuses[:1], outcome.targets) == ([400], []), hex(byte)


ANOTHER_FORM = {
    "absolute-form": (b"GET http://GATEWAY.TEST:80/x", 400),
    "absolute-form of a protected path": (b"GET http://GATEWAY.TEST:80/admin", 400),
    "absolute-form of another host": (b"GET http://evil/x", 400),
    "absolute-form in upper case": (b"GET HTTP://GATEWAY.TEST:80/x", 400),
    "absolute-form with a user": (b"GET http://a@GATEWAY.TEST:80/x", 400),
    "absolute-form without a path": (b"GET http://GATEWAY.TEST:80", 400),
    "absolute-form of another scheme": (b"GET gopher://GATEWAY.TEST:80/x", 400),
    "absolute-form of https": (b"GET https://GATEWAY.TEST:80/x", 400),
    "scheme without an authority": (b"GET http:/x", 400),
    "scheme alone": (b"GET http:", 400),
    "an address that is none": (b"GET http://[::1", 400),
    "a script": (b"GET javascript:alert(1)", 400),
    "asterisk-form": (b"OPTIONS *", 400),
    "asterisk-form of another method": (b"GET *", 400),
    "asterisk and more": (b"OPTIONS */admin", 400),
    "authority-form": (b"GET GATEWAY.TEST:80", 400),
    "authority-form of CONNECT": (b"CONNECT GATEWAY.TEST:80", 405),
    "CONNECT to a path": (b"CONNECT /admin", 405),
    "CONNECT elsewhere": (b"CONNECT evil.example:443", 405),
    "relative": (b"GET admin", 400),
    "relative with a dot": (b"GET ./admin", 400),
    "relative with dots": (b"GET ../admin", 400),
    "a query alone": (b"GET ?x", 400),
    "a fragment alone": (b"GET #x", 400),
    "an encoded slash first": (b"GET %2fadmin", 400),
    "a backslash first": (b"GET \\admin", 400),
    "a semicolon first": (b"GET ;/admin", 400),
    "quoted": (b'GET "/admin"', 400),
}


@pytest.mark.parametrize(("line", "status"), ANOTHER_FORM.values(), ids=ANOTHER_FORM)
async def test_only_origin_form_is_served(wire: Wire, line: bytes, status: int) -> None:
    outcome = await wire.exchange(line + b" HTTP/1.1\r\nHost: GATEWAY.TEST:80\r\nConnection: close\r\n\r\n")
    assert (len(outcome.answers), outcome.targets) == (1, [])
    assert outcome.statuses[0] in (status, 400)


SPACED = {
    "a space in the path": b"GET /x y HTTP/1.1",
    "a space and a version in the path": b"GET /x HTTP/1.1 HTTP/1.1",
    "a protected path behind a space": b"GET /x /admin HTTP/1.1",
    "nothing": b"GET  HTTP/1.1",
    "no target": b"GET HTTP/1.1",
    "a line break": b"GET /x\r\n/admin HTTP/1.1",
    "a bare line feed": b"GET /x\n/admin HTTP/1.1",
    "a bare carriage return": b"GET /x\r/admin HTTP/1.1",
    "a carriage return at the end": b"GET /x\r HTTP/1.1",
    "no version": b"GET /x",
}


@pytest.mark.parametrize("line", SPACED.values(), ids=SPACED)
async def test_a_request_line_of_other_than_three_parts_is_refused(wire: Wire, line: bytes) -> None:
    outcome = await wire.exchange(line + b"\r\nHost: GATEWAY.TEST:80\r\nConnection: close\r\n\r\n")
    assert outcome.statuses[:1] in ([400], [505])  # RFC 1945's simple request has no version
    assert outcome.targets == []


@pytest.mark.parametrize("length", [8000, 8190, 8191, 9000, 20_000, 70_000])
@pytest.mark.parametrize(
    "unit", [b"a", b"a/../", b"%61", b";", b"//", b"%252e"], ids=["plain", "dots", "encoded", "params", "slashes", "twice"]
)
async def test_a_very_long_target_arrives_whole_or_is_a_414(wire: Wire, length: int, unit: bytes) -> None:
    """The bound counts the request line: method, target and version."""
    target = (b"/x" + unit * length)[: length - len(b"GET  HTTP/1.1")]
    outcome = await wire.exchange(b"GET %b HTTP/1.1\r\nHost: GATEWAY.TEST:80\r\nConnection: close\r\n\r\n" % target)
    if length > 8190:
        assert (outcome.statuses, outcome.targets) == ([414], [])
    elif outcome.statuses == [200]:
        assert outcome.targets == [target]
    else:
        assert (outcome.statuses, outcome.targets, unreadable(target)) == ([400], [], True)


@pytest.mark.parametrize("target", [b"/public", b"/%61dmin", b"/x%2f..%2fadmin", b"/x;y//z"])
@pytest.mark.parametrize("method", [b"POST", b"PUT", b"DELETE", b"OPTIONS", b"PATCH", b"PROPFIND", b"TRACE"])
async def test_the_method_changes_nothing_about_what_a_target_means(wire: Wire, target: bytes, method: bytes) -> None:
    outcome = await wire.exchange(
        b"%b %b HTTP/1.1\r\nHost: GATEWAY.TEST:80\r\nConnection: close\r\nContent-Length: 0\r\n\r\n" % (method, target)
    )
    wanted = decisions(meanings(target, MUST), folds=True)
    assert (outcome.statuses, outcome.targets) == (([200], [target]) if wanted == "allow" else ([DENIED], []))
