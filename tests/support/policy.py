"""Requests and rulesets in a line, for tests of policy: rules are written as in gateway.yaml, as mappings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gateway.policy.compile import Problem, compile_rules
from gateway.policy.facts import Facts
from gateway.policy.model import LoginPaths, Ruleset, StepInfo
from gateway.spec.rules import RouteSpec, RuleSpec
from gateway.wire.head import RequestHead
from gateway.wire.target import parse_target

NOTHING_KNOWN = Facts()
NOW = 1_800_000_000.0
STEPS: Mapping[str, StepInfo] = {
    "human": StepInfo("human", "captcha", needs_subject=False),
    "code": StepInfo("code", "otp", needs_subject=True),
    "terms": StepInfo("terms", "consent", needs_subject=True),
}
CLAIMS = frozenset({"password_expired", "department"})
LOGINS = (LoginPaths("bank", frozenset({"/login", "/logout"})),)


def request(
    target: str = "/",
    method: str = "GET",
    headers: Sequence[tuple[str, str]] = (),
    *,
    host: str = "bank.example.com",
    ip: str = "192.0.2.7",
) -> RequestHead:
    raw = tuple((name.encode("latin-1"), value.encode("latin-1")) for name, value in (("Host", host), *headers))
    return RequestHead(method, parse_target(target.encode("latin-1")), raw, "https", host, f"https://{host}", ip, "127.0.0.1")


def form_post(target: str, length: int = 9, headers: Sequence[tuple[str, str]] = ()) -> RequestHead:
    kind = (("Content-Type", "application/x-www-form-urlencoded"), ("Content-Length", str(length)))
    return request(target, "POST", (*kind, *headers))


def compiled(
    rules: Sequence[Mapping[str, Any]], routes: Sequence[Mapping[str, Any]] = (), upstreams: Mapping[str, bool] | None = None
) -> Ruleset | tuple[Problem, ...]:
    specs = [RuleSpec.model_validate({"name": f"r{position}", **rule}) for position, rule in enumerate(rules)]
    return compile_rules(
        specs,
        [RouteSpec.model_validate(each) for each in routes],
        upstreams={"bank": True} if upstreams is None else upstreams,
        steps=STEPS,
        logins=LOGINS,
        claims=CLAIMS,
        records={"consent": None},
    )


def ruleset(*rules: Mapping[str, Any], routes: Sequence[Mapping[str, Any]] = (), upstreams: Mapping[str, bool] | None = None) -> Ruleset:
    """Rules without a name are r0, r1, …"""
    found = compiled(rules, routes, upstreams)
    assert isinstance(found, Ruleset), found
    return found


def problems(
    *rules: Mapping[str, Any], routes: Sequence[Mapping[str, Any]] = (), upstreams: Mapping[str, bool] | None = None
) -> tuple[Problem, ...]:
    found = compiled(rules, routes, upstreams)
    assert not isinstance(found, Ruleset)
    return found
