"""What pydantic finds, in plain words. No message holds the value it is about: what is said must be safe to log."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from gateway.settings.mistakes import nearest
from gateway.settings.places import Loc
from gateway.spec.base import format_duration, parse_duration

LATER_KEYS: frozenset[str] = frozenset()
NOT_YET = "not in this version"

_PATTERNS = {
    r"^[A-Za-z0-9][A-Za-z0-9_.\-]{0,63}$": "must be 1 to 64 letters, digits, `_`, `.` or `-`, and begin with a letter or digit",
    r"^[a-z][a-z0-9_]{0,63}$": "must be 1 to 64 small letters, digits or `_`, and begin with a letter; what people read is `label`",
    r"^[A-Za-z0-9_.\-]{1,64}$": "must be 1 to 64 letters, digits, `_`, `.` or `-`",
    r"^#[0-9A-Fa-f]{6}$": 'is not a colour; write "#1d4ed8" (in quotes: # begins a comment)',
    r"^/": "must begin with /",
    r"^/(?!/)": "must begin with one /",
}
_ELSEWHERE = {
    "oauth": "`upstreams.NAME`",
    **dict.fromkeys(("match", "require", "python", "intercept", "resume"), "a rule"),
    **dict.fromkeys(("session_cookie", "authorize", "resource_owner"), "`upstreams.NAME.oauth`"),
    **dict.fromkeys(("issuer", "continue_url"), "an entry of `begin`"),
}
"""Keys that stand well elsewhere, and where."""
_SIMPLE = {
    "missing": "missing",
    "string_type": "is not text; put it in quotes",
    "int_type": "is not a number",
    "int_parsing": "is not a number",
    "int_parsing_size": "is not a number that fits",
    "int_from_float": "is not a whole number",
    "float_type": "is not a number",
    "float_parsing": "is not a number",
    "finite_number": "is not a number",
    "bool_type": "is not a boolean; write true or false",
    "bool_parsing": "is not a boolean; write true or false",
    "none_required": "must be null",
    "dict_type": "is not a mapping; write `key: value` lines",
    "mapping_type": "is not a mapping; write `key: value` lines",
    "model_type": "is not a mapping; write `key: value` lines",
    "model_attributes_type": "is not a mapping; write `key: value` lines",
    "list_type": "is not a list; write [a, b] or `- a` lines",
    "tuple_type": "is not a list; write [a, b] or `- a` lines",
}
_BOUNDS = {
    "greater_than_equal": ("ge", "must be at least {}"),
    "greater_than": ("gt", "must be more than {}"),
    "less_than_equal": ("le", "must be at most {}"),
    "less_than": ("lt", "must be less than {}"),
    "multiple_of": ("multiple_of", "must be a multiple of {}"),
}


def plain_words(error: ErrorDetails, model: type[BaseModel], written: object) -> str:
    """One error of `model`. `written`: the value as it stands in the file, which tells durations from numbers."""
    kind, context = error["type"], error.get("ctx", {})
    if kind == "extra_forbidden":
        key = str(error["loc"][-1])
        if len(error["loc"]) == 1 and key in _ELSEWHERE:
            return f"unknown key here; it belongs in {_ELSEWHERE[key]}"
        return NOT_YET if key in LATER_KEYS else "unknown key" + nearest(key, known_keys(model, error["loc"][:-1]))
    if kind == "literal_error":
        choices = literals(context["expected"])
        near = nearest(written, choices) if isinstance(written, str) else ""
        return f"must be one of {', '.join(choices)}{near}" if len(choices) > 1 else f"must be {choices[0]}"
    if kind in _SIMPLE:
        if kind == "string_type" and (written is None or isinstance(written, list | dict)):
            return "is not text"
        return _SIMPLE[kind]
    if kind in _BOUNDS:
        name, words = _BOUNDS[kind]
        return words.format(_bound(context[name], written))
    if kind in {"too_short", "too_long"}:
        least, length = kind == "too_short", context["min_length" if kind == "too_short" else "max_length"]
        if least and length == 1:
            return "must not be empty"
        return f"must have at {'least' if least else 'most'} {length} entries"
    if kind in {"string_too_short", "string_too_long"}:
        least, length = kind == "string_too_short", context["min_length" if kind == "string_too_short" else "max_length"]
        if least and length == 1:
            return "must not be empty"
        return f"must have at {'least' if least else 'most'} {length} characters"
    if kind == "string_pattern_mismatch":
        return _PATTERNS.get(context["pattern"], f"does not match {context['pattern']}")
    if kind in {"value_error", "assertion_error"}:
        return str(context["error"])
    return "is not valid here"


def literals(expected: str) -> list[str]:
    """`'a', 'b' or 'c'` as a list."""
    return re.findall(r"'([^']*)'", expected) or [expected]


def _bound(bound: float, written: object) -> str:
    if isinstance(written, str):
        try:
            parse_duration(written)
        except ValueError:
            pass
        else:
            return format_duration(float(bound)) if bound else "0s"
    return f"{bound:g}" if isinstance(bound, float) else str(bound)


def known_keys(model: type[BaseModel], loc: Loc) -> list[str]:
    """The keys that may stand in the mapping at `loc` of a model, in the words of the file."""
    here: list[Any] = [model]
    for part in loc:
        here = [below for kind in here for below in _below(kind, part)]
    return [field.alias or name for kind in here if _is_model(kind) for name, field in kind.model_fields.items()]


def _below(kind: Any, part: str | int) -> Iterator[Any]:
    if _is_model(kind):
        for name, field in kind.model_fields.items():
            if (field.alias or name) == part:
                yield from flat(field.annotation)
        return
    origin, args = get_origin(kind), get_args(kind)
    if isinstance(origin, type) and issubclass(origin, Mapping) and len(args) == 2:
        yield from flat(args[1])
    elif origin in (tuple, list) and args:
        yield from flat(args[0])


def flat(annotation: Any) -> Iterable[Any]:
    """The branches of a union, without `Annotated`."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return flat(get_args(annotation)[0])
    if origin in (Union, UnionType):
        return [branch for arg in get_args(annotation) for branch in flat(arg)]
    return [annotation]


def _is_model(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)
