"""`WWW-Authenticate`, by its grammar (RFC 9110 §11.6.1): several fields, several challenges in one, commas between all of them.

challenge = auth-scheme [ 1*SP ( token68 / #auth-param ) ]      auth-param = token BWS "=" BWS ( token / quoted-string )
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

_TOKEN = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"  # noqa: S105 - a grammar's token
_SCHEME = re.compile(rf"({_TOKEN})(?: +|(?=[\t ]*(?:,|$)))")
_PARAM = re.compile(rf'({_TOKEN})[ \t]*=[ \t]*(?:({_TOKEN})|"((?:[^"\\\x00-\x08\x0a-\x1f\x7f]|\\[\t !-~\x80-\xff])*)")[ \t]*(?=,|$)')
_TOKEN68 = re.compile(r"([A-Za-z0-9\-._~+/]+=*)[ \t]*(?=,|$)")
_COMMAS = re.compile(r"[ \t,]*")
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_LONGEST = 16_384


@dataclass(frozen=True, slots=True)
class Challenge:
    """scheme, and names of parameters: lower-case. token68: in place of parameters, "" for none."""

    scheme: str
    parameters: Mapping[str, str]
    token68: str = ""


def parse_challenges(fields: Iterable[str]) -> tuple[Challenge, ...] | None:
    """Every challenge of these fields, in order. None where they do not follow the grammar, or a parameter stands twice: who cannot read a
    challenge must not act on it."""
    text = ", ".join(fields)
    if len(text) > _LONGEST:
        return None
    found: list[Challenge] = []
    at = _skipped(text, 0)
    while at < len(text):
        scheme = _SCHEME.match(text, at)
        if scheme is None:
            return None
        read = _behind(text, scheme.end())
        if read is None:
            return None
        parameters, token68, at = read
        found.append(Challenge(scheme[1].lower(), parameters, token68))
    return tuple(found)


def _behind(text: str, at: int) -> tuple[dict[str, str], str, int] | None:
    """What stands behind a scheme, and where the next challenge begins."""
    parameters: dict[str, str] = {}
    if _PARAM.match(text, at) is None and (whole := _TOKEN68.match(text, at)) is not None:
        return {}, whole[1], _skipped(text, whole.end())
    at = _skipped(text, at)
    while at < len(text):
        param = _PARAM.match(text, at)
        if param is None:
            break
        name = param[1].lower()
        if name in parameters:
            return None
        parameters[name] = param[2] if param[2] is not None else _ESCAPE.sub(r"\1", param[3])
        at = _skipped(text, param.end())
    return parameters, "", at


def _skipped(text: str, at: int) -> int:
    """The place behind blanks and commas."""
    found = _COMMAS.match(text, at)
    return found.end() if found is not None else at
