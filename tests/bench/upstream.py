"""The application behind every proxy that is measured: the least that speaks HTTP/1.1, so that it is never the bottleneck.

`/bytes/N` has a body of N bytes, anything else one of 1,024; POST bodies are read and dropped; `POST /login` gives a session.
"""

from __future__ import annotations

import argparse
import asyncio
import re
from collections import deque

_PIECE = bytes(256 * 1024)
_BYTES = re.compile(rb"/bytes/([0-9]+)")
_LENGTH = re.compile(rb"\r\ncontent-length: *([0-9]+)", re.IGNORECASE)
_FIELDS = (
    b"Server: bench\r\nDate: Mon, 23 Nov 2026 09:00:00 GMT\r\nContent-Type: text/html; charset=utf-8\r\nCache-Control: no-cache\r\n"
    b'ETag: "0123456789abcdef"\r\nVary: Accept-Encoding\r\nX-Content-Type-Options: nosniff\r\n'
)
_SMALL = b"HTTP/1.1 200 OK\r\n" + _FIELDS + b"Content-Length: 1024\r\n\r\n" + b"x" * 1024
_LOGGED_IN = (
    b"HTTP/1.1 302 Found\r\nLocation: /account\r\nSet-Cookie: JSESSIONID=0123456789abcdef0123456789abcdef; Path=/; HttpOnly\r\n"
    b"Content-Length: 0\r\n\r\n"
)


class Application(asyncio.Protocol):
    """One connection."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport
        self._data = b""
        self._left = 0
        self._paused = False
        self._queue: deque[bytes | memoryview] = deque()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._data += data
        while (end := self._data.find(b"\r\n\r\n")) >= 0:
            head = self._data[:end]
            length = 0 if head.startswith(b"GET ") else int(found[1]) if (found := _LENGTH.search(head)) else 0
            if len(self._data) < end + 4 + length:
                return
            self._data = self._data[end + 4 + length :]
            self._answer(head)

    def _answer(self, head: bytes) -> None:
        sized = _BYTES.search(head, 0, 64)
        if sized is None:
            self._transport.write(_LOGGED_IN if head.startswith(b"POST /login ") else _SMALL)
            return
        self._transport.write(b"HTTP/1.1 200 OK\r\n" + _FIELDS + b"Content-Length: " + sized[1] + b"\r\n\r\n")
        self._left = int(sized[1])
        self._pump()

    def _pump(self) -> None:
        while self._left and not self._paused:
            piece = _PIECE[: self._left]
            self._left -= len(piece)
            self._transport.write(piece)

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        self._pump()


async def main(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Application, "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    asyncio.run(main(parser.parse_args().port))
