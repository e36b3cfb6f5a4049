"""A certified OpenID provider behind the gateway: while a rule is unmet no code leaves, by no way there is; with the steps passed it does,
in silence too."""

from __future__ import annotations

import json
import time
from pathlib import Path
from urllib.parse import parse_qsl, urlencode

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm
from yarl import URL

from tests.support.gateway import Browser, Clock
from tests.support.provider import FRAME, HUMAN, Identity, answered, identity_provider


async def passed(there: Identity, browser: Browser, **changes: str) -> str:
    """Sign in and pass the step; the code that comes of it."""
    suspended = await there.sign_in(browser, there.authorize(**changes))
    done = await there.log_in_at(browser, await there.pass_captcha_to(browser, suspended.location))
    return answered(done)["code"]


def only_the_providers(browser: Browser) -> None:
    """As in a frame of another site: our cookies stay at home (SameSite=Lax)."""
    browser.session.cookie_jar.clear(lambda cookie: cookie.key.startswith("stepup"))


def copy_session(browser: Browser, other: Browser) -> None:
    mine = {c.key: c.value for c in browser.session.cookie_jar if not c.key.startswith("stepup")}
    other.session.cookie_jar.update_cookies(mine, URL(other.base))


async def test_a_code_leaves_only_behind_the_steps_and_the_login_is_asked_once(tmp_path: Path) -> None:
    async with identity_provider(tmp_path) as there:
        browser = there.browser()
        suspended = await there.sign_in(browser, there.authorize())
        assert suspended.status == 303, suspended.text
        assert suspended.location.startswith("/.stepup/t/su_")
        assert browser.cookie("_session")  # the provider's session reached the browser with the answer that was thrown away
        done = await there.pass_captcha_to(browser, suspended.location)
        given = answered(done)
        assert given["state"] == "abc"
        assert given["iss"] == there.base
        tokens = await there.token(browser, given["code"])
        assert tokens["id_token"]


async def test_prompt_none_gives_no_code_while_the_first_attempt_is_unfinished(tmp_path: Path) -> None:
    """The bypass of Auth0's rules: the redirect was left unfinished, and the next call asked with prompt=none."""
    async with identity_provider(tmp_path) as there:
        browser = there.browser()
        await there.sign_in(browser, there.authorize())
        for headers in ({}, FRAME):
            silent = answered(await browser.get(there.authorize(prompt="none", state="s2"), headers=headers))
            assert "code" not in silent
            assert silent["error"] == "interaction_required"
            assert silent["state"] == "s2"
            assert silent["iss"] == there.base


async def test_with_the_steps_passed_a_frame_without_our_cookies_renews_in_silence(tmp_path: Path) -> None:
    async with identity_provider(tmp_path) as there:
        browser = there.browser()
        await passed(there, browser)
        only_the_providers(browser)
        for state in ("one", "two"):  # the provider's session is its own business; ours is found by it each time
            given = answered(await browser.get(there.authorize(prompt="none", state=state), headers=FRAME))
            assert given["code"]
        assert not [c for c in browser.session.cookie_jar if c.key.startswith("stepup")]  # the frame is given nothing of ours


async def test_another_session_of_the_provider_finds_nothing(tmp_path: Path) -> None:
    async with identity_provider(tmp_path) as there:
        await passed(there, there.browser())
        other = there.browser()
        await there.sign_in(other, there.authorize())
        only_the_providers(other)
        assert answered(await other.get(there.authorize(prompt="none"), headers=FRAME))["error"] == "interaction_required"


async def test_what_was_kept_ends_with_the_pass_and_is_asked_again_when_it_is_too_old(tmp_path: Path) -> None:
    clock = Clock(time.time())
    async with identity_provider(tmp_path, rules=[{**HUMAN, "max_age": "5m"}], clock=clock) as there:
        browser = there.browser()
        await passed(there, browser)
        kept = there.browser()
        copy_session(browser, kept)
        assert "code" in answered(await kept.get(there.authorize(prompt="none"), headers=FRAME))
        await there.advance(301)
        assert answered(await kept.get(there.authorize(prompt="none"), headers=FRAME))["error"] == "interaction_required"


async def test_a_pass_that_is_forgotten_is_forgotten_in_frames_too(tmp_path: Path) -> None:
    async with identity_provider(tmp_path) as there:
        browser = there.browser()
        await passed(there, browser)
        kept = there.browser()
        copy_session(browser, kept)
        assert "code" in answered(await kept.get(there.authorize(prompt="none"), headers=FRAME))
        page = await browser.get("/.stepup/pass")
        assert (await browser.post("/.stepup/pass/revoke", {"stepup_token": page.hidden("stepup_token")})).status in (200, 303)
        await there.app.feed.refresh()
        assert answered(await kept.get(there.authorize(prompt="none"), headers=FRAME))["error"] == "interaction_required"


