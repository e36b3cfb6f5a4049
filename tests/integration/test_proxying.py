"""Headers through the whole gateway: what an upstream is told, what a client is told, and what neither may say."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.support.front import CHROME, FETCH, Front, cookies, fronting
from tests.support.gateway import running
from tests.support.raw import OK, RawMessage, RawPeer, RawUpstream, answering, raw_client, raw_upstream

pytestmark = pytest.mark.asyncio(loop_scope="module")

GATED = {"name": "gated", "match": {"path": "/gated/**"}, "require": "human"}
OURS = (b"stepup", b"__Host-stepup", b"stepup-browser", b"__Host-stepup-browser")


class Place:
    """A gateway and an upstream that answers what the test says."""

    def __init__(self, front: Front, upstream: RawUpstream) -> None:
        self.front = front
        self.upstream = upstream
        self.answer = OK

    async def seen(self, fields: bytes, line: str = "GET /x") -> RawMessage:
        """The request as the upstream got it."""
        self.upstream.requests.clear()
        assert (await self.front.ask(line, fields)).status == 200
        (request,) = self.upstream.requests
        return request

    async def got(self, answer: bytes, fields: bytes = b"", line: str = "GET /x") -> RawMessage:
        """The upstream's answer as the client got it."""
        self.answer = answer
        try:
            return await self.front.ask(line, fields)
        finally:
            self.answer = OK


async def _place(folder: Path, **config: Any) -> AsyncIterator[Place]:
    made: list[Place] = []

    async def script(upstream: RawUpstream, peer: RawPeer) -> None:
        while True:
            upstream.requests.append(await peer.message())
            await peer.send(made[0].answer)

    async with raw_upstream(script) as upstream:
        app = {"app": {"url": upstream.url, "keepalive": "1s"}}  # the raw upstream waits for no request longer than its patience
        async with fronting(folder, app, rules=[GATED], **config) as front:
            made.append(Place(front, upstream))
            yield made[0]


IDENTITY = [{"from": "header", "name": "X-Remote-User", "claims": {"mail": "X-Remote-Mail"}}]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def place(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Place]:
    """Nobody is trusted."""
    async for made in _place(tmp_path_factory.mktemp("front"), identity=IDENTITY):
        yield made


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def behind(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Place]:
    """Behind a proxy on loopback that is trusted."""
    folder = tmp_path_factory.mktemp("behind")
    async for made in _place(folder, identity=IDENTITY, trusted_proxies=["127.0.0.0/8", "10.0.0.0/8"], hosts=["bank.example"]):
        yield made


# -- to the upstream: nothing lost, nothing turned ----------------------------------------------------------------------


async def test_spelling_order_duplicates_and_bytes_of_headers_arrive_and_ours_stand_behind_them(place: Place) -> None:
    sent = [
        (b"x-a", b"1"),
        (b"X-A", b"2"),
        (b"ACCEPT", b"*/*"),
        (b"x-a", b"3"),
        (b"X-Bytes", b"\xe4\xff"),
        (b"X-Empty", b""),
        (b"Cookie", b"b=2;a=1; b=3"),
    ]
    request = await place.seen(b"".join(b"%b: %b\r\n" % field for field in sent))
    host = place.front.host
    ours = ((b"Via", b"1.1 stepup"), (b"X-Forwarded-For", b"127.0.0.1"), (b"X-Forwarded-Proto", b"http"), (b"X-Forwarded-Host", host),
            (b"Forwarded", b'for=127.0.0.1;host="%b";proto=http' % host))  # fmt: skip
    assert request.head.fields == ((b"Host", host), *sent, *ours)


ECHOED = ["/echo/a%2Fb%2f?x=%2F&y=a+b&&", "/echo/a//b/./c", "/echo/%C3%A4;p=1/x?", "/echo/x/%2e%2e/y", "/echo?a=1&a=2&b[]=%5B"]


@pytest.mark.parametrize("target", ECHOED)
async def test_an_app_gets_the_target_and_the_headers_that_were_sent(tmp_path: Path, target: str) -> None:
    async with running(tmp_path) as demo:
        port = int(demo.base.rpartition(":")[2])
        async with raw_client(port) as client:
            await client.send(
                f"PUT {target} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\nx-LOW: 1\r\nX-Low: 2\r\nContent-Length: 3\r\n\r\nabc".encode()
            )
            arrived = json.loads((await client.response()).body)
    assert (arrived["method"], arrived["target"], arrived["bytes"]) == ("PUT", target, 3)
    assert arrived["headers"][:4] == [["host", f"127.0.0.1:{port}"], ["x-LOW", "1"], ["X-Low", "2"], ["Content-Length", "3"]]


