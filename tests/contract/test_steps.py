"""What every step must do, whatever it asks for. One suite, run for each kind and method, in memory and on real stores and keys."""

from __future__ import annotations

import asyncio
import base64
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import jwt
import pyotp
import pytest
from aiohttp.test_utils import TestServer
from altcha import Challenge, Payload, Solution, solve_challenge

from gateway.errors import StoreUnavailable
from gateway.flow.ports import Records, StateStore
from gateway.flow.step import Again, Context, Failed, Keeps, Outcome, Passed, Refused, Remembers, Step, View
from gateway.settings.registry import KeepsRecord
from gateway.steps.captcha import Captcha, CaptchaConfig
from gateway.steps.captcha.question import canonical
from gateway.steps.consent import Consent, ConsentConfig
from gateway.steps.form import Form as FormStep
from gateway.steps.form import FormConfig
from gateway.steps.otp import Otp, OtpConfig
from gateway.steps.password_change import PasswordChange, PasswordChangeConfig
from gateway.steps.redirect import Redirect, RedirectConfig
from gateway.stores.factory import open_state
from gateway.stores.records import open_records
from gateway.tokens.foreign import usable_key
from gateway.tokens.keys import generate_private_pem, new_keyring
from gateway.tokens.vault import KeyVault
from gateway.wire.subject import NOBODY, Subject
from tests.support.fakes_steps import MemoryRecords, MemoryState, OldApp, World, reads

Form = dict[str, str]
NEW = "quartz-Umbrella 71 lantern"


@dataclass
class Case:
    """One way through one step. right: the answer to what is shown. wrong: one that cannot be right. secrets: what must show nowhere."""

    world: World
    step: Step
    right: Callable[[View], Form]
    wrong: Callable[[View], Form]
    secrets: Callable[[View], list[str]] = lambda _view: []
    context: dict[str, Any] = field(default_factory=dict)
    wait: float = 0.0
    repeatable: bool = False
    """The same form passes again in the same transaction (and changes nothing): a retry after a crash must not strand anybody."""
    open: bool = False
    """Nothing in an answer is secret or a guess: the same one is right in another transaction, a wrong one counts against nobody, and what
    was typed may stand in memory, to be shown again."""

    def look(self, transaction: str = "t1") -> Context:
        return self.world.context(transaction, **self.context)

    async def shown(self, transaction: str = "t1") -> tuple[Context, View]:
        """A transaction whose step was shown, and has been looked at for as long as it takes."""
        context = self.look(transaction)
        view = await self.step.begin(context)
        return self.world.later(context, view.memory, self.wait), view


def captcha(world: World) -> Captcha:
    return Captcha.build("step", CaptchaConfig(cost=10, max_number=50), world.services)


def solve(view: View) -> Payload:
    challenge = Challenge.from_dict(dict(view.data))
    solution = solve_challenge(challenge)
    assert solution is not None
    return Payload(challenge, solution)


async def captcha_proof(world: World) -> Case:
    def wrong(view: View) -> Form:
        payload = solve(view)
        return {"altcha": Payload(payload.challenge, Solution(payload.solution.counter, "00" * 32)).to_base64()}

    return Case(world, captcha(world), lambda view: {"altcha": solve(view).to_base64()}, wrong, context={"subject": ""})


async def captcha_question(world: World) -> Case:
    def answer(view: View) -> str:
        return reads(next(f.label for f in view.fields if f.name == "answer"))

    return Case(
        world,
        captcha(world),
        lambda view: {"answer": answer(view)},
        lambda _view: {"answer": "none of these"},
        context={"subject": ""},
        wait=5,
    )


def otp(world: World, **config: Any) -> Otp:
    base = {"methods": ["totp", "email"], "email": "{subject.id}@bank.example.com"}
    return Otp.build("step", OtpConfig.model_validate(base | config), world.services)


async def otp_email(world: World) -> Case:
    def wrong(_view: View) -> Form:
        return {"code": str((int(world.mailed_code()) + 1) % 10**6).zfill(6)}

    def secrets(_view: View) -> list[str]:
        return [world.mailed_code(), "alice@bank.example.com"]

    return Case(world, otp(world), lambda _view: {"code": world.mailed_code()}, wrong, secrets)


