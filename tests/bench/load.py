"""Makes requests over raw sockets: keep-alive connections, each with one request under way, for a given time.

A closed loop: the latencies are those of a proxy that is kept busy. Every answer is read to its last byte and must be a 200.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable
from dataclasses import dataclass

_LENGTH = re.compile(rb"\r\ncontent-length: *([0-9]+)", re.IGNORECASE)

HEADERS = (
    "Connection: keep-alive",
    "Cache-Control: max-age=0",
    'sec-ch-ua: "Chromium";v="142", "Not:A-Brand";v="24", "Google Chrome";v="142"',
    "sec-ch-ua-mobile: ?0",
    'sec-ch-ua-platform: "Linux"',
    "Upgrade-Insecure-Requests: 1",
    "User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 Safari/537.36",
    "Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8",
    "Sec-Fetch-Site: same-origin",
    "Sec-Fetch-Mode: navigate",
    "Sec-Fetch-User: ?1",
    "Sec-Fetch-Dest: document",
    "Accept-Language: de-DE,de;q=0.9,en-US;q=0.8,en;q=0.7",
)
"""What Chromium sends with a navigation; with Host 14 fields, and the cookie."""
COOKIE = "theme=dark; _ga=GA1.1.1234567890.1700000000; consent=a1b2c3"


def get(port: int, target: str, *, cookie: str = COOKIE) -> bytes:
    """A browser's GET."""
    return "\r\n".join((f"GET {target} HTTP/1.1", f"Host: 127.0.0.1:{port}", *HEADERS, f"Cookie: {cookie}", "", "")).encode()


@dataclass(frozen=True, slots=True)
class Load:
    """What a window of `seconds` saw. cpu: seconds of the process under test in it; latencies: seconds, sorted."""

    requests: int
    size: int
    seconds: float
    cpu: float
    latencies: tuple[float, ...]

    @property
    def per_second(self) -> float:
        return self.requests / self.seconds

    @property
    def per_cpu_second(self) -> float:
        return self.requests / self.cpu

    def latency(self, share: float) -> float:
        """Milliseconds that this share of the requests stayed below."""
        return self.latencies[min(len(self.latencies) - 1, int(share * len(self.latencies)))] * 1000


class _Requester(asyncio.Protocol):
    """One connection: sends again as soon as an answer is complete."""

    def __init__(self, request: bytes, finished: Callable[[float, int], bool]) -> None:
        self._request = request
        self._finished = finished
        self._transport: asyncio.Transport
        self._head = b""
        self._left = 0
        self._size = 0
        self._began = 0.0
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._send()

    def _send(self) -> None:
        self._began = time.perf_counter()
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        if self._left:
            self._left -= len(data)
        else:
            self._head += data
            end = self._head.find(b"\r\n\r\n")
            if end < 0:
                return
            found = _LENGTH.search(self._head, 0, end)
            if not self._head.startswith(b"HTTP/1.1 200 ") or found is None:
                self._fail(f"unexpected answer: {self._head[:300]!r}")
                return
            self._size = int(found[1])
            self._left = self._size - (len(self._head) - end - 4)
            self._head = b""
        if self._left == 0:
            if self._finished(time.perf_counter() - self._began, self._size):
                self._send()
            else:
                self._transport.abort()

    def connection_lost(self, exc: BaseException | None) -> None:
        if self._left:
            self._fail("the answer broke off")
        elif not self.done.done():
            self.done.set_result(None)

    def _fail(self, reason: str) -> None:
        if not self.done.done():
            self.done.set_exception(RuntimeError(reason))
        self._transport.abort()


async def drive(port: int, request: bytes, cpu: Callable[[], float], *, connections: int, seconds: float, warm_up: float = 0.2) -> Load:
    """Keep `connections` busy for `seconds`, after a warm-up that is not counted; for longer where other programs leave the process under
    test less than half of its core. Raises RuntimeError for an answer that is not 200."""
    latencies: list[float] = []
    size = 0
    running = True

    def finished(latency: float, length: int) -> bool:
        nonlocal size
        latencies.append(latency)
        size += length
        return running

    loop = asyncio.get_running_loop()
    made = [(await loop.create_connection(lambda: _Requester(request, finished), "127.0.0.1", port))[1] for _ in range(connections)]
    await asyncio.sleep(warm_up)
    latencies.clear()
    size, began, used = 0, time.perf_counter(), cpu()
    for _ in range(10):
        await asyncio.sleep(seconds if time.perf_counter() - began < seconds else seconds / 2)
        if cpu() - used > seconds / 2:
            break
    took, used = time.perf_counter() - began, cpu() - used
    counted, counted_size = sorted(latencies), size
    running = False
    await asyncio.gather(*(requester.done for requester in made))
    return Load(len(counted), counted_size, took, used, tuple(counted))


async def fetch(port: int, request: bytes, cpu: Callable[[], float], *, times: int) -> Load:
    """The same request `times` times over one connection, to the last byte."""
    latencies: list[float] = []
    size = 0

    def finished(latency: float, length: int) -> bool:
        nonlocal size
        latencies.append(latency)
        size += length
        return len(latencies) < times

    began, used = time.perf_counter(), cpu()
    _, requester = await asyncio.get_running_loop().create_connection(lambda: _Requester(request, finished), "127.0.0.1", port)
    await requester.done
    return Load(len(latencies), size, time.perf_counter() - began, cpu() - used, tuple(sorted(latencies)))


class Idle:
    """Connections that each had one request answered, and are kept. You must `close()` them."""

    def __init__(self) -> None:
        self._transports: list[asyncio.Transport] = []

    async def open(self, port: int, request: bytes, count: int) -> None:
        loop = asyncio.get_running_loop()
        for _ in range(count):
            answered = loop.create_future()
            transport, _ = await loop.create_connection(lambda answered=answered: _Once(answered), "127.0.0.1", port)  # type: ignore[misc]
            self._transports.append(transport)
            transport.write(request)
            await answered

    def close(self) -> None:
        for transport in self._transports:
            transport.abort()


class _Once(asyncio.Protocol):
    def __init__(self, answered: asyncio.Future[None]) -> None:
        self._answered = answered
        self._got = b""

    def data_received(self, data: bytes) -> None:
        self._got += data
        head, found, body = self._got.partition(b"\r\n\r\n")
        if found and (length := _LENGTH.search(head)) is not None and len(body) >= int(length[1]):
            self._answered.set_result(None)
