"""`WWW-Authenticate` as a client reads it: RFC 9110 §11.2 and §11.6.1, and nothing that they do not allow."""

from __future__ import annotations

import re
from dataclasses import dataclass

_TOKEN = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_QUOTED = r'"(?:[\t \x21\x23-\x5b\x5d-\x7e\x80-\xff]|\\[\t \x21-\x7e\x80-\xff])*"'
_PARAMETER = re.compile(rf"({_TOKEN})[ \t]*=[ \t]*({_TOKEN}|{_QUOTED})")
_SCHEME = re.compile(rf"({_TOKEN})(?: +|$)")
_COMMA = re.compile(r"[ \t]*,[ \t]*")

TEXT = re.compile(r"[\x20-\x21\x23-\x5b\x5d-\x7e]+")
"""RFC 6750 §3: what `error` and `error_description` may hold."""

VALUE = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]+")
"""RFC 6750 §3: one value of a space-separated list."""


@dataclass(frozen=True, slots=True)
class Challenge:
    scheme: str
    parameters: dict[str, str]


def challenge(value: str) -> Challenge:
    """The one challenge of a field. Raises ValueError for anything else, a parameter given twice among it (RFC 6750 §3)."""
    start = _SCHEME.match(value)
    if start is None:
        raise ValueError(f"no scheme in {value!r}")
    place, found = start.end(), dict[str, str]()
    while place < len(value):
        if found:
            comma = _COMMA.match(value, place)
            if comma is None:
                raise ValueError(f"no comma at {place} of {value!r}")
            place = comma.end()
        parameter = _PARAMETER.match(value, place)
        if parameter is None:
            raise ValueError(f"no parameter at {place} of {value!r}")
        name, raw = parameter[1].lower(), parameter[2]
        if name in found:
            raise ValueError(f"{name} is given twice")
        found[name] = re.sub(r"\\(.)", r"\1", raw[1:-1]) if raw.startswith('"') else raw
        place = parameter.end()
    return Challenge(start[1], found)
