"""A transport as two bounded streams. At most `HIGH` bytes and one read wait unread; a writer waits while the peer does not read.

One reader and one writer at a time. Foreign errors (OSError) leave here as they are: whoever knows the peer translates them.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Protocol, cast

HIGH = 256 * 1024  # bytes unread before the transport is paused; asyncio's selector transports read up to 256 KiB at a time
LINGER = 10.0  # seconds that a closing connection may take to send what is left


def unsent_of(transport: asyncio.Transport) -> int:
    """Bytes written that have not gone out. A TLS transport of asyncio that is gone cannot say (3.11): then there are none."""
    try:
        return transport.get_write_buffer_size()
    except AttributeError:
        return 0


class Tap(Protocol):
    """Who gets the bytes of a connection as they come, in place of a reader and a writer that wait."""

    def received(self, data: bytes) -> None: ...

    def ended(self) -> None:
        """No more will come."""

    def writable(self) -> None:
        """The peer takes bytes again."""


class Duplex(asyncio.Protocol):
    """Protocol of one connection. Made by a transport, or put onto a living one with `adopt`. While there is a `tap`, nobody may wait."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.tap: Tap | None = None
        self._transport: asyncio.Transport | None = None
        self._pieces: deque[bytes] = deque()
        self._size = 0
        self._read_paused = False
        self._write_paused = False
        self._eof = False
        self._fault: BaseException | None = None
        self._reader: asyncio.Future[None] | None = None
        self._writer: asyncio.Future[None] | None = None
        self._lost: asyncio.Future[None] = self._loop.create_future()
        self.on_stir: Callable[[], None] | None = None  # called when anything arrives or the connection ends; for connections at rest
        self.on_lost: Callable[[BaseException | None], None] | None = None

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is no instance of it

    def data_received(self, data: bytes) -> None:
        if self.tap is not None:
            self.tap.received(data)
            return
        self._pieces.append(data)
        self._size += len(data)
        if self._size >= HIGH and not self._read_paused and self._transport is not None:
            self._read_paused = True
            self._transport.pause_reading()
        self._wake()

    def eof_received(self) -> bool:
        self._eof = True
        if self.tap is not None:
            self.tap.ended()
        self._wake()
        # A TLS connection has no half-open state; asyncio warns when asked to keep it.
        return self._transport is not None and self._transport.can_write_eof()

    def connection_lost(self, exc: BaseException | None) -> None:
        self._eof = True
        if self._fault is None:
            self._fault = exc
        if not self._lost.done():
            self._lost.set_result(None)
        if self.tap is not None:
            self.tap.ended()
        self._wake()
        self._release_writer()
        if self.on_lost is not None:
            self.on_lost(exc)

    def pause_writing(self) -> None:
        self._write_paused = True

    def resume_writing(self) -> None:
        self._write_paused = False
        if self.tap is not None:
            self.tap.writable()
        self._release_writer()

    # what callers use

    def adopt(self, transport: asyncio.Transport, received: bytes, *, writing_paused: bool) -> None:
        """Become the protocol of a living transport. `received` was read before and comes first."""
        self.connection_made(transport)
        self._write_paused = writing_paused
        if received:
            self.data_received(received)
        transport.set_protocol(self)
        if not self._read_paused:
            transport.resume_reading()

    @property
    def alive(self) -> bool:
        """Nothing unread, not ended, not closing."""
        return (
            not self._eof
            and not self._pieces
            and not self._lost.done()
            and self._transport is not None
            and not self._transport.is_closing()
        )

    @property
    def fileno(self) -> int:
        """The socket's number, -1 when it is gone."""
        sock = self._transport.get_extra_info("socket") if self._transport is not None else None
        return -1 if sock is None else int(sock.fileno())

    @property
    def full(self) -> bool:
        """The peer does not take bytes as fast as they were written."""
        return self._write_paused

    @property
    def unsent(self) -> int:
        """Bytes written that have not gone out."""
        return 0 if self._transport is None else unsent_of(self._transport)

    def hold(self, held: bool) -> None:
        """Read nothing from the socket for a while, for a tap that cannot pass more on."""
        if self._transport is not None and held is not self._read_paused and not self._transport.is_closing():
            self._read_paused = held
            if held:
                self._transport.pause_reading()
            else:
                self._transport.resume_reading()

    def unread(self, data: bytes) -> None:
        """Put bytes back in front of what the next `read` returns."""
        if data:
            self._pieces.appendleft(data)
            self._size += len(data)

    async def read(self, timeout: float | None = None) -> bytes:
        """The next bytes, b"" at the end. Raises TimeoutError after `timeout` seconds of silence, OSError when the
        connection broke, or what `abort` was told."""
        while not self._pieces:
            if self._fault is not None:
                raise self._fault
            if self._eof:
                return b""
            self._reader = self._loop.create_future()
            timer = None if timeout is None else self._loop.call_later(timeout, _expire, self._reader)
            try:
                await self._reader
            finally:
                self._reader = None
                if timer is not None:
                    timer.cancel()
        piece = self._pieces.popleft()
        self._size -= len(piece)
        if self._read_paused and self._size < HIGH and self._transport is not None:
            self._read_paused = False
            self._transport.resume_reading()
        return piece

    def write(self, data: bytes | bytearray) -> None:
        """Hand bytes over. Raises OSError when the connection is gone, or what `abort` was told."""
        if self._fault is not None:
            raise self._fault
        if self._transport is None or self._transport.is_closing():
            raise ConnectionResetError("the connection is closed")
        self._transport.write(data)

    async def drain(self, timeout: float) -> None:
        """Wait until the peer has taken enough of what was written. Raises TimeoutError when it takes nothing for
        `timeout` seconds, OSError when the connection is gone, or what `abort` was told."""
        while self._write_paused:
            if self._fault is not None:
                raise self._fault
            if self._transport is None or self._lost.done():
                raise ConnectionResetError("the connection is closed")
            unsent = unsent_of(self._transport)
            self._writer = self._loop.create_future()
            timer = self._loop.call_later(timeout, _expire, self._writer)
            try:
                await self._writer
            except TimeoutError:
                if unsent_of(self._transport) >= unsent:
                    raise
            finally:
                self._writer = None
                timer.cancel()

    def end(self) -> None:
        """No more bytes will be written. Where there is no half-open state (TLS) the connection closes once all is sent."""
        if self._transport is None or self._transport.is_closing():
            return
        if self._transport.can_write_eof():
            self._transport.write_eof()
        else:
            self._transport.close()

    def close(self) -> None:
        """Send what was written, for at most `LINGER` seconds, then close."""
        if self._transport is not None:
            self._transport.close()
            if unsent_of(self._transport):
                self._loop.call_later(LINGER, self._transport.abort)

    def abort(self, reason: BaseException) -> None:
        """Close at once; readers and writers, present and future, get `reason`."""
        if self._fault is None:
            self._fault = reason
        self._pieces.clear()
        self._size = 0
        if self._transport is not None:
            self._transport.abort()
        self._wake()
        self._release_writer()

    async def wait_lost(self) -> None:
        """Wait until the connection is gone."""
        if self._transport is not None:
            await asyncio.shield(self._lost)

    def _wake(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)
        if self.on_stir is not None:
            self.on_stir()

    def _release_writer(self) -> None:
        if self._writer is not None and not self._writer.done():
            self._writer.set_result(None)


class Alarm:
    """One timer for a row of deadlines that are hardly ever reached: setting and clearing one costs the event loop nothing."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0
        self._ring: Callable[[], None] | None = None

    def set(self, seconds: float, ring: Callable[[], None]) -> None:
        """Call `ring` in so many seconds, in place of what was set before."""
        self._due = self._loop.time() + seconds
        self._ring = ring
        if self._timer is not None and self._timer.when() > self._due:
            self._timer.cancel()
            self._timer = None
        if self._timer is None:
            self._timer = self._loop.call_at(self._due, self._look)

    def clear(self) -> None:
        """Call nothing. The timer is left: most likely it will be set again before it fires."""
        self._ring = None

    def stop(self) -> None:
        """Call nothing, and leave no timer."""
        self._ring = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        self._timer = None
        if self._ring is None:
            return
        if self._loop.time() < self._due:
            self._timer = self._loop.call_at(self._due, self._look)
            return
        ring, self._ring = self._ring, None
        ring()


def _expire(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_exception(TimeoutError())
