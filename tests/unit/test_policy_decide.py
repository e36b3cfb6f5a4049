from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import pytest

from gateway.policy.decide import decide, route
from gateway.policy.decision import Allow, Asked, Decision, Deny, Need, Shadow, StepUp
from gateway.policy.facts import Body, BodyUnavailable, Facts, RecordUnavailable
from gateway.policy.model import StepInfo
from gateway.wire.subject import Proof, Subject
from tests.support.policy import NOW, form_post, request, ruleset

ALICE = Subject("alice", {"password_expired": True, "department": "it"}, "login")
CODE = {"require": ["code"]}
HUMAN = {"require": ["human"]}
BROKEN = "1 / 0 == 1"


def proofs(**ages: float) -> dict[str, Proof]:
    return {step: Proof(step, NOW - age) for step, age in ages.items()}


def known(**more: Any) -> Facts:
    return Facts(subject=ALICE, pass_issued=NOW - 60, **more)


AS_ALICE = known()


def decided(*rules: dict[str, Any], facts: Facts = AS_ALICE, target: str = "/x", method: str = "GET") -> Decision:
    return decide(request(target, method), facts, ruleset(*rules), NOW)


def asked(decision: Decision) -> list[str]:
    assert isinstance(decision, StepUp)
    return [each.step for each in decision.asked]


def test_without_a_rule_that_matches_everything_passes() -> None:
    assert decided({"match": {"path": "/admin/**"}, **CODE}) == Allow()


class TestOrder:
    def test_every_rule_may_add_steps(self) -> None:
        assert asked(decided(HUMAN, CODE, {"require": ["terms"]})) == ["human", "code", "terms"]

    def test_steps_of_one_rule_keep_their_order(self) -> None:
        assert asked(decided({"require": ["code", "human"]})) == ["code", "human"]

    def test_allow_ends_the_run_and_keeps_what_was_collected(self) -> None:
        decision = decided(HUMAN, {"match": {"path": "/x"}, "allow": True}, CODE)
        assert asked(decision) == ["human"]

    def test_deny_ends_the_run_and_discards_it(self) -> None:
        decision = decided(HUMAN, {"match": {"path": "/x"}, "deny": {"status": 451, "message": "No."}}, CODE)
        assert isinstance(decision, Deny)
        assert (decision.status, decision.public, decision.rule) == (451, "No.", "r1")

    def test_deny_behind_an_allow_is_not_reached(self) -> None:
        assert decided({"match": {"path": "/x"}, "allow": True}, {"deny": {}}) == Allow(rules=("r0",))

    def test_rules_that_are_off_are_skipped(self) -> None:
        assert decided({**CODE, "enabled": False}, {"deny": {}, "enabled": False}) == Allow()


class TestProofs:
    def test_a_young_proof_is_not_asked_again(self) -> None:
        assert decided({**CODE, "max_age": "5m"}, facts=known(proofs=proofs(code=299))) == Allow(
            rules=("r0",), steps=("code",), by_pass=True, relied_on_pass=True
        )

    def test_an_old_one_is(self) -> None:
        assert asked(decided({**CODE, "max_age": "5m"}, facts=known(proofs=proofs(code=300)))) == ["code"]

    def test_a_session_proof_lasts_as_long_as_the_pass(self) -> None:
        assert isinstance(decided(CODE, facts=known(proofs=proofs(code=28_000))), Allow)

    def test_once_means_this_very_request(self) -> None:
        rule = {**CODE, "max_age": "once"}
        assert asked(decided(rule, facts=known(proofs=proofs(code=0)))) == ["code"]
        assert isinstance(decided(rule, facts=known(granted=proofs(code=0))), Allow)

    def test_what_was_proved_in_the_transaction_counts_however_old(self) -> None:
        decision = decided({**CODE, "max_age": "5m"}, facts=known(granted=proofs(code=9_999)))
        assert decision == Allow(rules=("r0",), steps=("code",), by_pass=True, relied_on_pass=True)

    def test_only_what_is_open_is_asked(self) -> None:
        assert asked(decided({"require": ["human", "code"]}, facts=known(proofs=proofs(human=5)))) == ["code"]


