"""password_change: the policy, and an application that knows nothing of the gateway."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import ClientSession, DummyCookieJar, web
from aiohttp.test_utils import TestServer
from pydantic import ValidationError

from gateway.demo.app import make_app
from gateway.flow.step import Context, Passed, Refused
from gateway.steps.password_change import PasswordChange, PasswordChangeConfig
from gateway.steps.password_change.page_form import find
from gateway.steps.password_change.policy import strong
from tests.support.fakes_steps import OldApp, World

GOOD = "quartz-Umbrella 71 lantern"
COOKIES = (("JSESSIONID", "s1"), ("pw", "expired"))


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def old() -> OldApp:
    return OldApp()


@pytest.fixture
async def url(old: OldApp) -> AsyncIterator[str]:
    async with TestServer(old.app()) as server:
        yield f"http://127.0.0.1:{server.port}"


def step(world: World, url: str, **changes: Any) -> PasswordChange:
    return PasswordChange.build("pw", PasswordChangeConfig.model_validate(OldApp.config(url, **changes)), world.services)


def look(world: World, transaction: str = "t1") -> Context:
    return world.context(transaction, subject="bob", cookies=COOKIES)


def form(current: str = "builder", new: str = GOOD, confirm: str | None = None) -> dict[str, str]:
    return {"current_password": current, "new_password": new, "confirm_password": new if confirm is None else confirm}


async def refused(password_change: PasswordChange, context: Context, sent: dict[str, str]) -> Refused:
    outcome = await password_change.answer(context, sent)
    assert isinstance(outcome, Refused), outcome
    return outcome


async def test_the_applications_form_is_filled_in_as_the_user(world: World, old: OldApp, url: str) -> None:
    outcome = await step(world, url).answer(look(world), form())
    assert isinstance(outcome, Passed)
    assert old.password == GOOD
    assert old.posts == [{"csrf": "1", "go": "save & exit", "pw_old": "builder", "pw_new": GOOD}]
    assert outcome.claims == {"password_expired": False}
    assert outcome.then == "continue"
    assert [c.partition(b";")[0] for c in outcome.set_cookies] == [b"csrf=1", b"pw=", b"JSESSIONID=s2"]
    assert old.headers[0]["Cookie"] == "JSESSIONID=s1; pw=expired; csrf=1"
    assert old.headers[0]["Origin"] == url


async def test_a_wrong_current_password_counts_and_can_be_corrected(world: World, old: OldApp, url: str) -> None:
    password_change = step(world, url)
    wrong = await refused(password_change, look(world), form("wonderland"))
    assert (wrong.code, wrong.field, wrong.counts) == ("wrong_password", "current_password", True)
    assert isinstance(await password_change.answer(look(world), form()), Passed)


async def test_the_applications_own_policy_is_respected(world: World, old: OldApp, url: str) -> None:
    outcome = await refused(step(world, url), look(world), form(new="forbidden quartz lantern 9"))
    assert outcome.code == "not_accepted"
    assert old.password == "builder"


@pytest.mark.parametrize(
    ("sent", "code", "field"),
    [
        (form(new="Tr0ub4dor&3"), "too_short", "new_password"),
        (form(new="x" * 129), "too_long", "new_password"),
        (form(new="passwordpassword"), "too_weak", "new_password"),
        (form(new="quartz BOB lantern 71 y"), "has_name", "new_password"),
        (form(current=GOOD, new=GOOD.upper()), "same", "new_password"),
        (form(confirm=GOOD + "x"), "mismatch", "confirm_password"),
        (form(new="quartz\x00lantern umbrella"), "unreadable", "new_password"),
        (form(new="", confirm=GOOD), "missing", "new_password"),
    ],
)
async def test_what_will_not_do_never_reaches_the_application(
    world: World, old: OldApp, url: str, sent: dict[str, str], code: str, field: str
) -> None:
    outcome = await refused(step(world, url), look(world), sent)
    assert (outcome.code, outcome.field, outcome.counts) == (code, field, False)
    assert old.posts == []
    assert not any(value and value in outcome.public + outcome.private for value in sent.values())


async def test_a_double_click_changes_the_password_once(world: World, old: OldApp, url: str) -> None:
    password_change = step(world, url)
    outcomes = await asyncio.gather(*(password_change.answer(look(world), form()) for _ in range(5)))
    assert any(isinstance(o, Passed) for o in outcomes)
    assert all(isinstance(o, Passed) or (isinstance(o, Refused) and o.code == "running") for o in outcomes)
    assert len(old.posts) == 1


async def test_a_retry_after_success_passes_with_the_same_cookies_and_without_the_application(world: World, old: OldApp, url: str) -> None:
    password_change = step(world, url)
    first = await password_change.answer(look(world), form())
    old.fault = "form"
    assert await password_change.answer(look(world), form()) == first
    assert len(old.posts) == 1
    old.fault = None
    assert (await refused(password_change, look(world), form(new=GOOD + "!"))).code == "wrong_password"


async def test_an_application_that_is_away_costs_no_attempt(world: World, old: OldApp, url: str) -> None:
    password_change = step(world, url)
    old.fault = "form"
    away = await refused(password_change, look(world), form())
    assert (away.code, away.counts, away.retry_after) == ("backend_away", False, 10)
    old.fault = "post"
    unclear = await refused(password_change, look(world), form())
    assert (unclear.code, unclear.counts) == ("unclear", False)
    old.fault = None
    assert isinstance(await password_change.answer(look(world), form()), Passed)


async def test_nobody_listening_is_away_too(world: World, unused_tcp_port: int) -> None:
    outcome = await refused(step(world, f"http://127.0.0.1:{unused_tcp_port}"), look(world), form())
    assert (outcome.code, outcome.counts) == ("backend_away", False)


async def test_a_session_that_the_application_does_not_know(world: World, old: OldApp, url: str) -> None:
    stranger = world.context(subject="bob", cookies=(("JSESSIONID", "old"),))
    outcome = await refused(step(world, url), stranger, form())
    assert (outcome.code, outcome.counts) == ("no_session", False)


async def test_a_form_that_leads_elsewhere_gets_no_password(world: World) -> None:
    seen: list[str] = []

    async def page(_request: web.Request) -> web.Response:
        text = "<form method=post action='//127.0.0.1:9/steal'><input name=pw_old><input name=pw_new></form>"
        return web.Response(content_type="text/html", text=text)

    async def post(request: web.Request) -> web.Response:
        seen.append(request.path)
        return web.Response()

    app = web.Application()
    app.add_routes([web.get("/account/password", page), web.post("/{tail:.*}", post)])
    async with TestServer(app) as server:
        outcome = await refused(step(world, f"http://127.0.0.1:{server.port}"), look(world), form())
    assert (outcome.code, seen) == ("backend_away", [])


@pytest.mark.parametrize(
    ("success", "passes"),
    [
        ({}, True),
        ({"location_not": "/login*"}, True),
        ({"location_not": "/account"}, False),
        ({"location": ["/x", "/acc*"]}, True),
        ({"location": "/"}, False),
        ({"status": 200}, False),
        ({"text": "Saved"}, False),
    ],
)
async def test_success_is_what_the_settings_say(world: World, url: str, success: dict[str, Any], passes: bool) -> None:
    config = OldApp.config(url)
    config["backend"]["http"]["success"] = success
    password_change = PasswordChange.build("pw", PasswordChangeConfig.model_validate(config), world.services)
    assert isinstance(await password_change.answer(look(world), form()), Passed) is passes


async def test_the_bundled_application_lets_bob_change_his_password(world: World) -> None:
    async with TestServer(make_app()) as server, ClientSession(cookie_jar=DummyCookieJar()) as client:
        url = f"http://127.0.0.1:{server.port}"
        async with client.post(f"{url}/login", data={"username": "bob", "password": "builder"}, allow_redirects=False) as login:
            cookies = tuple((m.key, m.value) for m in login.cookies.values())
        config = {"backend": {"http": {"url": f"{url}/account/password", "failure": {"wrong_current": "current password is wrong"}}}}
        password_change = PasswordChange.build("pw", PasswordChangeConfig.model_validate(config), world.services)
        context = world.context(subject="bob", cookies=cookies)
        assert (await refused(password_change, context, form("wonderland"))).code == "wrong_password"
        outcome = await password_change.answer(context, form())
        assert isinstance(outcome, Passed)
        assert outcome.then == "authorize_again"
        assert any(c.startswith(b"pw=") for c in outcome.set_cookies)


async def test_hostile_passwords_are_judged_in_bounded_time() -> None:
    policy = PasswordChangeConfig.model_validate(OldApp.config("http://127.0.0.1:1")).policy
    started = time.process_time()
    await strong(policy, "4@8({[</369&#!1|0$5+7%2" * 5, ["bob"])
    assert time.process_time() - started < 5


async def test_weak_passwords_are_not_judged_without_end(world: World, url: str) -> None:
    password_change = step(world, url)
    for _ in range(50):
        assert (await refused(password_change, look(world), form(new="passwordpassword"))).code == "too_weak"
    assert (await refused(password_change, look(world), form(new="passwordpassword"))).code == "throttled"


def test_the_form_is_found_as_a_browser_would_fill_it_in() -> None:
    page = """<form><input name=a></form><FORM METHOD="Post" ACTION=" /x?y=1&amp;z "><input type=hidden name=t value="&quot;ä&#x20AC;"/>
      <input name=a><input name=b disabled><input name=c type=checkbox checked><input name=d type=radio value=1><input type=file name=e>
      <input type=submit name=s value=1><input type=submit name=s value=2><input name=b type=password></form>"""
    found = find(page, ("a", "b"))
    assert found is not None
    assert (found.action, found.method) == ("/x?y=1&z", "post")
    assert found.carried == (("t", '"ä€'), ("c", "on"), ("s", "1"))
    assert find(page, ("a", "zzz")) is None
    assert find("<form" * 1000, ("a",)) is None


def test_settings_without_sense_are_mistakes() -> None:
    good = OldApp.config("http://127.0.0.1:1")
    mistakes: tuple[dict[str, Any], ...] = (
        {"backend": {}},
        {"backend": {"http": {"url": "ftp://x"}}},
        {"policy": {"min_length": 20, "max_length": 10}},
        {"policy": {"min_score": 5}},
        {"then": "logout"},
        {"backend": {"http": {"url": "http://x/", "success": {"location": "relative"}}}},
    )
    for wrong in mistakes:
        with pytest.raises(ValidationError):
            PasswordChangeConfig.model_validate(good | wrong)
