"""By whatever way a code or a token was about to travel: it does not, and the client learns why by the same way."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from html import unescape
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm

from tests.support.gateway import Reply
from tests.support.provider import CALLBACK, FRAME, Identity, identity_provider

FEATURES = {
    "devInteractions": {"enabled": False}, "jwtResponseModes": {"enabled": True}, "pushedAuthorizationRequests": {"enabled": True},
    "requestObjects": {"request": True, "requestUri": False}, "webMessageResponseMode": {"enabled": True},
}  # fmt: skip
MODES: list[tuple[str, dict[str, str]]] = [
    ("query", {}),
    ("fragment", {"response_mode": "fragment"}),
    ("fragment", {"response_type": "id_token"}),
    ("fragment", {"response_type": "code id_token"}),
    ("form", {"response_mode": "form_post"}),
    ("form", {"response_mode": "form_post", "response_type": "id_token"}),
    ("message", {"response_mode": "web_message"}),
    ("query", {"response_mode": "query.jwt"}),
    ("fragment", {"response_mode": "fragment.jwt"}),
    ("form", {"response_mode": "form_post.jwt"}),
    ("query", {"response_mode": "jwt"}),
]


def brought(reply: Reply, way: str) -> dict[str, str]:
    """What an answer brings the client, and that it is by this way and to its redirect URI."""
    if way in ("query", "fragment"):
        assert reply.status in (302, 303), (reply.status, reply.text)
        assert reply.location.startswith(CALLBACK)
        return dict(parse_qsl(getattr(urlsplit(reply.location), way)))
    assert reply.status == 200, reply.text
    assert re.search(rf'data-stepup-handback="{way}"', reply.text), reply.text
    assert f'action="{CALLBACK}"' in reply.text
    found = re.findall(r'<input type="hidden" name="([^"]*)" value="([^"]*)">', reply.text)
    return {name: unescape(value) for name, value in found}


@pytest.fixture
async def there(tmp_path: Path) -> AsyncIterator[Identity]:
    async with identity_provider(tmp_path, options={"configuration": {"features": FEATURES}}) as found:
        yield found


async def test_an_unmet_rule_is_told_by_the_way_in_which_the_code_would_have_come(there: Identity) -> None:
    browser = there.browser()
    await there.sign_in(browser, there.authorize())
    for way, changes in MODES:
        for headers in ({}, FRAME):
            reply = await browser.get(there.authorize(prompt="none", state="s2", **changes), headers=headers)
            given = brought(reply, way)
            assert given["error"] == "interaction_required", changes
            assert given["state"] == "s2", changes
            assert given["iss"] == there.base, changes
            assert {"code", "id_token", "access_token", "response"}.isdisjoint(given), changes
            # The page is for the client's frame, and tells nobody else.
            if way in ("form", "message"):
                assert "frame-ancestors" not in reply.headers["Content-Security-Policy"]


async def test_with_the_steps_passed_every_way_works_in_silence(there: Identity) -> None:
    browser = there.browser()
    suspended = await there.sign_in(browser, there.authorize())
    await there.pass_captcha_to(browser, suspended.location)
    for _, changes in MODES:
        reply = await browser.get(there.authorize(prompt="none", state="s2", **changes), headers=FRAME)
        text = reply.location if reply.status in (302, 303) else reply.text
        assert "stepup" not in text, changes
        assert "error" not in text, changes
        assert re.search(r"\b(code|id_token|response)\b", text), changes


async def test_a_navigation_is_sent_through_the_steps_whatever_the_way(there: Identity) -> None:
    for _, changes in MODES:
        browser = there.browser()
        suspended = await there.sign_in(browser, there.authorize(**changes))
        assert suspended.status == 303, suspended.text
        assert suspended.location.startswith("/.stepup/t/su_"), changes
        done = await there.pass_captcha_to(browser, suspended.location)
        text = done.location if done.status in (302, 303) else done.text
        assert CALLBACK in text, changes
        assert "error" not in text, changes


async def test_a_response_that_is_encrypted_gives_way_to_an_error_with_the_state_that_the_client_sent(tmp_path: Path) -> None:
    jwk = json.loads(ECAlgorithm.to_jwk(ec.generate_private_key(ec.SECP256R1()).public_key()))
    client = {
        "authorization_encrypted_response_alg": "ECDH-ES", "authorization_encrypted_response_enc": "A128GCM",
        "jwks": {"keys": [{**jwk, "alg": "ECDH-ES", "use": "enc", "kid": "k"}]},
    }  # fmt: skip
    features = {**FEATURES, "encryption": {"enabled": True}}
    async with identity_provider(tmp_path, options={"client": client, "configuration": {"features": features}}) as there:
        browser = there.browser()
        suspended = await there.sign_in(browser, there.authorize(response_mode="jwt"))
        for way, mode in (("query", "query.jwt"), ("fragment", "fragment.jwt"), ("form", "form_post.jwt")):
            given = brought(await browser.get(there.authorize(prompt="none", state="s 2", response_mode=mode)), way)
            assert (given["error"], given["state"]) == ("interaction_required", "s 2")
            assert "response" not in given
        done = await there.pass_captcha_to(browser, suspended.location)
        assert done.location.startswith(CALLBACK + "?response="), done.location
