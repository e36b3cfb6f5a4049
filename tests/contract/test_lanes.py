"""What every lane does with the same bytes: what the upstream gets, what the client gets, and whether the connection goes on.

Bodies are compared without their chunk boundaries, heads to the
byte.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest
import pytest_asyncio

from tests.support.front import CHROME, FETCH, Front
from tests.support.lanes import LANES
from tests.support.raw import OK, RawHead, RawMessage, RawPeer, RawUpstream, raw_upstream

pytestmark = pytest.mark.asyncio(loop_scope="module")

DENIED = 451
RULES = [
    {"name": "admin", "match": {"path": "/admin/**"}, "deny": {"status": DENIED}},
    {"name": "gated", "match": {"path": "/gated/**"}, "require": "human"},
    {"name": "no-delete", "match": {"path": "/things/**", "method": "DELETE"}, "deny": {"status": DENIED}},
]

# What the gateway adds to every request, behind what the client sent.
ADDED = """Via: 1.1 stepup
X-Forwarded-For: 127.0.0.1
X-Forwarded-Proto: http
X-Forwarded-Host: HOST
Forwarded: for=127.0.0.1;host="HOST";proto=http
"""


@dataclass
class Lane:
    """A gateway, its upstream, and what the upstream shall answer."""

    front: Front
    upstream: RawUpstream
    answer: bytes = OK
    tunnelled: list[bytes] = field(default_factory=list)

    def bytes(self, text: str) -> bytes:
        """A message as written below: lines end with LF, HOST stands for the gateway's."""
        return text.replace("\n", "\r\n").encode("latin-1").replace(b"HOST", self.front.host)

    def message(self, text: str) -> RawMessage:
        head, _, body = text.partition("\n\n")
        line, *fields = self.bytes(head.strip("\n")).split(b"\r\n")
        pairs = (each.partition(b":") for each in fields)
        return RawMessage(RawHead(line, tuple((name, value.strip()) for name, _, value in pairs)), body.encode("latin-1"))


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=LANES)
async def lane(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Lane]:
    made: list[Lane] = []

    async def script(upstream: RawUpstream, peer: RawPeer) -> None:
        while True:
            upstream.requests.append(await peer.message())
            answer = made[0].answer
            await peer.send(answer)
            if answer.startswith(b"HTTP/1.1 101"):
                made[0].tunnelled.append(await peer.exactly(4))
                await peer.send(b"pong")
            if b"\r\nConnection: close\r\n" in answer or answer.startswith((b"HTTP/1.0", b"HTTP/1.1 101")):
                return

    async with raw_upstream(script) as upstream:
        urls = {"app": {"url": upstream.url, "keepalive": "1s"}}  # the raw upstream waits for no request longer than its patience
        async with LANES[request.param](tmp_path_factory.mktemp("lane"), urls, rules=RULES) as front:
            made.append(Lane(front, upstream))
            yield made[0]


@pytest.fixture(autouse=True)
def fresh(lane: Lane) -> None:
    lane.upstream.requests.clear()
    lane.tunnelled.clear()
    lane.answer = OK


@dataclass(frozen=True, slots=True)
class Exchange:
    """sent, and what the upstream answers to it; what arrives there and what comes back. goes_on: the connection serves another request."""

    sent: str
    arrives: str
    answer: str = "HTTP/1.1 200 OK\nContent-Length: 2\n\nok"
    comes: str = "HTTP/1.1 200 OK\nContent-Length: 2\n\nok"
    goes_on: bool = True


GET = "GET /x HTTP/1.1\nHost: HOST\n\n"
GOT = f"GET /x HTTP/1.1\nHost: HOST\n{ADDED}"

