"""One server, one connection, one queue: commands go out as they come and answers come back in their order (RESP 2).

redis-py takes a connection, a timer and a task for each command; here a command is a write and a future. What a caller no longer waits for
is still read, so that the next answer finds its own caller. Where an answer is overdue the next call opens a fresh connection; the old one
ends when the last call on it is answered or overdue. Nothing is retried.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, cast

import hiredis

from gateway.stores.urls import RedisUrl

Command = tuple[bytes | str | int, ...]

STALL: Final = 0.01
"""Seconds. A timer that is later than that tells of a process that was stopped; then answers that have come already still count."""
_MORE: Final = object()
_pack: Callable[[Command], bytes] = cast("Any", hiredis.pack_command)  # its own annotation takes one argument only


class RedisFault(Exception):
    """Redis refused a command, or the connection is gone. The text is the server's own, or says what happened."""


class NoScript(RedisFault):
    """EVALSHA of a script that the server does not know: it did not run."""


class _Wire(asyncio.Protocol):
    """A connection. `lost` is done when it has ended; `overdue`: an answer did not come in time, so nothing new is to be sent."""

    def __init__(self, deadline: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._deadline = deadline
        self._reader = hiredis.Reader(notEnoughData=_MORE)
        self._waiting: deque[tuple[asyncio.Future[Any], float]] = deque()  # and when the command was sent
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._stalled = False
        self.overdue = False
        self.lost: asyncio.Future[None] = self._loop.create_future()

    def send(self, commands: Sequence[Command]) -> list[asyncio.Future[Any]]:
        """A future for each command: its answer; a refusal is a value, not an exception."""
        if self._transport is None or self.lost.done():
            raise RedisFault("the connection is closed")
        now = self._loop.time()
        futures: list[asyncio.Future[Any]] = [self._loop.create_future() for _ in commands]
        self._waiting.extend((future, now) for future in futures)
        self._transport.write(b"".join([_pack(command) for command in commands]))
        if self._timer is None:
            self._timer = self._loop.call_later(self._deadline, self._look)
        return futures

    def end(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        try:
            while (answer := self._reader.gets()) is not _MORE:
                future, _ = self._waiting.popleft()
                if not future.done():
                    future.set_result(answer)
        except (hiredis.HiredisError, IndexError):  # no RESP, or an answer that nobody asked for
            self.end()
        if self.overdue and not self._waiting:
            self.end()

    def connection_lost(self, error: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if not self.lost.done():
            self.lost.set_result(None)
        while self._waiting:
            future, _ = self._waiting.popleft()
            if not future.done():
                future.set_exception(RedisFault(f"the connection was lost: {error}" if error else "the connection was closed"))
                future.exception()  # seen: its caller may have gone

    def _look(self) -> None:
        """Is an answer overdue? One timer looks after all of them."""
        self._timer = None
        if not self._waiting:
            self._stalled = False
            return
        first, now = self._waiting[0][1] + self._deadline, self._loop.time()
        if now < first:
            self._stalled = False
            self._timer = self._loop.call_at(first, self._look)
            return
        if now > first + STALL and not (self._stalled or self.overdue):
            self._stalled = True  # this process had no processor: look again when what has come has been read
            self._timer = self._loop.call_later(STALL, self._look)
            return
        self.overdue = True
        # Who called later has the whole time as well: the server may be back.
        later = next((sent for _, sent in self._waiting if now < sent + self._deadline), None)
        if later is None:
            self.end()
        else:
            self._timer = self._loop.call_at(later + self._deadline, self._look)


class RedisWire:
    """What the state store uses of a client (see redis_client). Its calls end at once when they are cancelled. `deadline`: seconds for an
    answer, and for connecting. You must await `close()` after use."""

    prompt: Final = True

    def __init__(self, url: RedisUrl, *, deadline: float) -> None:
        self._url = url
        self._deadline = deadline
        self._tls: ssl.SSLContext | None = None
        self._wire: _Wire | None = None
        self._left: set[_Wire] = set()  # on which an answer was overdue, and others are waited for
        self._opening: asyncio.Task[_Wire] | None = None

    async def run(self, *command: Any) -> Any:
        """One command's answer. Raises RedisFault, NoScript, OSError, TimeoutError."""
        (future,) = (await self._ready()).send((command,))
        answer = await future
        if isinstance(answer, hiredis.ReplyError):
            raise refused(str(answer))
        return answer

    async def run_all(self, commands: Sequence[Command]) -> list[Any]:
        """Several commands by one round trip, in order. Refusals are among the answers, as RedisFault."""
        futures = (await self._ready()).send(commands)
        answers = [await future for future in futures]
        return [refused(str(answer)) if isinstance(answer, hiredis.ReplyError) else answer for answer in answers]

    async def info(self, section: str) -> list[Mapping[str, Any]]:
        """A section of INFO."""
        text: bytes = await self.run("INFO", section)
        pairs = [line.partition(":") for line in text.decode("utf-8", "replace").splitlines() if ":" in line]
        return [{name: int(value) if value.isdecimal() else value for name, _, value in pairs}]

    async def close(self) -> None:
        """Close the connection."""
        if self._opening is not None:
            self._opening.cancel()
            await asyncio.gather(self._opening, return_exceptions=True)
        wires = [wire for wire in (self._wire, *self._left) if wire is not None]
        for wire in wires:
            wire.end()
        with suppress(TimeoutError):
            async with asyncio.timeout(self._deadline):
                await asyncio.gather(*(asyncio.shield(wire.lost) for wire in wires))

    async def _ready(self) -> _Wire:
        wire = self._wire
        if wire is not None and not wire.lost.done():
            if not wire.overdue:
                return wire
            self._left.add(wire)
            wire.lost.add_done_callback(lambda _: self._left.discard(wire))
            self._wire = None
        if self._opening is None or self._opening.done():
            self._opening = asyncio.create_task(self._open())
            self._opening.add_done_callback(lambda task: task.cancelled() or task.exception())  # seen, also where nobody waits any more
        # One connects for all: who is cancelled meanwhile leaves the others their connection.
        return await asyncio.shield(self._opening)

    async def _open(self) -> _Wire:
        host, port = self._url.nodes[0]
        async with asyncio.timeout(self._deadline):
            if self._url.scheme == "rediss" and self._tls is None:
                self._tls = await asyncio.to_thread(ssl.create_default_context, cafile=self._url.ca_file)
            _, wire = await asyncio.get_running_loop().create_connection(lambda: _Wire(self._deadline), host, port, ssl=self._tls)
            try:
                await self._greet(wire)
            except BaseException:
                wire.end()
                raise
        self._wire = wire
        return wire

    async def _greet(self, wire: _Wire) -> None:
        greeting: list[Command] = []
        if self._url.password is not None:
            greeting.append(("AUTH", *([self._url.username] if self._url.username else []), self._url.password))
        if self._url.db:
            greeting.append(("SELECT", self._url.db))
        for future in wire.send(greeting) if greeting else ():
            answer = await future
            if isinstance(answer, hiredis.ReplyError):
                raise refused(str(answer))


def refused(text: str) -> RedisFault:
    """A server's refusal as an exception."""
    return NoScript(text) if text.startswith("NOSCRIPT") else RedisFault(text)
