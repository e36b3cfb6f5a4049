"""Bodies as `request.form` and `request.json` see them.

Read strictly: what two parsers could read in two ways is unavailable, never guessed. Bounded by the caller's limit
(`limits.condition_body`); nesting by MAX_DEPTH.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any, Final
from urllib.parse import unquote_to_bytes

from gateway.policy.facts import Body, BodyUnavailable
from gateway.wire.media import media_type

MAX_DEPTH: Final = 64
_INT64: Final = 1 << 63
_PARAMETER: Final = re.compile(r";\s*([!#$%&'*+.^_`|~0-9A-Za-z-]+)=(?:\"([^\"\\]*)\"|([!#$%&'*+.^_`|~0-9A-Za-z:/=?-]+))\s*")
_OVERRIDES: Final = frozenset({"_method", "x-http-method-override"})
_UTF8: Final = frozenset({"utf-8", "utf8", "us-ascii"})


class _Unreadable(Exception):
    pass


def parse_body(content_type: str | None, raw: bytes, limit: int) -> Body | BodyUnavailable:
    """Read a body. content_type: the value of the header, None where it does not stand there exactly once. limit: bytes.

    A body of another type than a form or JSON is `Body()`: `request.form` is empty and `request.json` null.
    """
    if len(raw) > limit:
        return BodyUnavailable(f"the body is larger than {limit} bytes")
    if not raw:
        return Body()
    if content_type is None:
        return BodyUnavailable("the body has no Content-Type, or several")
    kind = media_type(content_type)
    try:
        match kind:
            case "application/x-www-form-urlencoded":
                _utf8_only(_parameters(content_type))
                return _form(_urlencoded(raw))
            case "multipart/form-data":
                return _form(_multipart(_parameters(content_type), raw))
            case _ if kind == "application/json" or (kind.startswith("application/") and kind.endswith("+json")):
                _utf8_only(_parameters(content_type))
                return Body(json=_json(raw))
            case _:
                return Body()
    except _Unreadable as error:
        return BodyUnavailable(str(error))


def _form(pairs: Iterable[tuple[str, str]]) -> Body:
    values: dict[str, list[str]] = {}
    for name, value in pairs:
        values.setdefault(name, []).append(value)
    overrides = {value.strip().upper() for name, found in values.items() if name.casefold() in _OVERRIDES for value in found}
    if len(overrides) > 1:
        raise _Unreadable("several method overrides")
    return Body(
        form={name: found if len(found) > 1 else found[0] for name, found in values.items()},
        override=next(iter(overrides), "") or None,
    )


def _parameters(content_type: str) -> dict[str, str]:
    """The parameters of a Content-Type, names lower-case. One that stands there twice, or that is malformed, makes the body unreadable."""
    rest = content_type.partition(";")[1] + content_type.partition(";")[2]
    found: dict[str, str] = {}
    while rest.strip("; \t"):
        parameter = _PARAMETER.match(rest)
        if parameter is None or parameter[1].lower() in found:
            raise _Unreadable("malformed Content-Type")
        found[parameter[1].lower()] = parameter[2] if parameter[2] is not None else parameter[3]
        rest = rest[parameter.end() :]
    return found


def _utf8_only(parameters: dict[str, str]) -> None:
    """An application that honours another charset would see other names than we do."""
    if parameters.get("charset", "utf-8").lower() not in _UTF8:
        raise _Unreadable("the body is not in UTF-8")


def _urlencoded(raw: bytes) -> list[tuple[str, str]]:
    """WHATWG URL §5.1."""
    pairs = []
    for piece in raw.split(b"&"):
        if piece:
            name, _, value = piece.replace(b"+", b" ").partition(b"=")
            pairs.append((unquote_to_bytes(name).decode("utf-8", "replace"), unquote_to_bytes(value).decode("utf-8", "replace")))
    return pairs


def _multipart(parameters: dict[str, str], raw: bytes) -> list[tuple[str, str]]:
    """The text fields of a form (RFC 7578). Files are left out; what only some parsers accept is refused."""
    boundary = parameters.get("boundary", "")
    if not 1 <= len(boundary) <= 70 or not boundary.isascii():  # RFC 2046 §5.1.1
        raise _Unreadable("multipart without a usable boundary")
    _utf8_only(parameters)
    first, *parts = (b"\r\n" + raw).split(b"\r\n--" + boundary.encode("ascii"))
    if first or not parts or parts[-1] not in {b"--", b"--\r\n"}:
        raise _Unreadable("multipart not framed by its boundary")
    pairs = []
    for part in parts[:-1]:
        head, blank, content = part.partition(b"\r\n\r\n")
        if not blank or not head.startswith(b"\r\n"):
            raise _Unreadable("multipart part without a head")
        name, is_file = _part_name(head[2:])
        if not is_file:
            pairs.append((name, content.decode("utf-8", "replace")))
    return pairs


def _part_name(head: bytes) -> tuple[str, bool]:
    """The name of a part, and whether it is a file."""
    fields: dict[str, str] = {}
    for line in head.decode("utf-8", "replace").split("\r\n"):
        name, colon, value = line.partition(":")
        if not colon or name != name.strip() or name.lower() in fields or "\n" in line or "\r" in line:
            raise _Unreadable("malformed head of a multipart part")
        fields[name.lower()] = value.strip()
    disposition = fields.get("content-disposition", "")
    parameters = _parameters(disposition)
    if media_type(disposition) != "form-data" or "name" not in parameters or any(name.endswith("*") for name in parameters):
        raise _Unreadable("multipart part without a plain name")
    if not set(fields) <= {
        "content-disposition",
        "content-type",
    }:  # Content-Transfer-Encoding is deprecated (RFC 7578 §4.7) and read by some
        raise _Unreadable("multipart part with further headers")
    is_file = "filename" in parameters
    if not is_file:
        _utf8_only(_parameters(fields.get("content-type", "text/plain")))
    return parameters["name"], is_file


def _json(raw: bytes) -> Any:
    """RFC 8259 in UTF-8, unique names, numbers within 64 bits or as doubles."""
    try:
        document = json.loads(
            raw.decode("utf-8"), object_pairs_hook=_unique, parse_int=_integer, parse_float=_finite_float, parse_constant=_no_constant
        )
        _check_depth(document)
        # A lone surrogate is no character: JSON can spell it, UTF-8 cannot.
        json.dumps(document, ensure_ascii=False).encode("utf-8")
    except (ValueError, RecursionError) as error:
        raise _Unreadable(f"malformed JSON ({type(error).__name__})") from None
    return document


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _Unreadable("JSON with a name given twice")
    return found


def _integer(text: str) -> int | float:
    number = int(text) if len(text) <= 20 else _finite_float(text)
    return number if -_INT64 <= number < _INT64 else float(number)


def _finite_float(text: str) -> float:
    number = float(text)
    if number in {float("inf"), float("-inf")}:
        raise _Unreadable("JSON with a number that is too large")
    return number


def _no_constant(text: str) -> Any:
    raise _Unreadable(f"JSON with {text}")


def _check_depth(document: Any) -> None:
    level = [document]
    for _ in range(MAX_DEPTH):
        level = [item for each in level for item in (each.values() if isinstance(each, dict) else each if isinstance(each, list) else ())]
        if not level:
            return
    raise _Unreadable(f"JSON nested deeper than {MAX_DEPTH}")