HOP = (
    b"Connection: x-one, X-TWO , close\r\nConnection: x_three\r\nX-One: 1\r\nx-two: 2\r\nX-Three: 3\r\nX_Three: 3\r\nX-Four: 4\r\n"
    b"Keep-Alive: 5\r\nTE: trailers\r\n"
    b"Trailer: X-T\r\nProxy-Connection: keep-alive\r\nProxy-Authorization: Basic x\r\nUpgrade: h2c\r\nHTTP2-Settings: x\r\n"
    b"Proxy: http://evil\r\n"
)


async def test_hop_by_hop_headers_and_those_that_connection_names_end_here(place: Place) -> None:
    request = await place.seen(HOP)
    names = [name.lower() for name, _ in request.head.fields]
    assert names == [
        b"host",
        b"x-four",
        b"http2-settings",
        b"via",
        b"x-forwarded-for",
        b"x-forwarded-proto",
        b"x-forwarded-host",
        b"forwarded",
    ]


async def test_connection_takes_away_neither_what_frames_a_message_nor_what_the_gateway_says(place: Place) -> None:
    fields = b"Connection: Host, Content-Type, Cookie, Authorization, Via, X-Forwarded-For, X-Stepup-Token, Forwarded\r\n"
    kept = b"Content-Type: a/b\r\nCookie: a=1\r\nAuthorization: Basic x\r\n"
    request = await place.seen(fields + kept)
    for name, value in (
        (b"host", place.front.host),
        (b"content-type", b"a/b"),
        (b"cookie", b"a=1"),
        (b"authorization", b"Basic x"),
        (b"via", b"1.1 stepup"),
    ):
        assert request.head.all(name) == [value]
    assert request.head.all(b"x-forwarded-for") == [b"127.0.0.1"]
    assert len(request.head.all(b"forwarded")) == 1


async def test_via_is_continued(place: Place) -> None:
    assert (await place.seen(b"Via: 1.0 front\r\n")).head.all(b"via") == [b"1.0 front", b"1.1 stepup"]


# -- to the upstream: who says so ---------------------------------------------------------------------------------------

CLAIMED = [
    "X-Forwarded-For: 6.6.6.6", "x-forwarded-for: 6.6.6.6", "X_Forwarded_For: 6.6.6.6", "X-Forwarded_Host: evil",
    "X-Forwarded-Proto: https", "X-Forwarded-Port: 64999", "X-Forwarded-Prefix: /x", "X-Forwarded-Uri: /admin",
    "X-Forwarded-User: root", "X-Original-URL: /admin", "X_Original_Url: /admin", "X-Rewrite-URL: /admin", "X-Real-IP: 6.6.6.6",
    "X_Real_Ip: 6.6.6.6", "True-Client-IP: 6.6.6.6", "CF-Connecting-IP: 6.6.6.6", "Client-IP: 6.6.6.6", "X-Client-IP: 6.6.6.6",
    "X-Cluster-Client-IP: 6.6.6.6", "Forwarded: for=6.6.6.6;host=evil", "X-Host: evil", "X-Remote-User: root",
    "x_remote_user: root", "X-REMOTE_user: root", "X-Remote-Mail: root@evil", "X-Stepup-Token: forged", "X_Stepup_Token: forged",
    "x-stepup-token: forged", "X-STEPUP_anything: forged", "X-Stepup-Subject: root",
]  # fmt: skip


@pytest.mark.parametrize("field", CLAIMED)
async def test_what_a_client_claims_about_itself_or_in_our_name_is_dropped(place: Place, field: str) -> None:
    line = field.encode() + b"\r\n"
    forged = line.partition(b": ")[2].strip()
    for sent in (line, line + line, b"Connection: " + line.partition(b":")[0] + b"\r\n" + line):
        request = await place.seen(sent)
        assert not [field for field in request.head.fields if forged in field[1]], request
        assert request.head.all(b"x-forwarded-for") == [b"127.0.0.1"]
        assert request.head.all(b"x-forwarded-proto") == [b"http"]


