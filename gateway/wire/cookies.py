"""Cookies, read as suspiciously as the laxest server behind us would read them, and written by one hand.

Nothing is decoded or unquoted: a value is compared and forwarded as the bytes that stand there (as Latin-1 text).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Literal
from urllib.parse import unquote

from gateway.wire.head import RequestHead

# Some servers end a cookie at a comma or a blank too (RFC 2109, Python's SimpleCookie).
_HIDDEN = re.compile(r"[,\s]([^\s,;=\"]+)\s*=\s*([^\s,]*)", re.ASCII)
_BLANK = " \t\r\n\f\v\0"
_VALUE = re.compile(r"[!#-+\--:<-\[\]-~]*")  # RFC 6265 §4.1.1 cookie-octet
_MAX_AGE = re.compile(r"-?[0-9]+")

_PASS = {True: "__Host-stepup", False: "stepup"}
_BROWSER = {True: "__Host-stepup-browser", False: "stepup-browser"}
_ARRIVAL = {True: "__Host-stepup-arrival", False: "stepup-arrival"}
OWN_COOKIES = frozenset({*_PASS.values(), *_BROWSER.values(), *_ARRIVAL.values()})
"""Every name of ours: none goes up, none is taken from an upstream. Only those of the scheme count."""


def pass_cookie(secure: bool) -> str:
    """The name of the pass cookie; under https only the prefixed one counts (design.md 7.11)."""
    return _PASS[secure]


def browser_cookie(secure: bool) -> str:
    """The name of the cookie that binds transactions to a browser."""
    return _BROWSER[secure]


def arrival_cookie(secure: bool) -> str:
    """The name of the cookie that binds transactions which another site's form began."""
    return _ARRIVAL[secure]


def parse_cookies(head: RequestHead) -> tuple[tuple[str, str], ...]:
    """Every cookie that some server may see, as (name, value), in order, from all `Cookie` headers, duplicates kept.

    `a=1, b=2` gives a with the value `1, b=2`, and b with `2` as well. A piece without `=` is a name with the value "".
    """
    found: tuple[tuple[str, str], ...] | None = head.memo.get("cookies")
    if found is None:
        found = tuple([pair for header in head.all("cookie") for piece in header.split(";") for pair in _pairs(piece)])
        head.memo["cookies"] = found
    return found


def _pairs(piece: str) -> Iterator[tuple[str, str]]:
    piece = piece.strip(_BLANK)
    if not piece:
        return
    name, _, value = piece.partition("=")
    yield name.rstrip(_BLANK), value.lstrip(_BLANK)
    for hidden in _HIDDEN.finditer(piece):
        yield hidden[1], hidden[2]


def one(pairs: Iterable[tuple[str, str]], name: str) -> str | None:
    """The value of a cookie that stands there exactly once, else None."""
    values = [v for n, v in pairs if n == name]
    return values[0] if len(values) == 1 else None


def without(value: bytes, names: frozenset[str], *, spellings_of: frozenset[str] = frozenset()) -> bytes | None:
    """A `Cookie` header's value without the cookies of these names; the other bytes stay. None when no cookie is left.

    spellings_of: names whose *other* spellings go (`jsessionid` or `%4ASESSIONID` for `JSESSIONID`), for servers that compare
    loosely. A piece in which a name is hidden behind a comma or a blank goes as a whole.
    """
    wanted = _lower(names, spellings_of)
    if _innocent(value, wanted):
        return value
    folded = {_fold(n) for n in spellings_of}

    def goes(piece: bytes) -> bool:
        found = [n for n, _ in _pairs(piece.decode("latin-1"))]
        return any(n in names or n.strip('"') in names or (n not in spellings_of and _fold(n) in folded) for n in found)

    pieces = value.split(b";")
    kept = [p for p in pieces if _innocent(p, wanted) or not goes(p)]
    if len(kept) == len(pieces):
        return value
    left = b";".join(kept).strip(b" \t")
    return left if left.strip(b"; \t") else None


def _innocent(text: bytes, wanted: tuple[bytes, ...]) -> bool:
    """None of these names is in it, in whatever spelling: where nothing is encoded a spelling is the name in upper or lower case."""
    folded = text.lower()
    return text.isascii() and b"%" not in text and not any(map(folded.__contains__, wanted))


@lru_cache(maxsize=256)
def _lower(names: frozenset[str], others: frozenset[str]) -> tuple[bytes, ...]:
    return tuple(name.lower().encode("utf-8") for name in names | others)


def _fold(name: str) -> str:
    return unquote(name).strip(_BLANK + '"').casefold()


