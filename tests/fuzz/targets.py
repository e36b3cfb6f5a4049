"""What is fuzzed: a function a target. Bytes in; it raises only where a law is broken. `SEEDS` are where a search begins.

What a parser may raise is caught here by name: everything else is a find.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import tempfile
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from gateway.errors import BadTarget
from gateway.lanes.reading import BadAnswer, Reading
from gateway.lanes.strict import judge
from gateway.policy.body import parse_body
from gateway.settings.yaml import parse
from gateway.tokens.passes import read_pass
from gateway.wire.cookies import format_set_cookie, names_ours, parse_cookies, parse_set_cookie, without
from gateway.wire.forwarding import client_ip, client_scheme, parse_networks
from gateway.wire.head import Headers, RequestHead
from gateway.wire.headers import effective_methods, request_for_upstream, response_for_client
from gateway.wire.media import navigation
from gateway.wire.target import MAX_READINGS, parse_target, query_pairs, with_parameter, without_parameter
from tests.support.alike import answers_alike, requests_alike
from tests.support.lanes import LANES
from tests.support.smuggling import RULES
from tests.support.wire import Wire, wired

Target = Callable[[bytes], None]

_FIELDS: Headers = ((b"Host", b"a.example"),)
_TRUSTED = parse_networks(["10.0.0.0/8", "::1/128"])


def _headers(data: bytes) -> Headers:
    """Lines of `name: value`, as a parser would hand them over: no line breaks in them."""
    pairs = (line.partition(b":") for line in data.replace(b"\r", b"").split(b"\n"))
    return tuple((name, value.strip(b" \t")) for name, _, value in pairs if name)


def _head(data: bytes, target: bytes = b"/x") -> RequestHead:
    try:
        parsed = parse_target(target)
    except BadTarget:
        parsed = parse_target(b"/x")
    headers = _FIELDS + _headers(data)
    return RequestHead("POST", parsed, headers, "http", "a.example", "http://a.example", "192.0.2.1", "192.0.2.1")


def target(data: bytes) -> None:
    """gateway.wire.target: a bounded set, the bytes kept, and what is added can be taken away again."""
    try:
        parsed = parse_target(data)
    except BadTarget:
        return
    assert parsed.raw == data
    assert parsed.path + (b"" if parsed.query is None else b"?" + parsed.query) == data
    assert 0 < len(parsed.readings) <= MAX_READINGS
    names = [name for name, _ in query_pairs(parsed)]
    if "su_new" not in names:
        longer = with_parameter(data, "su_new", "1&=#%")
        assert ("su_new", "1&=#%") in query_pairs(parse_target(longer))
        assert without_parameter(longer, "su_new") == data


def headers(data: bytes) -> None:
    """gateway.wire.headers, forwarding: nothing that is ours or about forwarding passes from a client; nothing stops a head."""
    line, _, rest = data.partition(b"\n")
    head = _head(rest, line)
    effective_methods(head)
    navigation(head)
    client_ip("10.1.2.3", head.headers, _TRUSTED)
    client_scheme(head.headers, "http", trusted=True)
    request_for_upstream(head, host=b"a.example", trusted=True)
    sent = request_for_upstream(head, host=b"a.example", trusted=False)
    keys = [name.lower().replace(b"_", b"-") for name, _ in sent]
    assert not [key for key in keys if key.startswith(b"x-stepup-") or key == b"proxy"]
    assert all(keys.count(key) == 1 for key in (b"host", b"via", b"x-forwarded-for", b"forwarded")) or b"via" in rest.lower()
    for gated in (False, True):
        told = response_for_client(head.headers, gated=gated)
        assert not [value for name, value in told if name.lower() == b"set-cookie" and names_ours(value)]


def cookies(data: bytes) -> None:
    """gateway.wire.cookies: what is stripped is not found any more; what a browser ignores fails nobody."""
    head = _head(b"Cookie: " + data.replace(b"\n", b""))
    parse_cookies(head)
    left = without(data, frozenset({"stepup", "sid"}), spellings_of=frozenset({"JSESSIONID"}))
    if left is not None:
        names = {name for name, _ in parse_cookies(_head(b"Cookie: " + left.replace(b"\n", b"")))} if b"\n" not in left else set()
        assert not names & {"stepup", "sid"}
    parse_set_cookie(data).expired(1e9)
    names_ours(data)
    try:
        made = format_set_cookie("a", data.decode("latin-1"), secure=True)
    except ValueError:
        return
    assert parse_set_cookie(made).value == data.decode("latin-1")


def body(data: bytes) -> None:
    """gateway.policy.body: any type, any bytes."""
    kind, _, rest = data.partition(b"\n")
    parse_body(kind.decode("latin-1"), rest, 65_536)
    for each in ("application/json", "application/x-www-form-urlencoded", "multipart/form-data; boundary=b"):
        parse_body(each, data, 65_536)


class _Macs:
    def mac(self, purpose: str, data: bytes) -> bytes:
        return hmac.digest(b"k", purpose.encode() + data, hashlib.sha256)

    def macs(self, purpose: str, data: bytes) -> tuple[bytes, ...]:
        return (self.mac(purpose, data),)


def passes(data: bytes) -> None:
    """gateway.tokens.passes: nothing unsigned is a pass; what was signed and makes no sense is none either."""
    vault = _Macs()
    read = {"origin": "http://a.example", "now": 1e9, "max_age": 3600.0, "idle": 600.0}
    read_pass(data.decode("latin-1"), vault, **read)  # type: ignore[arg-type]
    from gateway.tokens.compact import b64encode
    from gateway.tokens.passes import _PURPOSE

    payload = b64encode(data)
    signed = f"{payload}.{b64encode(vault.mac(_PURPOSE, payload.encode('ascii')))}"
    read_pass(signed, vault, **read)  # type: ignore[arg-type]


def yaml(data: bytes) -> None:
    """gateway.settings.yaml: a document or mistakes with a place, never a traceback."""
    found = parse(data)
    assert found is not None


def heads(data: bytes) -> None:
    """gateway.lanes.strict: a judgement, always."""
    line, _, rest = data.partition(b"\n")
    method, _, path = line.partition(b" ")
    for version in ((1, 0), (1, 1)):
        judge(method.decode("latin-1"), path, version, _FIELDS + _headers(rest), request_line=8190)


def answers(data: bytes) -> None:
    """gateway.lanes.reading: an answer in pieces is the answer in one, or both are none."""
    if not data:
        return
    for method in ("GET", "HEAD"):
        whole, in_pieces = _read(method, [data[1:]]), _read(method, _pieces(data))
        assert whole == in_pieces or None in (whole, in_pieces), (whole, in_pieces)


def _pieces(data: bytes) -> list[bytes]:
    size = data[0] % 32 + 1
    return [data[at : at + size] for at in range(1, len(data), size)]


def _read(method: str, pieces: Sequence[bytes]) -> tuple[list[Any], bytes] | None:
    """Heads and body, or None where it is no whole answer."""
    reading = Reading(method, has_body=False, upgrade=False)
    found: list[Any] = []
    content = b""
    final = ended = False
    try:
        for piece in [*pieces, b""]:
            if ended:
                break
            reading.receive(piece)
            while not final and (head := reading.head()) is not None:
                # h11 writes the coding in lower case; no coding of an upstream is passed on.
                found.append((head.status, [field for field in head.headers if field[0].lower() != b"transfer-encoding"]))
                final = head.status >= 200
                if len(found) > 100:
                    return None
            while final and not ended and (part := reading.body()) is not None:
                content += part
                ended = part == b""
    except BadAnswer:
        return None
    return (found, content) if ended else None


class _Lanes:
    """Both lanes, kept for all inputs of a process."""

    def __init__(self) -> None:
        self._runner = asyncio.Runner()
        self.wires: list[Wire] = self._runner.run(self._start())

    async def _start(self) -> list[Wire]:
        self._stack = AsyncExitStack()
        folder = Path(tempfile.mkdtemp(prefix="stepup-fuzz-"))
        limits = {"head_timeout": "1m", "body_idle_timeout": "1m", "keepalive": "1m"}
        wires = []
        for name, start in LANES.items():
            wire = await self._stack.enter_async_context(wired(start, folder / name, rules=RULES, limits=limits))
            wires.append(wire)
        return wires

    def run(self, task: Coroutine[Any, Any, None]) -> None:
        self._runner.run(task)


_lanes: list[_Lanes] = []


def _both() -> _Lanes:
    if not _lanes:
        _lanes.append(_Lanes())
    return _lanes[0]


def lanes_requests(data: bytes) -> None:
    """Both lanes: a client's bytes, read alike, and the law of `Wire`. The first three bytes say where they are cut."""
    if len(data) > 3:
        both = _both()
        both.run(requests_alike(both.wires, data[3:], [each / 256 for each in data[:3]]))


