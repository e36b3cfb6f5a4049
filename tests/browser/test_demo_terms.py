"""The demo's terms, and a form, as people meet them: once, with and without JavaScript, by keyboard, on a small screen, in the dark."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import yaml
from playwright.async_api import Browser, Page, expect

from tests.browser.demo import Visitor, at_step, says
from tests.support.chromium import axe
from tests.support.gateway import DEMO, Clock, Running, running

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]

TERMS = "Terms of use of Demo Bank"
PROFILE = {
    "kind": "form",
    "title": "How can we reach you?",
    "fields": [
        {"name": "phone", "type": "tel", "label": "Phone", "required": True, "autocomplete": "tel"},
        {"name": "plan", "type": "radio", "label": "Plan", "choices": ["Small", "Large"], "required": True},
        {"name": "country", "type": "select", "label": "Country", "choices": ["Peru", "Zambia"]},
        {"name": "note", "type": "textarea", "label": "Anything else"},
        {"name": "news", "type": "checkbox", "label": "Send me news"},
    ],
}


@pytest_asyncio.fixture(loop_scope="session")
async def bank(tmp_path: Path) -> AsyncIterator[Running]:
    """The demo with its terms; a transfer asks for the form as well."""
    raw: dict[str, Any] = yaml.safe_load(DEMO.read_text())
    steps = raw["steps"] | {"profile": PROFILE, "human": {"kind": "captcha", "cost": 100, "max_number": 50}}
    rules = [r | {"require": "profile"} if r["name"] == "transfer-needs-code" else r for r in raw["rules"]]
    async with running(tmp_path, clock=Clock(time.time()), terms=True, steps=steps, rules=rules) as found:
        yield found


@pytest_asyncio.fixture(loop_scope="session")
async def visitor(chromium: Browser, bank: Running) -> AsyncIterator[Visitor]:
    async with Visitor.entering(chromium, bank) as found:
        yield found


async def reads(page: Page) -> None:
    await at_step(page, TERMS)


async def test_a_login_leads_to_the_terms_and_on_to_the_account(visitor: Visitor) -> None:
    page = await visitor.tab("/login")
    await visitor.type_login(page)
    await reads(page)
    await page.get_by_role("button", name="Accept", exact=True).click()
    await page.wait_for_url("**/account")
    await page.reload()
    assert page.url.endswith("/account")


async def test_who_has_accepted_meets_them_in_no_other_browser(visitor: Visitor, chromium: Browser, bank: Running) -> None:
    page = await visitor.tab("/login")
    await visitor.type_login(page)
    await reads(page)
    await page.get_by_role("button", name="Accept", exact=True).click()
    await page.wait_for_url("**/account")
    async with Visitor.entering(chromium, bank) as elsewhere:
        await elsewhere.log_in(await elsewhere.tab("/login"))
        assert [r.url for r in elsewhere.requests if "/continue" in r.url and "login" not in r.url][1:] == []


async def test_refusing_ends_with_a_way_back(visitor: Visitor) -> None:
    page = await visitor.tab("/login")
    await visitor.type_login(page)
    await reads(page)
    await page.get_by_role("button", name="Do not accept").click()
    await says(page, "You did not accept")
    assert await axe(page) == []
    await page.goto(visitor.base + "/")
    assert page.url == visitor.base + "/"
    await page.goto(visitor.base + "/account")
    await reads(page)


async def test_the_terms_work_without_javascript(chromium: Browser, bank: Running) -> None:
    async with Visitor.entering(chromium, bank, java_script_enabled=False) as visitor:
        await visitor.log_in_quickly()
        page = await visitor.tab("/account")
        await reads(page)
        await page.get_by_role("button", name="Accept", exact=True).click()
        await page.wait_for_url("**/account")


async def test_the_terms_are_read_and_accepted_by_keyboard_alone(visitor: Visitor) -> None:
    await visitor.log_in_quickly()
    page = await visitor.tab("/account")
    await reads(page)
    await page.keyboard.press("Tab")
    region = page.get_by_role("region", name=TERMS)
    await expect(region).to_be_focused()
    assert await region.evaluate("e => e.scrollTop") == 0
    await page.keyboard.press("End")
    await region.evaluate("e => e.scrollTop > 0 || new Promise((then) => e.addEventListener('scroll', () => then(true), {once: true}))")
    await page.keyboard.press("Tab")  # the link in the document
    await page.keyboard.press("Tab")
    await expect(page.get_by_role("button", name="Accept", exact=True)).to_be_focused()
    await page.keyboard.press("Enter")
    await page.wait_for_url("**/account")


@pytest.mark.parametrize("width", [320, 1280])
async def test_axe_finds_nothing_and_nothing_scrolls_sideways(chromium: Browser, bank: Running, width: int) -> None:
    async with Visitor.entering(chromium, bank, viewport={"width": width, "height": 700}) as visitor:
        await visitor.log_in_quickly()
        page = await visitor.tab("/account")
        await reads(page)
        for scheme in ("light", "dark"):
            await page.emulate_media(color_scheme=scheme)
            assert await axe(page) == []
        assert not await page.evaluate("document.documentElement.scrollWidth > innerWidth")


async def test_a_form_is_filled_in_once_and_the_transfer_goes_through(visitor: Visitor) -> None:
    await visitor.log_in_quickly()
    page = await visitor.tab("/account")
    await page.get_by_role("button", name="Accept", exact=True).click()
    await visitor.transfer(page, "Marlene")
    await at_step(page, "How can we reach you?")
    await expect(page.get_by_label("Phone")).to_be_focused()
    await page.get_by_label("Phone").fill("+44 20 7946 0018")
    await page.get_by_label("Large").check()
    await page.get_by_label("Country").select_option("Peru")
    await page.get_by_label("Anything else").fill("one\ntwo")
    await page.get_by_label("Send me news").check()
    await page.get_by_role("button", name="Continue").click()
    await page.wait_for_url("**/account")
    await visitor.transfer(page, "Nils")
    await page.wait_for_url("**/account")
    assert set(await visitor.ledger(page)) >= {"Marlene", "Nils"}


@pytest.mark.parametrize("scripts", [True, False])
async def test_a_form_with_mistakes_comes_back_filled_in(chromium: Browser, bank: Running, scripts: bool) -> None:
    async with Visitor.entering(chromium, bank, java_script_enabled=scripts) as visitor:
        await visitor.log_in_quickly()
        page = await visitor.tab("/transfer")
        await visitor.transfer(page, "Marlene")
        await at_step(page, "How can we reach you?")
        await page.get_by_label("Phone").fill("call me")
        await page.get_by_label("Small").check()
        await page.get_by_label("Country").select_option("Zambia")
        await page.get_by_label("Anything else").fill("<b>one</b>\ntwo")
        await page.get_by_label("Send me news").check()
        await page.get_by_role("button", name="Continue").click()
        await expect(page.get_by_role("alert")).to_contain_text("Please write a phone number")
        await expect(page.get_by_label("Phone")).to_be_focused()
        await expect(page.get_by_label("Phone")).to_have_value("call me")
        await expect(page.get_by_label("Small")).to_be_checked()
        await expect(page.get_by_label("Country")).to_have_value("Zambia")
        await expect(page.get_by_label("Anything else")).to_have_value("<b>one</b>\ntwo")
        await expect(page.get_by_label("Send me news")).to_be_checked()
        if scripts:
            assert await axe(page) == []
        await page.get_by_label("Phone").fill("+44 20 7946 0018")
        await page.get_by_role("button", name="Continue").click()
        await at_step(page, TERMS)  # the transfer is done; the account behind it has its terms
