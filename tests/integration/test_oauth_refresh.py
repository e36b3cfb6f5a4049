"""A certified provider behind the gateway: what was passed at the authorize path goes with the code to the refresh token, and on at
rotation; a password waits for its step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.altcha_client import payload
from tests.support.gateway import Browser, Clock
from tests.support.provider import HUMAN, OAUTH, Identity, answered, identity_provider

RULES = [HUMAN, {"name": "tokens-need-a-human", "match": {"upstream": "idp", "path": "/token"}, "require": "human", "max_age": "10m"}]
PASSWORD = {"grant_type": "password", "client_id": "app", "username": "alice", "password": "right", "scope": "openid offline_access"}


async def call(there: Identity, browser: Browser, form: dict[str, str]) -> Any:
    return await browser.json("POST", "/token", None, data=form)


async def solved(browser: Browser, document: dict[str, Any]) -> str:
    """The continue token, after the captcha was solved by JSON."""
    shown = await browser.json("GET", document["step_up_url"])
    done = await browser.json("POST", document["step_up_url"], {"altcha": payload(shown.json["step"]["data"])})
    assert done.json["status"] == "passed", done.text
    return str(done.json["token"])


@pytest.mark.parametrize("refresh", ["inherit", "require"])
async def test_a_refresh_token_of_a_gated_code_inherits_or_is_asked(tmp_path: Path, refresh: str) -> None:
    clock = Clock(1_800_000_000.0)
    async with identity_provider(tmp_path, rules=RULES, oauth={**OAUTH, "refresh": refresh}, clock=clock) as there:
        browser = there.browser()
        suspended = await there.sign_in(browser, there.authorize(scope="openid offline_access"))
        done = await there.pass_captcha_to(browser, suspended.location)
        tokens = await there.token(browser, answered(done)["code"])
        assert "refresh_token" in tokens, tokens
        app = there.browser()
        form = {"grant_type": "refresh_token", "client_id": "app", "refresh_token": tokens["refresh_token"]}
        first = await call(there, app, form)
        assert first.status == 200, first.text
        await there.advance(601)
        form["refresh_token"] = first.json.get("refresh_token", form["refresh_token"])
        second = await call(there, app, form)
        if refresh == "inherit":
            assert second.status == 200, second.text
            return
        assert (second.status, second.json["error"]) == (403, "interaction_required")
        third = await call(there, app, {**form, "stepup_token": await solved(app, second.json)})
        assert third.status == 200, third.text
        assert third.json["access_token"]


async def test_the_providers_password_grant_waits_for_its_step(tmp_path: Path) -> None:
    async with identity_provider(tmp_path, rules=RULES) as there:
        app = there.browser()
        wrong = await call(there, app, {**PASSWORD, "password": "wrong"})
        assert wrong.json["error"] == "invalid_grant", wrong.text
        asked = await call(there, app, PASSWORD)
        assert (asked.status, asked.json["error"]) == (403, "interaction_required"), asked.text
        done = await call(there, app, {**PASSWORD, "stepup_token": await solved(app, asked.json)})
        assert done.status == 200, done.text
        assert done.json["access_token"]
