"""One client connection: aiohttp's HTTP/1.1 protocol with the bounds it lacks, and the raw ways out that answers and tunnels use."""

from __future__ import annotations

import asyncio
import os
import re
import socket
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, cast

import structlog
from aiohttp.http_exceptions import LineTooLong
from aiohttp.streams import StreamReader
from aiohttp.web_protocol import RequestHandler, RequestPayloadError
from aiohttp.web_request import BaseRequest
from aiohttp.web_response import StreamResponse

from gateway.errors import ClientGone
from gateway.lanes.duplex import Duplex, unsent_of
from gateway.spec.sections import LimitsSpec

if TYPE_CHECKING:
    from gateway.lanes.server import Front, Listener

log = structlog.get_logger(__name__)

_READ_BUFFER = 64 * 1024  # twice this is held of a body that nobody reads yet
_LINGER = 5.0  # seconds for the rest of a body whose answer is out already
_LAST_CHUNK = b"\r\n0\r\n\r\n"
_MAX_STREAMED = 24  # aiohttp's parser counts each streamed body as a queued request for ever and stops at 32 of them
_TOO_MANY = "Too many headers received"
_SAID_BY_LLHTTP = re.compile(r"(?:Bad status line:\s+)?([^\n]+):\n\n")


class Sent(StreamResponse):
    """A response that is on the wire already; aiohttp has nothing left to do for it."""

    def __init__(self, status: int, reason: str = "", *, keep_alive: bool) -> None:
        super().__init__(status=status, reason=reason)
        self._keep_alive = keep_alive

    async def prepare(self, request: BaseRequest) -> None:  # noqa: ARG002 -- aiohttp's signature
        return None

    async def write_eof(self, data: bytes = b"") -> None:  # noqa: ARG002 -- aiohttp's signature
        return None


def plain(status: int, text: str, *more: str, number: str = "") -> bytes:
    """A whole tiny answer that ends the connection; `more` are further header lines. number: that of the request, under which the log has
    the reason."""
    body = (f"{text}. Request number {number}.\n" if number else f"{text}\n").encode()
    fields = ("Content-Type: text/plain; charset=utf-8", f"Content-Length: {len(body)}", "Connection: close", *more)
    return "\r\n".join((f"HTTP/1.1 {status} {HTTPStatus(status).phrase}", *fields, "", "")).encode("ascii") + body


def _reason(error: Exception) -> str:
    """What aiohttp's parser found, without the client's bytes that it quotes: they may hold tokens and cookies."""
    text = str(getattr(error, "message", ""))
    if (said := _SAID_BY_LLHTTP.match(text)) is not None:
        return said[1]
    return text if text == _TOO_MANY or text.startswith(("Duplicate '", "Missing 'Host'")) else type(error).__name__


def peer_address(transport: asyncio.BaseTransport) -> str:
    """The client's address; "" where it is gone already."""
    peer = transport.get_extra_info("peername")
    return str(peer[0]) if peer else ""


def connection_of(request: BaseRequest) -> Connection:
    """The `Connection` that a request came in by. Raises ClientGone when it is gone."""
    protocol = request.protocol
    if not isinstance(protocol, Connection):
        raise ClientGone("the connection is gone")
    return protocol


