"""A certified provider behind the gateway: what was passed at the authorize path goes with the code to the refresh token, and on at
rotation; a password waits for its step."""

from __future__ import annotations

import json
import secrets
import time
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm

from tests.support.altcha_client import payload
from tests.support.gateway import Browser, Clock
from tests.support.provider import CALLBACK, HUMAN, OAUTH, VERIFIER, Identity, answered, identity_provider

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


async def test_a_client_that_signs_is_known_by_what_it_signs(tmp_path: Path) -> None:
    """RFC 7521 §4.2: with an assertion `client_id` may be left out."""
    key = ec.generate_private_key(ec.SECP256R1())
    jwk = {**json.loads(ECAlgorithm.to_jwk(key.public_key())), "alg": "ES256", "use": "sig", "kid": "k"}
    client = {"token_endpoint_auth_method": "private_key_jwt", "jwks": {"keys": [jwk]}}
    async with identity_provider(tmp_path, rules=RULES, oauth={**OAUTH, "refresh": "inherit"}, options={"client": client}) as there:
        browser, app = there.browser(), there.browser()

        async def signed(**form: str) -> Any:
            claims = {"iss": "app", "sub": "app", "aud": there.base, "jti": secrets.token_hex(), "exp": time.time() + 60}
            kind = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
            assertion = jwt.encode(claims, key, "ES256", headers={"kid": "k"})
            return await call(there, app, {**form, "client_assertion_type": kind, "client_assertion": assertion})

        suspended = await there.sign_in(browser, there.authorize(scope="openid offline_access"))
        code = answered(await there.pass_captcha_to(browser, suspended.location))["code"]
        tokens = await signed(grant_type="authorization_code", code=code, redirect_uri=CALLBACK, code_verifier=VERIFIER)
        refreshed = await signed(grant_type="refresh_token", refresh_token=tokens.json["refresh_token"])
        assert refreshed.status == 200, refreshed.text
        password = {name: value for name, value in PASSWORD.items() if name != "client_id"}
        asked = await signed(**password)
        page = await there.browser().get(asked.json["step_up_url"])
        assert "<b>app</b>" in page.text, page.text
        done = await signed(**password, stepup_token=await solved(app, asked.json))
        assert done.status == 200, done.text
