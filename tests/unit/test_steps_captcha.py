"""captcha: what a solution and an answer are worth, for how long, and to whom."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from altcha import Challenge, Payload, solve_challenge
from pydantic import ValidationError

from gateway.flow.step import Context, Passed, Refused, View
from gateway.steps.captcha import Captcha, CaptchaConfig, question
from tests.support.fakes_steps import World, reads

HOW_TO = Path(__file__).parents[2] / "docs/how-to/captcha.md"


@pytest.fixture
def world() -> World:
    return World()


def step(world: World, **config: Any) -> Captcha:
    return Captcha.build("human", CaptchaConfig.model_validate({"cost": 10, "max_number": 50, **config}), world.services)


def solved(view: View) -> dict[str, str]:
    challenge = Challenge.from_dict(dict(view.data))
    solution = solve_challenge(challenge)
    assert solution is not None
    return {"altcha": Payload(challenge, solution).to_base64()}


def asked(view: View) -> str:
    return next(f.label for f in view.fields if f.name == "answer")


async def refused(captcha: Captcha, context: Context, form: dict[str, str]) -> Refused:
    outcome = await captcha.answer(context, form)
    assert isinstance(outcome, Refused)
    return outcome


async def test_the_client_in_the_how_to_solves_it(world: World) -> None:
    """The very code of docs/how-to/captcha.md, run."""
    (code,) = re.findall(r"```python\n(.*?)```", HOW_TO.read_text(encoding="utf-8"), re.DOTALL)
    namespace: dict[str, Any] = {}
    exec(compile(code, str(HOW_TO), "exec"), namespace)
    captcha = step(world)
    view = await captcha.begin(world.context())
    data = json.loads(json.dumps(dict(view.data)))
    assert isinstance(await captcha.answer(world.context(), {"altcha": namespace["solve"](data)}), Passed)


async def test_the_default_difficulty_is_the_documented_one(world: World) -> None:
    view = await Captcha.build("human", CaptchaConfig(), world.services).begin(world.context())
    parameters = view.data["parameters"]
    assert parameters["algorithm"] == "PBKDF2/SHA-256"
    assert (parameters["cost"], parameters["data"]["maxNumber"], parameters["expiresAt"]) == (1000, 2000, world.now + 300)


async def test_a_solution_expires(world: World) -> None:
    captcha = step(world, ttl="10s")
    view = await captcha.begin(world.context())
    world.now += 10
    outcome = await refused(captcha, world.context(), solved(view))
    assert (outcome.code, outcome.counts) == ("expired", False)


async def test_a_solution_belongs_to_its_step_too(world: World) -> None:
    captcha = step(world)
    view = await captcha.begin(world.context(step="one"))
    assert (await refused(captcha, world.context(step="other"), solved(view))).code == "invalid"


async def test_easier_parameters_are_not_ours(world: World) -> None:
    captcha = step(world)
    data = json.loads(json.dumps(dict((await captcha.begin(world.context())).data)))
    for key, value in (("cost", 1), ("keyPrefix", "00"), ("expiresAt", data["parameters"]["expiresAt"] + 3600)):
        easier = {"parameters": data["parameters"] | {key: value}, "signature": data["signature"]}
        payload = {"challenge": easier, "solution": {"counter": 0, "derivedKey": "00" * 32}}
        form = {"altcha": base64.b64encode(json.dumps(payload).encode()).decode()}
        assert (await refused(captcha, world.context(), form)).code == "invalid"


async def test_another_spelling_of_a_used_solution_is_used(world: World) -> None:
    captcha = step(world)
    form = solved(await captcha.begin(world.context()))
    assert isinstance(await captcha.answer(world.context(), form), Passed)
    payload = json.loads(base64.b64decode(form["altcha"]))
    payload["solution"]["time"] = 1
    payload["solution"]["derivedKey"] = payload["solution"]["derivedKey"].upper()
    respelled = base64.b64encode(json.dumps(payload, indent=1).encode()).decode() + "=="
    assert (await refused(captcha, world.context(), {"altcha": respelled})).code == "used"


async def test_a_challenge_from_before_a_key_rotation_still_counts(world: World) -> None:
    captcha = step(world, text_wait="0s")
    view = await captcha.begin(world.context())
    world.vault.rotate(b"second key")
    assert isinstance(await captcha.answer(world.context(), solved(view)), Passed)
    assert isinstance(await captcha.answer(world.context(memory=view.memory), {"answer": reads(asked(view))}), Passed)


async def test_an_answer_counts_only_after_a_look_at_the_question(world: World) -> None:
    captcha = step(world)
    view = await captcha.begin(world.context())
    context = world.context(memory=view.memory)
    early = await refused(captcha, context, {"answer": reads(asked(view))})
    assert (early.code, early.retry_after, early.counts) == ("too_soon", 3, False)
    context = world.later(context, early.memory, 3)
    assert asked(await captcha.begin(context)) == asked(view)
    assert isinstance(await captcha.answer(context, {"answer": reads(asked(view))}), Passed)


async def test_a_wrong_answer_brings_a_new_question(world: World) -> None:
    captcha, context, seen = step(world, text_wait="0s"), world.context(), set()
    for _ in range(5):
        view = await captcha.begin(context)
        seen.add(asked(view))
        context = world.later(context, (await refused(captcha, world.later(context, view.memory), {"answer": "x"})).memory)
    assert len(seen) > 3


@pytest.mark.parametrize(("one", "other", "same"), [("192.0.2.7", "192.0.2.8", False), ("2001:db8::1", "2001:db8::ffff", True)])
async def test_one_address_answers_few_questions(world: World, one: str, other: str, same: bool) -> None:
    captcha = step(world, text_wait="0s", text_limit=2)
    for transaction in ("a", "b"):
        view = await captcha.begin(world.context(transaction, client_ip=one))
        context = world.context(transaction, client_ip=one, memory=view.memory)
        assert isinstance(await captcha.answer(context, {"answer": reads(asked(view))}), Passed)
    view = await captcha.begin(world.context("c", client_ip=other))
    outcome = await captcha.answer(world.context("c", client_ip=other, memory=view.memory), {"answer": reads(asked(view))})
    if same:
        assert isinstance(outcome, Refused)
        assert outcome.code == "throttled"
        assert 0 < (outcome.retry_after or 0) <= 3600
        assert isinstance(await captcha.answer(world.context("c", client_ip=other), solved(view)), Passed)
    else:
        assert isinstance(outcome, Passed)


async def test_without_the_question_its_field_means_nothing(world: World) -> None:
    captcha = step(world, text_question=False)
    view = await captcha.begin(world.context())
    assert [f.name for f in view.fields] == ["altcha"]
    assert (await refused(captcha, world.context(), {"answer": "seven"})).code == "missing"


@pytest.mark.parametrize("template", question.TEMPLATES)
def test_every_kind_of_question_has_the_answer_that_a_reader_finds(template: Callable[[Any], question.Question]) -> None:
    for number in range(300):
        made = template(question._Dice(number.to_bytes(4, "big")))
        assert question.canonical(reads(made.text)) == made.answer, made
        assert made.text.isascii()


def test_questions_differ() -> None:
    assert len({question.make(number.to_bytes(4, "big")).text for number in range(500)}) > 400


@pytest.mark.parametrize("said", ["Seven", " seven. ", "7", "07", "the seven", "ｓｅｖｅｎ", "7!"])
def test_answers_are_read_with_good_will(said: str) -> None:
    assert question.canonical(said) == "7"


def test_other_answers_stay_other() -> None:
    assert len({question.canonical(a) for a in ("7", "17", "seventy", "", "0", "seven seven", "-")}) == 6


def test_settings_without_sense_are_mistakes() -> None:
    for wrong in ({"cost": 0}, {"max_number": 0}, {"ttl": "1s"}, {"provider": "other"}, {"text_question": "yes"}, {"dificulty": 3}):
        with pytest.raises(ValidationError):
            CaptchaConfig.model_validate(wrong)
    assert not CaptchaConfig.model_validate({"provider": "altcha"}).needs_mail