class Connection(RequestHandler):
    """One client connection. `on_lost`, when set, is called once when the client goes.

    aiohttp's parser (3.14) adds the last trailer of a chunked request to the headers of the next request. So a request is
    served only if no trailer can be in front of it: behind a chunked one the connection goes on only when that ended, as the
    last bytes received, with a bare last chunk.
    """

    def __init__(self, listener: Listener, limits: LimitsSpec, front: Front | None = None) -> None:
        """front: the fast lane's connection, which counts it in, and gets it back between two requests."""
        super().__init__(
            listener,
            loop=asyncio.get_running_loop(),
            keepalive_timeout=limits.keepalive,
            access_log=None,  # type: ignore[arg-type]  # "no access log" in aiohttp
            max_line_size=limits.request_line,
            max_headers=limits.header_count,
            # LineTooLong tells its limit and not its line: keep the two limits apart, so that 414 and 431 are.
            max_field_size=limits.header_size + (limits.header_size == limits.request_line),
            lingering_time=_LINGER,
            read_bufsize=_READ_BUFFER,
            auto_decompress=False,
        )
        self.front = front
        self._listener = listener
        self._limits = limits
        self._address: str | None = None
        self._head_timer: asyncio.TimerHandle | None = None
        self._head_begun = False
        self._open_payload: StreamReader | None = None
        self._seen = 0  # requests parsed
        self._trusted: int | None = None  # only so many of them are served; None: all
        self._streamed = 0  # bodies that did not come in one piece with their head
        self._trailer_possible = False
        self._last_bytes = b""
        self.serving = 0  # number of the request in hand, from 1
        self.began = 0.0  # when it began to be served, by perf_counter: uvloop's own clock has milliseconds
        self._writable = asyncio.Event()
        self._writable.set()
        self.on_lost: Callable[[], None] | None = None
        self.answering = False  # bytes of the present answer are out
        self._half_closed = False  # the client has ended its side
        self._body_broke = False  # nothing behind the last request can be read
        self._tunnel = False

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        address = peer_address(transport)
        if self.front is None and not self._listener.admit(address):
            self._force_close = True  # nothing of it is read
            self._listener.turn_away(cast("asyncio.Transport", transport))
            return
        self._address = address if self.front is None else None
        super().connection_made(transport)
        self._head_timer = self._loop.call_later(self._limits.head_timeout, self._head_expired)

    def connection_lost(self, exc: BaseException | None) -> None:
        if self._address is not None:
            self._listener.dismiss(self._address)
            self._address = None
        if self.front is not None:
            self.front.lost()
        self._stop_head_timer()
        self._writable.set()
        try:
            super().connection_lost(exc)
        finally:
            if self.on_lost is not None:
                self.on_lost()

    def eof_received(self) -> bool:  # type: ignore[override]  # aiohttp keeps no connection open for its answer
        """The client has ended its side, or is gone: TCP says the same of both. What was asked for in full is answered, then the
        connection ends; what broke off is refused. Over TLS there is no half-open state: the connection ends at once."""
        transport = self.transport
        if transport is None or not transport.can_write_eof():
            return False
        self._half_closed = True
        if self._waiter is not None and not self._messages:
            if self._head_begun:
                self._refuse_here(400, "the request head broke off")
            return False
        if self._break_body("the body broke off"):
            self._listener.on_cut("body_broke_off")
        elif self._answered:
            return False
        if self.serving >= self._seen:
            self._close = True  # after the answer, also where its head has promised more
        return True

    def log_exception(self, *args: Any, **kw: Any) -> None:
        """A body that is malformed or breaks off while what is left of it is read away is the client's fault, and was told as one."""
        if not isinstance(kw.get("exc_info"), RequestPayloadError):
            super().log_exception(*args, **kw)

    def data_received(self, data: bytes) -> None:
        if self.front is not None and self._resting and data:
            self._park()
            self.front.regain(data, full=self._paused)
            return
        self._read(data, handed=False)

    def take(self, data: bytes) -> None:
        """The beginning of a request that is this lane's to serve."""
        self._read(data, handed=True)

    def _read(self, data: bytes, *, handed: bool) -> None:
        before = len(self._messages)
        try:
            super().data_received(data)
        except ValueError:  # aiohttp builds a URL from the target, for a refusal it has no way then
            self._refuse_here(400, "unreadable target")
            return
        except Exception:  # the last net: whatever it was, this connection pays for it and no other
            log.exception("unhandled fault")
            self.cut(reset=True)
            return
        if len(self._messages) > before:
            self._stop_head_timer()
            for message, payload in list(self._messages)[before:]:
                self._note(message, payload)
            self._end_behind_upgrade(data)
        elif data and (handed or self._waiter is not None) and not self._upgraded:
            self._head_begun = True
            if self._head_timer is None:
                self._head_timer = self._loop.call_later(self._limits.head_timeout, self._head_expired)
        self._last_bytes = (self._last_bytes + data[-len(_LAST_CHUNK) :])[-len(_LAST_CHUNK) :]
        if self._trailer_possible and self._trusted is None and self._last_bytes == _LAST_CHUNK:
            self._trailer_possible = self._open_payload is None or not self._open_payload.is_eof()

    async def start(self) -> None:
        if self._manager is None:
            return  # it was lost before its first turn, which aiohttp does not expect
        try:
            await super().start()
        finally:
            self._bound_closing(self.transport)

    def force_close(self) -> None:
        transport = self.transport
        super().force_close()
        self._bound_closing(transport)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._writable.clear()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._writable.set()

    @property
    def state(self) -> str:
        """`tunnel`, `active` (a request is in hand) or `idle`."""
        if self._tunnel:
            return "tunnel"
        return "idle" if self._waiter is not None and not self._messages else "active"

    # beside the fast lane

    @property
    def _resting(self) -> bool:
        """Between two requests, with nothing of the next one here, and none that the parser could mix up with what was before."""
        waiting = self._waiter is not None and not self._waiter.done() and not self._messages
        if not waiting or self._head_begun or self._upgraded or self._buffer_paused or self._trailer_possible or self._trusted is not None:
            return False
        # The parser keeps what came of the next head to itself; but no head that is begun and not whole ends like this.
        return self._last_bytes.endswith(b"\r\n\r\n") and self._streamed < _MAX_STREAMED and not (self._close or self._force_close)

    def _park(self) -> None:
        """The connection goes to the fast lane: nothing here may close it meanwhile."""
        self.keep_alive(True)
        self._stop_head_timer()

    def unpark(self) -> None:
        """It is back, and `data_received` follows. Whether its client takes bytes is told by `pause_writing`."""
        if self._paused:
            self.resume_writing()

    # what answers use

    @property
    def upgrading(self) -> bool:
        """The request in hand asks for a switch of protocols that a tunnel can carry, and no bytes behind it were parsed."""
        return self._upgraded

    @property
    def draining(self) -> bool:
        """The connection closes after the present answer."""
        last = self._trailer_possible and self.serving >= self._seen
        behind_a_trailer = last and self._open_payload is not None and self._open_payload.is_eof()
        worn = behind_a_trailer or self._streamed >= _MAX_STREAMED or (self._trusted is not None and self.serving >= self._trusted)
        last_of_all = (self._half_closed or self._body_broke) and self.serving >= self._seen
        return worn or last_of_all or self._close or self._force_close

    @property
    def trusted(self) -> bool:
        """The headers of the request in hand are its own."""
        return self.serving <= (self._seen if self._trusted is None else self._trusted)

    def send(self, data: bytes) -> None:
        """Write raw bytes of an answer. Raises ClientGone."""
        transport = self.transport
        if transport is None or transport.is_closing():
            raise ClientGone("the connection is closed")
        transport.write(data)

    async def flush(self, timeout: float) -> None:
        """Wait until the client has taken enough. Raises ClientGone; a client that takes nothing for `timeout` seconds is cut off."""
        while not self._writable.is_set():
            transport = self.transport
            if transport is None:
                raise ClientGone("the connection is closed")
            unsent = unsent_of(transport)
            try:
                async with asyncio.timeout(timeout):
                    await self._writable.wait()
            except TimeoutError as error:
                if unsent_of(transport) >= unsent:
                    self._listener.on_cut("slow_reader")
                    transport.abort()
                    raise ClientGone(f"the client read nothing for {timeout:g} s") from error

    def cut(self, *, reset: bool) -> None:
        """End the connection so that the client notices that the answer is not whole; `reset` where only a reset shows that."""
        if self.transport is None:
            return
        if reset:
            # uvloop gives out no socket that takes options; a twin of its descriptor does, for the same connection.
            with socket.socket(fileno=os.dup(self.transport.get_extra_info("socket").fileno())) as twin:
                twin.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
            self.transport.abort()
        self.force_close()

    def retire(self) -> None:
        """Close now if no request is in hand, else after its answer."""
        if self._waiter is not None and not self._messages:
            self.force_close()
        else:
            self.close()

    def take_over(self) -> Duplex:
        """Hand out the bare connection, with what came behind the request. HTTP is over on it. Raises ClientGone."""
        transport = self.transport
        if transport is None:
            raise ClientGone("the connection is closed")
        behind, self._message_tail = self._message_tail, b""
        self._tunnel = True
        duplex = Duplex()
        duplex.on_lost = self.connection_lost
        duplex.adopt(transport, behind, writing_paused=self._paused)
        if self._half_closed:
            duplex.eof_received()
        return duplex

    # refusals

    def _make_error_handler(self, err_info: Any) -> Callable[[BaseRequest], Awaitable[StreamResponse]]:
        async def refuse(request: BaseRequest) -> StreamResponse:
            if self._body_broke:  # counted, and answered as the request that it belongs to
                return Sent(400, keep_alive=False)
            status, reason = 400, _reason(err_info.exc)
            if isinstance(err_info.exc, LineTooLong):
                status = 414 if err_info.exc.args[1] == self._limits.request_line else 431
            elif reason == _TOO_MANY:
                status = 431
            return self._listener.refuse(request, status, reason)

        return refuse

    def _note(self, message: Any, payload: StreamReader) -> None:
        """Keep account of a message that was just parsed (or, in its place, of a fault)."""
        if hasattr(message, "exc"):
            # aiohttp queues the fault behind the request in hand, whose body would then never end.
            if self._break_body("the body is malformed"):
                self._listener.on_bad_request(400, "the body is malformed")
            elif self._body_broke:
                self.close()
            return
        if self._trailer_possible and self._trusted is None:
            self._trusted = self._seen
        self._seen += 1
        self._streamed += not payload.is_eof()
        self._trailer_possible = self._trailer_possible or bool(message.chunked)
        self._open_payload = payload

    def _end_behind_upgrade(self, data: bytes) -> None:
        """aiohttp's parser drops what stands in one segment behind a request for an upgrade that it does not know: half of the next one,
        perhaps, whose rest would be read as a request of its own. So nothing is served behind it."""
        message = self._messages[-1][0] if self._messages else None
        if self._upgraded or hasattr(message, "exc") or message is None or "Upgrade" not in message.headers:
            return
        if not data.endswith(b"\r\n\r\n") or data.count(b"\r\n\r\n") > 1:
            self._trusted = self._seen

    def _break_body(self, reason: str) -> bool:
        """The rest of the open body never comes: its reader is told so, and nobody waits for it. False where nobody reads it any more."""
        body = self._open_payload
        if body is None or body.is_eof():
            return False
        unread = self._answered
        self._body_broke = True
        if not unread:
            body.set_exception(RequestPayloadError(reason))
        body.feed_eof()
        return not unread

    @property
    def _answered(self) -> bool:
        """The last request's answer is out; at most the rest of its body is awaited."""
        return self.serving >= self._seen and self._current_request is None and not self._messages

    def _head_expired(self) -> None:
        self._head_timer = None
        if not self._head_begun:  # a 408 nobody asked for could be taken for the answer to a request just being sent
            self._listener.on_cut("unused")
            self.force_close()
            return
        self._refuse_here(408, f"the request head took longer than {self._limits.head_timeout:g} s")

    def _refuse_here(self, status: int, reason: str) -> None:
        """Refuse outside of any request."""
        number = self._listener.on_bad_request(status, reason)
        if self.transport is not None and self._current_request is None and not self._messages:
            self.transport.write(plain(status, HTTPStatus(status).phrase, number=number))
        self.force_close()

    def _bound_closing(self, transport: asyncio.Transport | None) -> None:
        """A closing transport first sends what is left: a client that does not read must not hold it."""
        if transport is not None and transport.is_closing() and unsent_of(transport):
            self._loop.call_later(self._limits.write_idle_timeout, self._end_closing, transport)

    def _end_closing(self, transport: asyncio.Transport) -> None:
        if unsent_of(transport):
            self._listener.on_cut("slow_reader")
        transport.abort()

    def _process_keepalive(self) -> None:
        """Nothing was asked for so long. A head that has begun is given the time of a head."""
        if self._head_begun:
            self._keepalive_handle = None
            return
        before = self._force_close
        super()._process_keepalive()
        if self._force_close and not before:
            self._listener.on_cut("keepalive")

    def _stop_head_timer(self) -> None:
        self._head_begun = False
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
