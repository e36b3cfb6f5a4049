"""Compiled rules: what `decide` reads. Made by `gateway.policy.compile` out of the specs; immutable."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from gateway.policy.condition import Condition
from gateway.policy.decision import MaxAge
from gateway.policy.expression import Expression
from gateway.policy.glob import Glob
from gateway.policy.index import RuleIndex


@dataclass(frozen=True, slots=True)
class Require:
    steps: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Refuse:
    status: int
    message: str


@dataclass(frozen=True, slots=True)
class Permit:
    pass


@dataclass(frozen=True, slots=True)
class Run:
    """function: its reference, `/path/to/file.py:name`."""

    function: str


@dataclass(frozen=True, slots=True)
class Where:
    """Redirects to this origin whose path the glob matches. origin: None for the public origin, whichever it is."""

    origin: str | None
    path: Glob


@dataclass(frozen=True, slots=True)
class TakeOver:
    """Answers of an upstream that are taken over. Exactly one of locations and challenge.

    steps: of a redirect, what is asked; of a challenge, what its `acr_values` may name, and what is asked where it names none.
    """

    upstream: str
    locations: tuple[Where, ...]
    challenge: bool
    steps: tuple[str, ...]
    named: bool = True
    """`require` stands in the rule; where it does not, a challenge may name any step."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule. `position` is its place in file order, over all files."""

    position: int
    name: str
    match: Condition
    excuse: Condition | None
    who: Literal["authenticated", "anonymous", "any"]
    when: Expression | None
    effect: Require | Refuse | Permit | Run | TakeOver
    max_age: MaxAge
    replay: Literal["auto", "confirm", "off"]
    shadow: bool
    enabled: bool
    on_error: Literal["deny", "require", "skip", "allow"]


@dataclass(frozen=True, slots=True)
class StepInfo:
    """What policy must know of a step: whether it can be asked of nobody. `acr`: its authentication context, if named. `edition`: what is
    asked now (of a document: its version); a proof of another edition counts no more. `claims`: those that it sets. `counts`: to pass it
    proves something."""

    name: str
    kind: str
    needs_subject: bool
    acr: str | None = None
    edition: str = ""
    claims: tuple[str, ...] = ()
    counts: bool = True


@dataclass(frozen=True, slots=True)
class Route:
    upstream: str
    condition: Condition
    cors: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class LoginPaths:
    """Exact paths of an identity source's login and logout at one upstream; never refused for lack of a subject."""

    upstream: str
    paths: frozenset[str]


@dataclass(frozen=True, slots=True)
class Ruleset:
    """Everything that decisions depend on. `case_insensitive`: upstreams whose paths are judged case-folded too. `functions`: rule
    functions by reference; nothing in this room calls them. takeovers: rules about answers, by upstream, in file order."""

    rules: tuple[Rule, ...]
    index: RuleIndex
    routes: tuple[Route, ...]
    steps: Mapping[str, StepInfo]
    logins: tuple[LoginPaths, ...]
    case_insensitive: frozenset[str]
    version: str = ""
    functions: Mapping[str, Callable[..., Any]] = field(default_factory=dict)
    takeovers: Mapping[str, tuple[Rule, ...]] = field(default_factory=dict)

    def challenged(self, upstream: str) -> bool:
        """A rule takes challenges of this upstream over, so what was proved is shown to it."""
        rules = self.takeovers.get(upstream, ())
        return any(isinstance(r.effect, TakeOver) and r.effect.challenge and not r.shadow for r in rules)
