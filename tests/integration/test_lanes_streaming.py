"""Bodies stream, nothing is held, a stopping listener lets requests end."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from aiohttp.web_request import BaseRequest
from aiohttp.web_response import StreamResponse

from gateway.errors import BodyTooLarge, ClientGone
from gateway.lanes.body import BodyTimeout, ClientBody, Peeked, read_body
from gateway.lanes.forward import forward
from tests.support.lane import Lane, lane, limits, say
from tests.support.raw import OK, RawPeer, RawUpstream, answering, raw_client, raw_upstream, until

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
ROOT = Path(__file__).resolve().parents[2]


async def test_events_arrive_one_by_one_without_delay() -> None:
    async def script(upstream: RawUpstream, peer: RawPeer) -> None:
        await peer.message()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        for number in range(3):
            event = b"data: %d\n\n" % number
            await peer.send(b"%x\r\n%b\r\n" % (len(event), event))
            await seen.acquire()
        await peer.send(b"0\r\n\r\n")

    seen = asyncio.Semaphore(0)
    async with raw_upstream(script) as upstream, lane(upstream.url) as made, raw_client(made.port) as client:
        await client.send(GET)
        assert (await client.head()).get(b"content-type") == b"text/event-stream"
        for number in range(3):
            assert await client.chunk() == b"data: %d\n\n" % number
            seen.release()
        assert await client.chunk() == b""


async def test_head_arrives_before_the_first_byte_of_the_body() -> None:
    async def script(upstream: RawUpstream, peer: RawPeer) -> None:
        await peer.message()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n")
        await seen.wait()
        await peer.send(b"ok")

    seen = asyncio.Event()
    async with raw_upstream(script) as upstream, lane(upstream.url) as made, raw_client(made.port) as client:
        await client.send(GET)
        head = await client.head()
        seen.set()
        assert await client.body(head) == b"ok"


SERVER = """
    import asyncio, sys
    from tests.support.lane import lane

    async def main():
        async with lane(sys.argv[1]) as made:
            print(made.port, flush=True)
            await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)

    asyncio.run(main())
