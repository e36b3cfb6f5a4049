"""A person behind the real nginx, Caddy and Envoy (and Traefik's part): log in, be asked for a code, and get the transfer through."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from playwright.async_api import Browser, expect

from tests.browser.demo import Visitor, at_step, says
from tests.support.gateway import Clock
from tests.support.proxies import behind

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]


@pytest_asyncio.fixture(loop_scope="session", params=["nginx", "caddy", "envoy", "traefik"])
async def person(request: pytest.FixtureRequest, chromium: Browser, tmp_path: Path) -> AsyncIterator[tuple[str, Visitor]]:
    """The dialect, and somebody in front of it."""
    async with (
        behind(request.param, tmp_path, clock=Clock(time.time())) as demo,
        Visitor.entering(chromium, demo) as visitor,
    ):
        yield request.param, visitor


async def test_a_page_that_needs_two_steps_opens_after_them(person: tuple[str, Visitor]) -> None:
    _, visitor = person
    page = await visitor.tab()
    await visitor.log_in(page)
    await page.goto(visitor.base + "/admin?tab=users")
    await page.wait_for_url("**/.stepup/t/su_*")
    await page.get_by_label("Code from the mail").wait_for()  # the captcha before it solves itself
    await visitor.enter_code(page)
    await page.wait_for_url("**/admin?tab=users")
    assert (await page.locator("h1").inner_text()) == "Administration"


async def test_a_transfer_goes_through_once_after_the_code(person: tuple[str, Visitor]) -> None:
    dialect, visitor = person
    page = await visitor.tab()
    await visitor.log_in(page)
    await visitor.transfer(page, "Marlene & Söhne", "25")
    await at_step(page)
    await visitor.enter_code(page)
    if dialect == "envoy":  # it showed the gateway the form, which was kept and is sent now
        await page.wait_for_url("**/account")
    else:  # the form could not be kept: a word about it, and the way back to where it was sent from
        await says(page, "Confirmed – now repeat what you were doing")
        await expect(page.get_by_text("a form must be sent again")).to_be_visible()
        await page.get_by_role("link", name="Go back to the application").click()
        await page.wait_for_url("**/transfer")
        assert await visitor.ledger(page) == []
        await visitor.transfer(page, "Marlene & Söhne", "25")
        await page.wait_for_url("**/account")
    assert await visitor.ledger(page) == ["Marlene & Söhne"]


async def test_cancelling_leads_back_and_sends_nothing(person: tuple[str, Visitor]) -> None:
    _, visitor = person
    page = await visitor.tab()
    await visitor.log_in(page)
    await visitor.suspended(page, "nobody")
    await page.get_by_role("button", name="Cancel and go back").click()
    await page.wait_for_url("**/transfer")
    assert await visitor.ledger(page) == []
