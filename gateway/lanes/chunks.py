"""The chunks of a body (RFC 9112 §7.1). Their ends are found here, so that llhttp, which has neither offsets nor pause, is never given a
byte that belongs to the next message; llhttp then says whether they are right, and what is in them. Trailers are dropped.
"""

from __future__ import annotations

import re

import httptools

MAX_LINE = 4096  # bytes of a chunk's size and extensions, and of a trailer
MAX_TRAILERS = 64  # lines

_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})(?:;[\t -~\x80-\xff]*)?\r\n")


class BadChunks(Exception):
    """The body is malformed. The text is for the log and quotes nothing of it."""


class Chunks:
    """One body. `feed` takes bytes as they come; `ended` when all of it has come."""

    def __init__(self, head: bytes, parser: type[httptools.HttpRequestParser | httptools.HttpResponseParser]) -> None:
        """head: of the message, whole: what llhttp must know of it. Raises BadChunks where that is no head with chunks behind it."""
        self.ended = False
        self._over = False
        self._pieces: list[bytes] = []
        self._rest = b""  # of a line that is not whole
        self._data = 0  # bytes of the present chunk, its CRLF included, that have not come
        self._trailers = -1  # lines of them that came; -1: the last chunk has not come
        self._parser = parser(self)
        self._check(head)

    def on_body(self, piece: bytes) -> None:
        """llhttp's: bytes of a chunk."""
        self._pieces.append(piece)

    def on_message_complete(self) -> None:
        """llhttp's: the body is whole."""
        self._over = True

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        """The bytes of the body in `data`, and what stands behind the body. Raises BadChunks."""
        self._pieces = []
        start = 0
        while start < len(data) and not self.ended:
            start = self._chunk(data, start) if self._data else self._line(data, start)
        return b"".join(self._pieces), data[start:]

    def _chunk(self, data: bytes, start: int) -> int:
        end = min(len(data), start + self._data)
        self._data -= end - start
        self._check(data[start:end])
        return end

    def _line(self, data: bytes, start: int) -> int:
        found = data.find(b"\n", start)
        end = len(data) if found < 0 else found + 1
        line = self._rest + data[start:end]
        if len(line) > MAX_LINE:
            raise BadChunks("a line of the framing is too long")
        if found < 0:
            self._rest = line
            return end
        self._rest = b""
        if self._trailers >= 0:
            self._trailer(line)
        elif (size := _SIZE.fullmatch(line)) is None:
            raise BadChunks("not the size of a chunk")
        else:
            count = int(size[1], 16)
            self._data = count + 2 if count else 0
            self._trailers = -1 if count else 0
        self._check(line)
        return end

    def _trailer(self, line: bytes) -> None:
        self._trailers += 1
        if self._trailers > MAX_TRAILERS:
            raise BadChunks("too many trailers")
        self.ended = line == b"\r\n"

    def _check(self, piece: bytes) -> None:
        try:
            self._parser.feed_data(piece)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            raise BadChunks(f"llhttp: {type(error).__name__}") from error
        if self._over is not self.ended:
            raise BadChunks("llhttp sees the end elsewhere")
