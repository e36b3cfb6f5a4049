"""form: which answers are taken, what is said of the others, what is kept and when it is asked for again."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError

from gateway.flow.step import Passed, Refused
from gateway.steps.form import Form, FormConfig
from gateway.steps.form.answers import Wrong, judge
from gateway.steps.form.config import FieldSpec
from tests.support.fakes_steps import MemoryRecords, MemoryVault, World

PHONE = {"name": "phone", "type": "tel", "label": "Phone", "required": True, "autocomplete": "tel"}
PLAN = {"name": "plan", "type": "select", "label": "Plan", "choices": ["small", {"value": "large", "label": "Large, for teams"}]}
NEWS = {"name": "news", "type": "checkbox", "label": "Send me news"}
AGE = {"name": "age", "type": "number", "label": "Age", "min": 18, "max": 120}


def config(*fields: dict[str, Any], **changes: Any) -> FormConfig:
    return FormConfig.model_validate({"fields": list(fields or (PHONE, PLAN, NEWS, AGE)), **changes})


def form(world: World, *fields: dict[str, Any], **changes: Any) -> Form:
    return Form.build("profile", config(*fields, **changes), world.services)


async def sent(world: World, step: Form, answers: dict[str, str], transaction: str = "t1", **context: Any) -> Any:
    look = world.context(transaction, **context)
    view = await step.begin(look)
    return await step.answer(world.later(look, view.memory), answers)


async def values(world: World, step: Form, memory: Any = None) -> dict[str, str | None]:
    """What stands in the fields."""
    look = world.context("t9")
    return {f.name: f.value for f in (await step.begin(world.later(look, memory or {}))).fields}


def field(kind: str, **changes: Any) -> FieldSpec:
    choices = {"choices": ["a", "b"]} if kind in ("select", "radio") else {}
    return FieldSpec.model_validate({"name": "x", "label": "X", "type": kind, **choices, **changes})


@pytest.mark.parametrize(
    ("spec", "typed", "kept"),
    [
        (field("text"), "  Ada Lovelace ", "Ada Lovelace"),
        (field("text"), "e\u0301", "\u00e9"),
        (field("text"), "", None),
        (field("text"), "   ", None),
        (field("text"), "👩‍👩‍👧", "👩‍👩‍👧"),
        (field("text", max_length=3), "abc", "abc"),
        (field("text", pattern="[a-z]+"), "abc", "abc"),
        (field("textarea"), "one\r\ntwo\tthree\n", "one\ntwo\tthree"),
        (field("email"), "ada+x@mail.example.com", "ada+x@mail.example.com"),
        (field("tel"), "+44 (0)20 7946-0018", "+44 (0)20 7946-0018"),
        (field("url"), "https://example.com/a?b", "https://example.com/a?b"),
        (field("number"), "42", 42),
        (field("number"), "+042", 42),
        (field("number"), "-3.0", -3),
        (field("number", decimals=2), "1.25", 1.25),
        (field("number", decimals=6), "0.000001", 0.000001),
        (field("number", min=1, max=10), "10", 10),
        (field("date"), "2024-02-29", "2024-02-29"),
        (field("date", min="2020-01-01"), "2020-01-01", "2020-01-01"),
        (field("select"), "a", "a"),
        (field("radio"), "b", "b"),
        (field("checkbox"), "yes", True),
        (field("checkbox"), "on", True),
        (field("checkbox"), "no", False),
        (field("checkbox"), "", False),
        (field("checkbox", required=True), "true", True),
    ],
)
def test_answers_that_are_taken(spec: FieldSpec, typed: str, kept: Any) -> None:
    found = judge(spec, typed)
    assert found == kept
    assert type(found) is type(kept)


@pytest.mark.parametrize(
    ("spec", "typed", "words"),
    [
        (field("text", required=True), "  ", "fill this in"),
        (field("select", required=True), "", "choose one"),
        (field("checkbox", required=True), "no", "tick this"),
        (field("checkbox"), "maybe", "tick this, or leave it"),
        (field("text", max_length=3), "abcd", "At most 3 characters, please; this has 4."),
        (field("text"), "a" * 201, "At most 200"),
        (field("text"), "a\x00b", "cannot be kept"),
        (field("text"), "a\nb", "cannot be kept"),
        (field("text"), "a\x1b[31mb", "cannot be kept"),
        (field("text"), "a\u202eb", "cannot be kept"),
        (field("text"), "a\ud800b", "cannot be kept"),
        (field("textarea"), "a\x00b", "cannot be kept"),
        (field("text", pattern="[a-z]+"), "abc1", "form that is needed"),
        (field("text", pattern="[a-z]+", mistake="Small letters only."), "1abc", "Small letters only."),
        (field("text", pattern="a|ab"), "abc", "form that is needed"),
        (field("email"), "ada@localhost", "mail address"),
        (field("email"), "ada@example.com, bob@example.com", "mail address"),
        (field("email"), "a@b.example\u3002com", "mail address"),
        (field("tel"), "call me", "phone number"),
        (field("tel"), "+()- --", "phone number"),
        (field("tel"), "٠١٢٣٤٥٦", "phone number"),
        (field("url"), "javascript:alert(1)", "https://"),
        (field("url"), "https://[", "https://"),
        (field("url"), "https://a b", "https://"),
        (field("number"), "forty", "number"),
        (field("number"), "1.5", "without a point"),
        (field("number", decimals=1), "1.55", "at most 1 digits"),
        (field("number"), "1e9", "number"),
        (field("number"), "NaN", "number"),
        (field("number"), "٤٢", "number"),
        (field("number", min=1, max=10), "11", "from 1 to 10"),
        (field("number", min=0.5), "0", "from 0.5"),
        (field("date"), "23.11.2026", "as in 2026-11-23"),
        (field("date"), "2026-02-30", "as in 2026-11-23"),
        (field("date", min="2020-01-01", max="2026-12-31"), "2019-12-31", "from 2020-01-01 to 2026-12-31"),
        (field("date"), "20261123", "as in"),
        (field("select"), "c", "choose one"),
        (field("select"), "A", "choose one"),
        (field("radio"), "a,b", "choose one"),
    ],
)
def test_answers_that_are_not(spec: FieldSpec, typed: str, words: str) -> None:
    found = judge(spec, typed)
    assert isinstance(found, Wrong)
    assert words in found.public
    assert found.missing is (words in ("fill this in", "choose one", "tick this") and typed.strip() in ("", "no"))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"name": "Phone"}, "pattern"),
        ({"name": "action"}, "cannot be the name"),
        ({"name": "at"}, "cannot be the name"),
        ({"name": "stepup_token"}, "cannot be the name"),
        ({"type": "password"}, "'text'"),
        ({"type": "select"}, "`choices` is missing"),
        ({"choices": ["a"]}, "`choices` is for select and radio"),
        ({"type": "select", "choices": ["a", {"value": "a", "label": "A"}]}, "names a value twice"),
        ({"pattern": "("}, "is not a regular expression (RE2)"),
        ({"pattern": "(?=a)"}, "is not a regular expression (RE2)"),
        ({"type": "date", "pattern": "a"}, "`pattern` is for text"),
        ({"type": "checkbox", "max_length": 3}, "`max_length` is for text"),
        ({"mistake": "Wrong."}, "`mistake` goes with `pattern`"),
        ({"decimals": 2}, "`decimals` is for number"),
        ({"min": 1}, "`min` and `max` are for number and date"),
        ({"type": "number", "min": "x"}, "`min` and `max` are numbers"),
        ({"type": "number", "min": "1_000"}, "`min` and `max` are numbers"),
        ({"type": "date", "min": "2026-W01"}, "written 2026-11-23"),
        ({"type": "number", "min": "inf"}, "`min` and `max` are numbers"),
        ({"type": "number", "min": 3, "max": 2}, "`min` is above `max`"),
        ({"type": "date", "min": "23.11.2026"}, "written 2026-11-23"),
        ({"max_length": 20_001}, "less than or equal"),
        ({"autocomplete": 'tel" onfocus="x'}, "pattern"),
        ({"labl": "x"}, "Extra inputs"),
    ],
)
def test_fields_that_make_no_sense_are_mistakes(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError) as error:
        FieldSpec.model_validate({"name": "x", "label": "X", **changes})
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"fields": []}, "at least 1"),
        ({"fields": [PHONE, PHONE]}, 'two fields are named "phone"'),
        ({"claims": {"tel": "fone"}}, 'the claim "tel" is of no field here'),
        ({"fields": [{"name": f"f{i}", "label": "F", "type": "textarea"} for i in range(11)]}, "together may hold 20000"),
        ({"fields": [{"name": "a", "label": "A", "type": "textarea"}], "claims": {"a": "a"}}, "stand in a cookie"),
    ],
)
def test_forms_that_make_no_sense_are_mistakes(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError) as error:
        FormConfig.model_validate({"fields": [PHONE], **changes})
    assert words in str(error.value)


def test_the_edition_changes_with_what_could_make_an_answer_incomplete_and_not_with_words() -> None:
    assert config().edition == config(PHONE | {"label": "Telephone", "help": "x"}, PLAN, NEWS, AGE).edition
    assert config().edition != config(PHONE, PLAN | {"required": True}, NEWS, AGE).edition
    assert config().edition != config(PHONE | {"pattern": r"\+.*"}, PLAN, NEWS, AGE).edition


async def test_answers_are_kept_sealed_and_come_out_typed() -> None:
    world = World()
    step = form(world, claims={"phone": "phone", "adult": "age"})
    outcome = await sent(world, step, {"phone": "020 7946", "plan": "large", "news": "yes", "age": "36"})
    assert isinstance(outcome, Passed)
    assert (outcome.claims, outcome.at, outcome.amr) == ({"phone": "020 7946", "adult": 36}, world.now, ())
    assert outcome.private == "form: answered age, news, phone, plan"
    assert isinstance(world.records, MemoryRecords)
    [(place, entry)] = world.records.entries.items()
    assert place == ("form", "alice", "login/profile")
    assert b"7946" not in entry.value
    record = await step.record(world.context().subject)
    assert record is not None
    assert {k: v for k, v in record.items() if k != "at"} == {"phone": "020 7946", "plan": "large", "news": True, "age": 36}
    assert record["at"].timestamp() == world.now


async def test_every_mistake_is_told_at_once_and_nothing_typed_is_lost() -> None:
    world = World()
    step = form(world)
    typed = {"phone": "call me", "plan": "huge", "news": "yes", "age": "12", "other": "x"}
    outcome = await sent(world, step, typed)
    assert isinstance(outcome, Refused)
    assert (outcome.code, outcome.field, outcome.counts) == ("invalid", "phone", False)
    assert set(outcome.errors) == {"phone", "plan", "age"}
    assert outcome.public == outcome.errors["phone"]
    assert outcome.private == "form: not taken: phone, plan, age"
    assert await values(world, step, outcome.memory) == {"phone": "call me", "plan": "huge", "news": "yes", "age": "12"}
    assert isinstance(world.records, MemoryRecords)
    assert world.records.entries == {}


async def test_an_unticked_box_stays_so_after_a_mistake_elsewhere() -> None:
    world = World()
    step = form(world)
    assert isinstance(await sent(world, step, {"phone": "020 7946", "news": "yes"}), Passed)
    outcome = await sent(world, step, {"phone": "", "plan": "small"})
    assert isinstance(outcome, Refused)
    assert (await values(world, step, outcome.memory))["news"] is None


async def test_what_cannot_be_shown_is_left_out_of_what_comes_back() -> None:
    world = World()
    step = form(world, {"name": "name", "label": "Name"})
    outcome = await sent(world, step, {"name": "Ada\x00 \u202eLove\ud800lace"})
    assert isinstance(outcome, Refused)
    assert json.dumps(dict(outcome.memory)) == '{"typed": {"name": "Ada Lovelace"}}'
    assert isinstance(await sent(world, step, {"name": "Ada Lovelace"}), Passed)


async def test_nothing_filled_in_is_missing_and_no_attempt() -> None:
    world = World()
    outcome = await sent(world, form(world), {})
    assert isinstance(outcome, Refused)
    assert (outcome.code, outcome.counts, set(outcome.errors)) == ("missing", False, {"phone"})


async def test_who_has_answered_is_not_asked_again_until_something_new_is_required() -> None:
    world = World()
    alice = world.context().subject
    assert await form(world).already(alice, world.now) is None
    await sent(world, form(world), {"phone": "020 7946", "news": "yes"})
    assert await form(world).already(alice, world.now + 10**8) is not None
    optional = {"name": "nick", "label": "Nickname"}
    assert await form(world, PHONE, optional).already(alice, world.now) is not None
    more = form(world, PHONE, NEWS, {"name": "city", "label": "City", "required": True})
    assert await more.already(alice, world.now) is None
    assert await values(world, more) == {"phone": "020 7946", "news": "yes", "city": None}
    # A client by JSON says what is new, and a box that it does not name is not ticked.
    outcome = await sent(world, more, {"city": "London", "news": "yes"})
    assert isinstance(outcome, Passed)
    record = await more.record(alice)
    assert record is not None
    assert {k: v for k, v in record.items() if k != "at"} == {"phone": "020 7946", "news": True, "city": "London"}


async def test_an_answer_that_fits_no_more_is_asked_for_again_and_is_no_record() -> None:
    world = World()
    alice = world.context().subject
    await sent(world, form(world), {"phone": "020 7946", "plan": "large"})
    stricter = form(world, PHONE | {"pattern": r"\+.*"}, PLAN | {"choices": ["small"]})
    assert await stricter.already(alice, world.now) is None
    record = await stricter.record(alice)
    assert record is not None
    assert (record["phone"], record["plan"]) == (None, None)
    renamed = form(world, {"name": "phone", "label": "Phone", "type": "number"})
    record = await renamed.record(alice)
    assert record is not None
    assert record["phone"] is None


async def test_answers_under_a_key_that_is_gone_are_asked_for_anew() -> None:
    world = World()
    await sent(world, form(world), {"phone": "020 7946"})
    world.vault = MemoryVault(b"another key")
    alice = world.context().subject
    assert await form(world).already(alice, world.now) is None
    assert await form(world).record(alice) is None
    assert isinstance(await sent(world, form(world), {"phone": "030 1234"}), Passed)
    assert await form(world).already(alice, world.now) is not None


async def test_of_two_tabs_the_later_one_counts() -> None:
    world = World()
    step = form(world)
    one, two = world.context("t1"), world.context("t2")
    for look, phone in ((one, "111 1111"), (two, "222 2222"), (one, "333 3333")):
        assert isinstance(await step.answer(look, {"phone": phone}), Passed)
    record = await step.record(one.subject)
    assert record is not None
    assert record["phone"] == "333 3333"


async def test_a_json_client_sees_what_each_field_takes() -> None:
    world = World()
    view = await form(world, PHONE | {"pattern": r"\+?[0-9 ]+", "max_length": 20, "help": "With the country."}, PLAN, AGE).begin(
        world.context()
    )
    phone, plan, age = view.fields
    assert (phone.pattern, phone.max_length, phone.help, phone.autocomplete) == (r"\+?[0-9 ]+", 20, "With the country.", "tel")
    assert [(c.value, c.label) for c in plan.choices or ()] == [("small", "small"), ("large", "Large, for teams")]
    assert (age.min, age.max, age.inputmode) == ("18", "120", "numeric")


@pytest.mark.parametrize("typed", ["0.000001", "123456789012345.67", "-0.5", "3"])
async def test_a_number_that_was_taken_still_fits_when_it_is_looked_at_again(typed: str) -> None:
    world = World()
    step = form(world, {"name": "n", "label": "N", "type": "number", "decimals": 6, "required": True})
    assert isinstance(await sent(world, step, {"n": typed}), Passed)
    assert await step.already(world.context().subject, world.now) is not None
