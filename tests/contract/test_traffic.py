"""Both lanes count the same of the same exchanges."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest
import pytest_asyncio

from gateway.flow.traffic import UpstreamTraffic
from tests.support.front import Front
from tests.support.lanes import LANES
from tests.support.raw import OK, RawPeer, RawUpstream, Truncated, raw_upstream, until

pytestmark = pytest.mark.asyncio(loop_scope="module")

CHUNKED = b"HTTP/1.1 404 Not Found\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
EMPTY = b"HTTP/1.1 204 No Content\r\n\r\n"
BROKEN = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc"
LATE = 0.3  # seconds
LONG = b"HTTP/1.1 500 No\r\nContent-Length: 200000\r\n\r\n" + b"x" * 200_000


class Place:
    def __init__(self, front: Front, upstream: RawUpstream) -> None:
        self.front = front
        self.upstream = upstream
        self.answer = OK

    @property
    def counts(self) -> UpstreamTraffic:
        return self.front.app.metrics.traffic.upstream("app")

    def now(self) -> tuple[list[int], int, int, int, int, int]:
        counts = self.counts
        return (
            list(counts.statuses), counts.sent, counts.received, sum(counts.waited.counts), sum(counts.own.counts), counts.retries,
        )  # fmt: skip


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=LANES)
async def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Place]:
    made: list[Place] = []

    async def script(upstream: RawUpstream, peer: RawPeer) -> None:
        while True:
            upstream.requests.append(await peer.message())
            if upstream.requests[-1].head.target == b"/once":  # and then this connection is dead, which nobody knows yet
                await peer.send(OK)
                await peer.message()
                return
            if upstream.requests[-1].head.target == b"/late":
                await asyncio.sleep(LATE)  # the subject is time
            await peer.send(made[0].answer)
            if made[0].answer == BROKEN:
                return

    async with (
        raw_upstream(script) as upstream,
        LANES[request.param](tmp_path_factory.mktemp("lane"), {"app": {"url": upstream.url}}) as front,
    ):
        made.append(Place(front, upstream))
        yield made[0]


EXCHANGES = {
    "a plain one": (OK, b"GET /x", b"", 2, 0, 2),
    "chunks back": (CHUNKED, b"GET /x", b"", 4, 0, 5),
    "no body back": (EMPTY, b"GET /x", b"", 2, 0, 0),
    "a long one back": (LONG, b"GET /x", b"", 5, 0, 200_000),
    "a body there": (OK, b"POST /x", b"Content-Length: 7\r\n\r\nabcdefg", 2, 7, 2),
    "chunks there": (OK, b"POST /x", b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n4\r\ndefg\r\n0\r\n\r\n", 2, 7, 2),
    "an answer that breaks off": (BROKEN, b"GET /x", b"", 2, 0, 3),
    "HEAD": (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n", b"HEAD /x", b"", 2, 0, 0),
}


@pytest.mark.parametrize(("answer", "line", "rest", "digit", "sent", "received"), EXCHANGES.values(), ids=EXCHANGES)
async def test_an_exchange_is_counted_once_with_its_bytes(
    place: Place, answer: bytes, line: bytes, rest: bytes, digit: int, sent: int, received: int
) -> None:
    place.answer = answer
    statuses, *before = place.now()
    async with place.front.client() as client:
        await client.send(line + b" HTTP/1.1\r\nHost: " + place.front.host + b"\r\n" + (rest or b"\r\n"))
        with suppress(Truncated):
            await client.response(method=line.split()[0].decode())
        await until(lambda: place.now()[3] > before[2])
    statuses[digit] += 1
    assert place.now() == (statuses, before[0] + sent, before[1] + received, before[2] + 1, before[3] + 1, before[4])


async def test_an_answer_of_our_own_is_no_exchange(place: Place) -> None:
    before = place.now()
    assert (await place.front.ask("GET /.stepup/jwks.json")).status == 200
    assert place.now() == before


async def test_a_request_sent_again_is_one_exchange_and_a_retry(place: Place) -> None:
    place.answer = OK
    before = place.now()
    assert (await place.front.ask("GET /once")).status == 200
    assert (await place.front.ask("GET /x")).status == 200
    after = place.now()
    assert after[5] == before[5] + 1
    assert after[3] == before[3] + 2


async def test_waiting_for_the_upstream_is_not_the_gateways_own_time(place: Place) -> None:
    counts = place.counts
    waited, own = counts.waited.total, counts.own.total
    assert (await place.front.ask("GET /late")).status == 200
    assert counts.waited.total - waited >= LATE
    assert 0 < counts.own.total - own < LATE
