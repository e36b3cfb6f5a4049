"""Settings of a page of others: what `check` refuses, and in which words; and the step's own small print."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import pytest
from pydantic import ValidationError

from gateway.app import REGISTRY
from gateway.errors import StoreUnavailable
from gateway.flow.away import Arrival, appended, sendable
from gateway.flow.replay import first_use
from gateway.flow.step import Passed, Refused, Waiting
from gateway.policy.model import StepInfo
from gateway.settings.load import Problems, load
from gateway.steps.redirect import Redirect, RedirectConfig
from tests.support.fakes_steps import World

GOOD: dict[str, Any] = {"url": "https://kyc.example.com/verify", "audience": "kyc", "secret": "s" * 32}


def config(**changes: Any) -> RedirectConfig:
    return RedirectConfig.model_validate({name: value for name, value in {**GOOD, **changes}.items() if value is not None})


WRONG: Mapping[str, tuple[dict[str, Any], str]] = {
    "javascript": ({"url": "javascript:alert(1)"}, "is not a URL"),
    "data": ({"url": "data:text/html,x"}, "is not a URL"),
    "relative": ({"url": "/verify"}, "is not a URL"),
    "no host": ({"url": "https:///verify"}, "is not a URL"),
    "fragment": ({"url": "https://kyc.example.com/#a"}, "without user, password, fragment"),
    "password": ({"url": "https://a:b@kyc.example.com/"}, "without user, password"),
    "line break": ({"url": "https://kyc.example.com/\r\nX: y"}, "or blanks"),
    "backslash": ({"url": "https://kyc.example.com\\@evil.example/"}, "or blanks"),
    "port": ({"url": "https://kyc.example.com:99999/"}, "is not a URL"),
    "short secret": ({"secret": "s" * 31}, "is too short: HS256 needs 32 bytes"),
    "no key": ({"secret": None}, "exactly one of `secret`"),
    "two keys": ({"jwks_url": "https://kyc.example.com/jwks.json"}, "exactly one of `secret`"),
    "no audience": ({"audience": ""}, "at least 1 character"),
    "none proves amr": ({"answer": "none", "amr": ["otp"]}, "proves nothing"),
    "none proves acr": ({"answer": "none", "acr": "urn:mfa"}, "proves nothing"),
    "none has no results": ({"answer": "none", "results": {"a": "b"}}, "proves nothing"),
    "nobody proves": ({"subject": "any", "amr": ["otp"]}, "who the user is"),
    "state is taken": ({"token_parameter": "state"}, "`state` is taken"),
    "odd parameter": ({"answer_parameter": "a b"}, "is not the name of a parameter"),
    "reserved claim": ({"claims": {"sub": "subject.id"}}, "cannot set the claim 'sub'"),
    "odd source": ({"claims": {"a": "session.id"}}, "names no source"),
    "odd hole": ({"claims": {"a": "{subject.id} {secret}"}}, "names no source"),
    "open hole": ({"claims": {"a": "{subject.id} {"}}, "names no source"),
    "anew without a claim": ({"then": "authorize_again"}, "needs a claim from it"),
    "too long": ({"lifetime": "2h"}, "less than or equal to 3600"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_mistake_is_told_in_words_and_never_repeats_the_secret(case: str) -> None:
    changes, words = WRONG[case]
    with pytest.raises(ValidationError) as caught:
        config(**changes)
    said = [str(error.get("ctx", {}).get("error", error["msg"])) for error in caught.value.errors()]
    assert any(words in text for text in said), said
    assert not any("sss" in text for text in said)


def test_check_says_where_and_refuses_our_own_name_as_the_pages(tmp_path: Any) -> None:
    def told(audience: str, answer: str = "required") -> str:
        (tmp_path / "gateway.yaml").write_text(
            f"public_url: https://bank.example.com\nupstreams: {{bank: {{url: http://127.0.0.1:1}}}}\nsteps:\n  kyc:\n    kind: redirect\n"
            f'    url: https://kyc.example.com/\n    audience: "{audience}"\n    secret: {"s" * 32}\n    answer: {answer}\n    acr: x\n'
        )
        found = load(tmp_path / "gateway.yaml", environ={}, kinds=REGISTRY)
        return str(found) if isinstance(found, Problems) else ""

    assert told("kyc") == ""
    for ours in ("https://bank.example.com", "https://bank.example.com/", "HTTPS://Bank.example.com:443"):
        assert "7:15: steps.kyc.audience: is a `public_url` of this gateway" in told(ours)
    assert "proves nothing" in told("kyc", "none")


def test_an_acr_reaches_the_rules(tmp_path: Any) -> None:
    (tmp_path / "gateway.yaml").write_text(
        "upstreams: {bank: {url: http://127.0.0.1:1}}\nsteps:\n"
        f"  kyc: {{kind: redirect, url: 'https://k.example/', audience: kyc, secret: {'s' * 32}, acr: 'urn:kyc', results: {{level: l}}}}\n"
        "  any: {kind: redirect, url: 'https://k.example/', audience: kyc, secret: " + "s" * 32 + ", subject: any}\n"
        "rules: [{name: a, when: 'subject.claims.level == 1', require: kyc}]\n"
    )
    found = load(tmp_path / "gateway.yaml", environ={}, kinds=REGISTRY)
    assert not isinstance(found, Problems), str(found)
    assert found.ruleset.steps["kyc"] == StepInfo("kyc", "redirect", needs_subject=True, acr="urn:kyc", claims=("level",))
    assert not found.ruleset.steps["any"].needs_subject


async def test_a_jti_that_was_used_up_by_a_crash_is_replaced() -> None:
    world = World()
    step = Redirect.build("kyc", config(), world.services)
    first = await step.begin(world.context())
    assert await first_use(world.state, "kyc", first.memory["jti"], expires=time.time() + 60, now=world.now)
    again = await step.begin(world.later(world.context(), first.memory))
    assert again.memory["jti"] != first.memory["jti"]
    assert again.memory["state"] != first.memory["state"]


async def test_what_is_judged_is_not_used_up() -> None:
    world = World()
    step = Redirect.build("kyc", config(answer="none"), world.services)
    view = await step.begin(world.context())
    context = world.later(world.context(), view.memory)
    for _ in range(2):
        assert await step.judge(context, {"state": view.memory["state"]}) == {}
    passed = await step.answer(context, {"state": view.memory["state"]})
    assert isinstance(passed, Passed)
    assert not passed.counts
    again = await step.answer(context, {"state": view.memory["state"]})
    assert isinstance(again, Refused)
    assert again.code == "used"


async def test_records_come_by_name_and_a_store_that_is_away_stops_it() -> None:
    world = World()

    async def record(subject: Any, name: str) -> Any:
        if name == "away":
            raise StoreUnavailable("down")
        return {"phone": {"number": "123"}, "terms": {"version": "2026-11"}}.get(name) if subject.id == "alice" else None

    from dataclasses import replace

    services = replace(world.services, record=record)
    claims = {"phone": "record.phone.number", "terms": "{record.terms.version}", "none": "record.nothing", "whole": "record.phone"}
    step = Redirect.build("kyc", config(claims=claims), services)
    import jwt

    view = await step.begin(world.context())
    assert view.away is not None
    token = view.away.url.partition("session_token=")[2]
    found = jwt.decode(token, options={"verify_signature": False})
    assert {n: found.get(n) for n in claims} == {"phone": "123", "terms": "2026-11", "none": None, "whole": None}
    with pytest.raises(StoreUnavailable):
        await Redirect.build("kyc", config(claims={"x": "record.away"}), services).begin(world.context())


async def test_a_state_is_that_of_one_transaction_step_and_round() -> None:
    world = World()
    step = Redirect.build("kyc", config(), world.services)
    contexts = [
        world.context("t1"),
        world.context("t2"),
        world.context("t1", step="other"),
        world.context("t1", memory={"round": 1}),
        world.context("t1", request=Waiting("POST", "/x", "/y")),
    ]
    states = [(await step.begin(context)).memory["state"] for context in contexts]
    assert len(set(states)) == 4
    assert states[0] == states[4]


def test_urls_keep_what_stands_in_them() -> None:
    assert appended("https://a.example/?b=%2F#c", [("d", "e&f")]) == "https://a.example/?b=%2F&d=e%26f#c"
    assert sendable("https://a.example/[x]?a=%zz") == "https://a.example/[x]?a=%zz"
    assert sendable("https://[::1") is None


def test_what_came_by_post_goes_before_what_stood_in_the_address() -> None:
    assert Arrival("su_1", {"token": "a", "q": "1"}, {"token": "b", "state": "x"}).form == {"token": "b", "q": "1", "state": "su_1"}