CARRIED = {
    "a plain request": Exchange(GET, GOT),
    "a target that servers read in many ways, and rules do not name": Exchange(
        "GET /a%2fb//c/./d;p=1/%C3%A4?x=%2e%2e/admin&&y=a+b? HTTP/1.1\nHost: HOST\n\n",
        f"GET /a%2fb//c/./d;p=1/%C3%A4?x=%2e%2e/admin&&y=a+b? HTTP/1.1\nHost: HOST\n{ADDED}",
    ),
    "an empty query and a fragment": Exchange("GET /x?#y HTTP/1.1\nHost: HOST\n\n", f"GET /x?#y HTTP/1.1\nHost: HOST\n{ADDED}"),
    "headers in any spelling, order and number": Exchange(
        "GET /x HTTP/1.1\nx-a: 1\nhOST: HOST\nX-A: \xe4\xff\nx-a:3\nX-Empty:\nX_Under: 4\nCookie: b=2;a=1\n\n",
        f"GET /x HTTP/1.1\nx-a: 1\nhOST: HOST\nX-A: \xe4\xff\nx-a: 3\nX-Empty:\nX_Under: 4\nCookie: b=2;a=1\n{ADDED}",
    ),
    "blanks around values and in the request line": Exchange(
        "GET  /x  HTTP/1.1\nHost:  HOST \nX-A: \t 1 \t\n\n", f"GET /x HTTP/1.1\nHost: HOST\nX-A: 1\n{ADDED}"
    ),
    "a body with its length": Exchange(
        "POST /x HTTP/1.1\nHost: HOST\ncontent-length: 5\nX-A: 1\n\na=1&b",
        f"POST /x HTTP/1.1\nHost: HOST\ncontent-length: 5\nX-A: 1\n{ADDED}\na=1&b",
    ),
    "an empty body with its length": Exchange(
        "POST /x HTTP/1.1\nHost: HOST\nContent-Length: 0\n\n", f"POST /x HTTP/1.1\nHost: HOST\nContent-Length: 0\n{ADDED}"
    ),
    "a body in chunks": Exchange(
        "PUT /x HTTP/1.1\nHost: HOST\nTransfer-Encoding: chunked\n\n3\na=1\n4;ext=1\n&b=2\n0\n\n",
        f"PUT /x HTTP/1.1\nHost: HOST\n{ADDED}Transfer-Encoding: chunked\n\na=1&b=2",
    ),
    "methods beyond the usual": Exchange(
        "PROPFIND /x HTTP/1.1\nHost: HOST\nDepth: 1\n\n", f"PROPFIND /x HTTP/1.1\nHost: HOST\nDepth: 1\n{ADDED}"
    ),
    "hop-by-hop headers both ways": Exchange(
        "GET /x HTTP/1.1\nHost: HOST\nConnection: X-Mine, keep-alive\nX-Mine: 1\nKeep-Alive: 1\nTE: trailers\n"
        "Proxy-Authorization: x\nX-B: 2\n\n",
        f"GET /x HTTP/1.1\nHost: HOST\nX-B: 2\n{ADDED}",
        "HTTP/1.1 200 OK\nConnection: X-Theirs\nX-Theirs: 1\nKeep-Alive: timeout=5\nX-B: 2\nContent-Length: 2\n\nok",
        "HTTP/1.1 200 OK\nX-B: 2\nContent-Length: 2\n\nok",
    ),
    "an upgrade that no tunnel carries": Exchange("GET /x HTTP/1.1\nHost: HOST\nConnection: Upgrade\nUpgrade: h2c\n\n", GOT),
    "what only the gateway and proxies may say": Exchange(
        "GET /x HTTP/1.1\nHost: HOST\nX-Stepup-Token: a\nx_stepup_token: b\nX-Forwarded-For: 6.6.6.6\nX_Forwarded_For: 6\n"
        "Forwarded: for=6\nX-Real-IP: 6\n"
        "X-Original-URL: /admin\nProxy: x\nVia: 1.0 a\n\n",
        f"GET /x HTTP/1.1\nHost: HOST\nVia: 1.0 a\n{ADDED}",
    ),
    "our cookies": Exchange(
        "GET /x HTTP/1.1\nHost: HOST\nCookie: a=1; stepup=x; b=2\nCookie: __Host-stepup=x\nCookie: c=3; stepup-browser=y\n\n",
        f"GET /x HTTP/1.1\nHost: HOST\nCookie: a=1; b=2\nCookie: c=3\n{ADDED}",
        "HTTP/1.1 200 OK\nSet-Cookie: a=1\nset-cookie: stepup=x; Path=/\nSet-Cookie: __Host-stepup-browser=x\nSet-Cookie: b=2\n"
        "Content-Length: 0\n\n",
        "HTTP/1.1 200 OK\nSet-Cookie: a=1\nSet-Cookie: b=2\nContent-Length: 0\n\n",
    ),
    "an answer in any spelling": Exchange(
        GET,
        GOT,
        "HTTP/1.1 299 Odd \xe4\nx-b: 1\nX-B: \xff\nCache-Control: public, max-age=9\nserver: app\ncontent-length: 2\n\nok",
        "HTTP/1.1 299 Odd \xe4\nx-b: 1\nX-B: \xff\nCache-Control: public, max-age=9\nserver: app\ncontent-length: 2\n\nok",
    ),
    "an answer in chunks": Exchange(
        GET,
        GOT,
        "HTTP/1.1 200 OK\nTransfer-Encoding: chunked\nX-B: 1\n\n1\no\n1\nk\n0\nX-Trailer: 1\n\n",
        "HTTP/1.1 200 OK\nX-B: 1\nTransfer-Encoding: chunked\n\nok",
    ),
    "an answer that ends with its connection": Exchange(
        GET, GOT, "HTTP/1.1 200 OK\nX-B: 1\nConnection: close\n\nok", "HTTP/1.1 200 OK\nX-B: 1\nTransfer-Encoding: chunked\n\nok"
    ),
    "an answer of HTTP/1.0": Exchange(GET, GOT, "HTTP/1.0 200 OK\n\nok", "HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\nok"),
    "an answer without a body": Exchange(GET, GOT, "HTTP/1.1 204 No Content\nX-B: 1\n\n", "HTTP/1.1 204 No Content\nX-B: 1\n\n"),
    "an answer that is not modified": Exchange(
        GET,
        GOT,
        'HTTP/1.1 304 Not Modified\nETag: "x"\nContent-Length: 9\n\n',
        'HTTP/1.1 304 Not Modified\nETag: "x"\nContent-Length: 9\n\n',
    ),
    "HEAD": Exchange(
        "HEAD /x HTTP/1.1\nHost: HOST\n\n",
        f"HEAD /x HTTP/1.1\nHost: HOST\n{ADDED}",
        "HTTP/1.1 200 OK\nContent-Length: 9\n\n",
        "HTTP/1.1 200 OK\nContent-Length: 9\n\n",
    ),
    "early hints": Exchange(GET, GOT, "HTTP/1.1 103 Early Hints\nLink: </a>\n\nHTTP/1.1 200 OK\nContent-Length: 2\n\nok"),
    "a client that closes": Exchange(
        "GET /x HTTP/1.1\nHost: HOST\nConnection: close\n\n",
        GOT,
        comes="HTTP/1.1 200 OK\nContent-Length: 2\nConnection: close\n\nok",
        goes_on=False,
    ),
    "a client of HTTP/1.0": Exchange(
        "GET /x HTTP/1.0\nHost: HOST\n\n",
        GOT,
        "HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n2\nok\n0\n\n",
        "HTTP/1.1 200 OK\nConnection: close\n\nok",
        goes_on=False,
    ),
    "a client of HTTP/1.0 that keeps its connection": Exchange(
        "GET /x HTTP/1.0\nHost: HOST\nConnection: keep-alive\n\n",
        GOT,
        comes="HTTP/1.1 200 OK\nContent-Length: 2\nConnection: keep-alive\n\nok",
    ),
}


