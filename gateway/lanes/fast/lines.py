"""Lines of answers' heads, each classified once: most answers of an application are made of lines that were seen before.

An answer that is made of ordinary lines and one Content-Length passes as it came. Anything else is `reading.Reading`'s.
"""

from __future__ import annotations

import re

from gateway.wire.headers import PRIVATE, strict_enough

ORDINARY = -1  # passes as it is; of a status line: an answer that has a body
DROPPED = -2  # hop-by-hop, and says nothing
CACHING = -3  # passes, unless the answer is gated
UNUSUAL = -4
# 0 and more: a Content-Length of that many bytes

MOST = 4096
LONGEST = 512  # bytes; a longer line is classified anew each time

_LINE = re.compile(rb"([!#$%&'*+\-.^`|~0-9A-Za-z]+): ?((?:[!-~\x80-\xff](?:[\t -~\x80-\xff]*[!-~\x80-\xff])?)?)")
_STATUS = re.compile(rb"HTTP/1\.1 ([2-5][0-9][0-9]) [\t -~\x80-\xff]*")
_DIGITS = re.compile(rb"[0-9]{1,18}")
_NO_BODY = frozenset({b"204", b"304"})
# What `wire.headers.response_for_client`, `answer.frame` or an identity source could have a say about. A name with `_` never gets here.
_SPECIAL = frozenset({
    b"connection", b"keep-alive", b"location", b"proxy-authenticate", b"proxy-authorization", b"proxy-connection", b"set-cookie",
    b"surrogate-control", b"te", b"trailer", b"transfer-encoding", b"upgrade", b"x-accel-expires",
})  # fmt: skip
_HARMLESS = frozenset({(b"connection", b"keep-alive"), (b"proxy-connection", b"keep-alive")})

known: dict[bytes, int] = {}
private: dict[bytes, bytes] = {}  # what becomes of a CACHING line where the answer is gated
statuses: dict[bytes, int] = {}


def classify(line: bytes) -> int:
    """What a header line is. Remembers it in `known`."""
    found = _classify(line)
    if len(line) <= LONGEST:
        if len(known) >= MOST:
            known.clear()
        known[line] = found
    return found


def _classify(line: bytes) -> int:
    match = _LINE.fullmatch(line)
    if match is None:
        return UNUSUAL
    name, value = match[1].lower(), match[2]
    if name == b"content-length":
        return int(value) if _DIGITS.fullmatch(value) else UNUSUAL
    if name == b"keep-alive" or (name, value.lower()) in _HARMLESS:
        return DROPPED
    if name == b"cache-control":
        return CACHING
    if name in _SPECIAL or name.endswith(b"cdn-cache-control") or b": " not in line[: len(name) + 2]:
        return UNUSUAL
    return ORDINARY


def made_private(line: bytes) -> bytes:
    """What becomes of a line that is CACHING, and the only one of its answer, where that is gated. Remembers it in `private`."""
    name, _, value = line.partition(b": ")
    found = line if strict_enough(((name, value),)) else b"%b: %b" % (name, PRIVATE)
    if len(line) <= LONGEST:
        if len(private) >= MOST:
            private.clear()
        private[line] = found
    return found


def status(line: bytes) -> int:
    """Of a status line: ORDINARY, where the answer has a body of the length that is said, or UNUSUAL. Remembers it in `statuses`."""
    match = _STATUS.fullmatch(line)
    found = ORDINARY if match is not None and match[1] not in _NO_BODY else UNUSUAL
    if len(line) <= LONGEST:
        if len(statuses) >= MOST:
            statuses.clear()
        statuses[line] = found
    return found
