"""Clients that end their side of the connection: what they asked for in full is answered, what broke off is refused and never passes for
whole. Both lanes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.contract.test_lanes import SCRIPT
from tests.support.front import Front
from tests.support.lanes import LANES
from tests.support.raw import OK, RawPeer, RawUpstream, raw_upstream, until

pytestmark = pytest.mark.asyncio(loop_scope="module")

RULES = [
    {"name": "admin", "match": {"path": "/admin/**"}, "deny": {"status": 451}},
    {"name": "gated", "match": {"path": "/gated/**"}, "require": "human"},
]


class Seen:
    """A gateway, and the whole requests that arrived at its upstream."""

    def __init__(self, front: Front, upstream: RawUpstream, go_on: asyncio.Event) -> None:
        self.front = front
        self.upstream = upstream
        self.go_on = go_on

    def bytes(self, text: str) -> bytes:
        return text.replace("\n", "\r\n").encode("latin-1").replace(b"HOST", self.front.host)


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=LANES)
async def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Seen]:
    go_on = asyncio.Event()

    async def script(upstream: RawUpstream, peer: RawPeer) -> None:
        while True:
            upstream.requests.append(await peer.message())
            if upstream.requests[-1].head.target == b"/slow":
                await peer.send(OK[:-1])
                await go_on.wait()
                await peer.send(OK[-1:])
            else:
                await peer.send(OK)

    async with raw_upstream(script) as upstream:
        urls = {"app": {"url": upstream.url, "keepalive": "1s"}}
        async with LANES[request.param](tmp_path_factory.mktemp("lane"), urls, rules=RULES) as front:
            yield Seen(front, upstream, go_on)


@pytest.fixture(autouse=True)
def fresh(made: Seen) -> None:
    made.upstream.requests.clear()


WHOLE = {
    "a plain request": ("GET /x HTTP/1.1\nHost: HOST\n\n", [200]),
    "a body with its length": ("POST /x HTTP/1.1\nHost: HOST\nContent-Length: 3\n\nabc", [200]),
    "a body in chunks": ("POST /x HTTP/1.1\nHost: HOST\nTransfer-Encoding: chunked\n\n3\nabc\n0\n\n", [200]),
    "a request of HTTP/1.0": ("GET /x HTTP/1.0\nHost: HOST\n\n", [200]),
    "several at once": ("GET /x HTTP/1.1\nHost: HOST\n\n" * 3, [200, 200, 200]),
    "several, by either lane": (
        f"GET /x HTTP/1.1\nHost: HOST\n\nGET /admin HTTP/1.1\nHost: HOST\n{SCRIPT}\nGET /x HTTP/1.1\nHost: HOST\n\n", [200, 451, 200],
    ),
    "a denied one": ("GET /admin HTTP/1.1\nHost: HOST\n\n", [451]),
    "a gated one": (f"GET /gated HTTP/1.1\nHost: HOST\n{SCRIPT}\n", [401]),
    "one of our own paths": ("GET /.stepup/jwks.json HTTP/1.1\nHost: HOST\n\n", [200]),
}  # fmt: skip


@pytest.mark.parametrize(("sent", "statuses"), WHOLE.values(), ids=WHOLE)
async def test_whole_requests_are_answered_then_the_connection_ends(made: Seen, sent: str, statuses: list[int]) -> None:
    async with made.front.client() as client:
        await client.send(made.bytes(sent))
        client.writer.write_eof()
        answers = [await client.response() for _ in statuses]
        assert [answer.status for answer in answers] == statuses
        assert await client.rest() == b""
    assert len(made.upstream.requests) == statuses.count(200) - ("jwks" in sent)


async def test_an_answer_that_was_asked_for_before_still_comes_after_the_end(made: Seen) -> None:
    """The end arrives while the request is in hand, and not together with it."""
    async with made.front.client() as client:
        await client.send(made.bytes("GET /x HTTP/1.1\nHost: HOST\n\n"))
        assert (await client.response()).status == 200
        await client.send(made.bytes("GET /y HTTP/1.1\nHost: HOST\n\n"))
        await until(lambda: len(made.upstream.requests) == 2)
        client.writer.write_eof()
        assert (await client.response()).status == 200
        assert await client.rest() == b""


async def test_the_end_within_an_answer_ends_the_connection_behind_it(made: Seen) -> None:
    """Its head has promised that the connection goes on."""
    async with made.front.client() as client:
        await client.send(made.bytes("GET /slow HTTP/1.1\nHost: HOST\n\n"))
        head = await client.head()
        assert head.get(b"connection") is None
        client.writer.write_eof()
        made.go_on.set()
        assert await client.body(head) == b"ok"
        assert await client.rest() == b""


async def test_the_end_behind_an_answer_that_left_the_body_unread_ends_the_connection(made: Seen) -> None:
    async with made.front.client() as client:
        await client.send(made.bytes("POST /admin HTTP/1.1\nHost: HOST\nContent-Length: 10\n\nabc"))
        assert (await client.response()).status == 451
        client.writer.write_eof()
        assert await client.rest() == b""
    assert made.upstream.requests == []


@pytest.mark.parametrize(
    "sent",
    ["GET", "GET /x HTTP/1.1", "GET /x HTTP/1.1\nHost: HOST\n", "POST /x HTTP/1.1\nHost: HOST\nContent-Length: 3\n"],
    ids=["method", "line", "fields", "all but the end"],
)
@pytest.mark.parametrize("before", ["", "GET /x HTTP/1.1\nHost: HOST\n\n"], ids=["first", "second"])
async def test_a_head_that_breaks_off_is_never_a_request(made: Seen, before: str, sent: str) -> None:
    async with made.front.client() as client:
        await client.send(made.bytes(before + sent))
        client.writer.write_eof()
        answers = await client.rest()
        assert answers.count(b"HTTP/1.1 200") == (1 if before else 0)
        assert answers.count(b"HTTP/1.1 ") <= (2 if before else 1)
    assert len(made.upstream.requests) == (1 if before else 0)


@pytest.mark.parametrize(
    "sent",
    [
        "POST /x HTTP/1.1\nHost: HOST\nContent-Length: 10\n\nabc",
        "POST /x HTTP/1.1\nHost: HOST\nContent-Length: 10\n\n",
        "POST /x HTTP/1.1\nHost: HOST\nTransfer-Encoding: chunked\n\n3\nabc\n",
        "POST /x HTTP/1.1\nHost: HOST\nTransfer-Encoding: chunked\n\n3\nabc\n0\n",
        "POST /x HTTP/1.1\nHost: HOST\nTransfer-Encoding: chunked\n\n5\nabc",
    ],
    ids=["length", "nothing of it", "no last chunk", "last chunk without its end", "within a chunk"],
)
async def test_a_body_that_breaks_off_is_never_whole_upstream(made: Seen, sent: str) -> None:
    async with made.front.client() as client:
        await client.send(made.bytes(sent))
        client.writer.write_eof()
        answers = await client.rest()
        assert b"HTTP/1.1 200" not in answers
        assert answers.count(b"HTTP/1.1 ") <= 1
    assert made.upstream.requests == []


@pytest.mark.parametrize("path", ["/gated", "/admin", "/.stepup/pass/revoke"])
async def test_a_body_that_breaks_off_in_front_of_a_page_ends_the_connection(made: Seen, path: str) -> None:
    async with made.front.client() as client:
        await client.send(made.bytes(f"POST {path} HTTP/1.1\nHost: HOST\nContent-Type: a/b\nContent-Length: 10\n\nabc"))
        client.writer.write_eof()
        assert (await client.rest()).count(b"HTTP/1.1 ") <= 1
    assert made.upstream.requests == []
