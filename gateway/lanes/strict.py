"""What llhttp lets pass and the gateway does not. A head that two servers could read in two ways is refused (RFC 9112 §11.2).

Pure: a head in, None or a reason out.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from gateway.wire.head import Headers, header_keys, lowered

_CONTROL = bytes([*range(0x09), *range(0x0A, 0x20), 0x7F])
_DIGITS = re.compile(rb"[0-9]{1,18}")
# What frames a message, and what says how a rule reads its body.
_ONE_SPELLING = frozenset({b"transfer-encoding", b"content-length", b"host", b"content-type", b"content-encoding"})


@dataclass(frozen=True, slots=True)
class Refused:
    """Why a head is not served. `reason` is for the log and, being free of the client's bytes, for the answer too."""

    status: int
    reason: str


def judge(method: str, target: bytes, version: tuple[int, int], headers: Headers, *, request_line: int) -> Refused | None:
    """None, or why the request must be refused. `request_line` bounds the first line in bytes."""
    if version not in ((1, 0), (1, 1)):
        return Refused(505, "HTTP version not supported")
    if method == "CONNECT":
        return Refused(405, "CONNECT is not served")
    if len(method) + len(target) + len(" " + " HTTP/1.1") > request_line:
        return Refused(414, "request line too long")
    if _holds_control(target) or b" " in target:
        return Refused(400, "control character in the target")
    if _holds_control(b"".join([value for _, value in headers])):
        return Refused(400, "control character in a header")
    names = lowered(headers)
    keys = header_keys(names)
    if keys != names and any(key in _ONE_SPELLING and key != name for key, name in zip(keys, names, strict=True)):
        return Refused(400, "ambiguous spelling of a header")  # Content_Length: some servers read `_` as `-`
    hosts = keys.count(b"host")
    if hosts > 1 or (not hosts and version == (1, 1)):
        return Refused(400, "not exactly one Host header")
    lengths = _values(headers, keys, b"content-length")
    if lengths and (len(lengths) > 1 or not _DIGITS.fullmatch(lengths[0])):
        return Refused(400, "bad Content-Length")
    codings = _values(headers, keys, b"transfer-encoding")
    if codings:
        if lengths:
            return Refused(400, "Content-Length with Transfer-Encoding")
        if version == (1, 0):
            return Refused(400, "Transfer-Encoding in HTTP/1.0")
        if len(codings) > 1 or codings[0].lower() != b"chunked":
            return Refused(400, "Transfer-Encoding is not chunked")
    return None


def _holds_control(text: bytes) -> bool:
    return len(text.translate(None, _CONTROL)) != len(text)


def _values(headers: Headers, keys: tuple[bytes, ...], wanted: bytes) -> list[bytes]:
    if wanted not in keys:
        return []
    return [value for key, (_, value) in zip(keys, headers, strict=True) if key == wanted]
