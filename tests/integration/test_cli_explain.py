"""`gateway explain` says what the running gateway does: the same requests are put to both, and their decisions compared."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from click.testing import CliRunner
from structlog.testing import capture_logs

from gateway.cli.main import main
from tests.support.gateway import NAVIGATION, Clock, Running, running

SETTINGS: dict[str, Any] = {
    "trusted_proxies": ["127.0.0.1"],
    "identity": [{"from": "header", "name": "X-User", "claims": {"dept": "X-Dept"}}],
    "steps": {
        "human": {"kind": "captcha", "provider": "altcha", "cost": 100, "max_number": 50},
        "code": {"kind": "otp", "methods": ["totp"]},
    },
    "rules": [
        {"name": "desk", "match": {"path": "/desk/**"}, "require": "human", "max_age": "3m"},
        {"name": "fresh", "match": {"path": "/fresh/**"}, "require": "human", "max_age": "1m"},
        {"name": "once", "match": {"path": "/once"}, "require": "human", "max_age": "once"},
        {"name": "pay", "match": {"path": "/pay", "method": "POST"}, "when": "double(request.form.amount) > 100.0", "require": "code"},
        {"name": "api", "match": {"path": "/api/**", "method": "PUT"}, "when": 'request.json.kind == "risky"', "deny": {"status": 451}},
        {"name": "office", "match": {"path": "/admin/**"}, "when": '!request.ip.in_network("10.0.0.0/8")', "deny": {}},
        {
            "name": "finance",
            "match": {"path": "/books"},
            "except": {"cookie": {"lang": "la"}},
            "when": 'subject.claims.dept != "fin"',
            "deny": {},
        },
        {"name": "source", "match": {"path": "/source"}, "when": 'subject.source == "header" && pass.age > 60.0', "deny": {}},
        {"name": "guests", "match": {"path": "/guests"}, "who": "anonymous", "deny": {}},
        {"name": "help", "match": {"path": "/help/**"}, "allow": True},
        {"name": "hidden", "match": {"path": "/help/secret"}, "deny": {}},
        {"name": "odd", "match": {"path": "/odd"}, "when": "1 / int(request.query.n) > 0", "deny": {}},
        {"name": "trial", "match": {"path": "/**"}, "require": "code", "mode": "shadow"},
    ],
}

ALICE = {"X-User": "alice"}
FORM = {"Content-Type": "application/x-www-form-urlencoded"}
JSON = {"Content-Type": "application/json"}

# method, target, headers, body
REQUESTS: list[tuple[str, str, dict[str, str], str | None]] = [
    ("GET", "/", {}, None),
    ("GET", "/desk/1", {}, None),
    ("GET", "/desk/1", ALICE, None),
    ("GET", "/%64esk/1", ALICE, None),
    ("GET", "/x/%2e%2e/fresh", ALICE, None),
    ("GET", "/x/%252e%252e/fresh", ALICE, None),
    ("GET", "//fresh//a", ALICE, None),
    ("GET", "/FRESH/a", ALICE, None),
    ("HEAD", "/fresh/a", ALICE, None),
    ("OPTIONS", "/fresh/a", {**ALICE, "Origin": "https://other.example", "Access-Control-Request-Method": "GET"}, None),
    ("OPTIONS", "/admin", {"Origin": "https://other.example", "Access-Control-Request-Method": "GET"}, None),
    ("GET", "/fresh/a", {"X-User": "mallory"}, None),
    ("GET", "/once", ALICE, None),
    ("GET", "/pay", ALICE, None),
    ("POST", "/pay", {**ALICE, **FORM}, "amount=99"),
    ("POST", "/pay", {**ALICE, **FORM}, "amount=101"),
    ("POST", "/pay", {**ALICE, **FORM}, "amount=1&amount=500"),
    ("POST", "/pay", {**ALICE, **FORM}, "amount=much"),
    ("POST", "/pay", {**ALICE, **FORM}, ""),
    ("POST", "/pay", FORM, "amount=101"),
    ("POST", "/pay", {**ALICE, **JSON}, '{"amount": 101}'),
    ("POST", "/other", {**ALICE, **FORM, "X-HTTP-Method-Override": "PUT"}, "a=b"),
    ("POST", "/api/1", {**JSON, "X-HTTP-Method-Override": "PUT"}, '{"kind": "risky"}'),
    ("PUT", "/api/1", JSON, '{"kind": "risky"}'),
    ("PUT", "/api/1", JSON, '{"kind": "plain"}'),
    ("PUT", "/api/1", JSON, '{"kind": '),
    ("PUT", "/api/1", {"Content-Type": "text/plain"}, '{"kind": "risky"}'),
    ("GET", "/admin", {}, None),
    ("GET", "/admin", {"X-Forwarded-For": "10.9.8.7"}, None),
    ("GET", "/admin", {"X-Forwarded-For": "192.0.2.1"}, None),
    ("GET", "/books", {**ALICE, "X-Dept": "fin"}, None),
    ("GET", "/books", {**ALICE, "X-Dept": "law"}, None),
    ("GET", "/books", ALICE, None),
    ("GET", "/books", {}, None),
    ("GET", "/books", {"Cookie": "lang=la"}, None),
    ("GET", "/source", ALICE, None),
    ("GET", "/source", {}, None),
    ("GET", "/guests", {}, None),
    ("GET", "/guests", ALICE, None),
    ("GET", "/help/secret", {}, None),
    ("GET", "/help/%2e%2e/help/secret", {}, None),
    ("GET", "/odd?n=1", {}, None),
    ("GET", "/odd?n=0", {}, None),
    ("GET", "/odd", {}, None),
    ("PROPFIND", "/desk/", {}, None),
]


def explained(there: Running, now: float, passed: str | None, method: str, target: str, headers: dict[str, str], body: str | None) -> Any:
    """The decision as `gateway explain` has it: kind, rules, steps."""
    arguments = ["explain", "-c", str(there.config), "--json", "--at", datetime.fromtimestamp(now, UTC).isoformat()]
    names = {"X-User": "--user", "X-Forwarded-For": "--ip"}
    for name, value in headers.items():
        if name in names:
            arguments += [names[name], value]
        elif name == "X-Dept":
            arguments += ["--claim", f"dept={value}"]
        else:
            arguments += ["--header", f"{name}: {value}"]
    if passed is not None and headers.get("X-User") == "alice":
        arguments += ["--passed", passed]
    if body is not None:
        arguments += ["--data", body]
    result = CliRunner().invoke(main, [*arguments, method, target])
    assert result.exit_code == 0, result.output
    decision = json.loads(result.stdout)["decision"]
    return _comparable(
        decision["decision"],
        decision["rules"] if "rules" in decision else [decision["rule"]],
        [asked["step"] for asked in decision.get("asked", ())],
        login=decision.get("login", False),
    )


def _comparable(kind: str, rules: list[str], steps: list[str], *, login: bool) -> tuple[str, list[str], list[str]]:
    return kind, rules, ["(login first)"] if login else steps


async def decided(there: Running, browser: Any, method: str, target: str, headers: dict[str, str], body: str | None) -> Any:
    """The decision as the gateway's own log has it. Its answer must be of the same kind."""
    with capture_logs() as lines:
        answer = await browser.request(method, target, headers=headers, data=body)
    (line,) = [line for line in lines if line["event"] == "decision"]
    rules = [] if line["rules"] == "-" else line["rules"].split(",")
    asked = line["reason"].split(",") if line["decision"] == "step-up" else []
    login = asked == ["login first"]
    if line["decision"] == "deny":
        assert answer.status in (403, 451)
    if line["decision"] == "step-up":
        # 303 to the step, 401 to a HEAD, 403 where nobody is known and there is no login to go to
        assert answer.status in (303, 401, 403)
    return _comparable(line["decision"], rules, asked, login=login)


async def test_explain_agrees_with_the_proxy_request_by_request(tmp_path: Path) -> None:
    clock = Clock(1_800_000_000.0)
    async with running(tmp_path, clock=clock, **SETTINGS) as there:
        browser = there.browser()
        browser.headers = NAVIGATION
        for passed in (None, "human=2m"):
            if passed is not None:
                alice = there.browser()
                alice.headers = {**NAVIGATION, **ALICE}
                asked = await alice.get("/desk/open")
                assert asked.status == 303
                await there.pass_captcha(alice, asked.location)
                await there.advance(120)
            seen = set()
            for request in REQUESTS:
                headers = request[2]
                one = alice if passed is not None and headers.get("X-User") == "alice" else there.browser()
                found = await decided(there, one, *request)
                assert explained(there, clock.now, passed, *request) == found, request
                seen.add(found[0])
            assert seen == {"allow", "deny", "step-up"}