async def test_what_was_kept_goes_along_when_the_provider_renews_its_session_and_ends_with_it(tmp_path: Path) -> None:
    async with identity_provider(tmp_path) as there:
        browser = there.browser()
        await passed(there, browser)
        old = browser.cookie("_session")
        # Another login on the same session gives it another name.
        await there.sign_in(browser, there.authorize(prompt="login"))
        assert browser.cookie("_session") != old
        only_the_providers(browser)
        assert "code" in answered(await browser.get(there.authorize(prompt="none"), headers=FRAME))


async def test_prompt_none_in_a_request_object_or_a_pushed_request_is_seen(tmp_path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    jwk = json.loads(ECAlgorithm.to_jwk(key.public_key()))
    client = {"request_object_signing_alg": "ES256", "jwks": {"keys": [{**jwk, "alg": "ES256", "use": "sig", "kid": "k"}]}}
    async with identity_provider(tmp_path, options={"client": client}) as there:
        browser = there.browser()
        await there.sign_in(browser, there.authorize())
        asked = dict(parse_qsl(there.authorize(prompt="none", state="in-object").partition("?")[2]))
        claims = {**asked, "iss": "app", "aud": there.base, "exp": time.time() + 60}
        signed = jwt.encode(claims, key, "ES256", headers={"kid": "k"})
        silent = await browser.get("/auth?" + urlencode({"client_id": "app", "request": signed}))
        given = answered(silent)
        assert (given["error"], given["state"]) == ("interaction_required", "in-object"), given
        uri = await there.push(browser, prompt="none", state="pushed")
        given = answered(await browser.get("/auth?" + urlencode({"client_id": "app", "request_uri": uri})))
        assert (given["error"], given["state"]) == ("interaction_required", "pushed")


@pytest.mark.parametrize("way", ["query", "form", "object", "pushed"])
async def test_a_condition_on_a_parameter_holds_wherever_the_provider_reads_it(tmp_path: Path, way: str) -> None:
    """`client_id` stands beside a request object and a pushed request too; what else stands there is not what counts."""
    key = ec.generate_private_key(ec.SECP256R1())
    jwk = {**json.loads(ECAlgorithm.to_jwk(key.public_key())), "alg": "ES256", "use": "sig", "kid": "k"}
    client = {"request_object_signing_alg": "ES256", "jwks": {"keys": [jwk]}} if way == "object" else {}
    rule = {**HUMAN, "when": 'request.query.client_id == "app" && request.query.scope == "openid email"'}
    async with identity_provider(tmp_path, rules=[rule], options={"client": client}) as there:
        browser = there.browser()
        await there.sign_in(browser, there.authorize(scope="openid"))
        asked = dict(parse_qsl(there.authorize(scope="openid email", prompt="none").partition("?")[2]))
        beside = {"client_id": "app", "response_type": "code", "scope": "openid"}
        match way:
            case "query":
                reply = await browser.get("/auth?" + urlencode(asked))
            case "form":
                reply = await browser.post("/auth?client_id=app", {**asked, "state": "by form"})
            case "object":
                signed = jwt.encode({**asked, "iss": "app", "aud": there.base, "exp": time.time() + 60}, key, "ES256", headers={"kid": "k"})
                reply = await browser.get("/auth?" + urlencode({**beside, "request": signed}))
            case _:
                uri = await there.push(there.browser(), scope="openid email", prompt="none")
                reply = await browser.get("/auth?" + urlencode({**beside, "request_uri": uri}))
        assert answered(reply)["error"] == "interaction_required", reply.location


async def test_a_pushed_request_is_sent_through_the_steps_before_its_provider_uses_it_up(tmp_path: Path) -> None:
    async with identity_provider(tmp_path) as there:
        browser = there.browser()
        path = "/auth?" + urlencode({"client_id": "app", "request_uri": await there.push(browser)})
        suspended = await browser.get(path)
        assert suspended.location.startswith("/.stepup/t/su_")
        done = await there.log_in_at(browser, await there.pass_captcha_to(browser, suspended.location))
        assert answered(done)["code"]


async def test_an_authorize_request_by_post_is_asked_again_as_a_get(tmp_path: Path) -> None:
    async with identity_provider(tmp_path) as there:
        browser = there.browser()
        path, _, query = there.authorize().partition("?")
        answer = await browser.post(path, dict(parse_qsl(query)))
        suspended = await there.log_in_at(browser, answer)
        assert suspended.location.startswith("/.stepup/t/su_")
        assert answered(await there.pass_captcha_to(browser, suspended.location))["code"]


async def test_a_step_asked_once_lets_one_code_pass(tmp_path: Path) -> None:
    async with identity_provider(tmp_path, rules=[{**HUMAN, "max_age": "once"}]) as there:
        browser = there.browser()
        suspended = await there.sign_in(browser, there.authorize())
        assert answered(await there.pass_captcha_to(browser, suspended.location))["code"]
        again = await browser.get(there.authorize())
        assert again.location.startswith("/.stepup/t/su_")
        assert answered(await browser.get(there.authorize(prompt="none")))["error"] == "interaction_required"


async def test_a_denied_sign_in_is_told_to_the_client(tmp_path: Path) -> None:
    rule = {"name": "closed", "match": {"path": "/auth"}, "deny": {"message": "Not from here."}}
    async with identity_provider(tmp_path, rules=[rule]) as there:
        given = answered(await there.sign_in(there.browser(), there.authorize()))
        assert (given["error"], given["error_description"], given["state"]) == ("access_denied", "Not from here.", "abc")


async def test_a_rule_that_denies_some_requests_denies_no_others(tmp_path: Path) -> None:
    rule = {"name": "closed", "match": {"path": "/auth", "query": {"scope": "*email*"}}, "deny": {"message": "Not from here."}}
    async with identity_provider(tmp_path, rules=[rule]) as there:
        browser = there.browser()
        assert answered(await there.sign_in(browser, there.authorize()))["code"]
        given = answered(await there.sign_in(there.browser(), there.authorize(scope="openid email")))
        assert (given["error"], given["error_description"]) == ("access_denied", "Not from here.")
        # Where the provider's page comes each time, it cannot be told which one it was.
        again = await there.sign_in(browser, there.authorize(max_age="0"))
        assert answered(await there.log_in_at(browser, again))["error"] == "access_denied"


async def test_a_step_that_needs_somebody_where_nobody_is_known_is_never_skipped(tmp_path: Path) -> None:
    steps = {"code": {"kind": "otp", "methods": ["totp"], "enrol": "allow"}}
    rule = {"name": "code", "match": {"path": "/auth"}, "require": ["code"]}
    async with identity_provider(tmp_path, rules=[rule], steps=steps) as there:
        browser = there.browser()
        assert answered(await there.sign_in(browser, there.authorize()))["error"] == "access_denied"
        assert answered(await browser.get(there.authorize(prompt="none")))["error"] == "interaction_required"


async def test_a_request_that_only_pretends_to_be_another_gets_no_code(tmp_path: Path) -> None:
    """The rule asks for the step for one scope. Whose answer comes from the login is the browser's word, so it is not taken."""
    rule = {**HUMAN, "match": {"path": "/auth", "query": {"scope": "*email*"}}}
    async with identity_provider(tmp_path, rules=[rule]) as there:
        browser = there.browser()
        asked = await browser.get(there.authorize(scope="openid email"))
        # A new browser in the gateway's eyes, with an innocent request of the same redirect URI and state, and the provider's cookies.
        browser.session.cookie_jar.clear(lambda cookie: cookie.key.startswith("stepup"))
        keep = {c.key: c.value for c in browser.session.cookie_jar}
        await browser.get(there.authorize(scope="openid"))
        browser.session.cookie_jar.update_cookies(keep, URL(there.base))
        end = await there.log_in_at(browser, asked)
        # Thrown away; the innocent request is asked again, and gets what it asked for.
        assert end.status == 303
        tokens = await there.token(browser, answered(end)["code"])
        assert "email" not in tokens["scope"]


async def test_an_innocent_request_passes_beside_a_rule_for_others(tmp_path: Path) -> None:
    rule = {**HUMAN, "match": {"path": "/auth", "query": {"scope": "*email*"}}}
    async with identity_provider(tmp_path, rules=[rule]) as there:
        browser = there.browser()
        assert answered(await there.sign_in(browser, there.authorize(scope="openid")))["code"]
        assert (await there.metric('stepup_authorization_responses_total{outcome="asked again",upstream="idp"}')) == 1
        hidden = there.authorize(scope="openid", prompt="login")
        # It is asked to log in, and not again when the provider is asked a second time.
        assert answered(await there.sign_in(browser, hidden))["code"]


@pytest.mark.parametrize("age", ["session", "once"])
async def test_a_rule_for_those_who_must_log_in_anew_holds_when_they_have(tmp_path: Path, age: str) -> None:
    rule = {**HUMAN, "match": {"path": "/auth", "query": {"prompt": "*login*"}}, "max_age": age}
    async with identity_provider(tmp_path, rules=[rule]) as there:
        browser = there.browser()
        assert answered(await there.sign_in(browser, there.authorize()))["code"]
        suspended = await there.sign_in(browser, there.authorize(prompt="login"))
        assert suspended.location.startswith("/.stepup/t/su_"), suspended.location
        assert answered(await there.pass_captcha_to(browser, suspended.location))["code"]


async def test_without_the_browsers_cookie_the_client_is_told_to_begin_again(tmp_path: Path) -> None:
    async with identity_provider(tmp_path) as there:
        browser = there.browser()
        asked = await browser.get(there.authorize())
        browser.session.cookie_jar.clear(lambda cookie: cookie.key.startswith("stepup"))
        assert answered(await there.log_in_at(browser, asked))["error"] == "interaction_required"


async def test_refresh_and_tokens_go_through(tmp_path: Path) -> None:
    async with identity_provider(tmp_path) as there:
        browser = there.browser()
        code = await passed(there, browser)
        tokens = await there.token(browser, code)
        data = {"grant_type": "refresh_token", "refresh_token": tokens["refresh_token"], "client_id": "app"}
        again = await browser.json("POST", "/token", None, data=data)
        assert again.json["access_token"]