class TestMerging:
    def test_one_step_is_asked_once_for_all_who_want_it(self) -> None:
        decision = decided({**CODE, "max_age": "5m"}, CODE, {**CODE, "max_age": "1m"})
        assert isinstance(decision, StepUp)
        assert decision.asked == (Asked("code", 60.0, ("r0", "r1", "r2")),)

    @pytest.mark.parametrize(
        ("ages", "strictest"), [(("session", "5m"), 300.0), (("5m", "once"), "once"), (("session", "session"), "session")]
    )
    def test_the_strictest_age_counts(self, ages: tuple[str, str], strictest: object) -> None:
        decision = decided(*({**CODE, "max_age": age} for age in ages))
        assert isinstance(decision, StepUp)
        assert decision.asked[0].max_age == strictest

    def test_a_rule_that_is_content_does_not_ask(self) -> None:
        decision = decided(CODE, {**CODE, "max_age": "5m"}, facts=known(proofs=proofs(code=600)))
        assert isinstance(decision, StepUp)
        assert decision.asked == (Asked("code", 300.0, ("r1",)),)
        assert decision.rules == ("r0", "r1")

    @pytest.mark.parametrize(
        ("replays", "strictest"), [(("auto", "confirm"), "confirm"), (("off", "confirm"), "off"), (("auto", "auto"), "auto")]
    )
    def test_the_strictest_replay_counts(self, replays: tuple[str, str], strictest: str) -> None:
        decision = decided(*({**CODE, "replay": replay} for replay in replays))
        assert isinstance(decision, StepUp)
        assert decision.replay == strictest


class TestSubjects:
    def test_a_step_that_needs_a_subject_sends_nobody_to_log_in(self) -> None:
        decision = decided(HUMAN, CODE, facts=Facts())
        assert isinstance(decision, StepUp)
        assert decision.login

    def test_one_that_needs_none_does_not(self) -> None:
        decision = decided(HUMAN, facts=Facts())
        assert isinstance(decision, StepUp)
        assert not decision.login

    @pytest.mark.parametrize("path", ["/login", "/logout"])
    def test_login_and_logout_are_never_refused_for_lack_of_a_subject(self, path: str) -> None:
        assert decided(CODE, facts=Facts(), target=path) == Allow()
        assert asked(decided({"require": ["human", "code"]}, facts=Facts(), target=path)) == ["human"]
        assert asked(decided(CODE, target=path)) == ["code"]

    @pytest.mark.parametrize("path", ["/login/", "/LOGIN", "/login;x", "/x/..%2flogin", "/login/../account"])
    def test_what_only_resembles_a_login_path_is_none(self, path: str) -> None:
        assert asked(decided(CODE, facts=Facts(), target=path)) == ["code"]

    def test_deny_holds_at_the_login_path(self) -> None:
        assert isinstance(decided({"deny": {}}, facts=Facts(), target="/login"), Deny)

    def test_who(self) -> None:
        assert isinstance(decided({"deny": {}, "who": "authenticated"}), Deny)
        assert decided({"deny": {}, "who": "authenticated"}, facts=Facts()) == Allow()
        assert isinstance(decided({"deny": {}, "who": "anonymous"}, facts=Facts()), Deny)
        assert decided({"deny": {}, "who": "anonymous"}) == Allow(relied_on_pass=True)


