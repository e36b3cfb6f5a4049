"""Sockets without an HTTP library: what is written is what is sent, what came is what is seen."""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import cast

PATIENCE = 10.0  # seconds after which a test that waits for bytes fails


@dataclass(frozen=True, slots=True)
class RawHead:
    """`line` without CRLF, `fields` as sent."""

    line: bytes
    fields: tuple[tuple[bytes, bytes], ...]

    def all(self, name: bytes) -> list[bytes]:
        return [value for key, value in self.fields if key.lower() == name.lower()]

    def get(self, name: bytes) -> bytes | None:
        values = self.all(name)
        return values[0] if values else None

    @property
    def status(self) -> int:
        return int(self.line.split(b" ")[1])

    @property
    def target(self) -> bytes:
        return self.line.split(b" ")[1]


@dataclass(frozen=True, slots=True)
class RawMessage:
    head: RawHead
    body: bytes

    @property
    def status(self) -> int:
        return self.head.status


class Truncated(Exception):
    """The peer closed, or reset, in the middle of a message. `got` is what came of it."""

    def __init__(self, got: bytes) -> None:
        super().__init__(got)
        self.got = got


class RawPeer:
    """One end of a connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def head(self) -> RawHead:
        """The next head. Raises Truncated when the connection ends first."""
        try:
            async with asyncio.timeout(PATIENCE):
                raw = await self.reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError as error:
            raise Truncated(error.partial) from error
        except ConnectionError as error:
            raise Truncated(b"") from error
        line, *rest = raw[:-4].split(b"\r\n")
        fields = tuple((name, value.strip(b" \t")) for name, _, value in (field.partition(b":") for field in rest))
        return RawHead(line, fields)

    async def exactly(self, count: int) -> bytes:
        try:
            async with asyncio.timeout(PATIENCE):
                return await self.reader.readexactly(count)
        except asyncio.IncompleteReadError as error:
            raise Truncated(error.partial) from error
        except ConnectionError as error:
            raise Truncated(b"") from error

    async def chunk(self) -> bytes:
        """The next chunk of a chunked body, b"" for the last one (with its trailers, which are dropped)."""
        try:
            async with asyncio.timeout(PATIENCE):
                size = int((await self.reader.readuntil(b"\r\n")).split(b";")[0], 16)
                if size:
                    return (await self.reader.readexactly(size + 2))[:-2]
                while await self.reader.readuntil(b"\r\n") != b"\r\n":
                    pass
                return b""
        except asyncio.IncompleteReadError as error:
            raise Truncated(error.partial) from error
        except ConnectionError as error:
            raise Truncated(b"") from error

    async def body(self, head: RawHead, *, to_the_end: bool = False) -> bytes:
        """The body that belongs to a head; `to_the_end`: without a length it goes on until the connection ends."""
        if head.get(b"transfer-encoding") is not None:
            parts = []
            while part := await self.chunk():
                parts.append(part)
            return b"".join(parts)
        length = head.get(b"content-length")
        if length is not None:
            return await self.exactly(int(length))
        return await self.rest() if to_the_end else b""

    async def message(self) -> RawMessage:
        """The next request."""
        head = await self.head()
        return RawMessage(head, await self.body(head))

    async def response(self, *, method: str = "GET") -> RawMessage:
        """The next final response; 1xx before it are skipped."""
        head = await self.head()
        while 100 <= head.status < 200 and head.status != 101:
            head = await self.head()
        if method == "HEAD" or head.status in (101, 204, 304):
            return RawMessage(head, b"")
        return RawMessage(head, await self.body(head, to_the_end=True))

    async def rest(self) -> bytes:
        """Everything until the connection ends. Raises Truncated on a reset."""
        try:
            async with asyncio.timeout(PATIENCE):
                return await self.reader.read()
        except ConnectionError as error:
            raise Truncated(b"") from error

    def pause(self) -> None:
        """Read nothing more from the socket."""
        cast("asyncio.Transport", self.writer.transport).pause_reading()  # uvloop's is not registered as one

    async def close(self) -> None:
        self.writer.close()
        with suppress(OSError):
            await self.writer.wait_closed()

    async def reset(self) -> None:
        """Go away without a word: a reset, for an end (FIN) could be that of a client that still waits for its answer."""
        sock = self.writer.transport.get_extra_info("socket")
        if sock is None or sock.fileno() < 0:
            return  # the other side was first
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()
        await asyncio.sleep(0)


@asynccontextmanager
async def raw_client(
    port: int, *, context: ssl.SSLContext | None = None, limit: int = 1 << 20, source: str | None = None
) -> AsyncIterator[RawPeer]:
    """A client of a loopback port. source: the loopback address that it comes from."""
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", port, ssl=context, server_hostname="localhost" if context else None, limit=limit,
        local_addr=(source, 0) if source else None,
    )  # fmt: skip
    peer = RawPeer(reader, writer)
    try:
        yield peer
    finally:
        await peer.close()


@dataclass(slots=True)
class RawUpstream:
    """An upstream that does what `script` says with each connection. `connections` counts them, `requests` are the script's to fill."""

    port: int = 0
    connections: int = 0
    requests: list[RawMessage] = field(default_factory=list)
    faults: list[BaseException] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


Script = Callable[[RawUpstream, RawPeer], Awaitable[None]]


@asynccontextmanager
async def raw_upstream(script: Script, *, context: ssl.SSLContext | None = None) -> AsyncIterator[RawUpstream]:
    """Run `script` for every connection. A connection closes when its script ends; what a script raises, Truncated
    excepted, fails the test at the end."""
    upstream = RawUpstream()
    tasks: set[asyncio.Task[None]] = set()

    async def serve(peer: RawPeer) -> None:
        try:
            await script(upstream, peer)
        except (Truncated, ConnectionError):
            pass
        except Exception as error:  # noqa: BLE001 -- raised again as an assertion below
            upstream.faults.append(error)
        finally:
            await peer.close()

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream.connections += 1
        task = asyncio.ensure_future(serve(RawPeer(reader, writer)))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    server = await asyncio.start_server(connected, "127.0.0.1", 0, ssl=context)
    upstream.port = server.sockets[0].getsockname()[1]
    try:
        yield upstream
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await server.wait_closed()
    assert not upstream.faults, upstream.faults


def answering(*answers: bytes) -> Script:
    """A script that notes each request of a connection and gives these answers in turn, the last one for ever."""

    async def script(upstream: RawUpstream, peer: RawPeer) -> None:
        index = 0
        while True:
            upstream.requests.append(await peer.message())
            await peer.send(answers[min(index, len(answers) - 1)])
            index += 1

    return script


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


async def until(condition: Callable[[], bool]) -> None:
    """Let the event loop go on until `condition` holds; fails after PATIENCE seconds."""
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110 -- what is waited for tells nobody
            await asyncio.sleep(0.002)
