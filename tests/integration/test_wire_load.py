"""What `make soak` does at length, small and through every lane: many idle connections, a large form, an upstream that goes and comes."""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import pytest

from tests.support.front import Front
from tests.support.lanes import LANES, Start
from tests.support.raw import OK, RawPeer, RawUpstream, Truncated, answering, raw_upstream

IDLE = 300


@pytest.fixture(params=LANES)
def start(request: pytest.FixtureRequest) -> Start:
    return LANES[request.param]


async def test_idle_connections_are_kept_and_served_again_beside_a_busy_one(tmp_path: Path, start: Start) -> None:
    async with raw_upstream(answering(OK)) as upstream, start(tmp_path, upstream.url) as front, AsyncExitStack() as stack:
        peers = [await stack.enter_async_context(front.client()) for _ in range(IDLE)]
        for _ in range(2):
            for peer in peers:
                await peer.send(front.head("GET /x"))
                assert (await peer.response()).body == b"ok"
        assert upstream.connections < 10  # theirs are not the upstream's


async def test_a_large_form_passes_where_a_rule_asks_for_an_override_that_nobody_can_look_for(tmp_path: Path, start: Start) -> None:
    """Rules for another path cost it nothing; one for its own holds whatever the form says (design.md 7.3)."""
    size = 4 << 20
    form = b'--b\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n\r\n%b\r\n--b--\r\n' % (b"0123456789abcdef" * (size // 16))
    rules = [{"name": "no-delete", "match": {"path": "/things/**", "method": "DELETE"}, "deny": {"status": 451}}]
    fields = b"Content-Type: multipart/form-data; boundary=b\r\n"
    async with raw_upstream(answering(OK)) as upstream, start(tmp_path, upstream.url, rules=rules) as front:
        assert (await front.ask("POST /files", fields, form)).status == 200
        assert hashlib.sha256(upstream.requests[0].body).digest() == hashlib.sha256(form).digest()
        assert await _status(front, "POST /things/1", fields, form) == 451
        assert len(upstream.requests) == 1


async def _status(front: Front, line: str, fields: bytes, body: bytes) -> int:
    """Who is denied before all is sent need not be listened to."""
    async with front.client() as client:
        with suppress(ConnectionError):
            await client.send(front.head(line, fields + b"Content-Length: %d\r\n" % len(body)) + body)
        return (await client.head()).status


async def test_an_upstream_that_goes_and_comes_back_costs_502s_and_no_connection(tmp_path: Path, start: Start) -> None:
    peers: list[RawPeer] = []
    tasks: list[asyncio.Task[None]] = []

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = RawPeer(reader, writer)
        peers.append(peer)
        task = asyncio.current_task()
        assert task is not None
        tasks.append(task)
        with suppress(Truncated, OSError):
            await answering(OK)(RawUpstream(), peer)
        await peer.close()

    async def pound(front: Front, seen: Counter[int], over: asyncio.Event) -> None:
        async with front.client() as client:
            while not over.is_set():
                await client.send(front.head("GET /x"))
                seen[(await client.response()).status] += 1

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    seen: Counter[int] = Counter()
    over = asyncio.Event()
    async with start(tmp_path, f"http://127.0.0.1:{port}") as front:
        busy = [asyncio.ensure_future(pound(front, seen, over)) for _ in range(8)]
        for _ in range(3):
            await _until(seen, 200)
            server.close()
            for peer in peers:
                peer.writer.transport.abort()
            peers.clear()
            await _until(seen, 502)
            server = await asyncio.start_server(connected, "127.0.0.1", port)
        await _until(seen, 200)
        over.set()
        await asyncio.gather(*busy)  # none of their connections was cut
    server.close()
    await asyncio.gather(*tasks)
    assert set(seen) == {200, 502}


async def _until(seen: Counter[int], status: int) -> None:
    """Eight more answers have this status."""
    enough = seen[status] + 8
    async with asyncio.timeout(20):
        while seen[status] < enough:  # noqa: ASYNC110 -- what is waited for tells nobody
            await asyncio.sleep(0.005)