class TestReliance:
    def test_a_rule_that_looks_at_nobody_relies_on_no_pass(self) -> None:
        assert decided({"match": {"path": "/y"}, **CODE}, {"when": "request.query.a != null", **CODE}) == Allow()

    @pytest.mark.parametrize("when", ['subject.id == "bob"', "pass.age > 9999.0"])
    def test_a_condition_on_the_subject_or_the_pass_does(self, when: str) -> None:
        assert decided({"when": when, **CODE}) == Allow(relied_on_pass=True)
        assert decided({"when": when, "match": {"path": "/y"}, **CODE}) == Allow()

    def test_where_there_is_no_pass_nothing_relies_on_it(self) -> None:
        assert decided({"when": 'subject.id == "bob"', **CODE}, facts=Facts()) == Allow()

    def test_a_refusal_says_so_too(self) -> None:
        decision = decided({"when": 'subject.id == "alice"', "deny": {}})
        assert isinstance(decision, Deny)
        assert decision.relied_on_pass


class TestShadow:
    def test_shadow_rules_are_reported_and_change_nothing(self) -> None:
        shadow = {"mode": "shadow"}
        decision = decided(
            {"deny": {}, **shadow}, {"allow": True, **shadow}, {**HUMAN, **shadow}, {**HUMAN, "match": {"path": "/y"}, **shadow}, CODE
        )
        assert isinstance(decision, StepUp)
        assert asked(decision) == ["code"]
        assert decision.rules == ("r4",)
        assert decision.shadow == (Shadow("r0", "deny"), Shadow("r1", "allow"), Shadow("r2", "require human"))

    def test_an_error_is_reported_as_what_it_would_do(self) -> None:
        assert decided({**CODE, "when": BROKEN, "mode": "shadow"}) == Allow(shadow=(Shadow("r0", "deny"),))

    def test_a_report_may_ask_for_the_body(self) -> None:
        rules = ruleset({**CODE, "when": "request.form.a == null", "mode": "shadow"})
        assert decide(form_post("/x"), AS_ALICE, rules, NOW) == Need(body=True)
        assert decide(form_post("/x"), known(body=Body(form={"a": "1"})), rules, NOW) == Allow()

    def test_no_record_is_fetched_for_a_report(self) -> None:
        assert decided({**CODE, "when": "record.consent == null", "mode": "shadow"}) == Allow()

    def test_a_shadow_rule_makes_no_decision_rely_on_the_pass(self) -> None:
        assert decided({**CODE, "when": 'subject.id == "bob"', "mode": "shadow"}) == Allow()


class TestErrors:
    def test_an_error_denies_unless_the_rule_says_otherwise(self) -> None:
        effects: tuple[dict[str, Any], ...] = (CODE, {"deny": {}}, {"match": {"path": "/x"}, "allow": True})
        for effect in effects:
            decision = decided({**effect, "when": BROKEN})
            assert isinstance(decision, Deny)
            assert decision.status == 403
            assert "division by zero" in decision.private
            assert "zero" not in decision.public

    def test_require_counts_it_as_met(self) -> None:
        assert asked(decided({**CODE, "when": BROKEN, "on_error": "require"})) == ["code"]

    @pytest.mark.parametrize("on_error", ["skip", "allow"])
    def test_skip_and_allow_count_it_as_not_met(self, on_error: str) -> None:
        assert decided({**CODE, "when": BROKEN, "on_error": on_error}) == Allow()
        assert isinstance(decided({"match": {"path": "/x"}, "allow": True, "when": BROKEN, "on_error": on_error}, {"deny": {}}), Deny)

    def test_it_waits_for_the_body_where_the_match_hangs_on_it(self) -> None:
        rules = ruleset({"match": {"method": "DELETE"}, "when": BROKEN, **CODE})
        assert decide(form_post("/x"), AS_ALICE, rules, NOW) == Need(body=True)
        assert decide(form_post("/x"), known(body=Body(form={})), rules, NOW) == Allow()

    def test_it_does_not_matter_once_the_steps_are_proved(self) -> None:
        assert isinstance(decided({**CODE, "when": BROKEN}, facts=known(proofs=proofs(code=1))), Allow)


