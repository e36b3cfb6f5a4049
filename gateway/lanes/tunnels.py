"""Tunnels that were opened because of a pass end with what they were opened by: see decision 0031.

A tunnel rests on a pass where rules let it through because of one, or where a known subject opened it. It is closed when that pass is
revoked (a logout revokes), when a proof that opened it is older than its rule's `max_age`, when the pass is older than `passes.max_age`,
and, where a rule relied on the pass, when nobody can say whether it was revoked. Tunnels of nobody, which no rule asked anything for, go
on. One timer for all of them, and none where there are none.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from gateway.flow.gate import FEED_MAX_AGE, Judged, Revocations
from gateway.policy.decision import Allow
from gateway.policy.facts import Ran, ToSteps
from gateway.policy.model import Require, Rule
from gateway.spec.sections import PassSpec

LOOK = 0.25  # seconds between two looks: with the feed's own half second, a revocation ends a tunnel within one
STALE_LOOKS = 4  # a clock that was set forward makes the feed look old until it is read again


class Closable(Protocol):
    """A tunnel, of either lane. `on_end` must be called once it has ended, however it did."""

    on_end: Callable[[], None] | None

    def close(self, reason: str) -> None: ...


@dataclass(frozen=True, slots=True)
class Lease:
    """What a tunnel rests on. sid: the pass, "" where only a transaction's proofs opened it. until: seconds since the epoch; why: the
    reason it ends then. relied: it must end when a revocation could not be learned of."""

    sid: str
    until: float
    why: str
    relied: bool


def lease(judged: Judged, rules: Mapping[str, Rule], spec: PassSpec, now: float) -> Lease | None:
    """What the tunnel of a request judged like this rests on, None for nothing."""
    decision, holder = judged.decision, judged.identified.holder
    relied = isinstance(decision, Allow) and decision.relied_on_pass
    if not relied and (holder is None or not judged.identified.subject.known):
        return None
    ends = [((holder.issued if holder is not None else now) + spec.max_age, "pass_over")]
    names = decision.rules if isinstance(decision, Allow) else ()
    hit = [rules[name] for name in names if name in rules]
    for rule in hit:
        if isinstance(rule.max_age, str):
            continue  # `session`: as long as the pass; `once`: this very request, however long it takes
        for step in _steps(rule, judged):
            if step in judged.facts.granted:
                ends.append((now + rule.max_age, "max_age"))  # proved for this request, however long its other steps took
            elif step in judged.facts.proofs:
                ends.append((judged.facts.proofs[step].at + rule.max_age, "max_age"))
    until, why = min(ends)
    lenient = bool(hit) and all(rule.on_error == "allow" for rule in hit)
    return Lease(holder.sid if holder is not None else "", until, why, relied and not lenient)


def _steps(rule: Rule, judged: Judged) -> tuple[str, ...]:
    """What a rule asked for, or its function."""
    if isinstance(rule.effect, Require):
        return rule.effect.steps
    functions = judged.facts.functions
    match functions.ran.get(rule.name) if functions is not None else None:
        case Ran(redirect=ToSteps(steps), error=None):
            return steps
        case _:
            return ()


class Tunnels:
    """The open tunnels that rest on something. clock: seconds since the epoch."""

    def __init__(self, feed: Revocations, spec: PassSpec, rules: Callable[[], Mapping[str, Rule]], clock: Callable[[], float]) -> None:
        self._feed = feed
        self._spec = spec
        self._rules = rules
        self._clock = clock
        self._by_sid: dict[str, dict[Closable, Lease]] = {}
        self._first = float("inf")  # no lease ends before
        self._stale = 0
        self._timer: asyncio.TimerHandle | None = None

    def watch(self, judged: Judged, now: float, tunnel: Closable) -> None:
        """A request that was judged so at `now` has become this tunnel."""
        found = lease(judged, self._rules(), self._spec, now)
        if found is None:
            return
        self._by_sid.setdefault(found.sid, {})[tunnel] = found
        self._first = min(self._first, found.until)
        tunnel.on_end = partial(self._forget, found.sid, tunnel)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(LOOK, self._look)

    def _forget(self, sid: str, tunnel: Closable) -> None:
        held = self._by_sid.get(sid)
        if held is not None:
            held.pop(tunnel, None)
            if not held:
                del self._by_sid[sid]

    def _look(self) -> None:
        self._timer = None
        if not self._by_sid:
            self._first, self._stale = float("inf"), 0
            return
        self._timer = asyncio.get_running_loop().call_later(LOOK, self._look)
        now = self._clock()
        for sid in [sid for sid in self._by_sid if self._feed.revoked(sid)]:
            self._close(self._by_sid[sid], "revoked")
        self._stale = self._stale + 1 if self._feed.age(now) > FEED_MAX_AGE else 0
        if self._stale >= STALE_LOOKS:
            for held in list(self._by_sid.values()):
                self._close({tunnel: each for tunnel, each in held.items() if each.relied}, "feed_stale")
        if now >= self._first:
            for held in list(self._by_sid.values()):
                for tunnel, each in list(held.items()):
                    if now >= each.until:
                        tunnel.close(each.why)
            left = (each.until for held in self._by_sid.values() for each in held.values() if now < each.until)
            self._first = min(left, default=float("inf"))

    def _close(self, tunnels: Mapping[Closable, Lease], reason: str) -> None:
        for tunnel in list(tunnels):
            tunnel.close(reason)
