"""What `gateway check` says of `begin`, `intercept` and `resume`, and what explain tells of such rules."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from gateway.app import REGISTRY
from gateway.policy.explain import explain
from gateway.policy.facts import Facts
from gateway.policy.model import TakeOver
from gateway.settings.load import Loaded, load
from gateway.wire.subject import Proof, Subject
from tests.support.policy import request

SECRET = "s" * 32
CAPTCHA = {"kind": "captcha", "provider": "altcha"}
BEGIN: dict[str, Any] = {
    "issuer": "idp", "audience": "us", "secret": SECRET, "continue_url": "https://idp.example/continue", "steps": ["quiz"],
}  # fmt: skip
RULE: dict[str, Any] = {
    "name": "mfa",
    "intercept": {"upstream": "bank", "location": "https://mfa.example.com/start*"},
    "require": ["quiz"],
    "resume": {"secret": SECRET, "audience": "mfa-rule"},
}
CHALLENGE: dict[str, Any] = {"name": "api", "intercept": {"upstream": "bank", "challenge": True}}


def loaded(folder: Path, **changes: Any) -> Loaded | str:
    raw = {
        "upstreams": {"bank": {"url": "http://127.0.0.1:8081"}},
        "steps": {
            "quiz": {"kind": "captcha", "provider": "altcha", "acr": "urn:human"},
            "other": {"kind": "captcha", "provider": "altcha"},
        },
        **changes,
    }
    path = folder / "gateway.yaml"
    path.write_text(yaml.safe_dump(raw, sort_keys=False))
    found = load(path, environ={}, kinds=REGISTRY)
    return found if isinstance(found, Loaded) else "\n".join(str(m) for m in found.mistakes)


def without(settings: dict[str, Any], key: str) -> dict[str, Any]:
    return {k: v for k, v in settings.items() if k != key}


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({**BEGIN, "secret": "s" * 31}, "begin.idp.secret: is shorter than 32 bytes, which HS256 needs"),
        ({**BEGIN, "secret": "ß" * 16}, ""),
        ({**BEGIN, "jwks_url": "https://idp.example/jwks"}, "begin.idp: needs exactly one of secret and jwks_url"),
        (without(BEGIN, "secret"), "begin.idp: needs exactly one of secret and jwks_url"),
        ({**BEGIN, "steps": ["quizz"]}, 'begin.idp.steps[0]: no step named "quizz"; did you mean "quiz"?'),
        ({**BEGIN, "steps": ["quiz", "quiz"]}, "begin.idp: names a step twice under `steps`"),
        ({**BEGIN, "steps": []}, "begin.idp.steps: must not be empty"),
        ({**BEGIN, "continue_url": []}, "begin.idp.continue_url: must not be empty"),
        ({**BEGIN, "continue_url": "javascript:alert(1)"}, "is not a URL; write https://host[:port]/path"),
        ({**BEGIN, "continue_url": "https://u@idp.example/continue"}, "is an origin and a path, without user"),
        ({**BEGIN, "continue_url": "https://idp.example/continue?x=1"}, "is an origin and a path, without user"),
        ({**BEGIN, "continue_url": "https://idp.example/a/../continue"}, "is an origin and a path, without user"),
        ({**BEGIN, "continue_url": ["https://a.example/c", "https://a.example/c"]}, "names a URL twice"),
        ({**BEGIN, "answer_parameter": "state"}, "begin.idp: the state needs a parameter of its own"),
        ({**BEGIN, "lifetime": "6m"}, "begin.idp.lifetime: must be at most 5m"),
        ({**BEGIN, "method": "get"}, "begin.idp.method: must be one of post, query"),
        ({**BEGIN, "issuer": "bank"}, "begin.idp.issuer: is the name of an upstream"),
        ({**BEGIN, "audiance": "x"}, 'begin.idp.audiance: unknown key; did you mean "audience"?'),
    ],
)
def test_mistakes_in_begin(tmp_path: Path, entry: dict[str, Any], words: str) -> None:
    found = loaded(tmp_path, begin={"idp": entry})
    assert (words in found and "\n" not in found) if isinstance(found, str) else words == "", found


def test_secrets_are_never_in_a_message(tmp_path: Path) -> None:
    found = loaded(tmp_path, begin={"idp": {**BEGIN, "secret": "hunter2"}})
    assert "hunter2" not in str(found)


def test_an_odd_name_of_an_entry_is_refused(tmp_path: Path) -> None:
    assert "the name of an entry" in str(loaded(tmp_path, begin={"a/b": BEGIN}))


def test_plain_http_elsewhere_is_warned_of(tmp_path: Path) -> None:
    found = loaded(tmp_path, begin={"idp": {**BEGIN, "continue_url": ["http://idp.example/c", "http://127.0.0.1:1/c"]}})
    assert isinstance(found, Loaded)
    assert [str(w).partition("continue_url")[2][:3] for w in found.warnings] == ["[0]"]


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        (without(RULE, "require"), "rules[0]: needs `require`"),
        (without(RULE, "resume"), "rules[0]: needs `resume`"),
        ({**RULE, "deny": {"status": 403}}, "rules[0].deny: an `intercept` takes `require` only"),
        ({**RULE, "allow": True}, "rules[0].allow: an `intercept` takes `require` only"),
        ({**RULE, "match": {"path": "/x"}}, "rules[0].match: is about requests"),
        ({**RULE, "except": {"path": "/x"}}, "rules[0].except: is about requests"),
        ({**RULE, "when": "true"}, "rules[0].when: is about requests"),
        ({**RULE, "who": "anonymous"}, "rules[0].who: is about requests"),
        ({**RULE, "require": ["quizz"]}, 'rules[0].require[0]: no step named "quizz"'),
        ({**RULE, "intercept": {**RULE["intercept"], "upstream": "bnak"}}, 'rules[0].intercept.upstream: no upstream named "bnak"'),
        ({**RULE, "intercept": {**RULE["intercept"], "challenge": True}}, "needs exactly one of location and challenge: true"),
        ({**RULE, "intercept": {"upstream": "bank"}}, "needs exactly one of location and challenge: true"),
        ({**RULE, "intercept": {"upstream": "bank", "location": "https://mfa.example.com"}}, "has no path"),
        ({**RULE, "intercept": {"upstream": "bank", "location": "https://*.example.com/x"}}, "is an exact origin and a path glob"),
        ({**RULE, "intercept": {"upstream": "bank", "location": "//mfa.example.com/x"}}, "is an exact origin and a path glob"),
        ({**RULE, "intercept": {"upstream": "bank", "location": "https://mfa.example.com/x?y"}}, "without user, query or fragment"),
        ({**RULE, "intercept": {"upstream": "bank", "location": "https://mfa.example.com/***"}}, "`***` means nothing"),
        ({**RULE, "resume": {"audience": "x", "secret": "short"}}, "rules[0].resume.secret: is shorter than 32 bytes"),
        ({**RULE, "resume": {"audience": "x", "url": "https://evil.example/"}}, "is not a plain path of the upstream"),
        ({**RULE, "resume": {"audience": "x", "url": "/.stepup/x"}}, "is not a plain path of the upstream"),
        ({**RULE, "resume": {"secret": SECRET}}, "rules[0].resume.audience: missing"),
        ({**CHALLENGE, "resume": RULE["resume"]}, "rules[0].resume: a challenge goes on with the request that it answered"),
        ({"name": "x", "match": {"path": "/x"}, "require": ["quiz"], "resume": RULE["resume"]}, "rules[0].resume: goes with `intercept`"),
        ({**RULE, "max_age": "once"}, ""),
        (CHALLENGE, ""),
        ({**CHALLENGE, "require": "quiz"}, ""),
    ],
)
def test_mistakes_in_intercept(tmp_path: Path, rule: dict[str, Any], words: str) -> None:
    found = loaded(tmp_path, rules=[rule])
    assert (words in found) if isinstance(found, str) else words == "", found


def test_two_names_of_a_state_at_our_own_path_are_refused(tmp_path: Path) -> None:
    other = {**RULE, "name": "two", "resume": {**RULE["resume"], "state_parameter": "s"}}
    assert "rules[1].resume.state_parameter" in str(loaded(tmp_path, rules=[RULE, other]))


@pytest.mark.parametrize("acr", ["a b", 'a"b', "", "ä"])
def test_an_acr_is_one_word(tmp_path: Path, acr: str) -> None:
    found = loaded(tmp_path, steps={"quiz": {"kind": "captcha", "provider": "altcha", "acr": acr}})
    assert "steps.quiz.acr" in str(found)


def test_an_allow_for_all_hides_no_rule_about_answers(tmp_path: Path) -> None:
    found = loaded(tmp_path, rules=[{"name": "all", "allow": True}, RULE])
    assert isinstance(found, Loaded)
    assert found.ruleset.index.candidates("x", ("/",), "bank") == [0]
    assert [rule.name for rule in found.ruleset.takeovers["bank"]] == ["mfa"]


def test_without_require_a_challenge_may_name_any_step(tmp_path: Path) -> None:
    found = loaded(tmp_path, rules=[CHALLENGE])
    assert isinstance(found, Loaded)
    taken = found.ruleset.rules[0].effect
    assert isinstance(taken, TakeOver)
    assert (taken.steps, taken.named) == (("quiz", "other"), False)
    assert found.ruleset.steps["quiz"].acr == "urn:human"


def test_explain_tells_of_rules_about_answers(tmp_path: Path) -> None:
    shadow = {**RULE, "name": "watched", "mode": "shadow"}
    off = {**RULE, "name": "off", "enabled": False}
    found = loaded(tmp_path, rules=[RULE, shadow, off, CHALLENGE])
    assert isinstance(found, Loaded)
    facts = Facts(subject=Subject("alice"))
    lines = {line.name: line.why for line in explain(request("/x"), facts, found.ruleset, 100.0).rules}
    assert lines["mfa"] == "would take over a redirect to https://mfa.example.com/start*, and ask for quiz"
    assert lines["watched"].startswith("shadow, would")
    assert lines["off"] == "disabled"
    assert lines["api"] == "would take over a 401 that asks for other authentication; it may name quiz, other"
    proved = Facts(subject=Subject("alice"), proofs={"quiz": Proof("quiz", 50.0)})
    explanation = explain(request("/x"), proved, found.ruleset, 100.0)
    assert {line.name: line.why for line in explanation.rules}["api"] == "shows the upstream what was proved: quiz"


@pytest.mark.parametrize("where", ["begin", "intercept", "challenge"])
def test_a_step_that_proves_nothing_is_not_what_others_are_told_of(tmp_path: Path, where: str) -> None:
    survey = {"kind": "redirect", "url": "https://survey.example/", "secret": "t" * 32, "audience": "survey", "answer": "none"}
    cases: dict[str, dict[str, Any]] = {
        "begin": {"begin": {"idp": BEGIN | {"steps": ["quiz", "survey"]}}},
        "intercept": {"rules": [RULE | {"require": ["survey"]}]},
        "challenge": {"rules": [CHALLENGE | {"require": ["survey"]}]},
    }
    found = loaded(tmp_path, steps={"quiz": CAPTCHA, "survey": survey}, **cases[where])
    assert isinstance(found, str)
    assert '"survey" proves nothing (`answer: none`)' in found
