"""A strict reader of HTTP/1.1 messages, written from RFC 9112 alone. It shares nothing with the gateway and forgives nothing.

What a gateway writes must be readable here: a message that needs leniency is one that two servers may read in two ways.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_REQUEST_LINE = re.compile(rb"(" + _TOKEN + rb") ([!-~\x80-\xff]+) HTTP/1\.1")
_STATUS_LINE = re.compile(rb"HTTP/1\.[01] ([1-9][0-9][0-9]) [\t -~\x80-\xff]*")
_FIELD = re.compile(rb"(" + _TOKEN + rb"):[\t ]*((?:[!-~\x80-\xff](?:[\t -~\x80-\xff]*[!-~\x80-\xff])?)?)[\t ]*")
_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,15})")


class Malformed(Exception):
    """No reading of RFC 9112 gives a message here."""


@dataclass(frozen=True, slots=True)
class Message:
    """start: the first line. fields: names as sent. complete: False for what broke off, with the part of the body that came.

    framing: b"chunked", b"length", b"close" (an answer that ends with its connection) or b"" for none.
    """

    start: bytes
    fields: tuple[tuple[bytes, bytes], ...]
    body: bytes
    framing: bytes
    complete: bool

    def all(self, name: bytes) -> list[bytes]:
        return [value for key, value in self.fields if key.lower() == name]

    @property
    def method(self) -> bytes:
        return self.start.split(b" ")[0]

    @property
    def target(self) -> bytes:
        return self.start.split(b" ")[1]

    @property
    def status(self) -> int:
        return int(self.start.split(b" ")[1])


class Incomplete(Exception):
    """The bytes end before the message does. `got`: of its body."""

    def __init__(self, got: bytes = b"") -> None:
        super().__init__(got)
        self.got = got


def request(data: bytes, at: int = 0) -> tuple[Message, int] | None:
    """The request that begins there, incomplete if its body breaks off, and where the next one begins; None while its head is not whole.
    Raises Malformed."""
    head = _head(data, at, _REQUEST_LINE)
    if head is None:
        return None
    start, fields, at = head
    hosts = [value for name, value in fields if name.lower() == b"host"]
    if len(hosts) != 1:
        raise Malformed(f"{len(hosts)} Host fields")
    return _whole(data, at, start, fields, b"")


def responses(data: bytes, methods: list[bytes]) -> Iterator[Message]:
    """The answers to requests with these methods, 1xx among them; one too many is taken for one to a GET. A 101 is the last: what stands
    behind it is its body."""
    at = 0
    waiting = list(methods)
    while at < len(data):
        head = _head(data, at, _STATUS_LINE)
        if head is None:
            return
        start, fields, at = head
        status = int(start.split(b" ")[1])
        if status == 101:
            yield Message(start, fields, data[at:], b"", complete=True)
            return
        if 100 <= status < 200:
            yield Message(start, fields, b"", b"", complete=True)
            continue
        method = waiting.pop(0) if waiting else b"GET"  # a refusal of bytes that are no request
        codings, _ = _framing(fields)
        if codings and start.startswith(b"HTTP/1.0"):
            raise Malformed("Transfer-Encoding in HTTP/1.0")
        if method == b"HEAD" or status in (204, 304):
            yield Message(start, fields, b"", b"", complete=True)
            continue
        message, at = _whole(data, at, start, fields, b"close")
        yield message


def _head(data: bytes, at: int, first: re.Pattern[bytes]) -> tuple[bytes, tuple[tuple[bytes, bytes], ...], int] | None:
    end = data.find(b"\r\n\r\n", at)
    lines = data[at : end if end >= 0 else len(data)].split(b"\r\n")
    if end < 0:
        lines.pop()  # it may go on
    fields = []
    for index, line in enumerate(lines):
        if index == 0:
            if not first.fullmatch(line):
                raise Malformed(f"first line {line[:200]!r}")
            continue
        found = _FIELD.fullmatch(line)
        if not found:
            raise Malformed(f"field line {line[:200]!r}")
        fields.append((found[1], found[2]))
    return None if end < 0 else (lines[0], tuple(fields), end + 4)


def _whole(data: bytes, at: int, start: bytes, fields: tuple[tuple[bytes, bytes], ...], otherwise: bytes) -> tuple[Message, int]:
    """Read the body of a message. otherwise: its framing where no field says one."""
    codings, lengths = _framing(fields)
    framing = b"chunked" if codings else b"length" if lengths else otherwise
    try:
        body, at = _chunks(data, at) if codings else _sized(data, at, int(lengths[0]) if lengths else len(data) - at if otherwise else 0)
    except Incomplete as broken:
        return Message(start, fields, broken.got, framing, complete=False), len(data)
    return Message(start, fields, body, framing, complete=True), at


def _framing(fields: tuple[tuple[bytes, bytes], ...]) -> tuple[list[bytes], list[bytes]]:
    """What the fields say of where the body ends: codings, lengths, at most one of both."""
    codings = [value for name, value in fields if name.lower() == b"transfer-encoding"]
    lengths = [value for name, value in fields if name.lower() == b"content-length"]
    if codings and (codings != [b"chunked"] or lengths):
        raise Malformed(f"Transfer-Encoding {codings!r} with Content-Length {lengths!r}")
    if len(lengths) > 1 or (lengths and not re.fullmatch(rb"[0-9]{1,19}", lengths[0])):
        raise Malformed(f"Content-Length {lengths!r}")
    return codings, lengths


def _sized(data: bytes, at: int, length: int) -> tuple[bytes, int]:
    if len(data) - at < length:
        raise Incomplete(data[at:])
    return data[at : at + length], at + length


def _chunks(data: bytes, at: int) -> tuple[bytes, int]:
    """Neither extensions nor trailers: an intermediary that decodes them must not pass them on as they are."""
    body = b""
    while True:
        end = data.find(b"\r\n", at)
        if end < 0:
            if not re.fullmatch(rb"[0-9A-Fa-f]*\r?", data[at:]):
                raise Malformed(f"chunk header {data[at : at + 200]!r}")
            raise Incomplete(body)
        found = _CHUNK.fullmatch(data[at:end])
        if not found:
            raise Malformed(f"chunk header {data[at : min(end, at + 200)]!r}")
        size, at = int(found[1], 16), end + 2
        body += data[at : at + size]
        at += size
        behind = data[at : at + 2]
        if not b"\r\n".startswith(behind):
            raise Malformed(f"behind a chunk {behind!r}")
        if len(behind) < 2:
            raise Incomplete(body)
        at += 2
        if size == 0:
            return body, at
