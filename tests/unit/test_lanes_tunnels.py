"""What a tunnel rests on, and what the registry of tunnels does when the feed or the clock says that it is gone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import pytest

from gateway.flow.gate import Judged
from gateway.flow.identity import Identified
from gateway.lanes.tunnels import LOOK, STALE_LOOKS, Lease, Tunnels, lease
from gateway.policy.decision import Allow, Decision, StepUp
from gateway.policy.facts import Facts, Functions, Ran, ToSteps
from gateway.policy.model import Rule
from gateway.spec.sections import PassSpec
from gateway.tokens.passes import Pass
from gateway.wire.subject import NOBODY, Proof, Subject
from tests.support.policy import ruleset

NOW = 1_800_000_000.0
SPEC = PassSpec()
ALICE = Subject("alice", {}, "login_form")
RULES: dict[str, Rule] = {
    rule.name: rule
    for rule in ruleset(
        {"name": "five", "match": {"path": "/**"}, "require": "human", "max_age": "5m"},
        {"name": "one", "match": {"path": "/**"}, "require": ["human", "code"], "max_age": "1m"},
        {"name": "session", "match": {"path": "/**"}, "require": "human"},
        {"name": "once", "match": {"path": "/**"}, "require": "human", "max_age": "once"},
        {"name": "lenient", "match": {"path": "/**"}, "require": "human", "on_error": "allow"},
        {"name": "function", "match": {"path": "/**"}, "python": "f.py:f", "max_age": "5m"},
        {"name": "open", "match": {"path": "/**"}, "allow": True},
    ).rules
}


def judged(decision: Decision, *, subject: Subject = ALICE, held: bool = True, granted: bool = False, **proofs: float) -> Judged:
    """As the gate judges: proofs are seconds since each step was passed."""
    made = {step: Proof(step, NOW - age) for step, age in proofs.items()}
    holder = Pass("sid", "http://a", NOW - 600, NOW - 10, subject=subject, proofs=made) if held else None
    facts = Facts(subject, {} if granted else made, granted=made if granted else {})
    return Judged(decision, None, Identified(subject=subject, holder=holder), facts)


def asked_by_function(found: Judged) -> Judged:
    ran = Functions({"function": Ran(ToSteps(("human",)))})
    return replace(found, facts=replace(found.facts, functions=ran))


def allowed(*names: str, relied: bool = True) -> Allow:
    return Allow(names, ("human",), by_pass=relied, relied_on_pass=relied)


OVER = NOW - 600 + SPEC.max_age

LEASES = {
    "a rule with an age": (judged(allowed("five"), human=100), Lease("sid", NOW + 200, "max_age", relied=True)),
    "a function of a rule with an age": (
        asked_by_function(judged(allowed("function"), human=100)), Lease("sid", NOW + 200, "max_age", relied=True),
    ),
    "a function that asked for nothing": (judged(allowed("function"), human=100), Lease("sid", OVER, "pass_over", relied=True)),
    "the strictest of several": (judged(allowed("five", "one"), human=10), Lease("sid", NOW + 50, "max_age", relied=True)),
    "the oldest step": (judged(allowed("one"), human=10, code=40), Lease("sid", NOW + 20, "max_age", relied=True)),
    "as long as the pass": (judged(allowed("session"), human=100), Lease("sid", OVER, "pass_over", relied=True)),
    "this very request": (judged(allowed("once"), human=100), Lease("sid", OVER, "pass_over", relied=True)),
    "a transaction's proof counts from now": (
        judged(allowed("five"), human=9999, granted=True), Lease("sid", NOW + 300, "max_age", relied=True),
    ),
    "a transaction without a pass": (
        judged(allowed("once"), human=5, held=False, granted=True), Lease("", NOW + SPEC.max_age, "pass_over", relied=True),
    ),
    "a rule that lets pass without a store": (judged(allowed("lenient"), human=1), Lease("sid", OVER, "pass_over", relied=False)),
    "lenient and strict": (judged(allowed("lenient", "session"), human=1), Lease("sid", OVER, "pass_over", relied=True)),
    "a rule that a reload took away": (judged(allowed("gone"), human=1), Lease("sid", OVER, "pass_over", relied=True)),
    "somebody's, no rule": (judged(Allow()), Lease("sid", OVER, "pass_over", relied=False)),
    "somebody's, let pass without a store": (
        judged(StepUp((), ("lenient",), "auto")), Lease("sid", OVER, "pass_over", relied=False),
    ),
    "nobody's, no rule": (judged(Allow(), subject=NOBODY), None),
    "nobody's, allowed by a rule": (judged(allowed("open", relied=False), subject=NOBODY), None),
    "somebody without a pass": (judged(Allow(), held=False), None),
    "nobody's, gated": (judged(allowed("session"), subject=NOBODY, human=1), Lease("sid", OVER, "pass_over", relied=True)),
}  # fmt: skip


@pytest.mark.parametrize(("found", "wanted"), LEASES.values(), ids=LEASES)
def test_what_a_tunnel_rests_on(found: Judged, wanted: Lease | None) -> None:
    assert lease(found, RULES, SPEC, NOW) == wanted


@dataclass
class Feed:
    gone: set[str] = field(default_factory=set)
    old: float = 0.0

    def revoked(self, sid: str) -> bool:
        return sid in self.gone

    def age(self, now: float) -> float:
        return self.old


@dataclass(eq=False)
class Tunnel:
    on_end: Callable[[], None] | None = None
    closed: str = ""

    def close(self, reason: str) -> None:
        self.closed = self.closed or reason
        if self.on_end is not None:
            self.on_end()


@pytest.fixture
async def registry() -> tuple[Tunnels, Feed, list[float]]:
    feed, now = Feed(), [NOW]
    return Tunnels(feed, SPEC, lambda: RULES, lambda: now[0]), feed, now


async def test_a_feed_that_stays_old_ends_what_relied_on_the_pass_and_nothing_else(registry: tuple[Tunnels, Feed, list[float]]) -> None:
    tunnels, feed, _ = registry
    relied, lenient, plain = Tunnel(), Tunnel(), Tunnel()
    tunnels.watch(judged(allowed("session"), human=1), NOW, relied)
    tunnels.watch(judged(allowed("lenient"), human=1), NOW, lenient)
    tunnels.watch(judged(Allow()), NOW, plain)
    feed.old = 6.0
    await asyncio.sleep(LOOK * (STALE_LOOKS - 2))
    feed.old = 0.0  # it was the clock that jumped
    await asyncio.sleep(LOOK * 2)
    feed.old = 6.0
    assert relied.closed == ""
    await asyncio.sleep(LOOK * (STALE_LOOKS + 2))
    assert (relied.closed, lenient.closed, plain.closed) == ("feed_stale", "", "")


async def test_no_timer_is_left_when_the_last_tunnel_has_ended(registry: tuple[Tunnels, Feed, list[float]]) -> None:
    tunnels, feed, now = registry
    first, second = Tunnel(), Tunnel()
    tunnels.watch(judged(allowed("five"), human=0), NOW, first)
    now[0] += 301
    await asyncio.sleep(LOOK * 3)
    assert first.closed == "max_age"
    assert tunnels._timer is None
    tunnels.watch(judged(allowed("five"), human=0), NOW + 301, second)  # the registry begins anew
    feed.gone.add("sid")
    await asyncio.sleep(LOOK * 2)
    assert second.closed == "revoked"


async def test_many_tunnels_of_many_passes_end_each_in_its_time(registry: tuple[Tunnels, Feed, list[float]]) -> None:
    tunnels, _, now = registry
    made = [Tunnel() for _ in range(300)]
    for age, tunnel in enumerate(made):
        tunnels.watch(judged(allowed("five"), human=float(age)), NOW, tunnel)
    now[0] += 100
    await asyncio.sleep(LOOK * 2)
    assert [bool(tunnel.closed) for tunnel in made] == [age >= 200 for age in range(300)]