@pytest.mark.parametrize("exchange", CARRIED.values(), ids=CARRIED)
async def test_what_is_allowed_is_carried(lane: Lane, exchange: Exchange) -> None:
    lane.answer = lane.bytes(exchange.answer)
    async with lane.front.client() as client:
        await client.send(lane.bytes(exchange.sent))
        answer = await client.response(method=exchange.sent.split()[0])
        assert lane.upstream.requests == [lane.message(exchange.arrives)]
        assert answer == lane.message(exchange.comes)
        await _and_then(lane, client, goes_on=exchange.goes_on)


async def _and_then(lane: Lane, client: RawPeer, *, goes_on: bool) -> None:
    """The connection serves another request, or it is closed."""
    lane.answer = OK
    lane.upstream.requests.clear()
    if not goes_on:
        assert await client.rest() == b""
        return
    await client.send(lane.bytes(GET))
    assert (await client.response()).body == b"ok"
    assert lane.upstream.requests == [lane.message(GOT)]


@dataclass(frozen=True, slots=True)
class Stopped:
    """What never gets to the upstream, the status that says so, and whether the connection serves another request."""

    sent: str
    status: int
    goes_on: bool = True


PAGE, SCRIPT = CHROME.decode().replace("\r\n", "\n"), FETCH.decode().replace("\r\n", "\n")

