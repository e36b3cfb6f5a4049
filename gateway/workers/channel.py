"""What supervisor and children say to each other: one JSON object a line, on a pair of sockets. Its end means that the other is gone.

To a child:   prepare {reload, version} · commit {reload} · abort {reload} · state {…} · reloaded {outcome}
From a child: ready {loop, lane} · failed {why} · prepared {reload} · refused {reload, why} · adopted {reload, fault} · changed · draining
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

Message = dict[str, Any]


def encode(word: str, fields: Message) -> bytes:
    return json.dumps({"say": word, **fields}).encode() + b"\n"


class ChildEnd:
    """The child's end, in a running loop."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, sock: socket.socket) -> ChildEnd:
        return cls(*await asyncio.open_unix_connection(sock=sock))

    def say(self, word: str, **fields: Any) -> None:
        with suppress(OSError):  # its end is noticed by who listens
            self._writer.write(encode(word, fields))

    async def heard(self) -> AsyncIterator[Message]:
        """What the supervisor says, until it is gone."""
        with suppress(OSError):
            while line := await self._reader.readline():
                yield json.loads(line)

    async def close(self) -> None:
        self._writer.close()
        with suppress(OSError):
            await self._writer.wait_closed()


class ParentEnd:
    """The supervisor's end. It never waits: not for a child that says nothing, nor for one that does not listen."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.sock = sock
        self._rest = b""

    def say(self, word: str, **fields: Any) -> None:
        """A child that does not take in what fits a socket's buffer hangs, and misses this."""
        with suppress(OSError):
            self.sock.send(encode(word, fields))

    def heard(self) -> list[Message] | None:
        """What has come since the last call; None when the child's end is closed."""
        pieces = [self._rest]
        open_ = True
        while True:
            try:
                piece = self.sock.recv(65536)
            except BlockingIOError:
                break
            except OSError:
                piece = b""
            if not piece:
                open_ = False
                break
            pieces.append(piece)
        *lines, self._rest = b"".join(pieces).split(b"\n")
        found = [json.loads(line) for line in lines]
        return found if found or open_ else None

    def close(self) -> None:
        self.sock.close()
