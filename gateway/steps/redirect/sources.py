"""Claims of the token that goes to a page of others: where each comes from, as the settings name it.

`subject.id`, `subject.source`, `subject.claims.NAME`, `record.NAME[.FIELD]`, `request.method|host|path|query|ip`, `authorize_again`; or a
text with such names in braces.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final
from urllib.parse import urlsplit

from gateway.flow.step import Context
from gateway.wire.subject import Subject

AUTHORIZE_AGAIN: Final = "authorize_again"
RESERVED: Final = frozenset({"iss", "sub", "aud", "exp", "nbf", "iat", "jti", "state"})
LONGEST: Final = 1024
"""Characters of one value: the token travels in an address."""

_NAME = r"[A-Za-z0-9_\-]+"
_REQUEST = ("method", "host", "path", "query", "ip")
_SOURCE = re.compile(
    rf"subject\.(?:id|source|claims\.[A-Za-z0-9_.\-]+)|record\.{_NAME}(?:\.{_NAME})*|request\.(?:{'|'.join(_REQUEST)})|{AUTHORIZE_AGAIN}"
)
_HOLE = re.compile(r"\{([^{}]*)\}")

Record = Callable[[Subject, str], Awaitable[Any]]


def check_source(text: str) -> str:
    """The text itself. Raises ValueError where it names no source."""
    if _SOURCE.fullmatch(text):
        return text
    holes = _HOLE.findall(text)
    rest = _HOLE.sub("", text)
    if not holes or "{" in rest or "}" in rest or not all(_SOURCE.fullmatch(hole) for hole in holes):
        known = f"subject.id, subject.claims.NAME, record.NAME, {', '.join(f'request.{n}' for n in _REQUEST)} or {AUTHORIZE_AGAIN}"
        raise ValueError(f"names no source; write {known}, or a text with these in braces")
    return text


def again_url(context: Context) -> str:
    """Where the user begins anew: the original URL, for a suspended POST the page that it came from."""
    request = context.request
    return context.origin + (request.target if request.method == "GET" else request.page)


async def claims(sources: Mapping[str, str], context: Context, record: Record | None) -> dict[str, Any]:
    """The configured claims. What has no value is left out. May raise StoreUnavailable."""
    found: dict[str, Any] = {}
    for name, source in sources.items():
        value = await _text(source, context, record) if "{" in source else await _value(source, context, record)
        if value is not None:
            found[name] = value
    return found


async def _text(template: str, context: Context, record: Record | None) -> str | None:
    filled, end = "", 0
    for hole in _HOLE.finditer(template):
        value = await _value(hole[1], context, record)
        if value is None:
            return None
        filled += template[end : hole.start()] + str(value)
        end = hole.end()
    return (filled + template[end:])[:LONGEST]


async def _value(source: str, context: Context, record: Record | None) -> Any:
    first, _, rest = source.partition(".")
    match first:
        case "subject":
            return _bounded(_subject(rest, context.subject))
        case "record":
            name, *path = rest.split(".")
            value = await record(context.subject, name) if record is not None and context.subject.known else None
            for key in path:
                value = value.get(key) if isinstance(value, Mapping) else None
            return _bounded(value)
        case "request":
            return _bounded(_request(rest, context))
        case _:
            return again_url(context)


def _subject(name: str, subject: Subject) -> Any:
    if name in ("id", "source"):
        return getattr(subject, name) or None
    return subject.claims.get(name.removeprefix("claims."))


def _request(name: str, context: Context) -> str:
    path, _, query = context.request.target.partition("?")
    values = {
        "method": context.request.method,
        "host": urlsplit(context.origin).netloc,
        "path": path,
        "query": query,
        "ip": context.client_ip,
    }
    return values[name]


def _bounded(value: Any) -> Any:
    """Scalars only, as long as an address can bear."""
    if isinstance(value, str):
        return value[:LONGEST]
    return value if isinstance(value, bool | int | float) else None
