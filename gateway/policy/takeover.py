"""Which rule takes an upstream's answer over: by where a redirect leads, or by what a challenge names. Pure, like every decision."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from gateway.policy.decision import MaxAge
from gateway.policy.model import Rule, StepInfo, TakeOver
from gateway.wire.challenge import Challenge
from gateway.wire.location import Located

INSUFFICIENT = "insufficient_user_authentication"
_SECONDS = re.compile(r"[0-9]{1,10}")


@dataclass(frozen=True, slots=True)
class Demand:
    """What a challenge comes to. steps: in order. max_age: the youngest that challenge and rule allow."""

    steps: tuple[str, ...]
    max_age: MaxAge


@dataclass(frozen=True, slots=True)
class Beyond:
    """A challenge that no step of ours can meet. reason: for the log."""

    reason: str


def redirected(rules: Iterable[Rule], located: Located, public: str) -> tuple[Rule, TakeOver] | None:
    """The first rule, in file order, whose `location` names where a redirect leads. public: the public origin of the request."""
    for rule in rules:
        taken = rule.effect
        if isinstance(taken, TakeOver) and any(
            (where.origin or public) == located.origin and any(map(where.path.matches, located.target.readings))
            for where in taken.locations
        ):
            return rule, taken
    return None


def demanded(rule: Rule, taken: TakeOver, challenges: Iterable[Challenge], steps: Mapping[str, StepInfo]) -> Demand | Beyond | None:
    """What the challenges of an answer ask for (RFC 9470 §3). None: for nothing of this kind.

    One of `acr_values` is enough for the upstream, and they stand in its order of preference: the first that a step stands for is taken.
    """
    asking = [c.parameters for c in challenges if c.parameters.get("error") == INSUFFICIENT]
    if not asking:
        return None
    if len(asking) > 1:
        return Beyond("two challenges ask for other authentication")
    ages: list[MaxAge] = [rule.max_age]
    if (given := asking[0].get("max_age")) is not None:
        if not _SECONDS.fullmatch(given):
            return Beyond("max_age is no number of seconds")
        ages.append(float(given) if int(given) else "once")
    youngest = min(ages, key=_seconds)
    values = asking[0].get("acr_values", "").split()
    if not values:
        return Demand(taken.steps, youngest) if taken.named else Beyond("no acr_values, and the rule requires no step by itself")
    by_acr = {steps[name].acr or name: name for name in reversed(taken.steps) if name in steps}
    known = next((by_acr[value] for value in values if value in by_acr), None)
    if known is None:
        return Beyond(f"no step stands for {' '.join(values)[:200]!r}")
    return Demand((known,), youngest)


def _seconds(max_age: MaxAge) -> float:
    return max_age if isinstance(max_age, int | float) else {"once": -1.0, "session": float("inf")}[max_age]
