"""A stored request as its owner can judge it: what would be sent, in words, bounded, and with nothing secret in the clear.

What cannot be read for certain is shown as such, never guessed: a person who confirms must not see less than what is sent.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

from gateway.web.page import visible

MAX_FIELDS = 60
MAX_VALUE = 600
MAX_JSON = 4000
MASK = "•••••• (hidden)"

# Whole words in a field's name, split at case changes, `_`, `-`, `.` and brackets.
_SECRET = re.compile(
    r"(?:^|[\W_])(?:pass|passwd|password|passphrase|passcode|pwd|secret|token|csrf|xsrf|csrfmiddlewaretoken|pin|cvc|cvv|otp|totp|api_?key)\d*(?:$|[\W_])"
)
_CASE_CHANGE = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_PARAMETER = re.compile(rb';\s*([A-Za-z-]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s;]+))')
_ANYWHERE = re.compile(r"(?:password|passwd|passwort|secret|csrf)")


@dataclass(frozen=True, slots=True)
class Item:
    """One field: `value` is ready to be shown. file: the value describes an uploaded file."""

    name: str
    value: str
    file: bool = False


@dataclass(frozen=True, slots=True)
class Preview:
    """items: fields of a form, in order. text: a document, preformatted. note: what else must be said, "" where nothing."""

    items: tuple[Item, ...] = ()
    text: str = ""
    note: str = ""


def preview(content_type: str, body: bytes) -> Preview:
    """What `body` holds. content_type: the header's value as sent, "" where there was none."""
    media_type = content_type.partition(";")[0].strip().lower()
    if not body:
        return Preview()
    if media_type == "application/x-www-form-urlencoded":
        return _form(body)
    if media_type == "multipart/form-data":
        return _multipart(content_type, body)
    if media_type == "application/json" or media_type.endswith("+json"):
        return _json(body)
    if media_type.startswith("text/"):
        return Preview(text=visible(body.decode("utf-8", "replace"), MAX_JSON, lines=True))
    return _opaque(media_type, body)


def _form(body: bytes) -> Preview:
    try:
        pairs = parse_qsl(body.decode("ascii"), keep_blank_values=True, errors="replace", max_num_fields=10_000)
    except ValueError:
        return _opaque("application/x-www-form-urlencoded", body)
    return _bounded(Item(visible(name), _value(name, value)) for name, value in pairs)


def _multipart(content_type: str, body: bytes) -> Preview:
    boundary = _parameters(content_type.encode("utf-8")).get(b"boundary")
    if not boundary:
        return _opaque("multipart/form-data", body)
    # RFC 2046 §5.1.1: a delimiter is CRLF "--" boundary; the first one may stand at the very beginning.
    first, *parts = (b"\r\n" + body).split(b"\r\n--" + boundary)
    if not parts or first.strip() or not parts[-1].startswith(b"--"):
        return _opaque("multipart/form-data", body)
    items = []
    for part in parts[:-1]:
        head, separator, content = part.lstrip(b" \t").removeprefix(b"\r\n").partition(b"\r\n\r\n")
        disposition = next((line for line in head.split(b"\r\n") if line.lower().startswith(b"content-disposition:")), b"")
        parameters = _parameters(disposition)
        if not separator or b"name" not in parameters:
            return _opaque("multipart/form-data", body)
        name = parameters[b"name"].decode("utf-8", "replace")
        if b"filename" in parameters or b"filename*" in disposition:
            filename = parameters.get(b"filename", b"").decode("utf-8", "replace")
            shown = f"{visible(filename, 120)} ({size(len(content))})" if filename else f"a file without a name ({size(len(content))})"
            items.append(Item(visible(name), shown if filename or content else "no file chosen", file=True))
        else:
            items.append(Item(visible(name), _value(name, content.decode("utf-8", "replace"))))
    return _bounded(items)


def _json(body: bytes) -> Preview:
    try:
        text = json.dumps(_masked(json.loads(body)), indent=2, ensure_ascii=False)
    except (ValueError, RecursionError):
        return _opaque("application/json", body)
    return Preview(text=visible(text, MAX_JSON, lines=True))


def _masked(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: MASK if is_secret(key) and not isinstance(item, dict | list) else _masked(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_masked(item) for item in value]
    return value


def _bounded(items: Iterable[Item]) -> Preview:
    every = tuple(items)
    rest = len(every) - MAX_FIELDS
    return Preview(every[:MAX_FIELDS], note=f"{rest} more fields are not shown here." if rest > 0 else "")


def _opaque(media_type: str, body: bytes) -> Preview:
    return Preview(note=f"{size(len(body))} of data that cannot be shown here ({visible(media_type, 80) or 'of no named type'}).")


def _value(name: str, value: str) -> str:
    return MASK if value and is_secret(name) else visible(value, MAX_VALUE, lines=True)


def is_secret(name: str) -> bool:
    """Whether a field's name says that its value is a password, a token or a code."""
    words = _CASE_CHANGE.sub("_", name).lower()
    return bool(_SECRET.search(words) or _ANYWHERE.search(words))


def _parameters(value: bytes) -> dict[bytes, bytes]:
    found: dict[bytes, bytes] = {}
    for key, quoted, plain in _PARAMETER.findall(value):
        found.setdefault(key.lower(), re.sub(rb"\\(.)", rb"\1", quoted) if quoted or not plain else plain)
    return found


def size(count: int) -> str:
    """Bytes for people: 800 -> "800 bytes", 20480 -> "20 KiB"."""
    if count < 1024:
        return "1 byte" if count == 1 else f"{count} bytes"
    return f"{count / 1024:.0f} KiB" if count < 1 << 20 else f"{count / (1 << 20):.1f} MiB"
