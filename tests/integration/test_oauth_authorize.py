"""A certified OpenID provider behind the gateway: while a rule is unmet no code leaves, by no way there is; with the steps passed it does,
in silence too."""

from __future__ import annotations

from pathlib import Path

from tests.support.provider import FRAME, answered, identity_provider


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
