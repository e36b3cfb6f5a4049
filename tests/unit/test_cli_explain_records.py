"""`gateway explain --record`: what a record holds, as the gateway would have it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from gateway.cli.main import main

CONFIG = """\
upstreams: {bank: {url: http://127.0.0.1:8081}}
steps:
  terms: {kind: consent, document: terms.md, version: "2026-11"}
  my.profile:
    kind: form
    fields: [{name: phone, label: Phone}, {name: age, label: Age, type: number}, {name: news, label: News, type: checkbox}]
rules:
  - {name: terms, match: {path: /account}, when: record.terms.version != "2026-11", require: terms}
  - {name: adults, match: {path: /wine}, when: 'record["my.profile"].age == null || record["my.profile"].age < 18', deny: {}}
  - {name: phone, match: {path: /call}, when: 'record["my.profile"].phone != "0123"', deny: {}}
  - {name: news, match: {path: /news}, when: 'record["my.profile"].news != true', deny: {}}
  - {name: fresh, match: {path: /fresh}, when: "record.terms.at == null || now - record.terms.at > duration('24h')", require: terms}
  - {name: asked, match: {path: /asked}, require: terms}
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    (tmp_path / "terms.md").write_text("# Terms\n")
    (tmp_path / "gateway.yaml").write_text(CONFIG)
    return tmp_path / "gateway.yaml"


def run(config: Path, *arguments: str) -> Result:
    return CliRunner().invoke(main, ["explain", "-c", str(config), *arguments], prog_name="gateway")


def decision(config: Path, *arguments: str) -> Any:
    result = run(config, "--json", *arguments)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)["decision"]["decision"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["GET", "/account"], "step-up"),
        (["--user", "alice", "GET", "/account"], "need"),
        (["--user", "alice", "--passed", "terms=1h", "GET", "/account"], "allow"),
        (["--user", "alice", "--record", "terms=none", "GET", "/account"], "step-up"),
        (["--user", "alice", "--record", "terms.version=2026-11", "GET", "/account"], "allow"),
        (["--user", "alice", "--record", "terms.version=2026-10", "GET", "/account"], "step-up"),
        (["--user", "alice", "--record", "my.profile.age=18", "GET", "/wine"], "allow"),
        (["--user", "alice", "--record", "my.profile.age=17", "GET", "/wine"], "deny"),
        (["--user", "alice", "--record", "my.profile.phone=0123", "GET", "/call"], "allow"),
        (["--user", "alice", "--record", "my.profile.news=true", "--record", "my.profile.age=3", "GET", "/news"], "allow"),
        (["--user", "a", "--record", "terms.at=2026-11-23T08:00Z", "--at", "2026-11-23T09:00Z", "GET", "/fresh"], "allow"),
        (["--user", "a", "--record", "terms.at=2026-11-23T08:00Z", "--at", "2026-11-25T09:00Z", "GET", "/fresh"], "step-up"),
        (["--user", "alice", "--passed", "terms=1h", "GET", "/asked"], "allow"),
    ],
)
def test_records_are_facts(config: Path, arguments: list[str], expected: str) -> None:
    assert decision(config, *arguments) == expected


def test_a_record_that_decides_is_asked_for(config: Path) -> None:
    assert "unknown: the record terms decides; give it with --record" in run(config, "--user", "alice", "GET", "/account").stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--record", "trems.version=1"], 'no step that keeps a record is named "trems"; did you mean "terms"?'),
        (["--record", "terms.verson=1"], 'record.terms has no "verson"; did you mean "version"?'),
        (["--record", "terms=1"], "write terms.NAME=VALUE, or terms=none"),
        (["--record", "terms"], "write STEP.NAME=VALUE, or STEP=none"),
        (["--record", "terms.at=yesterday"], "write a time as"),
        (["--record", "my.profile.age=old"], "write a number"),
        (["--record", "my.profile.news=1"], "write true or false"),
    ],
)
def test_mistakes_are_told(config: Path, arguments: list[str], message: str) -> None:
    result = run(config, "--user", "alice", *arguments, "GET", "/account")
    assert result.exit_code == 2
    assert message in result.output


def test_nobody_has_no_records(config: Path) -> None:
    result = run(config, "--record", "terms.version=1", "GET", "/account")
    assert result.exit_code == 2
    assert "say whose by --user" in result.output
