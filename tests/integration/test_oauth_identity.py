"""Who signs in: a provider's own login as the source of subjects, and a header of a proxy in front."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode

import pytest
from aiohttp import web
from yarl import URL

from tests.support.altcha_client import payload
from tests.support.gateway import Browser, Clock
from tests.support.ports import free_port
from tests.support.provider import CALLBACK, FRAME, HUMAN, Identity, answered, before

LOGIN = {
    "from": "login_form", "upstream": "idp", "path": "/login", "username": "name", "cookie": "sid",
    "success": {"status": [302], "location_not": "/login*"},
}  # fmt: skip
OAUTH = {"authorize": "/auth", "session_cookie": "sid"}
CODE = {"name": "code", "match": {"path": "/auth"}, "require": ["code"]}
TOTP = {"code": {"kind": "otp", "methods": ["totp"], "enrol": "allow"}}


class Provider:
    """A small one: whoever is logged in gets a code, and the login itself answers with one."""

    def __init__(self) -> None:
        self.sessions: dict[str, str] = {}

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        asked = dict(request.rel_url.query)
        known = request.cookies.get("sid", "") in self.sessions
        match request.method, request.path:
            case "GET", "/auth" if known and asked.get("max_age") != "0":
                return self._code(asked)
            case "GET", "/auth" if asked.get("prompt") == "none":
                return _found(f"{CALLBACK}?{urlencode({'error': 'login_required', 'state': asked.get('state', '')})}")
            case "GET", "/auth":
                return _found(f"/login?{urlencode(asked)}")
            case "GET", "/login":
                return web.Response(text="<form method=post><input name=name></form>", content_type="text/html")
            case "POST", "/login":
                value = secrets.token_urlsafe()
                self.sessions[value] = str((await request.post())["name"])
                answer = self._code(asked)
                answer.set_cookie("sid", value, httponly=True)
                return answer
            case _:
                return web.Response(status=404)

    def _code(self, asked: Mapping[str, str]) -> web.Response:
        return _found(f"{CALLBACK}?{urlencode({'code': secrets.token_hex(), 'state': asked.get('state', '')})}")


def _found(location: str) -> web.Response:
    return web.Response(status=302, headers={"Location": location})


@asynccontextmanager
async def small(folder: Path, *rules: Mapping[str, Any], **changes: Any) -> AsyncIterator[Identity]:
    runner = web.ServerRunner(web.Server(Provider().answer), shutdown_timeout=0.1)
    await runner.setup()
    port = free_port()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        async with before(folder, f"http://127.0.0.1:{port}", rules=rules, oauth=OAUTH, **changes) as there:
            yield there
    finally:
        await runner.cleanup()


async def log_in(there: Identity, browser: Browser, name: str) -> Any:
    asked = await browser.get(there.authorize())
    assert asked.location.startswith("/login?")
    await browser.get(asked.location)
    return await browser.post(asked.location, {"name": name})


async def test_the_login_that_answers_with_a_code_tells_who_it_is_for(tmp_path: Path) -> None:
    rule = {**HUMAN, "match": {"path": "/auth"}, "when": 'subject.id == "alice"'}
    async with small(tmp_path, rule, identity=[LOGIN]) as there:
        assert answered(await log_in(there, there.browser(), "bob"))["code"]
        browser = there.browser()
        suspended = await log_in(there, browser, "alice")
        assert suspended.location.startswith("/.stepup/t/su_")
        assert browser.cookie("sid")
        assert answered(await there.pass_captcha_to(browser, suspended.location))["code"]


async def test_a_step_for_somebody_is_asked_of_whoever_has_just_logged_in(tmp_path: Path) -> None:
    async with small(tmp_path, CODE, identity=[LOGIN], steps=TOTP) as there:
        browser = there.browser()
        suspended = await log_in(there, browser, "alice")
        shown = await browser.json("GET", suspended.location)
        assert shown.json["step"]["kind"] == "otp"


async def test_a_frame_is_known_by_the_session_that_its_own_pass_vouched_for(tmp_path: Path) -> None:
    async with small(tmp_path, HUMAN, identity=[LOGIN]) as there:
        browser = there.browser()
        suspended = await log_in(there, browser, "alice")
        frame = there.browser()
        frame.session.cookie_jar.update_cookies({"sid": browser.cookie("sid") or ""}, URL(there.base))
        # Nothing was passed yet: for all that is known the session is anybody's, and does not go up.
        assert answered(await frame.get(there.authorize(prompt="none"), headers=FRAME))["error"] == "login_required"
        assert answered(await there.pass_captcha_to(browser, suspended.location))["code"]
        assert answered(await frame.get(there.authorize(prompt="none"), headers=FRAME))["code"]
        assert not [c for c in frame.session.cookie_jar if c.key.startswith("stepup")]


async def test_what_one_subject_passed_is_nothing_to_another(tmp_path: Path) -> None:
    header = {"from": "header", "name": "X-User"}
    async with small(tmp_path, HUMAN, identity=[header], trusted_proxies=["127.0.0.1"]) as there:
        browser = there.browser()
        browser.headers = {**browser.headers, "X-User": "alice"}
        suspended = await log_in(there, browser, "alice")
        assert answered(await there.pass_captcha_to(browser, suspended.location))["code"]
        frame = there.browser()
        frame.session.cookie_jar.update_cookies({"sid": browser.cookie("sid") or ""}, URL(there.base))
        silent = there.authorize(prompt="none")
        assert answered(await frame.get(silent, headers={**FRAME, "X-User": "alice"}))["code"]
        for other in ({"X-User": "bob"}, {}):
            assert answered(await frame.get(silent, headers={**FRAME, **other}))["error"] == "interaction_required"


async def test_what_one_has_gone_through_for_a_sign_in_lets_nobody_else_sign_in(tmp_path: Path) -> None:
    rule = {**HUMAN, "match": {"path": "/auth"}, "max_age": "once"}
    async with small(tmp_path, rule, identity=[LOGIN]) as there:
        browser = there.browser()
        suspended = await log_in(there, browser, "alice")
        page = await browser.get(suspended.location)
        shown = await browser.json("GET", suspended.location)
        done = await browser.post(
            suspended.location, {"altcha": payload(shown.json["step"]["data"]), "stepup_token": page.hidden("stepup_token")}
        )
        resumed = await browser.get(done.location)
        assert "/auth?" in resumed.headers["Refresh"], "alice could have her code now"
        other = await browser.post("/login?" + there.authorize().partition("?")[2], {"name": "bob"})
        assert other.location.startswith("/.stepup/t/su_"), other.location


@pytest.mark.parametrize("name", ["alice", "bob"])
@pytest.mark.parametrize("age", ["session", "once", "5m"])
async def test_who_must_log_in_each_time_goes_through_the_step_once_for_a_sign_in(tmp_path: Path, age: str, name: str) -> None:
    """Their second login is a new session, and its pass a new one."""
    rule = {**HUMAN, "match": {"path": "/auth"}, "max_age": age}
    async with small(tmp_path, rule, identity=[LOGIN]) as there:
        browser = there.browser()
        login = "/login?" + there.authorize(max_age="0").partition("?")[2]
        asked = await browser.get(there.authorize(max_age="0"))
        assert asked.location == login
        suspended = await browser.post(login, {"name": "alice"})
        assert (await there.pass_captcha_to(browser, suspended.location)).location == login
        end = await browser.post(login, {"name": name})
        if name == "alice":
            assert answered(end)["code"]
            end = await browser.post(login, {"name": name})  # once for each
        assert end.location.startswith("/.stepup/t/su_"), end.location


async def test_what_was_passed_lasts_no_longer_for_another_login(tmp_path: Path) -> None:
    clock = Clock(1_800_000_000.0)
    async with small(tmp_path, HUMAN, identity=[LOGIN], clock=clock, passes={"max_age": "1h", "idle": "1h"}) as there:
        browser = there.browser()
        login = "/login?" + there.authorize().partition("?")[2]
        suspended = await log_in(there, browser, "alice")
        assert answered(await there.pass_captcha_to(browser, suspended.location))["code"]
        await there.advance(3000)
        assert answered(await browser.post(login, {"name": "alice"}))["code"]
        frame = there.browser()
        frame.session.cookie_jar.update_cookies({"sid": browser.cookie("sid") or ""}, URL(there.base))
        assert answered(await frame.get(there.authorize(prompt="none"), headers=FRAME))["code"]
        await there.advance(601)
        assert "code" not in answered(await frame.get(there.authorize(prompt="none"), headers=FRAME))


async def test_the_state_of_the_client_comes_back_whatever_it_is(tmp_path: Path) -> None:
    async with small(tmp_path, HUMAN) as there:
        state = 'a&b=c#d?e f"<ä>'
        browser = there.browser()
        await log_in(there, browser, "alice")
        reply = await browser.get("/auth?" + urlencode({"prompt": "none", "state": state}))
        assert dict(parse_qsl(reply.location.partition("?")[2]))["state"] == state
