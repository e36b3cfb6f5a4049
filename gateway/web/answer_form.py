"""Reads an answer to an interstitial: a form or a JSON object, each name once, all values text."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import parse_qsl

from gateway.wire.media import media_type


@dataclass(frozen=True, slots=True)
class Malformed:
    """status 400 or 415; public: what to do about it; private: the same without a word of the client's, for the log."""

    status: int
    public: str
    private: str


@dataclass(frozen=True, slots=True)
class Answer:
    """fields: by name. json: it came as JSON (and is answered so)."""

    fields: Mapping[str, str]
    json: bool


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found: dict[str, object] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"field {name[:100]!r} is given twice")
        found[name] = value
    return found


def read_answer(content_type: str, body: bytes) -> Answer | Malformed:
    """The fields of an answer, or what is wrong with it."""
    kind = media_type(content_type)
    try:
        if kind == "application/json":
            parsed = json.loads(body or b"{}", object_pairs_hook=_unique)
            if not isinstance(parsed, dict):
                return Malformed(400, "Send a JSON object whose members are the step's fields.", "JSON, but no object")
            odd = [name for name, value in parsed.items() if not isinstance(value, str)]
            if odd:
                return Malformed(400, f"Field {odd[0][:100]!r} must be a text.", "a field that is no text")
            return Answer(parsed, json=True)
        if kind == "application/x-www-form-urlencoded":
            pairs: list[tuple[str, object]] = list(
                parse_qsl(body.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=100)
            )
            return Answer({n: str(v) for n, v in _unique(pairs).items()}, json=False)
    except (ValueError, RecursionError) as error:  # RecursionError: JSON nested without end
        reason = str(error) if "given twice" in str(error) else "it is not well-formed"
        return Malformed(400, f"The answer cannot be read: {reason}.", "an answer that cannot be read")
    return Malformed(415, "Send application/x-www-form-urlencoded or application/json.", "neither a form nor JSON")