"""


def resident(pid: int) -> tuple[int, int]:
    """Present and highest resident set of a process, in bytes."""
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return tuple(int(fields[name].split()[0]) * 1024 for name in ("VmRSS", "VmHWM"))  # type: ignore[return-value]


async def test_large_upload_and_download_hold_little_memory() -> None:
    size = int(os.environ.get("LANES_BODY_BYTES", str(256 << 20)))
    piece = b"x" * (1 << 20)

    async def script(upstream: RawUpstream, peer: RawPeer) -> None:
        while True:
            head = await peer.head()
            left = int(head.get(b"content-length") or 0)
            while left:
                left -= len(await peer.reader.read(1 << 20))
            if head.target != b"/download":
                await peer.send(OK)
                continue
            await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
            for _ in range(size // len(piece)):
                await peer.send(piece)

    async with raw_upstream(script) as upstream:
        command = [sys.executable, "-c", textwrap.dedent(SERVER), upstream.url]
        process = await asyncio.to_thread(subprocess.Popen, command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT, text=True)
        try:
            assert process.stdout is not None
            port = int(await asyncio.to_thread(process.stdout.readline))
            async with raw_client(port) as client:
                await client.send(GET)
                assert (await client.response()).status == 200
                before, _ = resident(process.pid)
                await client.send(b"POST /upload HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % size)
                for _ in range(size // len(piece)):
                    await client.send(piece)
                assert (await client.response()).status == 200
                await client.send(b"GET /download HTTP/1.1\r\nHost: a\r\n\r\n")
                left = int((await client.head()).get(b"content-length") or 0)
                assert left == size
                while left:
                    left -= len(await client.reader.read(1 << 20))
                _, highest = resident(process.pid)
            assert highest - before < 32 << 20
        finally:
            process.communicate(timeout=10)


@pytest.mark.parametrize("direction", ["upload", "download"])
async def test_sender_is_held_back_while_the_other_side_does_not_read(direction: str) -> None:
    sent = 0

    async def pour(peer: RawPeer) -> None:
        nonlocal sent
        while sent < 200_000_000:
            await peer.send(b"x" * 65536)
            sent += 65536

    async def script(upstream: RawUpstream, peer: RawPeer) -> None:
        await peer.head()
        if direction == "upload":
            peer.pause()
            await released.wait()
        else:
            await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 200000000\r\n\r\n")
            await pour(peer)

    released = asyncio.Event()
    async with raw_upstream(script) as upstream, lane(upstream.url) as made, raw_client(made.port, limit=1024) as client:
        await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 200000000\r\n\r\n" if direction == "upload" else GET)
        pouring = asyncio.ensure_future(pour(client)) if direction == "upload" else None
        held = -1
        while held != sent or not sent:
            held = sent
            await asyncio.sleep(0.05)
        assert sent < 100_000_000
        if pouring is not None:
            pouring.cancel()
            await asyncio.gather(pouring, return_exceptions=True)
        released.set()
        await client.reset()


# reading bodies inside the gateway


async def reading(made: Lane, request: BaseRequest) -> StreamResponse:
    try:
        body = await read_body(request, 10, idle_timeout=0.1)
    except (BodyTooLarge, BodyTimeout) as fault:
        return say(request, 413 if isinstance(fault, BodyTooLarge) else 408, type(fault).__name__)
    except ClientGone as fault:
        made.faults.append(fault)
        raise
    return say(request, 200, body.decode())


@pytest.mark.parametrize(
    ("framing", "status", "text"),
    [
        (b"Content-Length: 10\r\n\r\n0123456789", 200, b"0123456789"),
        (b"Content-Length: 11\r\n\r\n", 413, b"BodyTooLarge"),
        (b"Transfer-Encoding: chunked\r\n\r\n5\r\n01234\r\n5\r\n56789\r\n0\r\n\r\n", 200, b"0123456789"),
        (b"Transfer-Encoding: chunked\r\n\r\n5\r\n01234\r\n6\r\n56789a\r\n", 413, b"BodyTooLarge"),
        (b"\r\n", 200, b""),
        (b"Content-Length: 5\r\n\r\n01", 408, b"BodyTimeout"),
    ],
)
async def test_whole_body_is_read_within_its_bounds(framing: bytes, status: int, text: bytes) -> None:
    async with raw_upstream(answering(OK)) as upstream, lane(upstream.url, serving=reading) as made, raw_client(made.port) as client:
        await client.send(b"POST / HTTP/1.1\r\nHost: a\r\n" + framing)
        got = await client.response()
        assert (got.status, got.body) == (status, text)


async def test_client_that_waits_for_100_gets_it_when_the_gateway_reads() -> None:
    async with raw_upstream(answering(OK)) as upstream, lane(upstream.url, serving=reading) as made, raw_client(made.port) as client:
        await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")
        assert (await client.head()).line == b"HTTP/1.1 100 Continue"
        await client.send(b"ok")
        assert (await client.response()).body == b"ok"


async def test_client_is_not_told_to_go_on_with_a_body_that_is_too_large() -> None:
    async with raw_upstream(answering(OK)) as upstream, lane(upstream.url, serving=reading) as made, raw_client(made.port) as client:
        await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 20\r\n\r\n")
        assert (await client.head()).status == 413


async def test_client_that_goes_within_its_body_is_client_gone() -> None:
    async with raw_upstream(answering(OK)) as upstream, lane(upstream.url, serving=reading) as made:
        async with raw_client(made.port) as client:
            await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n01")
        await until(lambda: bool(made.faults))


@pytest.mark.parametrize(
    "framing", [b"Content-Length: 12\r\n\r\namount=5&a=b", b"Transfer-Encoding: chunked\r\n\r\n5\r\namoun\r\n7\r\nt=5&a=b\r\n0\r\n\r\n"]
)
@pytest.mark.parametrize(("size", "whole"), [(100, True), (12, True), (4, False)])
async def test_body_that_was_looked_into_is_still_forwarded_whole(framing: bytes, size: int, whole: bool) -> None:
    async def serving(made: Lane, request: BaseRequest) -> StreamResponse:
        body = ClientBody(request, limit=1000, idle_timeout=5.0)
        peeked.append(await body.peek(size))
        return await forward(request, made.exchange(request, body=body), made.pool, made.limits)

    peeked: list[Peeked] = []
    async with raw_upstream(answering(OK)) as upstream, lane(upstream.url, serving=serving) as made, raw_client(made.port) as client:
        await client.send(b"POST / HTTP/1.1\r\nHost: a\r\n" + framing)
        assert (await client.response()).status == 200
        assert upstream.requests[0].body == b"amount=5&a=b"
        assert peeked[0].whole is whole
        assert b"amount=5&a=b".startswith(peeked[0].data)
        if whole:
            assert peeked[0].data == b"amount=5&a=b"


async def test_peeking_tells_the_client_to_go_on_once() -> None:
    async def serving(made: Lane, request: BaseRequest) -> StreamResponse:
        body = ClientBody(request, limit=1000, idle_timeout=5.0)
        await body.peek(100)
        return await forward(request, made.exchange(request, body=body), made.pool, made.limits)

    async with (
        raw_upstream(answering(b"HTTP/1.1 100 Continue\r\n\r\n" + OK)) as upstream,
        lane(upstream.url, serving=serving) as made,
        raw_client(made.port) as client,
    ):
        await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")
        assert (await client.head()).status == 100
        await client.send(b"ok")
        assert (await client.head()).status == 200


# stopping


async def test_running_request_ends_whole_while_the_listener_stops_and_new_ones_find_nobody() -> None:
    async def script(upstream: RawUpstream, peer: RawPeer) -> None:
        await peer.message()
        arrived.set()
        await released.wait()
        await peer.send(OK)

    arrived, released = asyncio.Event(), asyncio.Event()
    async with (
        raw_upstream(script) as upstream,
        lane(upstream.url) as made,
        raw_client(made.port) as client,
        raw_client(made.port) as unused,
    ):
        await client.send(GET)
        await arrived.wait()
        assert made.server is not None
        closing = asyncio.ensure_future(made.server.close(5.0))
        assert await unused.rest() == b""
        with pytest.raises(OSError, match=r"Connect call failed|Connection refused"):
            await asyncio.open_connection("127.0.0.1", made.port)
        released.set()
        got = await client.response()
        assert (got.body, got.head.get(b"connection")) == (b"ok", b"close")
        await closing


async def test_stopping_does_not_wait_for_ever() -> None:
    async def script(upstream: RawUpstream, peer: RawPeer) -> None:
        await peer.message()
        arrived.set()
        await peer.rest()

    arrived = asyncio.Event()
    async with raw_upstream(script) as upstream, lane(upstream.url) as made, raw_client(made.port) as client:
        await client.send(GET)
        await arrived.wait()
        assert made.server is not None
        async with asyncio.timeout(5):
            await made.server.close(0.05)
        assert await client.rest() == b""


async def test_fault_in_a_handler_is_a_bare_500() -> None:
    async def serving(made: Lane, request: BaseRequest) -> StreamResponse:
        raise ZeroDivisionError("secret")

    async with (
        raw_upstream(answering(OK)) as upstream,
        lane(upstream.url, serving=serving, bounds=limits()) as made,
        raw_client(made.port) as client,
    ):
        await client.send(GET)
        got = await client.response()
        assert (got.status, got.body) == (500, b"Internal Server Error\n")
        assert got.head.get(b"server") is None
