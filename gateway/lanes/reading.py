"""One answer of an upstream, bytes in, head and body out. Nothing here waits or writes.

An answer whose head came in one piece, is written as RFC 9112 says, and whose end is plain (one Content-Length, chunks, or no body at all)
is read here, the chunks by llhttp. Every other one is h11's from its first byte on: 1xx, HTTP/1.0, the end of the connection for a length,
odd spelling.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

import h11
import httptools

from gateway.lanes.chunks import BadChunks, Chunks
from gateway.wire.head import Headers, lowered

MAX_HEAD = 64 * 1024  # bytes of an answer's head, of a chunk's header line, of trailers

# RFC 9112 §4 and §5: no folded line, no bare LF, no control character. The next character is never ambiguous,
# so this is linear on whatever an upstream sends.
_HEAD = re.compile(rb"HTTP/1\.1 ([2-5][0-9][0-9]) ([\t -~\x80-\xff]*)\r\n((?:[!#$%&'*+\-.^_`|~0-9A-Za-z]+:[\t -~\x80-\xff]*\r\n)*)\r\n")
_CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_DIGITS = re.compile(rb"[0-9]{1,18}")


class BadAnswer(Exception):
    """What the upstream sent is no answer, or ended too soon. The text is for the log."""


@dataclass(frozen=True, slots=True)
class ResponseHead:
    """The head of an answer: `headers` in order, names as sent; `version` is b"1.0" or b"1.1"; `names`: of the headers, lower-case."""

    status: int
    reason: bytes
    headers: Headers
    version: bytes
    names: tuple[bytes, ...]


@lru_cache(maxsize=128)
def _told(method: str, has_body: bool, upgrade: bool) -> h11.Request:
    """What h11 must know of a request to read its answer."""
    headers = [(b"Host", b"-")]
    if has_body:
        headers.append((b"Transfer-Encoding", b"chunked"))
    if upgrade:
        headers += [(b"Connection", b"Upgrade"), (b"Upgrade", b"-")]
    return h11.Request(method=method, target=b"/", headers=headers)


class Reading:
    """The answer to one request. `has_body`: `end_request` will be called when the request's body is out.

    `head` (until it is no 1xx), then `body` until b"". Each is None while bytes are missing, and raises BadAnswer.
    """

    def __init__(self, method: str, *, has_body: bool, upgrade: bool) -> None:
        self._method = method
        self._has_body = has_body
        self._upgrade = upgrade
        self._request_ended = not has_body
        self._h11: h11.Connection | None = None
        self._head: ResponseHead | None = None
        self._left: int | None = None  # bytes of the body that have not come; None: h11 knows
        self._chunks: Chunks | None = None  # then `_left` is 1 until they have ended
        self._piece = b""
        self._fault: BadAnswer | None = None
        self._surplus = False
        self._reusable = False

    def end_request(self) -> None:
        """The request's body is out."""
        self._request_ended = True
        if self._h11 is not None and self._h11.our_state is h11.SEND_BODY:
            self._h11.send(h11.EndOfMessage())

    def receive(self, data: bytes) -> None:
        """Bytes from the upstream, b"" at the end of the connection. Take all of `body` before the next bytes."""
        if self._h11 is not None:
            self._h11.receive_data(data)
        elif self._left is None:
            if self._upgrade or not self._begin(data):
                self._h11 = self._judge()
                self._h11.receive_data(data)
        elif data:
            self._take(data)
        elif self._left:
            raise BadAnswer("closed before the end of an answer")

    def head(self) -> ResponseHead | None:
        """The next head; a 1xx is followed by another one."""
        if self._h11 is None:
            return self._head
        event = self._event(self._h11)
        if event is h11.NEED_DATA:
            return None
        if not isinstance(event, h11.Response | h11.InformationalResponse):
            raise BadAnswer("closed without an answer")
        if event.http_version not in (b"1.0", b"1.1"):
            raise BadAnswer("not HTTP/1.0 or HTTP/1.1")
        fields = tuple((bytes(name), bytes(value)) for name, value in event.headers.raw_items())
        if _CONTROL.search(b"".join([bytes(event.reason), *[value for _, value in fields]])):  # h11 takes most of them; RFC 9110 §5.5
            raise BadAnswer("a control character in the head")
        if sum(len(name) + len(value) + 4 for name, value in fields) > MAX_HEAD:  # h11 bounds only what it waits for
            raise BadAnswer(f"a head of more than {MAX_HEAD} bytes")
        return ResponseHead(event.status_code, bytes(event.reason), fields, bytes(event.http_version), lowered(fields))

    def body(self) -> bytes | bytearray | None:
        """The next bytes of the body, b"" at its clean end; trailers are dropped."""
        if self._h11 is None:
            piece, self._piece = self._piece, b""
            if self._fault is not None and not piece:
                raise self._fault
            return piece or (b"" if self._left == 0 else None)
        while True:
            event = self._event(self._h11)
            if event is h11.NEED_DATA:
                return None
            if isinstance(event, h11.Data):
                return event.data
            if isinstance(event, h11.EndOfMessage) or event is h11.PAUSED:
                return b""

    @property
    def clean(self) -> bool:
        """Request and answer have ended, nothing came behind them, and neither side said that the connection ends."""
        if self._h11 is None:
            return self._request_ended and self._left == 0 and self._reusable and not self._surplus
        return self._h11.our_state is h11.DONE and self._h11.their_state is h11.DONE and not self._h11.trailing_data[0]

    @property
    def behind(self) -> bytes:
        """After a 101: what came behind its head."""
        return b"" if self._h11 is None else self._h11.trailing_data[0]

    def _begin(self, data: bytes) -> bool:
        """Read a plain head. False: it is h11's."""
        found = _HEAD.match(data)
        if found is None or found.end() > MAX_HEAD:
            return False
        fields = tuple([(n, v.strip(b" \t")) for n, _, v in [line.partition(b":") for line in found[3].split(b"\r\n")[:-1]]])
        names = lowered(fields)
        lengths = names.count(b"content-length")
        status = int(found[1])
        codings = [value.lower() for name, (_, value) in zip(names, fields, strict=True) if name == b"transfer-encoding"]
        if lengths > 1 or (codings and (lengths or codings != [b"chunked"])):
            return False
        length = fields[names.index(b"content-length")][1] if lengths else b""
        if lengths and not _DIGITS.fullmatch(length):
            return False
        if self._method == "HEAD" or status in (204, 304):
            self._left = 0
        elif lengths:
            self._left = int(length)
        elif codings:
            try:
                self._chunks = Chunks(data[: found.end()], httptools.HttpResponseParser)
            except BadChunks as error:
                raise BadAnswer(str(error)) from error
            self._left = 1
        else:
            return False
        self._head = ResponseHead(status, found[2], fields, b"1.1", names)
        self._reusable = b"connection" not in names or all(
            b"close" not in value.lower() for name, (_, value) in zip(names, fields, strict=True) if name == b"connection"
        )
        if len(data) > found.end():
            self._take(data[found.end() :])
        return True

    def _take(self, data: bytes) -> None:
        if self._chunks is not None:
            try:
                piece, behind = self._chunks.feed(data)
            except BadChunks as error:
                self._fault = BadAnswer(str(error))  # `body` raises it: the head may be on its way already
                return
            self._piece += piece
            self._surplus = self._surplus or bool(behind)
            self._left = 0 if self._chunks.ended else 1
            return
        left = self._left or 0
        self._surplus = self._surplus or len(data) > left
        self._piece = data if len(data) <= left else data[:left]
        self._left = left - len(self._piece)

    def _judge(self) -> h11.Connection:
        made = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD)
        made.send(_told(self._method, self._has_body, self._upgrade))
        if self._request_ended:
            made.send(h11.EndOfMessage())
        return made

    def _event(self, judge: h11.Connection) -> object:
        try:
            return judge.next_event()
        except h11.RemoteProtocolError as error:
            raise BadAnswer(str(error)) from error
