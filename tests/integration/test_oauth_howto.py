"""The how-to's configuration, word for word, before a certified provider."""

from __future__ import annotations

from pathlib import Path

import yaml

from tests.integration.test_docs import blocks
from tests.support.provider import FRAME, answered, identity_provider

ROUTES = {"authorization": "/authorize", "token": "/oauth/token", "pushed_authorization_request": "/par"}


async def test_the_how_tos_configuration_does_what_it_says(tmp_path: Path) -> None:
    [block] = [block for block in blocks("docs/how-to/oauth-upstream.md") if block.language == "yaml"]
    written = yaml.safe_load(block.text)
    steps = {"human": {**written["steps"]["human"], "cost": 100, "max_number": 50}}
    oauth = written["upstreams"]["idp"]["oauth"]
    options = {"configuration": {"routes": ROUTES}}
    async with identity_provider(
        tmp_path, rules=written["rules"], oauth=oauth, options=options, steps=steps, routes=written["routes"]
    ) as there:
        browser = there.browser()
        suspended = await there.sign_in(browser, there.authorize("/authorize"))
        assert suspended.location.startswith("/.stepup/t/su_")
        silent = there.authorize("/authorize", prompt="none")
        assert answered(await browser.get(silent, headers=FRAME))["error"] == "interaction_required"
        assert answered(await there.pass_captcha_to(browser, suspended.location))["code"]
        assert answered(await browser.get(silent, headers=FRAME))["code"]
