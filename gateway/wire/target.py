"""Request targets as the upstream might read them. What is forwarded is never what is computed here.

Servers differ in how often they decode, and in what they do with dot segments, `//`, `\\`, `;params` and `#`; chains of
servers do it more than once. A rule that protects must hold for every such reading, so `parse_target` lists them all, or
refuses the target. Case folding is left to policy, for it depends on the upstream.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import quote, unquote_to_bytes

from gateway.errors import BadTarget

MAX_READINGS = 64

# No `%`, `\`, `;`, `#`, no empty segment, none that begins with a dot: every server reads these alike.
# Not possessive, though it could be: CPython before 3.11.5 matches such patterns wrongly, and Debian 12 has 3.11.2. The next character is
# never ambiguous, so it is linear without.
_PLAIN = re.compile(rb"((?:/(?![/.])[A-Za-z0-9_~.-]*)+)(?:\?([!-~]*))?")
_PRINTABLE = re.compile(rb"[!-~]*")
_CONTROL = re.compile(rb"[\x00-\x1f\x7f]")
_PERCENT_U = re.compile(rb"%[uU][0-9A-Fa-f]{4}")
# RFC 3629 §3: the shortest form only. A lenient decoder reads C0 AF as `/`.
_OVERLONG = re.compile(rb"[\xc0\xc1]|\xe0[\x80-\x9f]|\xf0[\x80-\x8f]")
_PARAMS = re.compile(rb";[^/]*")
_SLASHES = re.compile(rb"//+")
_AUTHORITY = re.compile(rb"//+[^/]*")


@dataclass(frozen=True, slots=True)
class Target:
    """A request target in origin-form (RFC 9112 §3.2.1).

    raw: the bytes as sent. path: up to the first `?`. query: behind it, None where there is no `?`. readings: what servers may take
    the path for, the one as it is first, at most 64; bytes that are no UTF-8 stand as lone surrogates (`surrogateescape`).
    """

    raw: bytes
    path: bytes
    query: bytes | None
    readings: tuple[str, ...]


def parse_target(raw: bytes) -> Target:
    """Split a target and list its readings. Raises BadTarget; its text is for the log. The caller bounds the length."""
    if plain := _PLAIN.fullmatch(raw):
        path, query = plain.groups()
        return Target(raw, path, query, (path.decode("ascii"),))
    if not raw:
        raise BadTarget("empty target")
    if not _PRINTABLE.fullmatch(raw):
        raise BadTarget("control character, space or non-ASCII byte in the target")
    if not raw.startswith(b"/"):
        raise BadTarget("not in origin-form")
    path, question, rest = raw.partition(b"?")
    return Target(raw, path, rest if question else None, tuple(r.decode("utf-8", "surrogateescape") for r in _readings(path)))


def _readings(path: bytes) -> list[bytes]:
    """Everything that at most two decodings, with any of the other operations before, between and after, make of a path."""
    found = [path]
    seen = {path}
    start = 0
    for decodings in range(3):
        while start < len(found):  # `found` grows while it is read: the closure of this level
            for reading in _operations(found[start]):
                if reading not in seen:
                    seen.add(reading)
                    found.append(reading)
                    if len(found) > MAX_READINGS:
                        raise BadTarget(f"more than {MAX_READINGS} readings")
            start += 1
        if decodings < 2:
            start = _decode_all(found, seen, decodings)
    return found


def _decode_all(found: list[bytes], seen: set[bytes], decodings: int) -> int:
    """Append what decoding makes of every reading; returns where the new ones start. Raises BadTarget."""
    start = len(found)
    for reading in found[:start]:
        if b"%" not in reading:
            continue
        if _PERCENT_U.search(reading):
            raise BadTarget(f"%u escape in the path decoded {decodings} times")
        decoded = unquote_to_bytes(reading)  # an invalid %zz stays as it is
        if _CONTROL.search(decoded):
            raise BadTarget(f"control character in the path decoded {decodings + 1} times")
        if _OVERLONG.search(decoded):
            raise BadTarget(f"overlong UTF-8 in the path decoded {decodings + 1} times")
        if decoded not in seen:
            seen.add(decoded)
            found.append(decoded)
            if len(found) > MAX_READINGS:
                raise BadTarget(f"more than {MAX_READINGS} readings")
    return start


def _operations(path: bytes) -> Iterator[bytes]:
    """What one server may make of a path without decoding it. Each result is as long as the path at most."""
    for mark in (b"#", b"?"):  # a `?` can only be a decoded one; a server that rewrites by its decoded path passes it on bare
        if mark in path:
            yield path.partition(mark)[0]
    if b"\\" in path:
        yield path.replace(b"\\", b"/")
    if b";" in path:
        yield _PARAMS.sub(b"", path)
    if b"//" in path:
        yield _SLASHES.sub(b"/", path)
        if path.startswith(b"//"):  # RFC 3986 §4.2: a URL parser takes the first segment for an authority
            yield _AUTHORITY.sub(b"", path, count=1) or b"/"
    if b"/." in path:
        resolved = _resolve(path)
        yield resolved
        if path.endswith((b"/.", b"/..")) and len(resolved) > 1:  # RFC 3986 keeps the slash, normpath() does not
            yield resolved[:-1]


def _resolve(path: bytes) -> bytes:
    """RFC 3986 §5.2.4, clamped at the root."""
    out: list[bytes] = []
    segments = path.split(b"/")[1:]
    for segment in segments:
        if segment == b"..":
            if out:
                out.pop()
        elif segment != b".":
            out.append(segment)
    if segments[-1] in {b".", b".."}:
        out.append(b"")
    return b"/" + b"/".join(out)


def query_pairs(target: Target) -> tuple[tuple[str, str], ...]:
    """The query's parameters in order, decoded (`+` and %XX, UTF-8 with replacement). A name without `=` has the value "".

    Where the query holds a raw `#`, servers differ: a pair that reads differently without the part behind it stands there
    a second time, so that nothing hides and "exactly one" fails.
    """
    if not target.query:
        return ()
    pairs = tuple(_pair(piece) for piece in target.query.split(b"&") if piece)
    if b"#" in target.query:
        cut = target.query.partition(b"#")[0].rpartition(b"&")[2]
        if cut:
            pairs = (*pairs, _pair(cut))
    return pairs


def _pair(piece: bytes) -> tuple[str, str]:
    name, _, value = piece.partition(b"=")
    return _decode(name), _decode(value)


def _decode(text: bytes) -> str:
    return unquote_to_bytes(text.replace(b"+", b" ")).decode("utf-8", "replace")


def without_parameter(raw: bytes, name: str) -> bytes:
    """A target without any occurrence of one query parameter; every other byte stays. Undoes `with_parameter` exactly."""
    path, question, query = raw.partition(b"?")
    if not question:
        return raw
    query, mark, fragment = query.partition(b"#")
    first, *others = fragment.split(b"&")
    pieces = query.split(b"&")
    kept = [piece for piece in pieces if _pair(piece)[0] != name]
    behind = b"&".join([first, *(piece for piece in others if _pair(piece)[0] != name)])
    if kept == pieces and len(behind) == len(fragment):
        return raw
    return path + (question if kept else b"") + b"&".join(kept) + mark + behind


def with_parameter(raw: bytes, name: str, value: str) -> bytes:
    """A target with one more query parameter at the end of the query (before a `#`, if there is one)."""
    before, mark, fragment = raw.partition(b"#")
    added = f"{quote(name, safe='')}={quote(value, safe='')}".encode("ascii")
    return before + (b"&" if b"?" in before else b"?") + added + mark + fragment