STOPPED = {
    "denied": Stopped("GET /admin HTTP/1.1\nHost: HOST\n\n", DENIED),
    "denied in another spelling": Stopped("GET /x/..%2f%61dmin;y HTTP/1.1\nHost: HOST\n\n", DENIED),
    "denied by an override header": Stopped(
        "POST /things HTTP/1.1\nHost: HOST\nX-HTTP-Method-Override: DELETE\nContent-Length: 0\n\n", DENIED
    ),
    "denied by a field in the body": Stopped(
        "POST /things HTTP/1.1\nHost: HOST\nContent-Type: application/x-www-form-urlencoded\nContent-Length: 14\n\n_method=DELETE", DENIED
    ),
    "denied with a body that is left unread": Stopped("POST /admin HTTP/1.1\nHost: HOST\nContent-Length: 5\n\na=1&b", DENIED),
    "gated, for a person": Stopped(f"GET /gated HTTP/1.1\nHost: HOST\n{PAGE}\n", 303),
    "gated, for a script": Stopped(f"GET /gated HTTP/1.1\nHost: HOST\n{SCRIPT}\n", 401),
    "gated, suspended with its body": Stopped(
        f"POST /gated HTTP/1.1\nHost: HOST\n{PAGE}Content-Type: a/b\nContent-Length: 5\n\na=1&b", 303
    ),
    "gated, suspended with its chunks": Stopped(
        f"POST /gated HTTP/1.1\nHost: HOST\n{PAGE}Content-Type: a/b\nTransfer-Encoding: chunked\n\n5\na=1&b\n0\n\n", 303
    ),
    "gated WebSocket": Stopped("GET /gated HTTP/1.1\nHost: HOST\nConnection: Upgrade\nUpgrade: websocket\n\n", 401),
    "one of our paths": Stopped("GET /.stepup/jwks.json HTTP/1.1\nHost: HOST\n\n", 200),
    "anything else under our prefix": Stopped("GET /.stepup/../x HTTP/1.1\nHost: HOST\n\n", 404),
    "continue without a state": Stopped("GET /continue HTTP/1.1\nHost: HOST\n\n", 400),
    "another host": Stopped("GET /x HTTP/1.1\nHost: evil\n\n", 421),
    "absolute-form": Stopped("GET http://HOST/x HTTP/1.1\nHost: HOST\n\n", 400),
    "asterisk": Stopped("OPTIONS * HTTP/1.1\nHost: HOST\n\n", 400),
    "NUL in the path": Stopped("GET /x%00 HTTP/1.1\nHost: HOST\n\n", 400),
    "CONNECT": Stopped("CONNECT HOST HTTP/1.1\nHost: HOST\n\n", 405, goes_on=False),
    "unknown method": Stopped("FROB /x HTTP/1.1\nHost: HOST\n\n", 400, goes_on=False),
    "length and chunked": Stopped(
        "POST /x HTTP/1.1\nHost: HOST\nContent-Length: 4\nTransfer-Encoding: chunked\n\n0\n\n", 400, goes_on=False
    ),
    "two lengths": Stopped("POST /x HTTP/1.1\nHost: HOST\nContent-Length: 4\nContent-Length: 5\n\nabcd", 400, goes_on=False),
    "coding that is not chunked": Stopped("POST /x HTTP/1.1\nHost: HOST\nTransfer-Encoding: gzip, chunked\n\n0\n\n", 400, goes_on=False),
    "folded header": Stopped("GET /x HTTP/1.1\nHost: HOST\nX: 1\n 2\n\n", 400, goes_on=False),
    "blank before the colon": Stopped("GET /x HTTP/1.1\nHost : HOST\n\n", 400, goes_on=False),
    "no Host": Stopped("GET /x HTTP/1.1\n\n", 400, goes_on=False),
    "two Hosts": Stopped("GET /x HTTP/1.1\nHost: HOST\nHost: evil\n\n", 400, goes_on=False),
    "HTTP/2.0": Stopped("GET /x HTTP/2.0\nHost: HOST\n\n", 505, goes_on=False),
    "request line too long": Stopped(f"GET /{'x' * 9000} HTTP/1.1\nHost: HOST\n\n", 414, goes_on=False),
    "header too long": Stopped(f"GET /x HTTP/1.1\nHost: HOST\nX: {'x' * 17_000}\n\n", 431, goes_on=False),
    "too many headers": Stopped("GET /x HTTP/1.1\nHost: HOST\n" + "X: 1\n" * 129 + "\n", 431, goes_on=False),
}


