"""The page at which somebody approves what an app without a browser has asked for, in Chromium, without JavaScript."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.async_api import Browser, Page, expect

from tests.support.chromium import axe
from tests.support.oauth import Before, Client, gateway_before

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]

PASSWORD = {"grant_type": "password", "client_id": "photo-printer", "username": "alice", "password": "wonderland"}
OUTPUT = Path("tests/output/browser")
SCHEMES = ["light", "dark"]


async def asks(idp: Before) -> tuple[Client, str]:
    client = idp.client()
    asked = await client.call(PASSWORD)
    assert asked.json["error"] == "interaction_required"
    return client, asked.json["step_up_url"]


async def looked_at(page: Page, name: str) -> None:
    OUTPUT.mkdir(parents=True, exist_ok=True)  # noqa: ASYNC240 - a picture for whoever looks into the output
    await page.screenshot(path=OUTPUT / f"{name}.png", full_page=True)


@pytest.mark.parametrize("scheme", SCHEMES)
async def test_somebody_approves_without_javascript_and_is_signed_in_nowhere(tmp_path: Path, chromium: Browser, scheme: str) -> None:
    async with gateway_before(tmp_path) as idp:
        client, url = await asks(idp)
        context = await chromium.new_context(java_script_enabled=False, color_scheme=scheme, viewport={"width": 420, "height": 800})  # type: ignore[arg-type]
        try:
            page = await context.new_page()
            await page.goto(url)
            for words in ("photo-printer", "alice", "sign in with a password"):
                await expect(page.get_by_role("main")).to_contain_text(words)
            await looked_at(page, f"grant-{scheme}")
            await page.get_by_role("textbox").fill(idp.code())
            await page.keyboard.press("Enter")
            await expect(page.get_by_role("main")).to_contain_text("Go back to the app")
            await looked_at(page, f"grant-approved-{scheme}")
            assert page.url == url
            assert "eyJ" not in await page.content()
            await page.reload()
            await expect(page.get_by_role("main")).to_contain_text("Go back to the app")
            assert [c["name"] for c in await context.cookies()] == ["stepup-browser"]  # it is known again, and no more
            stranger = await chromium.new_context(java_script_enabled=False)
            other = await stranger.new_page()
            answer = await other.goto(url)
            assert answer is not None
            assert answer.status == 403
            await stranger.close()
            ready = await client.step(url)
            assert (await client.call({**PASSWORD, "stepup_token": ready.json["token"]})).json["for"] == "alice"
        finally:
            await context.close()


@pytest.mark.parametrize("scheme", SCHEMES)
async def test_the_approving_page_has_no_faults_of_accessibility(tmp_path: Path, chromium: Browser, scheme: str) -> None:
    async with gateway_before(tmp_path) as idp:
        _, url = await asks(idp)
        context = await chromium.new_context(color_scheme=scheme)  # type: ignore[arg-type]
        try:
            page = await context.new_page()
            await page.goto(url)
            assert await axe(page) == []
            await page.get_by_role("textbox").fill(idp.code())
            await page.keyboard.press("Enter")
            await expect(page.get_by_role("main")).to_contain_text("Go back to the app")
            assert await axe(page) == []
        finally:
            await context.close()
