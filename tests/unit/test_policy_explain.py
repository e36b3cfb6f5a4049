from __future__ import annotations

from typing import Any

import pytest

from gateway.policy.decide import decide
from gateway.policy.explain import explain
from gateway.policy.facts import Facts
from gateway.wire.head import RequestHead
from gateway.wire.subject import Proof, Subject
from tests.support.policy import NOW, form_post, request, ruleset

ALICE = Facts(subject=Subject("alice"), proofs={"code": Proof("code", NOW - 120)})
CODE = {"require": ["code"]}


@pytest.mark.parametrize(
    ("rule", "head", "verdict", "why"),
    [
        ({"match": {"path": "/transfer/**"}, **CODE}, request("/x"), "miss", "path /x is not under /transfer/**"),
        ({"match": {"path": ["/a", "/b"]}, **CODE}, request("/x"), "miss", "path /x matches none of /a, /b"),
        (
            {"match": {"path": "/p/**"}, "allow": True},
            request("/p/..%2fadmin"),
            "miss",
            "path /p/..%2fadmin is also read as /admin, which is not under /p/**",
        ),
        ({"match": {"method": "POST"}, **CODE}, request("/x"), "miss", "method GET is not POST"),
        ({"match": {"host": "*.example.org"}, **CODE}, request("/x"), "miss", "host bank.example.com does not match *.example.org"),
        ({"match": {"network": "10.0.0.0/8"}, **CODE}, request("/x"), "miss", "address 192.0.2.7 is not in 10.0.0.0/8"),
        ({"match": {"header": {"x-a": "1"}}, **CODE}, request("/x"), "miss", "header x-a does not match"),
        ({"match": {"content_type": "text/*"}, **CODE}, request("/x"), "miss", "content type (none) does not match text/*"),
        (
            {"match": {"method": "POST", "upstream": "bank", "path": "re:/y.*"}, **CODE},
            request("/x"),
            "miss",
            "path /x does not match re:/y.*",
        ),
        ({"match": {"query": {"a": "1", "b": "2"}}, **CODE}, request("/x"), "miss", "query a and b do not match"),
        ({"except": {"host": "*.example.com"}, **CODE}, request("/x"), "miss", "excused by except: host bank.example.com"),
        ({"except": {"method": "GET"}, **CODE}, request("/x"), "miss", "excused by except: method GET"),
        ({"except": {"upstream": "bank"}, **CODE}, request("/x"), "miss", "excused by except: upstream bank"),
        ({"except": {"network": "192.0.2.0/24"}, **CODE}, request("/x"), "miss", "excused by except: address 192.0.2.7"),
        ({"match": {"path": "/x"}, "allow": True}, request("/x"), "hit", "allows, and ends the run"),
        ({"except": {"path": "/x"}, **CODE}, request("/x"), "miss", "excused by except: path /x"),
        ({"except": {"cookie": {"a": None}}, **CODE}, request("/x"), "miss", "excused by except: cookie a"),
        ({"who": "anonymous", **CODE}, request("/x"), "miss", "only for anonymous requests; this one is from alice"),
        ({"when": "request.path == '/y'", **CODE}, request("/x"), "miss", "when is false"),
        ({"enabled": False, **CODE}, request("/x"), "miss", "disabled"),
        ({"when": "1/0 == 1", "on_error": "skip", **CODE}, request("/x"), "miss", "on_error is skip"),
        ({"when": "1/0 == 1", "require": ["human"]}, request("/x"), "hit", "on_error is deny: refused"),
        ({"when": "request.form.a == null", "require": ["human"]}, form_post("/x"), "unknown", "needs the body"),
        ({"when": "record.consent == null", "require": ["human"]}, request("/x"), "unknown", "needs the record consent"),
        ({"mode": "shadow", "deny": {}}, request("/x"), "hit", "shadow, would deny: denies with 403"),
        ({"require": ["human", "code"]}, request("/x"), "hit", "asks for human, code proved 2m ago"),
    ],
)
def test_why_in_words(rule: dict[str, Any], head: RequestHead, verdict: str, why: str) -> None:
    rules = ruleset(rule)
    [line] = explain(head, ALICE, rules, NOW).rules
    assert line.verdict == verdict
    assert why in line.why


def test_why_a_preflight_and_a_login_are_not_asked() -> None:
    preflight = request("/x", "OPTIONS", [("Origin", "https://a.example"), ("Access-Control-Request-Method", "PUT")])
    assert explain(preflight, ALICE, ruleset(CODE), NOW).rules[0].why == "a preflight passes unasked"
    assert (
        explain(request("/login"), Facts(), ruleset(CODE), NOW).rules[0].why
        == "its steps need a subject, and this is where one logs in or out"
    )


def test_another_upstream_is_named() -> None:
    rules = ruleset({"match": {"upstream": "shop"}, **CODE}, routes=[{"upstream": "bank"}], upstreams={"bank": True, "shop": True})
    assert explain(request("/x"), ALICE, rules, NOW).rules[0].why == "upstream bank is not shop"


def test_rules_behind_the_end_are_explained_as_not_reached() -> None:
    rules = ruleset({"match": {"path": "/x"}, "allow": True}, CODE)
    found = explain(request("/x"), Facts(), rules, NOW)
    assert [line.reached for line in found.rules] == [True, False]
    assert found.rules[1].why.startswith("not reached, the run ended at r0")


def test_the_decision_is_that_of_decide() -> None:
    rules = ruleset(CODE, {"match": {"path": "/a"}, "deny": {}})
    for target in ("/x", "/a"):
        assert explain(request(target), Facts(), rules, NOW).decision == decide(request(target), Facts(), rules, NOW)


def test_without_a_route_no_rule_is_reached() -> None:
    found = explain(request("/x"), Facts(), ruleset(CODE, routes=[{"path": "/y", "upstream": "bank"}]), NOW)
    assert found.upstream is None
    assert [line.reached for line in found.rules] == [False]
