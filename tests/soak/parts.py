"""The parts. Each fails by an assertion, or gives the line of figures that is printed."""

from __future__ import annotations

import asyncio
import hashlib
import resource
import signal
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress

from tests.integration.test_operations import change, settings
from tests.integration.test_wire_websocket import echo_socket, echoed, echoing
from tests.soak.load import MIB, PIECE, Tally, answering_ok, loaded, pound
from tests.support.raw import OK, RawPeer, RawUpstream, Truncated, raw_client

Part = Callable[[], Awaitable[str]]

GIGABYTE = 1 << 30
IDLE = 10_000
MESSAGES = 1_000_000
SETTLED = 64 * MIB  # what a gateway may grow by, whatever is sent through it


async def large() -> str:
    """1 GB each way, compared by digest."""

    async def script(_upstream: RawUpstream, peer: RawPeer) -> None:
        while True:
            head = await peer.head()
            if head.target == b"/down":
                await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % GIGABYTE)
                for _ in range(GIGABYTE // len(PIECE)):
                    await peer.send(PIECE)
                continue
            digest, left = hashlib.sha256(), int(head.get(b"content-length") or 0)
            while left:
                data = await peer.reader.read(min(left, MIB))
                digest.update(data)
                left -= len(data)
            await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 64\r\n\r\n" + digest.hexdigest().encode())

    whole = hashlib.sha256()
    for _ in range(GIGABYTE // len(PIECE)):
        whole.update(PIECE)
    async with loaded(script) as gateway, raw_client(gateway.port, limit=4 * MIB) as client:
        before, begun = gateway.resident, time.perf_counter()
        await client.send(gateway.request("POST /up", f"Content-Length: {GIGABYTE}\r\n"))
        for _ in range(GIGABYTE // len(PIECE)):
            await client.send(PIECE)
        assert (await client.response()).body == whole.hexdigest().encode()
        up, begun = time.perf_counter() - begun, time.perf_counter()
        await client.send(gateway.request("GET /down"))
        digest, left = hashlib.sha256(), int((await client.head()).get(b"content-length") or 0)
        while left:
            data = await client.reader.read(min(left, MIB))
            digest.update(data)
            left -= len(data)
        assert digest.digest() == whole.digest()
        down, grown = time.perf_counter() - begun, gateway.resident - before
        assert grown < SETTLED
    return f"1 GB up in {up:.1f} s, down in {down:.1f} s, digests equal, RSS grew by {grown / MIB:.1f} MiB"


async def idle() -> str:
    """Ten thousand kept connections that wait, and one that works."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert hard == resource.RLIM_INFINITY or hard > IDLE + 500, f"only {hard} files may be open"
    resource.setrlimit(resource.RLIMIT_NOFILE, (IDLE + 500, hard))  # the gateway inherits it
    limits = {"max_connections": IDLE + 100, "max_connections_per_address": IDLE + 100, "keepalive": "10m"}
    async with loaded(answering_ok, limits=limits) as gateway, AsyncExitStack() as stack:
        before = gateway.resident
        peers = []
        for _ in range(IDLE):
            peer = await stack.enter_async_context(raw_client(gateway.port, limit=1024))
            assert await gateway.ask(peer) == 200
            peers.append(peer)
        held, begun = gateway.resident, time.perf_counter()
        async with raw_client(gateway.port) as client:
            for _ in range(1000):
                assert await gateway.ask(client) == 200
        took = time.perf_counter() - begun
        for peer in peers[:: IDLE // 100]:
            assert await gateway.ask(peer) == 200
        each = (held - before) / IDLE / 1024
    memory = f"RSS {held / MIB:.1f} MiB (before: {before / MIB:.1f}), {each:.1f} KiB each"
    return f"{IDLE} idle connections: {memory}; 1000 requests beside them in {took:.2f} s"


async def events() -> str:
    """Server-sent events for a minute: each arrives alone, before the next one."""
    latest: list[float] = []

    async def script(_upstream: RawUpstream, peer: RawPeer) -> None:
        while True:
            head = await peer.head()
            if head.target != b"/events":
                await peer.send(OK)
                continue
            await peer.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
            for number in range(600):
                data = b"data: %d\n\n" % number
                latest.append(time.perf_counter())
                await peer.send(b"%x\r\n%b\r\n" % (len(data), data))
                await asyncio.sleep(0.1)
            await peer.send(b"0\r\n\r\n")

    async with loaded(script) as gateway, raw_client(gateway.port) as client:
        await client.send(gateway.request("GET /events"))
        assert (await client.head()).status == 200
        delays = []
        for number in range(600):
            assert await client.chunk() == b"data: %d\n\n" % number
            delays.append(time.perf_counter() - latest[-1])
        assert await client.chunk() == b""
    delays.sort()
    return f"600 events in a minute, each alone: delay {delays[300] * 1000:.2f} ms in the middle, {delays[-6] * 1000:.2f} ms at 99 %"


async def multipart() -> str:
    """A form with a file of 100 MB, on a route whose rules look for an override in the body."""
    size = 100 * MIB
    digest = hashlib.sha256()

    async def script(_upstream: RawUpstream, peer: RawPeer) -> None:
        while True:
            message = await peer.message()
            digest.update(message.body)
            await peer.send(OK)

    sent = b'--b\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n\r\n' + PIECE * (size // len(PIECE)) + b"\r\n--b--\r\n"
    async with loaded(script) as gateway, raw_client(gateway.port) as client:
        before, begun = gateway.resident, time.perf_counter()
        fields = f"Content-Type: multipart/form-data; boundary=b\r\nContent-Length: {len(sent)}\r\n"
        await client.send(gateway.request("POST /files", fields) + sent)
        assert (await client.response()).status == 200
        took, grown = time.perf_counter() - begun, gateway.resident - before
        assert digest.digest() == hashlib.sha256(sent).digest()
        assert grown < SETTLED
    return f"100 MB multipart in {took:.1f} s, RSS grew by {grown / MIB:.1f} MiB"


async def slow_reader() -> str:
    """A client that takes 64 KiB at a time of an answer of 64 MiB: the upstream is held back, nothing piles up."""
    size = 64 * MIB
    sent = 0

    async def script(_upstream: RawUpstream, peer: RawPeer) -> None:
        nonlocal sent
        while True:
            head = await peer.head()
            if head.target != b"/slow":
                await peer.send(OK)
                continue
            await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
            for _ in range(size // len(PIECE)):
                await peer.send(PIECE)
                sent += len(PIECE)

    async with loaded(script) as gateway, raw_client(gateway.port, limit=64 * 1024) as client:
        before, begun = gateway.resident, time.perf_counter()
        await client.send(gateway.request("GET /slow"))
        left = int((await client.head()).get(b"content-length") or 0)
        ahead = 0
        while left:
            left -= len(await client.reader.read(65536))
            ahead = max(ahead, sent - (size - left))
            await asyncio.sleep(0.01)
        took, grown = time.perf_counter() - begun, gateway.resident - before
        assert grown < SETTLED
    memory = f"the upstream was {ahead / MIB:.1f} MiB ahead at most (sockets included), RSS grew by {grown / MIB:.1f} MiB"
    return f"64 MiB taken slowly in {took:.1f} s: {memory}"


async def slow_writer() -> str:
    """A hundred clients that send their requests byte by byte, beside one that does not."""
    async with loaded(answering_ok) as gateway:

        async def writes() -> int:
            async with raw_client(gateway.port) as client:
                for byte in gateway.request("POST /x", "Content-Length: 20\r\n") + b"x" * 20:
                    await client.send(bytes([byte]))
                    await asyncio.sleep(0.05)
                return (await client.response()).status

        over, tally, begun = asyncio.Event(), Tally(), time.perf_counter()
        quick = asyncio.ensure_future(pound(gateway, over, tally))
        assert await asyncio.gather(*[writes() for _ in range(100)]) == [200] * 100
        took = time.perf_counter() - begun
        over.set()
        await quick
        assert tally.statuses.keys() == {200}
    beside = f"beside them {tally.requests} others, the slowest in {tally.longest * 1000:.0f} ms"
    return f"100 requests byte by byte in {took:.1f} s, all served; {beside}"


async def reload() -> str:
    """Reloads under load: by signal, with other rules and another pool each time."""
    async with loaded(answering_ok) as gateway:
        over, tally = asyncio.Event(), Tally()
        busy = [asyncio.ensure_future(pound(gateway, over, tally)) for _ in range(16)]
        url = settings(gateway.found)["upstreams"]["bank"]["url"]
        for number in range(20):
            rules = [{"name": f"r{number}", "match": {"path": f"/closed-{number}"}, "deny": {"status": 451}}]
            change(gateway.found, rules=rules, upstreams={"bank": {"url": url, "idle_timeout": f"{100 + number}s"}})
            gateway.found.process.signal(signal.SIGHUP)
            async with raw_client(gateway.port) as client:
                async with asyncio.timeout(20):
                    while await gateway.ask(client, f"GET /closed-{number}") != 451:  # noqa: ASYNC110 -- the file's watcher tells nobody
                        await asyncio.sleep(0.02)
        over.set()
        await asyncio.gather(*busy)
        assert tally.statuses.keys() == {200}, tally
        assert tally.broken == 0, tally
    return f"20 reloads under load: {tally.requests} requests, 0 failed, the slowest in {tally.longest * 1000:.0f} ms"


async def upstream_killed() -> str:
    """An upstream that goes in the middle of everything and comes back on its port."""
    port = 0

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peers.append(RawPeer(reader, writer))
        with suppress(Truncated, OSError):  # killed
            await answering_ok(None, peers[-1])

    peers: list[RawPeer] = []
    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with loaded(answering_ok, upstreams={"bank": {"url": f"http://127.0.0.1:{port}"}}) as gateway:
        over, tally = asyncio.Event(), Tally()
        busy = [asyncio.ensure_future(pound(gateway, over, tally)) for _ in range(16)]
        recoveries = []
        for _ in range(5):
            await asyncio.sleep(0.5)
            server.close()
            for peer in peers:
                peer.writer.transport.abort()
            peers.clear()
            await asyncio.sleep(0.5)
            server = await asyncio.start_server(connected, "127.0.0.1", port)
            begun = time.perf_counter()
            async with raw_client(gateway.port) as client, asyncio.timeout(30):
                while await gateway.ask(client) != 200:  # noqa: ASYNC110 -- what is measured
                    await asyncio.sleep(0.01)
            recoveries.append(time.perf_counter() - begun)
        over.set()
        await asyncio.gather(*busy)
        server.close()
        assert tally.statuses.keys() <= {200, 502, 503}, tally
        assert tally.broken == 0, tally
    lost = tally.requests - tally.statuses[200]
    return (
        f"upstream killed 5 times under load: {tally.requests} requests, {lost} clean 502s, none cut, back within {max(recoveries):.2f} s"
    )


async def websocket() -> str:
    """A million small messages there and back."""

    async def script(upstream: RawUpstream, peer: RawPeer) -> None:
        head = await peer.head()
        if head.target == b"/socket":
            await echoing(upstream, peer, head)
        await peer.send(OK)

    async with loaded(script) as gateway, echo_socket(gateway.port) as client:
        await echoed(client, 10_000)
        before, begun = gateway.resident, time.perf_counter()
        await echoed(client, MESSAGES)
        took, grown = time.perf_counter() - begun, gateway.resident - before
        assert grown < 4 * MIB
    return f"{MESSAGES} WebSocket messages there and back in {took:.1f} s, RSS grew by {grown / MIB:.2f} MiB"


PARTS: dict[str, Part] = {
    each.__name__: each for each in (large, idle, events, multipart, slow_reader, slow_writer, reload, upstream_killed, websocket)
}