class TestBodies:
    RULE: ClassVar[dict[str, Any]] = {"match": {"path": "/transfer"}, "when": 'request.form.amount != "1"', **CODE}

    def transfer(self, *rules: dict[str, Any], facts: Facts = AS_ALICE) -> Decision:
        return decide(form_post("/transfer"), facts, ruleset(*rules), NOW)

    def test_it_is_asked_for(self) -> None:
        assert self.transfer(self.RULE) == Need(body=True)

    def test_and_then_decides(self) -> None:
        assert self.transfer(self.RULE, facts=known(body=Body(form={"amount": "1"}))) == Allow()
        assert asked(self.transfer(self.RULE, facts=known(body=Body(form={"amount": "2"})))) == ["code"]

    def test_one_that_cannot_be_had_counts_as_met_to_protect(self) -> None:
        gone = known(body=BodyUnavailable("larger than 64 KiB"))
        assert asked(self.transfer(self.RULE, facts=gone)) == ["code"]
        assert isinstance(self.transfer({**self.RULE, "require": None, "deny": {}}, facts=gone), Deny)
        assert isinstance(self.transfer({**self.RULE, "require": None, "allow": True}, {"deny": {}}, facts=gone), Deny)

    def test_it_is_not_asked_for_where_the_match_misses(self) -> None:
        assert decide(form_post("/other"), known(), ruleset(self.RULE), NOW) == Allow()

    def test_nor_where_the_steps_are_proved(self) -> None:
        assert isinstance(self.transfer(self.RULE, facts=known(proofs=proofs(code=5))), Allow)

    def test_nor_where_a_later_rule_denies_anyway(self) -> None:
        assert isinstance(self.transfer(self.RULE, {"match": {"method": "POST"}, "deny": {}}), Deny)

    def test_but_where_a_deny_or_allow_hangs_on_it(self) -> None:
        assert self.transfer({**self.RULE, "require": None, "allow": True}, {"deny": {}}) == Need(body=True)
        assert self.transfer({**self.RULE, "require": None, "deny": {}}, CODE) == Need(body=True)

    def test_nor_for_a_step_that_is_not_asked_at_the_login(self) -> None:
        assert decide(form_post("/login"), Facts(), ruleset({**CODE, "when": "request.form.a == null"}), NOW) == Allow()

    def test_everything_that_is_missing_is_asked_for_at_once(self) -> None:
        decision = self.transfer(self.RULE, {"when": "record.consent == null", **HUMAN})
        assert decision == Need(body=True, records=frozenset({"consent"}))


class TestPreflights:
    HEADERS = (("Origin", "https://shop.example.com"), ("Access-Control-Request-Method", "POST"))

    def test_true_ones_pass_unasked(self) -> None:
        assert decide(request("/x", "OPTIONS", self.HEADERS), Facts(), ruleset(CODE), NOW) == Allow()

    def test_deny_holds_for_them(self) -> None:
        assert isinstance(decide(request("/x", "OPTIONS", self.HEADERS), Facts(), ruleset(CODE, {"deny": {}}), NOW), Deny)

    def test_others_are_asked(self) -> None:
        with_body = (*self.HEADERS, ("Content-Length", "5"))
        for head in (request("/x", "OPTIONS"), request("/x", "OPTIONS", with_body), request("/x", "POST", self.HEADERS)):
            assert isinstance(decide(head, Facts(body=Body()), ruleset(CODE), NOW), StepUp)


def test_routes_choose_the_upstream() -> None:
    rules = ruleset(
        routes=[{"host": "*.example.com", "path": "/v2/**", "upstream": "shop"}, {"upstream": "bank"}],
        upstreams={"bank": True, "shop": False},
    )
    chosen = {target: route(request(target), rules) for target in ("/v2/x", "/x")}
    assert {target: found and found.upstream for target, found in chosen.items()} == {"/v2/x": "shop", "/x": "bank"}