async def test_a_trusted_proxys_word_is_continued(behind: Place) -> None:
    said = (b"X-Forwarded-For: 203.0.113.9, 10.1.1.1\r\nForwarded: for=203.0.113.9;proto=http, for=10.1.1.1\r\nX-Real-IP: 203.0.113.9\r\n"
            b"X-Remote-User: alice\r\nX-Remote-Mail: a@b\r\n")  # fmt: skip
    head = (await behind.seen(said)).head
    host = behind.front.host
    assert head.all(b"x-forwarded-for") == [b"203.0.113.9, 10.1.1.1, 127.0.0.1"]
    assert head.all(b"forwarded") == [b'for=203.0.113.9;proto=http, for=10.1.1.1, for=127.0.0.1;host="%b";proto=http' % host]
    assert head.all(b"x-real-ip") == [b"203.0.113.9"]
    assert head.all(b"x-remote-user") == [b"alice"]
    assert head.all(b"x-remote-mail") == [b"a@b"]


async def test_even_through_a_trusted_proxy_nobody_speaks_as_the_gateway(behind: Place) -> None:
    head = (await behind.seen(b"X-Stepup-Token: forged\r\nX_Stepup_Token: forged\r\nX-Forwarded-For: 203.0.113.9\r\n")).head
    assert not [field for field in head.fields if field[1] == b"forged"]


# -- cookies ------------------------------------------------------------------------------------------------------------

STRIPPED = [
    (b"stepup=x", None),
    (b"a=1; stepup=x; b=2", b"a=1; b=2"),
    (b"a=1;stepup=x;b=2", b"a=1;b=2"),
    (b"stepup=x; stepup-browser=y; a=1", b"a=1"),
    (b"__Host-stepup=x; __Host-stepup-browser=y; a=1", b"a=1"),
    (b"a=1; stepup = x", b"a=1"),
    (b'a=1; "stepup"=x', b"a=1"),
    (b"a=1, stepup=x", None),
    (b"a=1 stepup=x; b=2", b"b=2"),
    (b"stepup; a=1", b"a=1"),
    (b"stepupx=1; xstepup=2; STEPUP-2=3", b"stepupx=1; xstepup=2; STEPUP-2=3"),
]


@pytest.mark.parametrize(("sent", "arrives"), STRIPPED, ids=[s.decode() for s, _ in STRIPPED])
async def test_our_cookies_stay_here_and_the_others_go_on_as_they_are(place: Place, sent: bytes, arrives: bytes | None) -> None:
    assert (await place.seen(b"Cookie: %b\r\n" % sent)).head.get(b"cookie") == arrives


async def test_no_cookie_that_the_gateway_gave_reaches_an_upstream(place: Place) -> None:
    held = await place.front.passed("GET /gated")
    values = [pair.partition(b"=")[2] for pair in held.removeprefix(b"Cookie: ").strip().split(b"; ")]
    assert len(values) == 2
    request = await place.seen(held, "GET /gated")
    assert request.head.all(b"cookie") == []
    assert not [value for value in values if any(value in field[1] for field in request.head.fields)]


@pytest.mark.parametrize("name", [*OURS, b" stepup", b'"stepup"', b"stepup "])
async def test_an_upstream_sets_none_of_our_cookies(place: Place, name: bytes) -> None:
    answer = b"HTTP/1.1 200 OK\r\nSet-Cookie: a=1\r\nset-cookie: %b=evil; Path=/\r\nSet-Cookie: b=2\r\nContent-Length: 0\r\n\r\n" % name
    assert (await place.got(answer)).head.all(b"set-cookie") == [b"a=1", b"b=2"]


async def test_neither_does_a_cookie_without_a_name(place: Place) -> None:
    for value in (b"=stepup=evil", b"=__Host-stepup=evil; Path=/"):
        answer = b"HTTP/1.1 200 OK\r\nSet-Cookie: %b\r\nContent-Length: 0\r\n\r\n" % value
        assert (await place.got(answer)).head.all(b"set-cookie") == []


# -- to the client ------------------------------------------------------------------------------------------------------

PLAIN = (b"HTTP/1.1 203 Odd Reason\r\nsET-cookie: a=1; Path=/\r\nX-Odd: \xff\r\nSet-Cookie: b=2\r\nSet-Cookie: a=3\r\n"
b"Cache-Control: max-age=60\r\n"
         b"Server: app\r\nContent-Length: 2\r\nx-odd: 2\r\n\r\nok")  # fmt: skip