async def otp_totp(world: World) -> Case:
    step = otp(world)
    context = world.context("enrolment", elevated=True)
    view = await step.begin(context)
    chosen = await step.answer(world.later(context, view.memory), {"action": "use:totp"})
    assert isinstance(chosen, Again)
    context = world.later(context, chosen.memory)
    view = await step.begin(context)
    secret = view.data["enrol"]["key"].replace(" ", "")
    totp = pyotp.TOTP(secret)
    assert isinstance(await step.answer(world.later(context, view.memory), {"code": totp.at(int(world.now))}), Passed)
    world.now += 90

    def code() -> str:
        return totp.at(int(world.now))

    return Case(
        world,
        step,
        lambda _view: {"code": code()},
        lambda _view: {"code": str((int(code()) + 1) % 10**6).zfill(6)},
        lambda _view: [secret, code()],
    )


async def otp_enrolment(world: World) -> Case:
    def code(view: View) -> str:
        return pyotp.TOTP(view.data["enrol"]["key"].replace(" ", "")).at(int(world.now))

    return Case(
        world,
        otp(world, methods="totp", enrol="allow"),
        lambda view: {"code": code(view)},
        lambda view: {"code": str((int(code(view)) + 1) % 10**6).zfill(6)},
        lambda view: [code(view)],
    )


def external(world: World, **config: Any) -> Redirect:
    base = {
        "url": "https://kyc.example.com/verify",
        "audience": "kyc",
        "secret": "s" * 40,
        "amr": ["face"],
        "claims": {"who": "subject.id"},
    }
    settings = {name: value for name, value in (base | config).items() if value is not None}
    return Redirect.build("step", RedirectConfig.model_validate(settings), world.services)


def asked_of(view: View, key: Any, algorithm: str) -> dict[str, Any]:
    """What the page reads, with the state that it was given."""
    assert view.away is not None
    given = dict(parse_qsl(urlsplit(view.away.url).query)) | dict(view.away.fields)
    options: Any = {"verify_exp": False, "verify_iat": False}
    return jwt.decode(given["session_token"], key, algorithms=[algorithm], audience="kyc", options=options) | {"state": given["state"]}


def answering(world: World, asked: dict[str, Any]) -> dict[str, Any]:
    now = int(world.now)
    return {"iss": "kyc", "aud": asked["iss"], **{n: asked[n] for n in ("sub", "jti", "state")}, "iat": now, "exp": now + 60}


async def redirect_shared(world: World) -> Case:
    secret = "s" * 40

    def answer(view: View, **changes: Any) -> Form:
        claims = answering(world, asked_of(view, secret, "HS256")) | changes
        return {"token": jwt.encode(claims, secret, algorithm="HS256")}

    return Case(world, external(world), answer, lambda view: answer(view, sub="mallory"), lambda _view: [secret])


async def redirect_published(world: World) -> Case:
    ours = new_keyring(now=0.0, secret=os.urandom(32), private_pem=generate_private_pem("ES256"), algorithm="ES256")
    theirs = new_keyring(now=0.0, secret=os.urandom(32), private_pem=generate_private_pem("ES256"), algorithm="ES256").signing[0]

    class Published:
        async def key(self, kid: str, now: float) -> jwt.PyJWK | None:
            return usable_key(theirs.jwk()) if kid == theirs.kid else None

    def answer(view: View, **changes: Any) -> Form:
        claims = answering(world, asked_of(view, ours.signing[0].private.public_key(), "ES256")) | changes
        return {"token": jwt.encode(claims, theirs.private, algorithm="ES256", headers={"kid": theirs.kid})}

    services = replace(world.services, keyring=lambda: ours, published=lambda _url: Published())
    settings = {"url": "https://kyc.example.com/", "audience": "kyc", "jwks_url": "https://kyc.example.com/jwks.json", "amr": ["face"]}
    step = Redirect.build("step", RedirectConfig.model_validate(settings | {"send": "form_post"}), services)
    return Case(world, step, answer, lambda view: answer(view, aud="https://other.example"))


