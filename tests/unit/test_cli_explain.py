"""`gateway explain`: every option, every mistake on its command line, and what it prints. Elsewhere it is compared with a proxy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from gateway.cli.main import main

CONFIG = """\
public_url: [https://bank.example.com, "http://127.0.0.1:8080"]
tls: {cert_file: cert.pem, key_file: key.pem}
upstreams:
  bank: {url: http://127.0.0.1:8081}
identity:
  - {from: login_form, upstream: bank, path: /login, username: user, cookie: SID, claims: {expired: {cookie: pw, equals: expired}}}
steps:
  human: {kind: captcha, provider: altcha}
  code: {kind: otp, methods: [totp]}
rules:
  - {name: transfer, match: {path: /transfer, method: POST}, require: code, max_age: 5m}
  - name: large
    match: {path: /pay, method: POST}
    when: double(request.form.amount) > 100.0
    require: code
    max_age: once
    replay: confirm
  - {name: json, match: {path: /api, method: POST}, when: request.json.risky == true, deny: {status: 451, message: Too risky.}}
  - {name: expired, match: {path: /account}, when: subject.claims.expired == true, require: human}
  - {name: office, match: {path: /admin}, when: '!request.ip.in_network("10.0.0.0/8")', deny: {}}
  - {name: night, match: {path: /night}, when: 'now.getHours() < 6', deny: {message: Come back in the morning.}}
  - {name: partner, match: {path: /partner, header: {X-Partner: "acme*"}}, allow: true}
  - {name: source, match: {path: /source}, when: subject.source == "login_form" && pass.age < 600.0, deny: {}}
  - {name: young, match: {path: /young}, when: pass.age > 60.0, deny: {}}
  - {name: trial, match: {path: /pay}, deny: {}, mode: shadow}
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "gateway.yaml"
    path.write_text(CONFIG)
    for name in ("cert.pem", "key.pem"):
        (tmp_path / name).write_text("not looked into before the start")
    return path


def run(config: Path, *arguments: str) -> Result:
    result = CliRunner().invoke(main, ["explain", "-c", str(config), *arguments], prog_name="gateway")
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def explained(config: Path, *arguments: str) -> Any:
    result = run(config, "--json", *arguments)
    assert (result.exit_code, result.stderr) == (0, "")
    return json.loads(result.stdout)


def decided(config: Path, *arguments: str) -> str:
    return str(explained(config, *arguments)["decision"]["decision"])


@pytest.mark.parametrize(
    ("arguments", "decision"),
    [
        (["GET", "/"], "allow"),
        (["POST", "/transfer"], "step-up"),
        (["post", "/transfer"], "step-up"),
        (["GET", "/transfer"], "allow"),
        (["POST", "https://bank.example.com/transfer"], "step-up"),
        (["POST", "http://127.0.0.1:8080/transfer"], "step-up"),
        (["POST", "HTTPS://Bank.Example.com:443/transfer?to=x"], "step-up"),
        (["POST", "/%74ransfer"], "step-up"),
        # --passed
        (["--user", "alice", "--passed", "code=4m", "POST", "/transfer"], "allow"),
        (["--user", "alice", "--passed", "code=5m", "POST", "/transfer"], "step-up"),
        (["--user", "alice", "--passed", "human=1m", "POST", "/transfer"], "step-up"),
        # --data
        (["POST", "/pay"], "need"),
        (["--data", "amount=500", "POST", "/pay"], "step-up"),
        (["--data", "amount=50", "POST", "/pay"], "allow"),
        (["--data", "a" * 70_000, "POST", "/pay"], "step-up"),
        (["--header", "Content-Type: application/json", "--data", '{"risky": true}', "POST", "/api"], "deny"),
        (["--header", "Content-Type: application/json", "--data", '{"risky": false}', "POST", "/api"], "allow"),
        (["--header", "X-HTTP-Method-Override: POST", "GET", "/transfer"], "step-up"),
        # --user, --claim
        (["--user", "bob", "GET", "/account"], "allow"),
        (["--user", "bob", "--claim", "expired=true", "GET", "/account"], "step-up"),
        (["--user", "bob", "--claim", "expired=false", "GET", "/account"], "allow"),
        (["--user", "bob", "--claim", "expired=yes", "GET", "/account"], "allow"),
        (["--user", "bob", "GET", "/source"], "deny"),
        # --passed tells the age of the pass, too
        (["--user", "bob", "GET", "/young"], "allow"),
        (["--user", "bob", "--passed", "human=2m", "GET", "/young"], "deny"),
        # --ip
        (["GET", "/admin"], "deny"),
        (["--ip", "10.1.2.3", "GET", "/admin"], "allow"),
        (["--ip", "2001:db8::1", "GET", "/admin"], "deny"),
        # --header
        (["--header", "X-Partner: acme-1", "GET", "/partner"], "allow"),
        # --at
        (["--at", "2026-11-23T05:59:00+00:00", "GET", "/night"], "deny"),
        (["--at", "2026-11-23T05:59:00Z", "GET", "/night"], "deny"),
        (["--at", "2026-11-23T06:00:00+00:00", "GET", "/night"], "allow"),
        (["--at", "2026-11-23T06:30:00+01:00", "GET", "/night"], "deny"),
    ],
)
def test_options_are_facts(config: Path, arguments: list[str], decision: str) -> None:
    assert decided(config, *arguments) == decision


def test_json_tells_every_rule_the_upstream_and_the_decision_with_all_its_parts(config: Path) -> None:
    found = explained(config, "--user", "alice", "--data", "amount=500", "POST", "/pay")
    assert found["upstream"] == "bank"
    assert [rule["rule"] for rule in found["rules"]] == [
        "transfer", "large", "json", "expired", "office", "night", "partner", "source", "young", "trial",
    ]  # fmt: skip
    assert {rule["rule"]: rule["verdict"] for rule in found["rules"] if rule["verdict"] != "miss"} == {"large": "hit", "trial": "hit"}
    assert all(rule["why"] and rule["reached"] for rule in found["rules"])
    assert found["decision"] == {
        "decision": "step-up",
        "asked": [{"step": "code", "max_age": "once", "rules": ["large"], "url": ""}],
        "rules": ["large"],
        "replay": "confirm",
        "login": False,
        "shadow": [{"rule": "trial", "effect": "deny"}],
    }


def test_json_of_a_need_says_what_is_needed(config: Path) -> None:
    found = explained(config, "POST", "/pay")
    assert found["decision"] == {"decision": "need", "body": True, "records": [], "functions": []}
    assert next(rule for rule in found["rules"] if rule["rule"] == "large")["verdict"] == "unknown"


def test_a_rule_behind_the_end_of_the_run_is_not_reached(config: Path) -> None:
    found = explained(config, "--header", "X-Partner: acme", "GET", "/partner")
    assert {rule["rule"] for rule in found["rules"] if not rule["reached"]} == {"source", "young", "trial"}


def test_the_table_shows_request_rules_and_decision(config: Path) -> None:
    result = run(config, "POST", "/transfer?x=%41")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[0] == "POST https://bank.example.com/transfer?x=%41"
    assert lines[1].split() == ["upstream", "bank"]
    assert lines[3].split() == ["rule", "verdict", "why"]
    assert lines[4].split(maxsplit=2) == ["transfer", "hit", "asks for code"]
    assert len(lines[4:-2]) == 10
    assert lines[-1] == "decision  step-up: code (not older than 5m); replay auto; somebody must log in first"


@pytest.mark.parametrize(
    ("arguments", "last"),
    [
        (["GET", "/"], "decision  allow"),
        (["--passed", "code=1m", "--user", "a", "POST", "/transfer"], "decision  allow, satisfied by code"),
        (["GET", "/admin"], "decision  deny 403 by office: This request is not allowed."),
        (["POST", "/pay"], "decision  unknown: the request's body decides; give it with --data"),
    ],
)
def test_the_tables_last_line_is_the_decision(config: Path, arguments: list[str], last: str) -> None:
    assert run(config, *arguments).stdout.splitlines()[-1] == last


def test_an_address_without_a_route_is_refused_by_the_gateway(tmp_path: Path) -> None:
    path = tmp_path / "gateway.yaml"
    path.write_text("upstreams: {bank: {url: http://127.0.0.1:8081}}\nroutes: [{path: /bank/**, upstream: bank}]\n")
    result = run(path, "GET", "/shop")
    assert (result.exit_code, result.stdout.splitlines()[1].split()) == (0, ["upstream", "none"])
    assert result.stdout.splitlines()[-1] == "decision  deny 404 by the gateway: There is nothing at this address."


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--passed", "cod=2m", "POST", "/transfer"], 'no step named "cod"; did you mean "code"?'),
        (["--passed", "code", "POST", "/transfer"], "write STEP=AGE"),
        (["--passed", "code=2", "POST", "/transfer"], "--passed code=2: is not a duration"),
        (["--passed", "code=9h", "POST", "/transfer"], "a pass lasts 8h"),
        (["--at", "noon", "GET", "/"], "--at 'noon': write a time as"),
        (["--header", "no colon", "GET", "/"], "write 'Name: value'"),
        (["--header", ": value", "GET", "/"], "write 'Name: value'"),
        (["--header", "A b: value", "GET", "/"], "write 'Name: value'"),
        (["--header", "A: b\r\nC: d", "GET", "/"], "write 'Name: value'"),
        (["--header", "A: \u20ac", "GET", "/"], "write 'Name: value'"),
        (["--claim", "expired", "GET", "/"], "write NAME=VALUE"),
        (["--user", "bob", "--claim", "expird=true", "GET", "/"], 'did you mean "expired"?'),
        (["--claim", "expired=true", "GET", "/"], "--user"),
        (["--ip", "300.1.1.1", "GET", "/"], "--ip '300.1.1.1': no IP address"),
        (["FETCH", "/"], "no HTTP method that the gateway serves; it would answer 400"),
        (["CONNECT", "/"], "no HTTP method that the gateway serves; it would answer 405"),
        (["GET", "https://shop.example.com/"], "https://shop.example.com is not in public_url"),
        (["GET", "http://bank.example.com/"], "is not in public_url"),
        (["GET", "ftp://bank.example.com/"], "is not in public_url"),
        (["--header", "Host: shop.example.com", "GET", "/"], "https://shop.example.com is not in public_url"),
        (["--header", "Host: bank.example.com", "--header", "Host: x", "GET", "/"], "would answer 400"),
        (["GET", "https://[bank/"], "Invalid IPv6 URL"),
        (["GET", "/\u00e9"], "percent-encoded"),
        (["GET", "/a b"], "would answer 400"),
        (["GET", "/%00"], "would answer 400"),
        (["GET", "/continue?state=x"], "one of the gateway's own paths"),
        (["GET", "/.stepup/pass"], "one of the gateway's own paths"),
    ],
)
def test_mistakes_on_the_command_line_are_told_and_exit_with_2(config: Path, arguments: list[str], words: str) -> None:
    result = run(config, *arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert words in result.stderr
    assert len(result.stderr.splitlines()) == 1