def test_the_rules_of_the_contract_decide_as_it_says() -> None:
    rules = ruleset(
        {"name": "login-needs-human", "match": {"path": "/login", "method": "POST"}, "require": ["human"], "max_age": "once"},
        {
            "name": "transfer-needs-code",
            "match": {"path": "/transfer/**", "method": "POST"},
            "when": "request.form.amount == null || double(request.form.amount) > 100.0",
            "require": ["code"],
            "max_age": "5m",
        },
        {
            "name": "expired",
            "match": {"upstream": "bank", "path": "/**"},
            "except": {"path": ["/logout", "/static/**"]},
            "when": "subject.claims.password_expired == true",
            "require": ["terms"],
        },
        {
            "name": "office-only",
            "match": {"path": "/admin/**"},
            "when": '!request.ip.in_network("10.0.0.0/8")',
            "deny": {},
            "mode": "shadow",
        },
    )
    bob = Facts(subject=Subject("bob", {"password_expired": None}))
    assert asked(decide(form_post("/login"), Facts(body=Body(form={})), rules, NOW)) == ["human"]
    assert isinstance(decide(request("/login"), Facts(), rules, NOW), Allow)
    transfer = Facts(subject=bob.subject, body=Body(form={"amount": "100.5"}))
    assert asked(decide(form_post("/transfer"), transfer, rules, NOW)) == ["code"]
    assert asked(decide(request("/account"), known(), rules, NOW)) == ["terms"]
    assert isinstance(decide(request("/logout"), known(), rules, NOW), Allow)
    decision = decide(request("/admin"), bob, rules, NOW)
    assert isinstance(decision, Allow)
    assert decision.shadow == (Shadow("office-only", "deny"),)


class TestEditions:
    """A proof is of what was asked then. Where something else is asked now, it counts no more."""

    TERMS = StepInfo("terms", "consent", needs_subject=True, edition="new")

    def decision(self, proof: Proof, *, granted: bool = False) -> Decision:
        rules = ruleset({"require": ["terms"]})
        rules = replace(rules, steps={**rules.steps, "terms": self.TERMS})
        held = {"terms": proof}
        facts = Facts(subject=Subject("alice"), granted=held) if granted else Facts(subject=Subject("alice"), proofs=held)
        return decide(request("/x"), facts, rules, NOW)

    def test_a_proof_of_another_edition_does_not_count(self) -> None:
        assert isinstance(self.decision(Proof("terms", NOW - 1, (), "new")), Allow)
        assert isinstance(self.decision(Proof("terms", NOW - 1, (), "old")), StepUp)
        assert isinstance(self.decision(Proof("terms", NOW - 1)), StepUp)

    def test_but_what_was_proved_for_this_very_request_does(self) -> None:
        assert isinstance(self.decision(Proof("terms", NOW - 1, (), "old"), granted=True), Allow)


class TestRecordsAway:
    def decision(self, **rule: Any) -> Decision:
        facts = Facts(subject=Subject("alice"), records={"consent": RecordUnavailable("down")})
        return decide(request("/x"), facts, ruleset({"when": "record.consent == null", **rule}), NOW)

    def test_on_error_says_what_a_store_that_is_away_means(self) -> None:
        refused = self.decision(require=["human"])
        assert isinstance(refused, Deny)
        assert refused.away
        assert refused.relied_on_pass
        assert isinstance(self.decision(require=["human"], on_error="require"), StepUp)
        assert isinstance(self.decision(require=["human"], on_error="skip"), Allow)
        assert isinstance(self.decision(require=["human"], on_error="allow"), Allow)

    def test_another_error_is_not_for_want_of_a_store(self) -> None:
        refused = decide(request("/x"), Facts(), ruleset({"when": "1 / 0 == 1", "require": ["human"]}), NOW)
        assert isinstance(refused, Deny)
        assert not refused.away
