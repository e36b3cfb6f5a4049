"""Whether one rule matches: asked through decide(), as everything else asks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from gateway.policy.decide import decide
from gateway.policy.decision import Allow, Deny, Need
from gateway.policy.facts import Body, BodyUnavailable, Facts
from gateway.wire.head import RequestHead
from tests.support.policy import NOTHING_KNOWN, NOW, form_post, request, ruleset


def denied(match: Mapping[str, Any], head: RequestHead, facts: Facts = NOTHING_KNOWN, *, folds: bool = True, **rule: Any) -> bool:
    decision = decide(head, facts, ruleset({"match": match, "deny": {}, **rule}, upstreams={"bank": folds}), NOW)
    assert isinstance(decision, Allow | Deny)
    return isinstance(decision, Deny)


def allowed(match: Mapping[str, Any], head: RequestHead, facts: Facts = NOTHING_KNOWN) -> bool:
    """An `allow` in front of a `deny` for everything."""
    decision = decide(head, facts, ruleset({"match": match, "allow": True}, {"deny": {}}), NOW)
    assert isinstance(decision, Allow | Deny)
    return isinstance(decision, Allow)


@pytest.mark.parametrize(
    "target", ["/admin/x", "/%61dmin/x", "/public/../admin/x", "//admin/x", "/admin;a=b/x", "/%2561dmin/x", "/public/..%2fadmin/x"]
)
def test_deny_matches_if_any_reading_does(target: str) -> None:
    assert denied({"path": "/admin/**"}, request(target))


@pytest.mark.parametrize("target", ["/public/..%2fadmin", "/public/%2e%2e/admin", "/public/..;/admin"])
def test_allow_matches_only_if_all_readings_do(target: str) -> None:
    assert allowed({"path": "/public/**"}, request("/public/x"))
    assert not allowed({"path": "/public/**"}, request(target))


def test_except_excuses_only_if_all_readings_do() -> None:
    rule: dict[str, Any] = {"except": {"path": ["/static/**", "/logout"]}}
    assert not denied({}, request("/static/app.js"), **rule)
    assert not denied({}, request("/logout"), **rule)
    assert denied({}, request("/static/..%2faccount"), **rule)


def test_any_key_of_an_except_excuses() -> None:
    rule: dict[str, Any] = {"except": {"path": "/health", "network": "10.0.0.0/8"}}
    assert not denied({}, request("/health"), **rule)
    assert not denied({}, request("/x", ip="10.2.3.4"), **rule)
    assert denied({}, request("/x"), **rule)


def test_all_keys_of_a_match_must_hold() -> None:
    match = {"path": "/x", "method": "POST"}
    assert denied(match, request("/x", "POST"))
    assert not denied(match, request("/x", "PUT"))
    assert not denied(match, request("/y", "POST"))


def test_case_is_ignored_where_the_upstream_ignores_it_and_only_to_protect() -> None:
    assert denied({"path": "/admin/**"}, request("/ADMIN/x"))
    assert not denied({"path": "/admin/**"}, request("/ADMIN/x"), folds=False)
    assert denied({"query": {"action": "delete"}}, request("/x?Action=DELETE"))
    assert not denied({"query": {"action": "delete"}}, request("/x?Action=DELETE"), folds=False)
    assert not allowed({"path": "/public/**"}, request("/PUBLIC/x"))


def test_a_rule_for_get_covers_head() -> None:
    assert denied({"method": "GET"}, request("/x", "HEAD"))
    assert allowed({"method": "get"}, request("/x", "HEAD"))
    assert not denied({"method": "POST"}, request("/x", "HEAD"))


def test_an_override_header_counts_as_the_method() -> None:
    override = request("/x", "POST", [("X-HTTP-Method-Override", "DELETE")])
    assert denied({"method": "DELETE"}, override)
    assert denied({"method": "POST"}, override)
    assert not allowed({"method": "POST"}, override)
    assert allowed({"method": ["POST", "DELETE"]}, override)


class TestOverrideFieldsOfForms:
    RULES = ruleset({"match": {"path": "/x", "method": "DELETE"}, "deny": {}})

    def test_the_body_is_asked_for(self) -> None:
        assert decide(form_post("/x"), Facts(), self.RULES, NOW) == Need(body=True)

    def test_and_not_where_the_path_misses_or_no_form_is_sent(self) -> None:
        assert isinstance(decide(form_post("/y"), Facts(), self.RULES, NOW), Allow)
        assert isinstance(decide(request("/x"), Facts(), self.RULES, NOW), Allow)
        script = request("/x", "POST", [("Content-Type", "application/json"), ("Content-Length", "2")])
        assert isinstance(decide(script, Facts(), self.RULES, NOW), Allow)

    def test_the_field_counts_as_the_method(self) -> None:
        assert isinstance(decide(form_post("/x"), Facts(body=Body(form={}, override="DELETE")), self.RULES, NOW), Deny)
        assert isinstance(decide(form_post("/x"), Facts(body=Body(form={})), self.RULES, NOW), Allow)

    def test_a_body_that_cannot_be_read_may_hide_any_method(self) -> None:
        hidden = Facts(body=BodyUnavailable("too large"))
        assert isinstance(decide(form_post("/x"), hidden, self.RULES, NOW), Deny)
        assert not allowed({"method": "POST"}, form_post("/x"), hidden)
        excused: dict[str, Any] = {"except": {"method": "POST"}}
        assert denied({}, form_post("/x"), hidden, **excused)

    def test_an_allow_for_post_wants_to_see_the_form_first(self) -> None:
        rules = ruleset({"match": {"method": "POST"}, "allow": True}, {"deny": {}})
        assert decide(form_post("/x"), Facts(), rules, NOW) == Need(body=True)
        assert isinstance(decide(form_post("/x"), Facts(body=Body(form={})), rules, NOW), Allow)
        assert isinstance(decide(form_post("/x"), Facts(body=Body(form={}, override="PUT")), rules, NOW), Deny)

    def test_an_except_for_post_wants_to_see_the_form_first(self) -> None:
        rules = ruleset({"except": {"method": "POST"}, "deny": {}})
        assert decide(form_post("/x"), Facts(), rules, NOW) == Need(body=True)
        assert isinstance(decide(form_post("/x"), Facts(body=Body(form={})), rules, NOW), Allow)
        assert isinstance(decide(form_post("/x"), Facts(body=Body(form={}, override="PUT")), rules, NOW), Deny)


def test_hosts() -> None:
    assert denied({"host": "*.example.com"}, request("/x"))
    assert not denied({"host": ["example.com", "*.example.org"]}, request("/x"))


@pytest.mark.parametrize(
    ("ip", "network", "inside"),
    [
        ("10.1.2.3", "10.0.0.0/8", True),
        ("11.1.2.3", "10.0.0.0/8", False),
        ("::ffff:10.1.2.3", "10.0.0.0/8", True),
        ("10.1.2.3", "::ffff:10.0.0.0/104", True),
        ("fd00::1", "fd00::/8", True),
        ("fd00::1", "10.0.0.0/8", False),
        ("10.1.2.3", "::/0", False),
        ("192.0.2.7", "192.0.2.7", True),
        ("unknown", "0.0.0.0/0", False),
    ],
)
def test_networks(ip: str, network: str, inside: bool) -> None:
    assert denied({"network": network}, request("/x", ip=ip)) is inside


def test_a_header_matches_by_name_without_case() -> None:
    assert denied({"header": {"x-app": "mobile*"}}, request("/x", headers=[("X-App", "mobile/2")]))
    assert not denied({"header": {"x-app": "mobile*"}}, request("/x", headers=[("X-App", "web")]))
    assert not denied({"header": {"x-app": "mobile*"}}, request("/x"))


def test_null_is_absent_and_may_stand_beside_globs() -> None:
    match = {"header": {"x-app": [None, "old"]}}
    assert denied(match, request("/x"))
    assert denied(match, request("/x", headers=[("X-App", "old")]))
    assert not denied(match, request("/x", headers=[("X-App", "new")]))
    assert denied({"cookie": {"session": None}}, request("/x"))
    assert not denied({"cookie": {"session": None}}, request("/x", headers=[("Cookie", "session=1")]))


@pytest.mark.parametrize("kind", ["header", "query", "cookie"])
def test_of_duplicates_one_is_enough_to_protect_and_all_must_hold_to_allow(kind: str) -> None:
    headers = {"header": [("a", "1"), ("a", "2")], "cookie": [("Cookie", "a=1; a=2")], "query": []}[kind]
    head = request("/x?a=1&a=2" if kind == "query" else "/x", headers=headers)
    assert denied({kind: {"a": "2"}}, head)
    assert not allowed({kind: {"a": "2"}}, head)
    assert allowed({kind: {"a": ["1", "2"]}}, head)


def test_a_header_written_with_an_underscore_is_read_in_both_ways() -> None:
    head = request("/x", headers=[("X_Role", "admin")])
    assert denied({"header": {"x-role": "admin"}}, head)
    assert denied({"header": {"x-role": None}}, head)
    assert not allowed({"header": {"x-role": "admin"}}, head)
    assert not allowed({"header": {"x-role": None}}, head)


def test_every_name_of_a_map_must_hold() -> None:
    match = {"query": {"a": "1", "b": "2"}}
    assert denied(match, request("/x?a=1&b=2"))
    assert not denied(match, request("/x?a=1"))


def test_content_types_are_compared_without_parameters_and_case() -> None:
    head = request("/x", "PUT", [("Content-Type", "Application/JSON; charset=utf-8")])
    assert denied({"content_type": "application/*"}, head)
    assert not denied({"content_type": "text/*"}, head)
    assert not denied({"content_type": "*"}, request("/x"))
    assert not allowed({"content_type": "*"}, request("/x"))


def test_upstreams() -> None:
    rules = ruleset(
        {"match": {"upstream": "shop"}, "deny": {}},
        routes=[{"host": "shop.example.com", "upstream": "shop"}, {"upstream": "bank"}],
        upstreams={"bank": True, "shop": True},
    )
    assert isinstance(decide(request("/x", host="shop.example.com"), Facts(), rules, NOW), Deny)
    assert isinstance(decide(request("/x"), Facts(), rules, NOW), Allow)


def test_a_route_needs_all_readings() -> None:
    rules = ruleset(
        {"match": {"upstream": "shop"}, "deny": {}},
        routes=[{"path": "/shop/**", "upstream": "shop"}, {"upstream": "bank"}],
        upstreams={"bank": True, "shop": True},
    )
    assert isinstance(decide(request("/shop/x"), Facts(), rules, NOW), Deny)
    assert isinstance(decide(request("/shop/..%2fbank"), Facts(), rules, NOW), Allow)


def test_no_route_is_a_404() -> None:
    decision = decide(request("/x"), Facts(), ruleset(routes=[{"host": "other.example.com", "upstream": "bank"}]), NOW)
    assert isinstance(decision, Deny)
    assert decision.status == 404
