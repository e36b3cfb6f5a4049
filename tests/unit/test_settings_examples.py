"""The configurations that the repository carries are without mistakes, and do what their names say."""

from __future__ import annotations

import re
from pathlib import Path

from gateway.policy.decide import decide
from gateway.policy.decision import Allow, StepUp
from gateway.policy.facts import Body, Facts
from gateway.wire.subject import Subject
from tests.support.gateway import read
from tests.support.policy import form_post

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {"ADMIN_TOKEN": "x" * 32, "REDIS_PASSWORD": "r", "SMTP_PASSWORD": "s"}


def test_the_demos_configuration_has_no_mistakes() -> None:
    assert read(ROOT / "gateway.yaml").spec.mail is not None


def test_the_production_example_has_no_mistakes_and_names_the_variables_it_needs() -> None:
    path = ROOT / "config/production.yaml"
    loaded = read(path, ENVIRONMENT)
    assert set(re.findall(r"\$\{(\w+)\}", path.read_text())) == set(ENVIRONMENT)
    assert [rule.name for rule in loaded.ruleset.rules] == [
        "logins-need-a-human",
        "large-transfers-need-a-code",
        "payees-need-a-code-and-are-shown-again",
        "administration-from-the-office",
    ]


def test_the_production_example_asks_for_a_code_above_its_amount_only() -> None:
    ruleset = read(ROOT / "config/production.yaml", ENVIRONMENT).ruleset
    alice = Subject("alice", {}, "login_form")
    small = decide(form_post("/transfer"), Facts(subject=alice, body=Body(form={"amount": "999.99"})), ruleset, 0.0)
    large = decide(form_post("/transfer"), Facts(subject=alice, body=Body(form={"amount": "1000.01"})), ruleset, 0.0)
    assert isinstance(small, Allow)
    assert isinstance(large, StepUp)
    assert [asked.step for asked in large.asked] == ["code"]