async def test_an_answer_that_no_rule_protects_is_untouched(place: Place) -> None:
    got = await place.got(PLAIN)
    head, _, body = PLAIN.partition(b"\r\n\r\n")
    line, *fields = head.split(b"\r\n")
    assert (got.head.line, got.body) == (line, body)
    assert [b"%b: %b" % field for field in got.head.fields] == fields


async def test_an_answer_without_cache_control_gains_none(place: Place) -> None:
    assert (await place.got(OK)).head.fields == ((b"Content-Length", b"2"),)


async def test_hop_by_hop_headers_of_an_answer_end_here(place: Place) -> None:
    answer = (
        b"HTTP/1.1 200 OK\r\nConnection: X-Up, keep-alive\r\nX-Up: 1\r\nKeep-Alive: timeout=5\r\n"
        b"Proxy-Authenticate: Basic\r\nTrailer: X\r\nUpgrade: h2c\r\n"
        b"X-Down: 1\r\nContent-Length: 0\r\n\r\n"
    )
    assert (await place.got(answer)).head.fields == ((b"X-Down", b"1"), (b"Content-Length", b"0"))


CACHING = [
    (b"", b"private, no-cache"),
    (b"Cache-Control: public, max-age=60\r\n", b"private, no-cache"),
    (b"Cache-Control: private\r\ncache-control: s-maxage=9\r\n", b"private, no-cache"),
    (b"Cache-Control: no-store\r\n", b"no-store"),
    (b"Cache-Control: private, no-cache, max-age=0\r\n", b"private, no-cache, max-age=0"),
    (b'Cache-Control: private="X", no-cache="Y"\r\n', b"private, no-cache"),
]


@pytest.mark.parametrize(("said", "told"), CACHING)
async def test_a_protected_answer_is_kept_by_no_shared_cache(place: Place, said: bytes, told: bytes) -> None:
    held = await place.front.passed("GET /gated")
    answer = (
        b"HTTP/1.1 200 OK\r\n%bCDN-Cache-Control: max-age=60\r\nSurrogate-Control: max-age=9\r\nX-Accel-Expires: 60\r\n"
        b"Content-Length: 0\r\n\r\n" % said
    )
    got = await place.got(answer, held, "GET /gated")
    assert got.head.all(b"cache-control") == [told]
    assert not [name for name, _ in got.head.fields if name in (b"CDN-Cache-Control", b"Surrogate-Control", b"X-Accel-Expires")]
    other = await place.got(b"HTTP/1.1 200 OK\r\n%bContent-Length: 0\r\n\r\n" % said, held)
    assert other.head.all(b"cache-control") == [line.partition(b": ")[2] for line in said.split(b"\r\n") if line]


# -- Host ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("setting", ["keep", "rewrite", "inner.example:99"])
async def test_host_is_kept_rewritten_or_fixed_and_the_public_one_told_beside_it(tmp_path: Path, setting: str) -> None:
    async with raw_upstream(answering(OK)) as upstream:
        async with fronting(tmp_path, {"app": {"url": upstream.url, "host_header": setting}}) as front:
            await front.ask("GET /x")
        wanted = {"keep": front.host, "rewrite": b"127.0.0.1:%d" % upstream.port}.get(setting, setting.encode())
        assert upstream.requests[0].head.all(b"host") == [wanted]
        assert upstream.requests[0].head.all(b"x-forwarded-host") == [front.host]


async def test_a_host_that_is_not_public_is_a_421_and_reaches_nobody(place: Place) -> None:
    place.upstream.requests.clear()
    for host in (b"evil", b"evil:%d" % place.front.port, place.front.host + b".evil", b"127.0.0.1", b"user@" + place.front.host, b""):
        answer = await place.front.ask("GET /x", b"X-Forwarded-Host: " + place.front.host + b"\r\n", host=host)
        assert answer.status in (400, 421), host
    assert place.upstream.requests == []


async def test_https_is_what_a_trusted_proxy_says_it_is(tmp_path: Path) -> None:
    async with raw_upstream(answering(OK)) as upstream:
        public: dict[str, Any] = {"public_url": ["https://bank.example"], "trusted_proxies": ["127.0.0.1"]}
        async with fronting(tmp_path, upstream.url, rules=[GATED], **public) as front:
            said = b"X-Forwarded-Proto: https\r\n"
            assert (await front.ask("GET /x", host=b"bank.example")).status == 421
            assert (await front.ask("GET /x", said, host=b"bank.example")).status == 200
            asked = await front.ask("GET /gated", said + CHROME, host=b"bank.example:443")
            assert asked.status == 303
            assert [pair.partition(b"=")[0] for pair in cookies(asked)] == [b"__Host-stepup-browser"]
        head = upstream.requests[0].head
        assert head.all(b"x-forwarded-proto") == [b"https"]
        assert head.all(b"x-forwarded-host") == [b"bank.example"]
        assert len(upstream.requests) == 1


