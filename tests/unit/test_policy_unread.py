"""A request of which only the path is known: what it could be counts against it."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.policy.decide import decide
from gateway.policy.decision import Allow, Decision, Deny, StepUp
from gateway.policy.facts import Body, Facts
from gateway.policy.unread import decide_unread, rules_of_path
from gateway.wire.subject import Proof, Subject
from tests.support.policy import request, ruleset

ROUTES = [{"upstream": "bank"}]
NOW = 1000.0


def come_to(*rules: dict[str, Any], facts: Facts | None = None, path: str = "/auth", ip: str = "192.0.2.7") -> Decision:
    compiled = ruleset(*rules, routes=ROUTES)
    head = request(path, ip=ip)
    return decide_unread(rules_of_path(compiled, "bank", path), "bank", head, facts or Facts(), compiled, NOW)


@pytest.mark.parametrize(
    "narrow",
    [
        {"match": {"path": "/auth", "query": {"client_id": "pay"}}},
        {"match": {"path": "/auth", "header": {"X-A": "b"}}},
        {"match": {"path": "/auth", "cookie": {"a": "b"}}},
        {"match": {"path": "/auth", "method": "POST"}},
        {"match": {"path": "/auth", "host": "other.example.com"}},
        {"match": {"path": "/auth", "content_type": "application/json"}},
        {"match": {"path": "/auth"}, "except": {"query": {"client_id": "*"}}},
        {"match": {"path": "/auth"}, "when": 'request.query.scope == "pay"'},
        {"match": {"path": "/auth"}, "when": 'request.method == "POST"'},
        {"match": {"path": "/auth"}, "when": "request.form.a == 'b'"},
        {"match": {"path": "/**"}},
    ],
)
def test_what_could_be_is_asked_and_denied(narrow: dict[str, Any]) -> None:
    asked = come_to({**narrow, "require": "human"})
    assert isinstance(asked, StepUp)
    assert [each.step for each in asked.asked] == ["human"]
    assert isinstance(come_to({**narrow, "deny": {}}), Deny)


@pytest.mark.parametrize(
    "silent",
    [
        {"match": {"path": "/other"}},
        {"match": {"path": "/auth", "network": "10.0.0.0/8"}},
        {"match": {"path": "/auth"}, "except": {"network": "192.0.2.0/24", "query": {"a": "b"}}},
        {"match": {"path": "/auth"}, "except": {"path": "/auth"}},
        {"match": {"path": "/auth"}, "when": 'subject.id == "bob"'},
        {"match": {"path": "/auth"}, "who": "authenticated"},
        {"match": {"path": "/auth"}, "enabled": False},
        {"match": {"path": "/auth"}, "mode": "shadow"},
    ],
)
def test_what_is_known_still_excuses(silent: dict[str, Any]) -> None:
    assert isinstance(come_to({**silent, "require": "human"}), Allow)


def test_an_allow_counts_only_where_nothing_is_unknown() -> None:
    ask = {"match": {"path": "/auth"}, "require": "human"}
    assert isinstance(come_to({"match": {"path": "/auth", "query": {"a": "b"}}, "allow": True}, ask), StepUp)
    assert isinstance(come_to({"match": {"path": "/auth", "method": "GET"}, "allow": True}, ask), StepUp)
    assert isinstance(come_to({"match": {"path": "/auth", "network": "192.0.2.0/24"}, "allow": True}, ask), Allow)


def test_proofs_count_as_they_do_elsewhere() -> None:
    rule = {"match": {"path": "/auth", "query": {"a": "b"}}, "require": "human", "max_age": "5m"}
    fresh, stale = ({"human": Proof("human", NOW - age)} for age in (10, 400))
    assert isinstance(come_to(rule, facts=Facts(proofs=fresh)), Allow)
    assert isinstance(come_to(rule, facts=Facts(proofs=stale)), StepUp)


def test_it_is_never_less_than_the_decision_on_the_whole_request() -> None:
    rules = [
        {"match": {"path": "/auth", "query": {"client_id": "pay*"}}, "require": "human"},
        {"match": {"path": "/auth", "method": "GET"}, "when": "subject.claims.password_expired == true", "require": "code"},
    ]
    compiled = ruleset(*rules, routes=ROUTES)
    facts = Facts(subject=Subject("bob", {"password_expired": True}, "login_form"), body=Body())
    for target in ("/auth?client_id=pay1", "/auth?client_id=x", "/auth"):
        whole = decide(request(target), facts, compiled, NOW)
        unread = decide_unread(rules_of_path(compiled, "bank", "/auth"), "bank", request(target), facts, compiled, NOW)
        if isinstance(whole, StepUp):
            assert isinstance(unread, StepUp)
            assert {a.step for a in whole.asked} <= {a.step for a in unread.asked}
