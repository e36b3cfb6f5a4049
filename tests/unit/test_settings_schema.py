"""The schema and the reference come from the models. The schema is judged by a small validator that knows every keyword it uses."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from gateway.policy.references import FIELDS, ROOTS
from gateway.settings.reference import reference
from gateway.settings.schema import DIALECT, json_schema
from gateway.settings.words import known_keys
from gateway.settings.yaml import parse
from gateway.spec.sections import GatewaySpec
from tests.support.settings import REGISTRY
from tests.unit.test_settings_mistakes import GOOD

SCHEMA = json_schema(REGISTRY)

TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "null": (type(None),),
}
NOTES = {"$schema", "$defs", "title", "description", "default", "examples"}


def wrong(value: Any, schema: Any, at: str = "") -> Iterator[str]:
    """Where a value does not fit a schema (JSON Schema 2020-12, as far as it is used)."""
    if schema is True:
        return
    if schema is False:
        yield at
        return
    for keyword, wanted in schema.items():
        match keyword:
            case _ if keyword in NOTES:
                continue
            case "$ref":
                yield from wrong(value, SCHEMA["$defs"][wanted.removeprefix("#/$defs/")], at)
            case "type":
                names = wanted if isinstance(wanted, list) else [wanted]
                if not any(isinstance(value, TYPES[n]) and (n == "boolean" or not isinstance(value, bool)) for n in names):
                    yield at
            case "const":
                if value != wanted:
                    yield at
            case "enum":
                if value not in wanted:
                    yield at
            case "anyOf":
                if all(list(wrong(value, branch)) for branch in wanted):
                    yield at
            case "oneOf":
                if sum(not list(wrong(value, branch)) for branch in wanted) != 1:
                    yield at
            case "properties":
                if isinstance(value, dict):
                    for name, below in wanted.items():
                        if name in value:
                            yield from wrong(value[name], below, f"{at}/{name}")
            case "additionalProperties":
                if isinstance(value, dict):
                    for name in value.keys() - schema.get("properties", {}).keys():
                        yield from wrong(value[name], wanted, f"{at}/{name}")
            case "required":
                if isinstance(value, dict):
                    yield from (f"{at}/{name}" for name in wanted if name not in value)
            case "items":
                if isinstance(value, list):
                    for index, item in enumerate(value):
                        yield from wrong(item, wanted, f"{at}/{index}")
            case "pattern":
                if isinstance(value, str) and not re.search(wanted, value):
                    yield at
            case "minimum" | "maximum" | "exclusiveMinimum" | "exclusiveMaximum":
                if isinstance(value, int | float):
                    low = keyword.lower().endswith("minimum")
                    inside = value >= wanted if low else value <= wanted
                    if not inside or (keyword.startswith("exclusive") and value == wanted):
                        yield at
            case "minItems" | "minProperties" | "minLength":
                if len(value) < wanted:
                    yield at
            case "maxItems" | "maxProperties" | "maxLength":
                if len(value) > wanted:
                    yield at
            case _:
                pytest.fail(f"the schema uses {keyword}, which this test does not know")


def says(text: str) -> list[str]:
    return list(wrong(parse(text.encode()).value, SCHEMA))


def test_a_good_configuration_fits() -> None:
    assert says(GOOD) == []


@pytest.mark.parametrize(
    ("old", "new", "place"),
    [
        ("{kind: quiz}", "{kind: quitz}", "/steps/quiz"),
        ("{kind: quiz}", "{level: 1}", "/steps/quiz"),
        ("{kind: quiz}", "{kind: quiz, level: 9}", "/steps/quiz"),
        ("{kind: quiz}", "{kind: quiz, to: abc}", "/steps/quiz"),
        ("from: watched_form", "from: header", "/identity/0"),
        ("    require: [quiz]\n", "    require: [quiz]\n    max_age: soon\n", "/rules/0/max_age"),
        ("name: one", "nme: one", "/rules/0/nme"),
        ("upstreams:", "upstrems:", "/upstrems"),
        ("mail: {smtp", "mail: {demo: yes, smtp", "/mail"),
    ],
)
def test_what_does_not_fit_is_seen(old: str, new: str, place: str) -> None:
    assert place in says(GOOD.replace(old, new))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("require: [quiz]", "require: quiz"),  # a scalar for a list of one
        ("require: [quiz]", "require: [quiz]\n    max_age: 5m"),
        ("require: [quiz]", "require: [quiz]\n    max_age: once"),
        ("{kind: quiz}", "{kind: quiz, level: '${LEVEL}', ttl: '${TTL}'}"),
        ("{path: /a/**}", "{header: {x-a: [~, 'y*'], x-b: ~}}"),
    ],
)
def test_what_the_loader_takes_fits(old: str, new: str) -> None:
    assert says(GOOD.replace(old, new)) == []


def test_it_is_json_of_the_dialect_and_every_reference_leads_somewhere() -> None:
    text = json.dumps(SCHEMA)
    assert SCHEMA["$schema"] == DIALECT
    referred = set(re.findall(r'"#/\$defs/([^"]+)"', text))
    assert referred == set(SCHEMA["$defs"])


def test_defaults_of_durations_are_written_as_durations() -> None:
    transactions = SCHEMA["$defs"]["TransactionsSpec"]["properties"]
    assert transactions["ttl"]["default"] == "10m"
    assert list(wrong(transactions["ttl"]["default"], transactions["ttl"])) == []


def test_the_demo_configuration_fits_but_for_its_kinds() -> None:
    value = yaml.safe_load((Path(__file__).parents[2] / "gateway.yaml").read_text())
    for section in ("steps", "identity"):
        del value[section]
    assert list(wrong(value, SCHEMA)) == []


# docs/settings.md

TEXT = reference(REGISTRY)


def test_every_key_has_a_row_with_a_meaning() -> None:
    sections = dict(re.findall(r"^## (.+)\n((?:(?!^## ).*\n?)*)", TEXT, re.MULTILINE))
    assert [row for row in re.findall(r"^\| `.*$", TEXT, re.MULTILINE) if re.search(r"\|\s*\|$", row)] == []
    for heading, loc in (
        ("gateway.yaml", ()),
        ("limits", ("limits",)),
        ("upstreams.NAME.health", ("upstreams", "x", "health")),
        ("rules[].match", ("rules", 0, "except")),
    ):
        rows = re.findall(r"^\| `([^`]+)` \|", sections[heading], re.MULTILINE)
        assert rows == known_keys(GatewaySpec, loc)


def test_kinds_and_sources_have_sections_without_the_key_that_names_them() -> None:
    section = TEXT.partition("## steps: kind: mailed\n")[2].partition("\n## ")[0]
    assert re.findall(r"^\| `([^`]+)` \|", section, re.MULTILINE) == ["methods", "to", "claims"]
    assert "## identity: from: watched_form\n" in TEXT


@pytest.mark.parametrize(
    "row",
    [
        "| `ttl` | duration, more than 0 | `10m` | How long a suspended request waits. |",
        "| `max_body` | size | `1MiB` | Largest body that is stored; 413 above. |",
        "| `upstream_ttl` | duration, more than 0, at most 1m | `1m` | Life of an upstream token. |",
        "| `status` | number, 400 to 599 | `403` | HTTP status of the refusal. |",
        "| `level` | number, 1 to 5 | `1` | How hard it is. |",
        "| `cert_file` | text | **required** | PEM file with the certificate chain. |",
        "| `log` | [log](#log) | – | Logging. |",
    ],
)
def test_rows_are_in_human_form(row: str) -> None:
    assert f"\n{row}\n" in TEXT


def test_every_link_leads_to_a_section() -> None:
    headings = {
        "".join(c for c in h.lower().replace(" ", "-") if c.isalnum() or c in "-_") for h in re.findall(r"^## (.+)$", TEXT, re.MULTILINE)
    }
    assert set(re.findall(r"\]\(#([^)]+)\)", TEXT)) <= headings


def test_every_name_of_conditions_is_there() -> None:
    section = TEXT.partition("## Conditions\n")[2]
    names = {f"{root}.{field}" for root, fields in FIELDS.items() for field in fields} | (set(ROOTS) - set(FIELDS))
    assert set(re.findall(r"^\| `([^`]+)` \|", section, re.MULTILINE)) == names
