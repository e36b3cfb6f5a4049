"""Values checked against a shape. Every mistake is reported; what is left of a value without them is used to look for further ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from gateway.settings.mistakes import Report, Source
from gateway.settings.places import Loc
from gateway.settings.words import plain_words
from gateway.spec.base import Spec

S = TypeVar("S", bound=Spec)

_ROUNDS = 8


@dataclass(frozen=True, slots=True)
class Shaped(Generic[S]):
    """`spec` is None where nothing of use is left. `whole`: nothing had to be left out."""

    spec: S | None
    whole: bool


def shape(
    model: type[S], value: object, report: Report, source: Source, at: Loc, *, stand_ins: Mapping[str, object] | None = None
) -> Shaped[S]:
    """Check the value that stands at `at`. `stand_ins` fill keys that are missing or wrong, after that was reported."""
    try:
        return Shaped(model.model_validate(value, by_alias=True, by_name=False), whole=True)
    except ValidationError as error:
        errors = error.errors(include_url=False, include_input=False)
    _tell(model, errors, report, source, at)
    for _ in range(_ROUNDS):
        value = _without(value, errors, stand_ins or {})
        if value is None:
            break
        try:
            return Shaped(model.model_validate(value, by_alias=True, by_name=False), whole=False)
        except ValidationError as error:
            errors = error.errors(include_url=False, include_input=False)
    return Shaped(None, whole=False)


def _tell(model: type[Spec], errors: list[ErrorDetails], report: Report, source: Source, at: Loc) -> None:
    document = source.document
    told: dict[tuple[Loc, str], list[str]] = {}
    emptied: set[Loc] = set()
    for error in errors:
        loc, kind = (*at, *error["loc"]), error["type"]
        node, there, _ = document.find(loc)
        if kind == "missing":
            _, there, _ = document.find(loc[:-1])
            told[(*there, loc[-1]), kind] = ["missing"]
            continue
        # A list that lost its only entry to a mistake is not empty.
        if kind == "too_short" and any(known[: len(there)] == there for known in emptied):
            continue
        emptied.add(there)
        words = plain_words(error, model, getattr(node, "value", None))
        group = "extra" if kind == "extra_forbidden" else "value"
        told.setdefault((there, group), []).append(words)
    for (loc, group), reasons in told.items():
        message = ", and ".join(dict.fromkeys(reasons))  # the branches of a union, each with its reason
        report.add(source, loc, message, key=group == "extra", missing=group == "missing")


def _without(value: object, errors: list[ErrorDetails], stand_ins: Mapping[str, object]) -> object:
    """A copy of the value without what is wrong in it; None where the whole of it is."""
    if not isinstance(value, dict):
        return None
    copy: dict[str, Any] = _copied(value)
    for error in errors:
        loc = error["loc"]
        if loc and loc[0] in stand_ins:
            copy[str(loc[0])] = stand_ins[str(loc[0])]
        elif not loc or (error["type"] == "missing" and len(loc) == 1):
            return None
        else:
            _remove(copy, loc[:-1] if error["type"] == "missing" else loc)
    return copy


def _copied(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _copied(v) for k, v in value.items()}
    return [_copied(v) for v in value] if isinstance(value, list) else value


def _remove(value: Any, loc: Loc) -> None:
    """Remove the mapping entry that is deepest on the way to `loc`."""
    last: tuple[dict[str, Any], str] | None = None
    for part in loc:
        if isinstance(value, dict) and part in value:
            last = value, str(part)
            value = value[str(part)]
        elif isinstance(value, list) and isinstance(part, int) and part < len(value):
            value = value[part]
        else:
            break
    if last is not None:
        last[0].pop(last[1], None)