# -- addresses of upstreams in answers ----------------------------------------------------------------------------------


async def _moved(upstream: RawUpstream, peer: RawPeer) -> None:
    """Redirects to what the request wants, with cookies for its own domain and for none."""
    while True:
        wanted = (await peer.message()).head.get(b"x-want") or b""
        location = wanted.replace(b"SELF", b"127.0.0.1:%d" % upstream.port)
        cookies = b"Set-Cookie: a=1; domain=inner.example; Path=/\r\nSet-Cookie: b=2; Secure\r\n"
        await peer.send(b"HTTP/1.1 302 Found\r\nLocation: %b\r\n%bContent-Length: 0\r\n\r\n" % (location, cookies))


LOCATIONS = [
    (b"http://SELF/next?x=1#f", b"http://PUBLIC/next?x=1#f"),
    (b"HTTP://SELF", b"http://PUBLIC"),
    (b"http://SELF.evil/x", None),
    (b"http://user@SELF/x", None),
    (b"https://SELF/x", None),
    (b"http://elsewhere/SELF", None),
    (b"/plain?to=http://SELF/", None),
]


async def test_location_and_cookie_domain_are_rewritten_where_that_is_configured(tmp_path: Path) -> None:
    async with raw_upstream(_moved) as upstream:
        settings = {"url": upstream.url, "rewrite_location": True, "cookie_domain": "public.example"}
        async with fronting(tmp_path, {"app": settings}) as front:
            for wanted, told in LOCATIONS:
                answer = await front.ask("GET /x", b"X-Want: %b\r\n" % wanted)
                expected = told.replace(b"PUBLIC", front.host) if told else wanted.replace(b"SELF", b"127.0.0.1:%d" % upstream.port)
                assert answer.head.all(b"location") == [expected]
                assert answer.head.all(b"set-cookie") == [b"a=1; domain=public.example; Path=/", b"b=2; Secure"]


async def test_location_and_cookie_domain_stay_where_nothing_is_configured(tmp_path: Path) -> None:
    async with raw_upstream(_moved) as upstream, fronting(tmp_path, upstream.url) as front:
        answer = await front.ask("GET /x", b"X-Want: http://SELF/x\r\n")
        assert answer.head.all(b"location") == [b"http://127.0.0.1:%d/x" % upstream.port]
        assert answer.head.all(b"set-cookie") == [b"a=1; domain=inner.example; Path=/", b"b=2; Secure"]


# -- one connection -----------------------------------------------------------------------------------------------------


async def test_requests_sent_at_once_are_answered_in_order_gated_or_not(place: Place) -> None:
    front = place.front
    place.upstream.requests.clear()
    async with front.client() as client:
        sent = [
            front.head("GET /one"),
            front.head("GET /gated/a", FETCH),
            front.head("GET /two"),
            front.head("GET /gated/b", CHROME),
            front.head("GET /three"),
        ]
        await client.send(b"".join(sent))
        answers = [await client.response() for _ in sent]
    assert [answer.status for answer in answers] == [200, 401, 200, 303, 200]
    assert [request.head.target for request in place.upstream.requests] == [b"/one", b"/two", b"/three"]


@pytest.mark.parametrize("kind", [CHROME, FETCH])
async def test_a_connection_goes_on_behind_a_suspended_post_and_its_body_is_no_request(place: Place, kind: bytes) -> None:
    front = place.front
    inner = b"GET /inner HTTP/1.1\r\nHost: x\r\n\r\n"
    place.upstream.requests.clear()
    async with front.client() as client:
        for _ in range(3):
            await client.send(front.head("POST /gated", kind + b"Content-Length: %d\r\n" % len(inner)) + inner)
            assert (await client.response()).status == (303 if kind is CHROME else 401)
            await client.send(front.head("GET /next"))
            assert (await client.response()).status == 200
    assert [request.head.target for request in place.upstream.requests] == [b"/next"] * 3