@pytest.mark.parametrize("stopped", STOPPED.values(), ids=STOPPED)
async def test_what_is_stopped_never_reaches_the_upstream(lane: Lane, stopped: Stopped) -> None:
    async with lane.front.client() as client:
        await client.send(lane.bytes(stopped.sent))
        answer = await client.response()
        assert (answer.status, lane.upstream.requests) == (stopped.status, [])
        await _and_then(lane, client, goes_on=stopped.goes_on)


async def test_requests_sent_at_once_are_answered_in_order_whichever_lane_they_need(lane: Lane) -> None:
    paths = ["x", "admin", "y", ".stepup/jwks.json", "gated", "z"]
    async with lane.front.client() as client:
        await client.send(lane.bytes("".join(f"GET /{path} HTTP/1.1\nHost: HOST\n{SCRIPT}\n" for path in paths)))
        assert [(await client.response()).status for _ in paths] == [200, DENIED, 200, 200, 401, 200]
    assert [request.head.target for request in lane.upstream.requests] == [b"/x", b"/y", b"/z"]


async def test_a_pass_opens_the_gate_and_adds_one_header(lane: Lane) -> None:
    held = (await lane.front.passed("GET /gated")).decode().strip()
    answers = []
    async with lane.front.client() as client:
        for _ in range(2):
            await client.send(lane.bytes(f"GET /gated HTTP/1.1\nHost: HOST\n{held}; a=1\nX-Stepup-Token: forged\n\n"))
            answers.append(await client.response())
        await _passed_as_one(lane, answers)
        await _and_then(lane, client, goes_on=True)


async def _passed_as_one(lane: Lane, answers: list[RawMessage]) -> None:
    assert answers == [lane.message("HTTP/1.1 200 OK\nContent-Length: 2\nCache-Control: private, no-cache\n\nok")] * 2
    heads = [request.head for request in lane.upstream.requests]
    tokens = [head.all(b"x-stepup-token") for head in heads]
    assert tokens[0] == tokens[1] != [b"forged"]
    assert len(tokens[0]) == 1
    bare = lane.message(f"GET /gated HTTP/1.1\nHost: HOST\nCookie: a=1\n{ADDED}").head
    assert [head.fields[:-1] for head in heads] == [bare.fields] * 2


@pytest.mark.parametrize(
    ("path", "first", "last"),
    [("/x", 100, 200), ("/gated", 100, 303), ("/admin", DENIED, DENIED)],
    ids=["forwarded", "suspended", "denied"],
)
async def test_a_waiting_client_is_told_to_go_on_by_whoever_takes_its_body(lane: Lane, path: str, first: int, last: int) -> None:
    lane.answer = b"HTTP/1.1 100 Continue\r\n\r\n" + OK
    sent = f"POST {path} HTTP/1.1\nHost: HOST\n{PAGE}Content-Type: a/b\nExpect: 100-continue\nContent-Length: 5\n\n"
    async with lane.front.client() as client:
        await client.send(lane.bytes(sent) + (b"a=1&b" if last == 200 else b""))
        head = await client.head()
        assert head.status == first
        if first == 100:
            await client.send(b"" if last == 200 else b"a=1&b")
            assert (await client.response()).status == last
            await _and_then(lane, client, goes_on=True)
        else:
            assert head.get(b"connection") == b"close"  # nobody knows whether a body follows
            assert lane.upstream.requests == []


async def test_a_websocket_is_a_tunnel_from_the_101_on(lane: Lane) -> None:
    switch = (
        "HTTP/1.1 101 Switching Protocols\nUpgrade: websocket\nConnection: Upgrade\nSec-WebSocket-Accept: x\nSec-WebSocket-Protocol: p\n\n"
    )
    lane.answer = lane.bytes(switch)
    async with lane.front.client() as client:
        upgrade = "Connection: keep-alive, Upgrade\nUpgrade: websocket\nSec-WebSocket-Protocol: p\n"
        await client.send(lane.bytes(f"GET /ws HTTP/1.1\nHost: HOST\n{upgrade}\n") + b"ping")
        head = await client.head()
        assert head.line == b"HTTP/1.1 101 Switching Protocols"
        assert sorted(head.fields) == sorted(lane.message(switch).head.fields)
        assert await client.rest() == b"pong"
    assert lane.tunnelled == [b"ping"]
    wanted = lane.message(f"GET /ws HTTP/1.1\nHost: HOST\nSec-WebSocket-Protocol: p\n{ADDED}Connection: Upgrade\nUpgrade: websocket\n")
    assert lane.upstream.requests == [wanted]