@dataclass(frozen=True, slots=True)
class SetCookie:
    """A `Set-Cookie` value as a browser reads it (RFC 6265 §5.2). name is "" where a browser would keep a cookie without one.

    max_age: seconds. expires: seconds since the epoch. Both None: until the browser is closed.
    """

    name: str
    value: str
    domain: str | None = None
    path: str | None = None
    max_age: int | None = None
    expires: float | None = None
    secure: bool = False
    http_only: bool = False

    def expired(self, now: float) -> bool:
        """This cookie deletes the one of its name. `Max-Age` outranks `Expires` (RFC 6265 §5.3)."""
        if self.max_age is not None:
            return self.max_age <= 0
        return self.expires is not None and self.expires <= now


def parse_set_cookie(value: bytes) -> SetCookie:
    """Read a `Set-Cookie` header's value. Never fails: what a browser would ignore is ignored."""
    first, *attributes = value.decode("latin-1").split(";")
    name, equals, content = first.partition("=")
    if not equals:
        name, content = "", first
    given: dict[str, str] = {}
    for attribute in attributes:
        key, _, text = attribute.partition("=")
        given[key.strip(_BLANK).lower()] = text.strip(_BLANK)  # the last one counts
    age = given.get("max-age", "")
    return SetCookie(
        name=name.strip(_BLANK),
        value=content.strip(_BLANK),
        domain=given["domain"].lower().removeprefix(".") if given.get("domain") else None,
        path=given["path"] if given.get("path", "").startswith("/") else None,
        max_age=int(age[:16]) if _MAX_AGE.fullmatch(age) else None,  # longer ones are for ever anyway
        expires=_parse_date(given["expires"]) if "expires" in given else None,
        secure="secure" in given,
        http_only="httponly" in given,
    )


def names_ours(value: bytes) -> bool:
    """A browser that takes this `Set-Cookie` value could send us one of our names, or a server read it as one.

    A cookie without a name counts as well: `=stepup=x` comes back as `stepup=x`.
    """
    cookie = parse_set_cookie(value)
    name = cookie.name or cookie.value.partition("=")[0]
    return name.strip(_BLANK + '"') in OWN_COOKIES


_DELIMITER = re.compile(r"[\x09\x20-\x2f\x3b-\x40\x5b-\x60\x7b-\x7e]+")
_TIME = re.compile(r"([0-9]{1,2}):([0-9]{1,2}):([0-9]{1,2})(?![0-9])")
_DAY = re.compile(r"([0-9]{1,2})(?![0-9])")
_YEAR = re.compile(r"([0-9]{2,4})(?![0-9])")
_MONTHS = {m: i for i, m in enumerate(("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"), 1)}


def _parse_date(text: str) -> float | None:
    """The cookie date algorithm of RFC 6265 §5.1.1; None where it fails."""
    time: tuple[int, int, int] | None = None
    day = month = year = None
    for token in _DELIMITER.split(text):
        if time is None and (m := _TIME.match(token)):
            time = (int(m[1]), int(m[2]), int(m[3]))
        elif day is None and (m := _DAY.match(token)):
            day = int(m[1])
        elif month is None and token[:3].lower() in _MONTHS:
            month = _MONTHS[token[:3].lower()]
        elif year is None and (m := _YEAR.match(token)):
            year = int(m[1])
            year += 1900 if 70 <= year <= 99 else 2000 if year <= 69 else 0
    if time is None or day is None or month is None or year is None or year < 1601:
        return None
    try:
        return datetime(year, month, day, time[0], time[1], time[2], tzinfo=UTC).timestamp()
    except ValueError:
        return None


def format_set_cookie(
    name: str,
    value: str,
    *,
    max_age: int | None = None,
    secure: bool,
    http_only: bool = True,
    same_site: Literal["Lax", "Strict", "None"] = "Lax",
    path: str = "/",
) -> bytes:
    """One `Set-Cookie` value. max_age: seconds, 0 deletes, None lasts until the browser is closed.

    Raises ValueError for a value that holds anything but cookie-octets (it would need quoting, or inject an attribute).
    """
    if not _VALUE.fullmatch(value):
        raise ValueError("a cookie value holds only cookie-octets (RFC 6265 §4.1.1)")
    age = "" if max_age is None else f"; Max-Age={max_age}"
    flags = ("; Secure" if secure else "") + ("; HttpOnly" if http_only else "")
    return f"{name}={value}; Path={path}{age}{flags}; SameSite={same_site}".encode("latin-1")
