"""Entries that are checked one by one: steps and identity sources against the shape that their kind declares, and rules."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gateway.settings.mistakes import Report, Source, nearest
from gateway.settings.places import Loc
from gateway.settings.registry import Registry
from gateway.settings.shapes import shape
from gateway.settings.words import NOT_YET
from gateway.spec.base import Spec
from gateway.spec.rules import RuleSpec

LATER_STEPS: frozenset[str] = frozenset()
LATER_SOURCES = frozenset({"header", "jwt"})
_NO_MAPPING = "is not a mapping; write `key: value` lines"


@dataclass(frozen=True, slots=True)
class StepEntry:
    name: str
    kind: str
    config: Spec


@dataclass(frozen=True, slots=True)
class IdentityEntry:
    """`origin` is what stands under `from`."""

    index: int
    origin: str
    config: Spec


@dataclass(frozen=True, slots=True)
class RuleEntry:
    """whole: False where something was left out of `spec`; then only what is inside the entry's values can still be judged."""

    source: Source
    index: int
    spec: RuleSpec
    whole: bool


def step_entries(value: object, source: Source, kinds: Registry, report: Report) -> dict[str, StepEntry]:
    """`steps:` by name. A step whose settings are no use is reported and left out."""
    found: dict[str, StepEntry] = {}
    if value is None:
        return found
    if not isinstance(value, dict):
        report.add(source, ("steps",), _NO_MAPPING)
        return found
    for name, entry in value.items():
        shapes = {kind: known.config for kind, known in kinds.steps.items()}
        named = _named(entry, "kind", shapes, LATER_STEPS, ("steps", name), source, report)
        if named is not None:
            kind, rest = named
            shaped = shape(shapes[kind], rest, report, source, ("steps", name))
            if shaped.spec is not None:
                found[name] = StepEntry(name, kind, shaped.spec)
    return found


def identity_entries(value: object, source: Source, kinds: Registry, report: Report) -> list[IdentityEntry]:
    """`identity:` in order."""
    found: list[IdentityEntry] = []
    if value is None:
        return found
    if not isinstance(value, list):
        report.add(source, ("identity",), "is not a list; write [a, b] or `- a` lines")
        return found
    for index, entry in enumerate(value):
        named = _named(entry, "from", kinds.identity, LATER_SOURCES, ("identity", index), source, report)
        if named is not None:
            origin, rest = named
            shaped = shape(kinds.identity[origin], rest, report, source, ("identity", index))
            if shaped.spec is not None:
                found.append(IdentityEntry(index, origin, shaped.spec))
    return found


def rule_entries(written: list[tuple[Source, int, Any]], report: Report) -> list[RuleEntry]:
    """`rules:` of all files, in order. A rule that something was left out of is switched off, so that it shadows no other."""
    found: list[RuleEntry] = []
    for source, index, entry in written:
        at: Loc = ("rules", index)
        shaped = shape(RuleSpec, entry, report, source, at, stand_ins={"name": f"rule-{index}"})
        spec = shaped.spec
        if spec is not None and not shaped.whole:
            spec = spec.model_copy(update={"enabled": False})
        if spec is not None:
            found.append(RuleEntry(source, index, spec, shaped.whole))
    return found


def _named(
    entry: object, key: str, known: Mapping[str, type[Spec]], later: frozenset[str], at: Loc, source: Source, report: Report
) -> tuple[str, dict[str, Any]] | None:
    """The kind that an entry names, and the rest of the entry."""
    if not isinstance(entry, dict):
        report.add(source, at, _NO_MAPPING)
        return None
    if key not in entry:
        report.add(source, (*at, key), "missing", missing=True)
        return None
    kind = entry[key]
    if not isinstance(kind, str):
        report.add(source, (*at, key), "is not text")
    elif kind in later and kind not in known:
        report.add(source, (*at, key), NOT_YET)
    elif kind not in known:
        report.add(source, (*at, key), f'no {"kind of step" if key == "kind" else "identity source"} named "{kind}"{nearest(kind, known)}')
    else:
        return kind, {k: v for k, v in entry.items() if k != key}
    return None