async def consent(world: World) -> Case:
    config = ConsentConfig.model_validate({"document": "terms.md", "version": "2"}).with_document(b"# Terms\n\nBe *kind*.\n")
    assert isinstance(config, ConsentConfig)
    return Case(
        world,
        Consent.build("step", config, world.services),
        lambda _view: {"accept": "yes"},
        lambda _view: {"accept": "perhaps"},
        repeatable=True,
        open=True,
    )


async def form(world: World) -> Case:
    fields = [
        {"name": "phone", "type": "tel", "label": "Phone", "required": True, "pattern": r"\+?[0-9 ]{6,20}"},
        {"name": "plan", "type": "select", "label": "Plan", "choices": ["small", "large"], "required": True},
        {"name": "note", "type": "textarea", "label": "Note"},
    ]
    step = FormStep.build("step", FormConfig.model_validate({"fields": fields}), world.services)
    right = {"phone": "+44 20 7946 0018", "plan": "small", "note": "<b>call</b> me\r\nlater"}
    return Case(
        world,
        step,
        lambda _view: right,
        lambda _view: right | {"plan": "huge"},
        lambda _view: ["7946", "call"],
        repeatable=True,
        open=True,
    )


CASES: dict[str, Callable[[World], Awaitable[Case]]] = {
    "captcha": captcha_proof,
    "captcha-question": captcha_question,
    "otp-email": otp_email,
    "otp-totp": otp_totp,
    "otp-enrolment": otp_enrolment,
    "redirect-shared": redirect_shared,
    "redirect-published": redirect_published,
    "consent": consent,
    "form": form,
}


