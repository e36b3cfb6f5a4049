"""Documents and records of steps, as the settings know them: read once, told with their lines, watched."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.app import REGISTRY
from gateway.settings.load import Loaded, load
from gateway.settings.mistakes import Problems
from gateway.steps.consent import ConsentConfig

GATEWAY = """
upstreams: {bank: {url: http://127.0.0.1:1}}
steps:
  terms: {kind: consent, document: config/terms.md, version: "1"}
  my.profile:
    kind: form
    fields: [{name: phone, label: Phone}, {name: age, type: number, label: Age}]
rules:
  - name: one
    when: WHEN
    require: terms
"""


def read(folder: Path, text: str = GATEWAY, when: str = '"true"', document: bytes | None = b"# Terms\n\nBe kind.\n") -> Loaded | Problems:
    (folder / "config").mkdir(exist_ok=True)
    if document is not None:
        (folder / "config/terms.md").write_bytes(document)
    (folder / "gateway.yaml").write_text(text.replace("WHEN", when))
    return load(folder / "gateway.yaml", environ={}, kinds=REGISTRY)


def said(folder: Path, found: Loaded | Problems) -> list[str]:
    assert isinstance(found, Problems)
    return [str(m).replace(f"{folder}/", "") for m in found.mistakes]


def test_a_document_is_read_with_the_settings_and_watched(tmp_path: Path) -> None:
    found = read(tmp_path)
    assert isinstance(found, Loaded), found
    assert tmp_path / "config/terms.md" in found.files
    config = found.steps["terms"]
    assert isinstance(config, ConsentConfig)
    assert config.read.title == "Terms"
    info = found.ruleset.steps["terms"]
    assert info.needs_subject
    assert info.edition == config.edition
    (tmp_path / "config/terms.md").write_text("# Other\n")
    assert config.read.title == "Terms"
    again = read(tmp_path, document=b"# Other\n")
    assert isinstance(again, Loaded)
    assert again.version != found.version


def test_a_document_that_is_not_there_is_a_mistake_and_watched_for(tmp_path: Path) -> None:
    found = read(tmp_path, document=None)
    assert said(tmp_path, found) == ["gateway.yaml:4:36: steps.terms.document: cannot read config/terms.md: No such file or directory"]
    assert tmp_path / "config/terms.md" in found.files


def test_what_is_wrong_in_a_document_is_told_with_its_own_lines_behind_the_settings_mistakes(tmp_path: Path) -> None:
    text = GATEWAY.replace("require: terms", "require: trems")
    assert said(tmp_path, read(tmp_path, text, document=b"# Terms\n\n<b>Be</b>\n\n![kind](x)\n")) == [
        'gateway.yaml:11:14: rules[0].require: no step named "trems"; did you mean "terms"?',
        "config/terms.md:3:1: HTML is not shown; write it in Markdown",
        "config/terms.md:5:1: pictures are not shown; write a link to it",
    ]


def test_a_document_may_stand_anywhere(tmp_path: Path) -> None:
    (tmp_path / "elsewhere.md").write_text("Be kind.")
    assert isinstance(read(tmp_path, GATEWAY.replace("config/terms.md", str(tmp_path / "elsewhere.md"))), Loaded)


@pytest.mark.parametrize(
    "when",
    [
        "record.terms.version != '1'",
        "record.terms == null || record.terms.accepted == null",
        "record.terms.at == null && record.terms.sha256 == null",
        'record["my.profile"].phone == null',
        'record["my.profile"].age == null || record["my.profile"]["age"] < 18',
    ],
)
def test_conditions_know_the_records_of_steps(tmp_path: Path, when: str) -> None:
    assert isinstance(read(tmp_path, when=f"|\n      {when}"), Loaded)


@pytest.mark.parametrize(
    ("when", "mistake"),
    [
        ("record.trems.version == null", 'no record named "trems" is declared; did you mean "terms"? (at character 8)'),
        ("record.terms.verison == null", 'record.terms has no field "verison"; did you mean "version"? (at character 14)'),
        ('record["my.profile"].fone == null', 'record.my.profile has no field "fone"; did you mean "phone"? (at character 22)'),
        ("record == null", '"record" is no value by itself; name what you mean, as in record.my.profile (at character 1)'),
    ],
)
def test_other_names_are_mistakes_with_the_nearest(tmp_path: Path, when: str, mistake: str) -> None:
    [line] = said(tmp_path, read(tmp_path, when=f"'{when}'"))
    assert line.endswith(f"rules[0].when: {mistake}")


def test_a_step_with_a_mistake_brings_no_others_along(tmp_path: Path) -> None:
    text = GATEWAY.replace("type: number", "type: nmber")
    [line] = said(tmp_path, read(tmp_path, text, when="'record[\"my.profile\"].age == 3'"))
    assert 'steps["my.profile"].fields[1].type: must be one of' in line


def test_what_users_type_does_not_take_the_place_of_what_a_source_says(tmp_path: Path) -> None:
    text = GATEWAY.replace("fields: [{name: phone", "claims: {role: phone}\n    fields: [{name: phone").replace(
        "label: Phone}", "label: Phone, max_length: 20}"
    )
    assert isinstance(read(tmp_path, text), Loaded)
    source = "identity: [{from: header, name: X-User, claims: {role: X-Role}}]\n"
    [line] = said(tmp_path, read(tmp_path, text + source))
    assert line.endswith('steps["my.profile"].claims.role: an identity source declares "role"; take another name')


def test_the_claims_of_all_forms_fit_into_a_pass_together(tmp_path: Path) -> None:
    more = "  more: {kind: form, fields: [{name: a, label: A, max_length: 150}], claims: {a: a}}\nrules:"
    text = GATEWAY.replace("rules:", more)
    assert isinstance(read(tmp_path, text), Loaded)
    text = text.replace(
        "fields: [{name: phone, label: Phone}", "claims: {b: phone}\n    fields: [{name: phone, label: Phone, max_length: 51}"
    )
    [line] = said(tmp_path, read(tmp_path, text))
    assert "steps.more.claims: with those of other steps, claims may hold more than 200 characters" in line
