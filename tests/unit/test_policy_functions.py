"""Rule functions as policy sees them: what they did is a fact, and what follows from it is decided here."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.policy.decide import decide
from gateway.policy.decision import Allow, Asked, Decision, Deny, Need, Shadow, StepUp
from gateway.policy.explain import explain
from gateway.policy.facts import REDIRECT_CALLBACK, Body, Facts, Functions, Nowhere, Ran, ToSteps, ToUrl
from gateway.wire.subject import Proof, Subject
from tests.support.policy import NOW, form_post, request, ruleset

ALICE = Subject("alice", {}, "login")
RUN = {"python": "rules.py:run"}
CODE = {"require": ["code"]}
HUMAN = {"require": ["human"]}
PAGE = ToUrl("https://page.example.com/start?a=1")
HIDDEN = {"mode": "shadow"}


def facts(ran: dict[str, Ran] | None = None, *, protocol: str = "http", subject: Subject = ALICE, **more: Any) -> Facts:
    functions = Functions(ran, protocol, "j", {}) if ran is not None else None
    return Facts(subject=subject, pass_issued=NOW - 60 if subject.known else None, functions=functions, **more)


def decided(*rules: dict[str, Any], known: Facts, target: str = "/x", method: str = "GET") -> Decision:
    return decide(request(target, method), known, ruleset(*rules), NOW)


def asked(decision: Decision) -> list[str]:
    assert isinstance(decision, StepUp)
    return [each.step for each in decision.asked]


class TestAsking:
    def test_all_that_were_hit_are_asked_for_together_and_in_order(self) -> None:
        rules = (RUN, HUMAN, {**RUN, "match": {"path": "/elsewhere"}}, {**RUN, **HIDDEN})
        assert decided(*rules, known=facts()) == Need(functions=("r0", "r3"))

    def test_what_is_refused_anyway_runs_none(self) -> None:
        assert isinstance(decided(RUN, {"deny": {}}, known=facts()), Deny)

    def test_allow_ends_the_run_before_it(self) -> None:
        assert decided({"allow": True, "match": {"path": "/x"}}, RUN, known=facts()) == Allow(rules=("r0",))

    def test_one_before_an_allow_runs(self) -> None:
        assert decided(RUN, {"allow": True, "match": {"path": "/x"}}, known=facts()) == Need(functions=("r0",))

    def test_the_body_comes_first(self) -> None:
        rules = ruleset(RUN, {**RUN, "when": "request.form.a == '1'"})
        head = form_post("/x")
        assert decide(head, facts(), rules, NOW) == Need(body=True)
        assert decide(head, facts(body=Body(form={"a": "2"})), rules, NOW) == Need(functions=("r0",))
        assert decide(head, facts(body=Body(form={"a": "1"})), rules, NOW) == Need(functions=("r0", "r1"))

    def test_one_that_has_not_run_makes_all_run_again(self) -> None:
        assert decided(RUN, RUN, known=facts({"r1": Ran()})) == Need(functions=("r0", "r1"))

    def test_a_preflight_runs_none(self) -> None:
        head = request("/x", "OPTIONS", [("Origin", "https://a.example"), ("Access-Control-Request-Method", "PUT")])
        assert isinstance(decide(head, facts(), ruleset(RUN), NOW), Allow)

    def test_without_a_redirect_it_passes_and_relies_on_who_it_was(self) -> None:
        assert decided(RUN, known=facts({"r0": Ran()})) == Allow(rules=("r0",), relied_on_pass=True)
        assert decided(RUN, known=facts({"r0": Ran()}, subject=Subject())) == Allow(rules=("r0",))


class TestRedirect:
    def test_to_a_page_is_one_step_of_the_rules_name_for_this_very_request(self) -> None:
        decision = decided(RUN, known=facts({"r0": Ran(PAGE)}))
        assert isinstance(decision, StepUp)
        assert decision.asked == (Asked("@r0", "once", ("r0",), PAGE.url),)

    def test_to_steps_is_as_a_require_of_this_rule_would_be(self) -> None:
        rule = {**RUN, "max_age": "5m"}
        steps = {"r0": Ran(ToSteps(("human", "code")))}
        old = {"human": Proof("human", NOW - 10), "code": Proof("code", NOW - 301)}
        decision = decided(rule, known=facts(steps, proofs=old))
        assert isinstance(decision, StepUp)
        assert decision.asked == (Asked("code", 300.0, ("r0",)),)

    def test_proofs_in_the_pass_satisfy_it(self) -> None:
        decision = decided(RUN, known=facts({"r0": Ran(ToSteps(("code",)))}, proofs={"code": Proof("code", NOW - 10)}))
        assert decision == Allow(rules=("r0",), steps=("code",), by_pass=True, relied_on_pass=True)

    def test_happens_after_all_rules_and_merges_with_theirs(self) -> None:
        decision = decided(RUN, CODE, HUMAN, known=facts({"r0": Ran(ToSteps(("terms", "code")))}))
        assert asked(decision) == ["code", "human", "terms"]

    @pytest.mark.parametrize(
        ("first", "second", "steps"),
        [
            (PAGE, ToSteps(("code",)), ["code"]),
            (ToSteps(("code",)), PAGE, ["@r1"]),
            (PAGE, ToUrl("https://other.example.com"), ["@r1"]),
            (PAGE, None, ["@r0"]),
        ],
    )
    def test_the_last_one_set_counts(self, first: Any, second: Any, steps: list[str]) -> None:
        assert asked(decided(RUN, RUN, known=facts({"r0": Ran(first), "r1": Ran(second)}))) == steps

    def test_it_can_be_taken_back(self) -> None:
        assert isinstance(decided(RUN, RUN, known=facts({"r0": Ran(PAGE), "r1": Ran(Nowhere())})), Allow)

    def test_none_happens_at_continue(self) -> None:
        for redirect in (PAGE, ToSteps(("code",))):
            assert isinstance(decided(RUN, known=facts({"r0": Ran(redirect)}, protocol=REDIRECT_CALLBACK)), Allow)

    def test_what_was_proved_for_it_counts_at_continue(self) -> None:
        granted = {"code": Proof("code", NOW - 5), "@r0": Proof("@r0", NOW - 3)}
        decision = decided(RUN, known=facts({"r0": Ran()}, protocol=REDIRECT_CALLBACK, granted=granted))
        assert decision == Allow(rules=("r0",), steps=("code",), by_pass=True, relied_on_pass=True)

    def test_a_repeated_request_of_a_script_is_not_sent_there_again(self) -> None:
        assert isinstance(decided(RUN, known=facts({"r0": Ran(PAGE)}, granted={"@r0": Proof("@r0", NOW - 3)})), Allow)

    def test_whoever_must_log_in_first_is_not_sent_to_a_page_made_for_nobody(self) -> None:
        decision = decided(CODE, RUN, known=facts({"r1": Ran(PAGE)}, subject=Subject()))
        assert isinstance(decision, StepUp)
        assert (asked(decision), decision.login) == (["code"], True)

    def test_nobody_is_refused_a_login_for_not_being_logged_in(self) -> None:
        known = facts({"r0": Ran(ToSteps(("human", "code")))}, subject=Subject())
        assert asked(decided(RUN, known=known, target="/login")) == ["human"]


class TestRefusals:
    def test_unauthorized_denies_with_its_message(self) -> None:
        decision = decided(RUN, {"deny": {}, "when": "false"}, known=facts({"r0": Ran(denied="Not on Sundays.")}))
        assert isinstance(decision, Deny)
        assert (decision.status, decision.public, decision.rule) == (403, "Not on Sundays.", "r0")

    def test_unauthorized_holds_at_continue(self) -> None:
        assert isinstance(decided(RUN, known=facts({"r0": Ran(denied="No.")}, protocol=REDIRECT_CALLBACK)), Deny)

    @pytest.mark.parametrize("on_error", ["deny", "require"])
    def test_an_error_refuses_and_keeps_its_reason_to_the_log(self, on_error: str) -> None:
        decision = decided({**RUN, "on_error": on_error}, known=facts({"r0": Ran(error="KeyError: 'x'")}))
        assert isinstance(decision, Deny)
        assert "KeyError" in decision.private
        assert "KeyError" not in decision.public

    @pytest.mark.parametrize("on_error", ["skip", "allow"])
    def test_an_error_that_does_not_count_is_passed_over(self, on_error: str) -> None:
        ran = {"r0": Ran(PAGE, error="KeyError"), "r1": Ran()}
        assert isinstance(decided({**RUN, "on_error": on_error}, RUN, known=facts(ran)), Allow)

    def test_an_error_in_the_condition_counts_as_met_where_the_rule_says_so(self) -> None:
        rule = {**RUN, "when": "1 / 0 == 1"}
        assert decided({**rule, "on_error": "require"}, known=facts()) == Need(functions=("r0",))
        assert isinstance(decided({**rule, "on_error": "skip"}, known=facts()), Allow)
        assert isinstance(decided(rule, known=facts()), Deny)


class TestShadow:
    @pytest.mark.parametrize(
        ("ran", "words"),
        [
            (Ran(PAGE), "redirect to https://page.example.com/start"),
            (Ran(ToSteps(("code", "human"))), "require code,human"),
            (Ran(denied="No."), "deny (No.)"),
            (Ran(error="KeyError"), "fail (KeyError)"),
            (Ran(), "nothing"),
        ],
    )
    def test_it_is_told_and_changes_nothing(self, ran: Ran, words: str) -> None:
        assert decided({**RUN, **HIDDEN}, known=facts({"r0": ran})) == Allow(shadow=(Shadow("r0", words),))


def test_explain_tells_what_each_did() -> None:
    rules = ruleset(RUN, {**RUN, **HIDDEN}, RUN, HUMAN)
    ran = {"r0": Ran(PAGE), "r1": Ran(), "r2": Ran(denied="No.")}
    found = explain(request("/x"), facts(ran), rules, NOW)
    assert [rule.why for rule in found.rules][:3] == [
        "its function ran: redirect to https://page.example.com/start",
        "shadow, would run: its function ran: nothing",
        "its function ran: deny (No.)",
    ]
    assert [rule.reached for rule in found.rules] == [True, True, True, False]