@pytest.fixture(params=["memory", "real"])
async def world(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[World]:
    if request.param == "memory":
        yield World()
        return
    state: StateStore = await open_state(f"sqlite:///{tmp_path}/state.db", redis_deadline=1.0, sqlite_deadline=5.0)
    records: Records = await open_records(f"sqlite:///{tmp_path}/records.db", 5.0)
    keyring = new_keyring(now=0.0, secret=os.urandom(32), private_pem=generate_private_pem("ES256"), algorithm="ES256")
    yield World(state, records, KeyVault(keyring, lambda: os.urandom(12)))
    await state.close()
    await records.close()


@pytest.fixture(params=[*CASES, "password_change"])
async def case(request: pytest.FixtureRequest, world: World) -> AsyncIterator[Case]:
    if request.param in CASES:
        yield await CASES[request.param](world)
        return
    old = OldApp()
    async with TestServer(old.app()) as server:
        config = PasswordChangeConfig.model_validate(OldApp.config(f"http://127.0.0.1:{server.port}"))
        form = {"current_password": "builder", "new_password": NEW, "confirm_password": NEW}
        yield Case(
            world,
            PasswordChange.build("step", config, world.services),
            lambda _view: form,
            lambda _view: form | {"current_password": "wonderland"},
            lambda _view: ["builder", "wonderland", NEW],
            {"cookies": (("JSESSIONID", "s1"), ("other", "1"))},
            repeatable=True,
        )


# RFC 8176 §2, whole: the registry "Authentication Method Reference Values".
RFC_8176 = frozenset(
    {"face", "fpt", "geo", "hwk", "iris", "kba", "mca", "mfa", "otp", "pin", "pop", "pwd", "rba", "retina", "sc", "sms", "swk", "tel"}
    | {"user", "vbm", "wia"}
)


def as_json(value: Mapping[str, Any]) -> str:
    return json.dumps(dict(value))


def said(outcome: Outcome, case: Case) -> str:
    assert isinstance(outcome, Refused | Failed)
    if isinstance(outcome, Failed):
        return outcome.public + outcome.private
    memory = "" if case.open else as_json(outcome.memory)
    return outcome.public + outcome.private + memory + as_json(outcome.errors)


async def test_begin_can_be_repeated_and_is_json(case: Case) -> None:
    context, first = await case.shown()
    again = await case.step.begin(context)
    for view in (first, again):
        assert as_json(view.data)
        assert as_json(view.memory)
        assert view.title
        assert view.lead
        assert view.fields
    assert [f.name for f in first.fields] == [f.name for f in again.fields]
    assert as_json(first.memory) == as_json(again.memory)


async def test_loads_at_the_same_moment_agree_and_send_one_mail(case: Case) -> None:
    context, before = case.look(), len(case.world.mailbox.messages)
    views = await asyncio.gather(*(case.step.begin(context) for _ in range(8)))
    assert len({as_json(view.memory) for view in views}) == 1
    assert len({tuple(f.label for f in view.fields) for view in views}) == 1
    assert len(case.world.mailbox.messages) - before <= 1


async def test_the_right_answer_passes(case: Case) -> None:
    context, view = await case.shown()
    outcome = await case.step.answer(context, case.right(view))
    assert isinstance(outcome, Passed)
    assert as_json(outcome.claims)
    assert bool(outcome.amr) == case.step.proves_identity
    assert set(outcome.amr) <= RFC_8176


async def test_the_same_answer_does_not_pass_twice(case: Case) -> None:
    context, view = await case.shown()
    form = case.right(view)
    assert isinstance(await case.step.answer(context, form), Passed)
    if not case.repeatable:
        assert not isinstance(await case.step.answer(context, form), Passed)
        again = await case.step.begin(context)
        assert not isinstance(await case.step.answer(case.world.later(context, again.memory), form), Passed)


async def test_an_answer_does_not_pass_in_another_transaction(case: Case) -> None:
    context, view = await case.shown()
    form = case.right(view)
    assert isinstance(await case.step.answer(context, form), Passed)
    for number in range(2, 40):
        other, shown = await case.shown(f"t{number}")
        # Two small questions can have the same answer, also in another spelling ("3", "three").
        if case.wait == 0 or canonical(case.right(shown)["answer"]) != canonical(form["answer"]):
            break
    assert isinstance(await case.step.answer(other, form), Passed) is case.open


async def test_of_right_answers_sent_in_parallel_one_passes(case: Case) -> None:
    context, view = await case.shown()
    form = case.right(view)
    outcomes = await asyncio.gather(*(case.step.answer(context, form) for _ in range(10)))
    passed = sum(isinstance(o, Passed) for o in outcomes)
    assert passed >= 1 if case.repeatable else passed == 1
    assert all(isinstance(o, Passed | Refused) for o in outcomes)


async def test_a_wrong_answer_is_refused_with_a_way_on(case: Case) -> None:
    context, view = await case.shown()
    form, hidden = case.wrong(view), case.secrets(view)
    outcome = await case.step.answer(context, form)
    assert isinstance(outcome, Refused)
    assert outcome.counts is not case.open
    assert outcome.public.endswith(".")
    assert not any(secret in said(outcome, case) for secret in [*hidden, *form.values()])
    context = case.world.later(context, outcome.memory)
    view = await case.step.begin(context)
    assert view.fields
    context = case.world.later(context, view.memory, case.wait)
    assert isinstance(await case.step.answer(context, case.right(view)), Passed)


async def test_secrets_do_not_show(case: Case) -> None:
    context, view = await case.shown()
    hidden = case.secrets(view)
    assert not any(secret in as_json(view.data) + as_json(view.memory) + view.title + view.lead + repr(view.page) for secret in hidden)
    assert isinstance(await case.step.answer(context, case.right(view)), Passed)
    if isinstance(case.world.stored, MemoryState) and isinstance(case.world.records, MemoryRecords):
        stored = repr((case.world.stored.entries, case.world.records.entries))
        assert not any(secret in stored for secret in hidden)


async def test_an_empty_form_counts_against_nobody(case: Case) -> None:
    context, view = await case.shown()
    for form in ({}, {f.name: "" for f in view.fields}, {f.name: " " for f in view.fields if f.type != "password"}):
        outcome = await case.step.answer(context, form)
        assert isinstance(outcome, Refused)
        assert not outcome.counts


HOSTILE: dict[str, Any] = {
    "long": "9" * 300_000,
    "nul": "\x00" * 6,
    "lone surrogates": "\udcff\ud800\udcff",
    "controls": "12\r\n3456\r\nSet-Cookie: a=b",
    "other digits": "١٢٣٤٥٦",
    "superscripts": "¹²³⁴⁵⁶",
    "emoji": "🂡" * 6,
    "a number": 123456,
    "a list": ["1"],
    "nothing": None,
    "json": base64.b64encode(b'{"challenge": {"parameters": null}, "solution": []}').decode(),
    "deep json": base64.b64encode(b"[" * 2900).decode(),
    "base64 of bytes": base64.b64encode(bytes(range(256))).decode(),
    "markup": "<script>alert(1)</script>{{ 7*7 }}",
}


@pytest.mark.parametrize("kind", HOSTILE)
async def test_hostile_fields_are_refused_and_not_repeated(case: Case, kind: str) -> None:
    context, view = await case.shown()
    value = HOSTILE[kind]
    for form in (*({f.name: value} for f in view.fields), {f.name: value for f in view.fields}, {"action": value}, {"unknown": value}):
        outcome = await case.step.answer(context, form)
        assert isinstance(outcome, Refused), form
        assert not isinstance(value, str) or value not in said(outcome, case)


async def test_unknown_actions_change_nothing(case: Case) -> None:
    context, _ = await case.shown()
    for action in ("use:", "use:sms", "resend:all", "cancel", "enrol:now"):
        outcome = await case.step.answer(context, {"action": action})
        assert isinstance(outcome, Refused)
        assert not outcome.counts


async def test_without_its_store_nothing_passes(case: Case) -> None:
    context, view = await case.shown()
    form = case.right(view)
    case.world.state.down = True
    with pytest.raises(StoreUnavailable):
        await case.step.answer(context, form)
    case.world.state.down = False
    assert isinstance(await case.step.answer(context, form), Passed)


async def test_what_a_step_says_of_itself(case: Case) -> None:
    step = case.step
    assert all(setting.description for setting in step.Config.model_fields.values())
    assert step.proves_identity <= step.needs_subject
    folder = Path("gateway/steps") / step.kind
    assert (folder / "page.html").is_file()


async def test_without_a_subject_a_step_that_needs_one_does_not_pass(case: Case) -> None:
    if not case.step.needs_subject:
        assert not case.look().subject.known
        return
    context = replace(case.look(), subject=NOBODY, cookies=())
    view = await case.step.begin(context)
    assert view.lead
    form = {"code": "123456", "current_password": "builder", "new_password": NEW, "confirm_password": NEW}
    if case.open:
        form |= case.right(view)
    assert isinstance(await case.step.answer(case.world.later(context, view.memory), form), Refused)


async def test_what_was_answered_once_needs_no_asking_and_is_one_subjects(case: Case) -> None:
    """Of the steps that remember; the others ask always."""
    context, view = await case.shown()
    if not isinstance(case.step, Remembers):
        assert not isinstance(case.step, Keeps)
        return
    assert await case.step.already(context.subject, context.now) is None
    given = await case.step.answer(context, case.right(view))
    assert isinstance(given, Passed)
    case.world.now += 1000
    remembered = await case.step.already(context.subject, case.world.now)
    assert isinstance(remembered, Passed)
    assert (remembered.at, remembered.edition, remembered.claims) == (context.now, given.edition, given.claims)
    for other in (
        Subject("alice2", {}, "login"),
        Subject("alice", {}, "jwt"),
        Subject("Alice", {}, "login"),
        Subject("\udcff", {}, "login"),
    ):
        assert await case.step.already(other, case.world.now) is None
    case.world.state.down = True
    with pytest.raises(StoreUnavailable):
        await case.step.already(context.subject, case.world.now)


async def test_a_record_is_what_the_settings_say_it_is(case: Case) -> None:
    if not isinstance(case.step, Keeps):
        return
    context, view = await case.shown()
    assert await case.step.record(context.subject) is None
    await case.step.answer(context, case.right(view))
    found = await case.step.record(context.subject)
    config = case.step._config  # type: ignore[attr-defined]
    assert isinstance(config, KeepsRecord)
    assert found is not None
    assert set(found) == set(config.record_fields)
    types: dict[str, type[object]] = {"text": str, "number": float, "boolean": bool, "time": datetime}
    assert all(value is None or isinstance(value, types[config.record_fields[name]]) for name, value in found.items())
