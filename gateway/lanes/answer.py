"""The client's side of an exchange: the upstream's answer, head and bytes, as it came.

The framing is the gateway's own (RFC 9112 §6): Content-Length where the upstream said one, else chunked, else the end of the
connection for HTTP/1.0. An answer that breaks off never looks whole.
"""

from __future__ import annotations

from enum import Enum

from aiohttp.http import HttpVersion11
from aiohttp.web_request import BaseRequest

from gateway.lanes.connection import connection_of
from gateway.lanes.upstream import ResponseHead
from gateway.wire.head import Headers

# RFC 9110 §7.6.1; trailers are dropped, so is the header that announces them
_OURS = frozenset({b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"te", b"trailer", b"upgrade"})


class Framing(Enum):
    """How the end of an answer's body is known."""

    EMPTY = "there is none"
    LENGTH = "Content-Length"
    CHUNKED = "chunked"
    CLOSE = "the connection ends"


def frame(head: ResponseHead, headers: Headers, *, method: str, http11: bool) -> tuple[Headers, Framing]:
    """The headers to send and how the body is framed. `head` is the upstream's, `headers` what the caller made of its headers."""
    sized = b"content-length" in head.names and b"transfer-encoding" not in head.names
    if method == "HEAD" or head.status in (204, 304):
        framing = Framing.EMPTY
    elif sized:
        framing = Framing.LENGTH
    else:
        framing = Framing.CHUNKED if http11 else Framing.CLOSE
    dropped = _OURS if sized and head.status != 204 else _OURS | {b"content-length"}  # RFC 9110 §8.6: none in a 204
    kept = tuple([field for field in headers if field[0].lower() not in dropped])
    return (*kept, (b"Transfer-Encoding", b"chunked")) if framing is Framing.CHUNKED else kept, framing


def head_bytes(status: int, reason: bytes, headers: Headers) -> bytes:
    """A response head. Raises ValueError for a header that would not stay one line."""
    head = b"".join([b"HTTP/1.1 %d %b\r\n" % (status, reason), *[b"%b: %b\r\n" % field for field in headers], b"\r\n"])
    if head.count(b"\n") != len(headers) + 2 or head.count(b"\r") != len(headers) + 2 or b"\x00" in head:
        raise ValueError("a response header holds a line break or NUL")
    return head


def informational_bytes(head: ResponseHead) -> bytes:
    """A 1xx as it goes to the client. Nobody edits its headers, so cookies, ours among them, stay out. Raises ValueError."""
    headers = tuple(field for field in head.headers if field[0].lower() not in _OURS | {b"set-cookie"})
    return head_bytes(head.status, head.reason, headers)


class Answer:
    """One answer on its way to a client. Everything that writes may raise ClientGone.

    Call `start`, then `write` any number of times, then `finish`; or `cut` when it cannot be completed.
    """

    def __init__(self, request: BaseRequest, *, write_idle: float) -> None:
        self._connection = connection_of(request)
        self._method = request.method
        self._http11 = request.version >= HttpVersion11
        self._idle = write_idle
        self._framing = Framing.EMPTY
        self._pending = b""
        self.keep_alive = request.keep_alive
        self.started = False
        self.sent = 0  # bytes of the body

    def informational(self, head: ResponseHead) -> None:
        """Pass a 1xx on (RFC 9110 §15.2: not to HTTP/1.0)."""
        if self._http11:
            self._connection.send(informational_bytes(head))

    def start(self, head: ResponseHead, headers: Headers, *, last: bool) -> None:
        """Make the head ready; it goes out with the first `write`, or by `flush`. `last`: the connection must end after it."""
        headers, self._framing = frame(head, headers, method=self._method, http11=self._http11)
        if last or self._connection.draining or self._framing is Framing.CLOSE:
            self.keep_alive = False
        if not self.keep_alive:
            headers = (*headers, (b"Connection", b"close"))
        elif not self._http11:
            headers = (*headers, (b"Connection", b"keep-alive"))
        self._pending = head_bytes(head.status, head.reason, headers)
        self.started = True

    def switch(self, head: ResponseHead, headers: Headers) -> None:
        """Send a 101 as the caller prepared it, `Connection` and `Upgrade` included."""
        self._connection.send(head_bytes(head.status, head.reason, headers))
        self._connection.answering = True
        self.started = True
        self.keep_alive = False

    async def write(self, piece: bytes | bytearray) -> None:
        """Send bytes of the body, waiting while the client does not read."""
        if self._framing is Framing.CHUNKED:
            data = b"".join([self._pending, b"%x\r\n" % len(piece), piece, b"\r\n"])
        else:
            data = self._pending + piece if self._pending else bytes(piece)
        self._pending = b""
        self._connection.answering = True
        self._connection.send(data)
        self.sent += len(piece)
        await self._connection.flush(self._idle)

    def flush(self) -> None:
        """Send the head now, if it has not gone out."""
        if self._pending:
            pending, self._pending = self._pending, b""
            self._connection.answering = True
            self._connection.send(pending)

    async def finish(self) -> None:
        """The answer is whole."""
        if self._framing is Framing.CHUNKED:
            self._pending += b"0\r\n\r\n"
        self.flush()
        await self._connection.flush(self._idle)

    def cut(self) -> None:
        """The answer cannot be completed: the client must notice."""
        self.keep_alive = False
        self._connection.cut(reset=self._framing is Framing.CLOSE)
