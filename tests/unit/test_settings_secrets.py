"""A secret that more than one party knows proves nothing about either."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gateway.app import REGISTRY
from gateway.settings.load import Problems, load

ONE, OTHER = "1" * 40, "2" * 40


def page(secret: str = ONE, audience: str = "kyc") -> dict[str, Any]:
    return {"kind": "redirect", "url": "https://kyc.example/", "audience": audience, "secret": secret}


def entry(secret: str = ONE, issuer: str = "https://idp.example/") -> dict[str, Any]:
    return {"issuer": issuer, "audience": "gate", "secret": secret, "continue_url": "https://idp.example/continue", "steps": "page"}


def taken_over(secret: str) -> dict[str, Any]:
    resume = {"audience": "mfa", "secret": secret}
    return {"name": "mfa", "intercept": {"upstream": "bank", "location": "https://mfa.example/*"}, "require": "page", "resume": resume}


def mistakes(folder: Path, **sections: Any) -> list[str]:
    config = {"upstreams": {"bank": {"url": "http://127.0.0.1:1"}}, "steps": {"page": page()}, **sections}
    (folder / "gateway.yaml").write_text(json.dumps(config))
    found = load(folder / "gateway.yaml", environ={}, kinds=REGISTRY)
    return [str(m) for m in found.mistakes] if isinstance(found, Problems) else []


@pytest.mark.parametrize(
    ("sections", "where"),
    [
        ({"steps": {"page": page(), "other": page(audience="other")}}, "steps.other.secret"),
        ({"begin": {"idp": entry()}}, "begin.idp.secret"),
        ({"rules": [taken_over(ONE)]}, "rules[0].resume.secret"),
        ({"introspection": {"clients": {"bank": {"secret": [OTHER, ONE], "audience": "bank"}}}}, "introspection.clients.bank.secret[1]"),
    ],
)
def test_a_secret_with_a_third_is_a_mistake_where_it_stands_again(tmp_path: Path, sections: dict[str, Any], where: str) -> None:
    [said] = mistakes(tmp_path, **sections)
    assert said.partition(" ")[2].startswith(f'{where}: is shared with "kyc" already (steps.page)')
    assert ONE not in said


def test_one_party_may_have_several_steps_and_both_directions(tmp_path: Path) -> None:
    assert mistakes(tmp_path, steps={"page": page(), "again": page()}, begin={"kyc": entry(issuer="kyc")}) == []
    assert mistakes(tmp_path, rules=[taken_over(OTHER)]) == []
