"""Laws of the run, for any rules and requests."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from gateway.policy.decide import decide
from gateway.policy.decision import Allow, Decision, Deny, Need, StepUp
from gateway.policy.explain import explain
from gateway.policy.facts import Body, BodyUnavailable, Facts
from gateway.policy.index import RuleIndex
from gateway.policy.model import Ruleset
from gateway.wire.head import RequestHead
from gateway.wire.subject import NOBODY, Proof, Subject
from tests.support.policy import NOW, request, ruleset

EFFECTS: st.SearchStrategy[dict[str, Any]] = st.one_of(
    st.lists(st.sampled_from(["human", "code", "terms"]), min_size=1, max_size=2, unique=True).map(lambda steps: {"require": steps}),
    st.just({"deny": {}}),
    st.just({"allow": True}),
)
# Conditions that are always true keep `compile` from calling later rules unreachable.
WHENS = st.sampled_from(
    ["true", 'subject.id == "alice"', 'request.form.a == "1"', "1/0 == 1", "record.consent == null", "pass.age > 100.0"]
)
RULES = st.builds(
    lambda effect, when, path, **rest: {**effect, "when": when, "match": {"path": path}, **rest},
    EFFECTS,
    WHENS,
    st.sampled_from(["/a", "/a/**", "/b/**", "/**", "re:/.*", "/*/x"]),
    max_age=st.sampled_from(["session", "once", "5m"]),
    mode=st.sampled_from(["enforce", "enforce", "shadow"]),
    enabled=st.sampled_from([True, True, False]),
    on_error=st.sampled_from(["deny", "skip"]),
    who=st.sampled_from(["any", "any", "authenticated", "anonymous"]),
    replay=st.sampled_from(["auto", "confirm", "off"]),
)
RULESETS = st.lists(RULES, max_size=6).map(lambda rules: ruleset(*rules))
HEADS = st.builds(
    request,
    st.sampled_from(["/a", "/A", "/a/x", "/b", "/c", "/login", "/a/..%2fb", "//a", "/b/%2e%2e/a"]),
    st.sampled_from(["GET", "PUT", "HEAD"]),
)
PROOFS = st.dictionaries(st.sampled_from(["human", "code", "terms"]), st.floats(0, 1000), max_size=3).map(
    lambda ages: {step: Proof(step, NOW - age) for step, age in ages.items()}
)
FACTS = st.builds(
    Facts,
    subject=st.sampled_from([NOBODY, Subject("alice"), Subject("bob")]),
    proofs=PROOFS,
    granted=PROOFS,
    body=st.sampled_from([None, Body(form={"a": "1"}), Body(form={"a": "2"}), BodyUnavailable("too large")]),
    records=st.sampled_from([{}, {"consent": None}, {"consent": "x"}]),
    pass_issued=st.sampled_from([None, NOW - 50, NOW - 500]),
)


def hits(decision: Decision) -> tuple[str, ...]:
    match decision:
        case Allow() | StepUp():
            return decision.rules
        case Deny():
            return (decision.rule,)
        case Need():
            return ()


def cut(rules: Ruleset, count: int) -> Ruleset:
    kept = rules.rules[:count]
    return replace(rules, rules=kept, index=RuleIndex.build((rule.position, rule.match) for rule in kept if rule.enabled))


@given(HEADS, FACTS, RULESETS)
def test_explain_tells_the_rules_that_decide_hit(head: RequestHead, facts: Facts, rules: Ruleset) -> None:
    found = explain(head, facts, rules, NOW)
    reached = [
        line.name for line, rule in zip(found.rules, rules.rules, strict=True) if line.verdict == "hit" and line.reached and not rule.shadow
    ]
    match found.decision:
        case Allow() | StepUp():
            assert reached == list(found.decision.rules)
        case Deny():
            assert reached[-1] == found.decision.rule
        case Need():
            assert any(line.verdict == "unknown" and line.reached for line in found.rules)


@given(HEADS, FACTS, RULESETS)
def test_the_index_changes_no_decision(head: RequestHead, facts: Facts, rules: Ruleset) -> None:
    everywhere = RuleIndex({("", ""): {"": list(range(len(rules.rules)))}}, depth=0, by_host=False)
    assert decide(head, facts, rules, NOW) == decide(head, facts, replace(rules, index=everywhere), NOW)


@given(HEADS, FACTS, RULESETS)
def test_shadow_rules_change_nothing_but_the_report(head: RequestHead, facts: Facts, rules: Ruleset) -> None:
    bodied = replace(facts, body=facts.body or Body())
    enforced = replace(rules, rules=tuple(replace(rule, enabled=rule.enabled and not rule.shadow) for rule in rules.rules))
    decision = decide(head, bodied, rules, NOW)
    unreported = decision if isinstance(decision, Need) else replace(decision, shadow=())
    assert unreported == decide(head, bodied, enforced, NOW)


@given(HEADS, FACTS, RULESETS)
def test_allow_keeps_and_deny_discards_what_was_collected(head: RequestHead, facts: Facts, rules: Ruleset) -> None:
    decision = decide(head, facts, rules, NOW)
    effects: dict[str, Any] = {rule.name: rule for rule in rules.rules}
    for name in hits(decision)[:-1]:
        assert type(effects[name].effect).__name__ == "Require"
    if isinstance(decision, Allow | StepUp) and decision.rules and type(effects[decision.rules[-1]].effect).__name__ == "Permit":
        before = decide(head, facts, cut(rules, effects[decision.rules[-1]].position), NOW)
        assert isinstance(before, Allow | StepUp)
        if isinstance(before, StepUp):
            assert isinstance(decision, StepUp)
            assert decision.asked == before.asked
        else:
            assert isinstance(decision, Allow)
            assert decision.steps == before.steps


@given(HEADS, FACTS, RULESETS)
def test_no_step_is_asked_twice_or_though_it_was_granted(head: RequestHead, facts: Facts, rules: Ruleset) -> None:
    decision = decide(head, facts, rules, NOW)
    if isinstance(decision, StepUp):
        steps = [each.step for each in decision.asked]
        assert len(steps) == len(set(steps))
        assert not set(steps) & set(facts.granted)


@given(HEADS, FACTS, RULESETS)
def test_asking_again_with_what_was_needed_comes_to_an_end(head: RequestHead, facts: Facts, rules: Ruleset) -> None:
    for _ in range(3):
        decision = decide(head, facts, rules, NOW)
        if not isinstance(decision, Need):
            return
        assert not decision.body or facts.body is None
        assert not decision.records & set(facts.records)
        facts = replace(facts, body=facts.body or Body(), records={**facts.records, **dict.fromkeys(decision.records)})
    raise AssertionError("still asking")


@given(HEADS, FACTS, RULESETS)
def test_a_proof_more_never_makes_a_decision_stricter(head: RequestHead, facts: Facts, rules: Ruleset) -> None:
    before = decide(head, facts, rules, NOW)
    after = decide(head, replace(facts, granted={step: Proof(step, NOW) for step in ("human", "code", "terms")}), rules, NOW)
    if isinstance(before, Allow):
        assert isinstance(after, Allow)
    assert not isinstance(after, StepUp)