def lanes_answers(data: bytes) -> None:
    """Both lanes: an upstream's bytes, read alike, and the law of `Wire`. The first byte says the method, two more where they are cut."""
    if len(data) > 3:
        both = _both()
        method = (b"POST", b"GET", b"HEAD")[data[0] % 3]
        both.run(answers_alike(both.wires, data[3:], [each / 256 for each in data[1:3]], method))


TARGETS: dict[str, Target] = {
    each.__name__: each for each in (target, headers, cookies, body, passes, yaml, heads, answers, lanes_requests, lanes_answers)
}
_HOST = b"Host: GATEWAY.TEST:80\r\n"
_REQUEST = b"POST /a%2f..//b;c?x=1 HTTP/1.1\r\n" + _HOST
_OK = b"HTTP/1.1 200 OK\r\n"
_SIZED = _OK + b"Content-Length: 4\r\n\r\n"
_CHUNKED = _OK + b"Transfer-Encoding: chunked\r\n\r\n"
SEEDS: dict[str, Sequence[bytes]] = {
    "target": [b"/x/..;/%2e%2e%2f%252f\\a#b?c=%2e&d", b"/plain/path?q=1", b"/%u0061%c0%af"],
    "headers": [
        b'/x?_method=PUT\nX-Forwarded-For: 1.2.3.4, 10.0.0.1\nForwarded: for="[::1]:80";proto=https\nConnection: X-A, close\nX_A: 1\n',
    ],
    "cookies": [
        b'a=1; stepup=x, sid="y"; %4ASESSIONID=z; b',
        b"a=b; Path=/; Expires=Wed, 21 Oct 2026 07:28:00 GMT; Max-Age=-1; Secure",
    ],
    "body": [
        b"a/b\na=1&b=%20&c[]=2",
        b'{"a": [1, {"b": null}], "c": 1e999}',
        b'--b\r\nContent-Disposition: form-data; name="a"\r\n\r\n1\r\n--b--\r\n',
    ],
    "passes": [b'{"v": 1}', b"[]", b"abc.def", b"null"],
    "yaml": [
        b"a: &x [1, 0x1f, .inf]\nb: {<<: *x, c: '${A}'}\n# c\n? d\n: |\n  e\n",
        b"rules:\n  - {name: a, match: {path: /x/**}}\n",
    ],
    "heads": [b"POST /x\nTransfer-Encoding: chunked\nContent-Length: 3\nContent_Length: 4\n", b"GET /x\nHost: b\n"],
    "answers": [
        b"\x05" + _SIZED + b"good",
        b"\x03" + _CHUNKED + b"4;a=b\r\ngood\r\n0\r\nX: 1\r\n\r\n",
        b"\x07HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.0 404 \r\n\r\nend",
    ],
    "lanes_requests": [
        b"\x20\x80\xc0"
        + _REQUEST
        + b"Content-Length: 4\r\n\r\nabcd"
        + _REQUEST
        + b"Transfer-Encoding: chunked\r\n\r\n2;x\r\nab\r\n0\r\n\r\n",
        b"\x10\x10\x10GET /admin HTTP/1.1\r\n" + _HOST + b"\r\nGET /x HTTP/1.0\r\n" + _HOST + b"\r\n",
    ],
    "lanes_answers": [
        b"\x00\x20\x80" + _SIZED + b"good",
        b"\x01\x30\x70" + _CHUNKED + b"4\r\ngood\r\n0\r\n\r\n",
        b"\x02\x00\x00" + _SIZED,
    ],
}
