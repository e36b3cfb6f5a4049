"""What people do in the middle: other tabs, back, reload, cancel, wait too long, log out. Each ends in a page that says what happened."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from playwright.async_api import Browser, async_playwright, expect

from tests.browser.demo import Visitor, at_step, says
from tests.support.chromium import ARGUMENTS, EXECUTABLE
from tests.support.gateway import Running

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]


@pytest.mark.parametrize("first", [0, 1])
async def test_two_tabs_finish_in_any_order_and_each_once(visitor: Visitor, first: int) -> None:
    await visitor.log_in_quickly()
    names = ["Anna", "Berta"]
    tabs = [await visitor.tab(), await visitor.tab()]
    codes = []
    for tab, name in zip(tabs, names, strict=True):
        await visitor.suspended(tab, name)
        codes.append(visitor.demo.code())
    for which in (first, 1 - first):
        await visitor.enter_code(tabs[which], codes[which])
        await tabs[which].wait_for_url("**/account")
    assert sorted(await visitor.ledger(tabs[0])) == names


async def test_the_same_form_in_two_tabs_is_two_transfers(visitor: Visitor) -> None:
    await visitor.log_in_quickly()
    one, two = await visitor.tab(), await visitor.tab()
    await visitor.suspended(one, "Marlene")
    first = visitor.demo.code()
    await visitor.suspended(two, "Marlene")
    await visitor.enter_code(two)
    await two.wait_for_url("**/account")
    await visitor.enter_code(one, first)
    await one.wait_for_url("**/account")
    assert await visitor.ledger(one) == ["Marlene", "Marlene"]


async def test_back_after_the_transfer_says_that_it_was_sent(visitor: Visitor) -> None:
    page = await visitor.tab()
    await visitor.log_in_quickly()
    await visitor.suspended(page, "Marlene")
    await visitor.enter_code(page)
    await page.wait_for_url("**/account")
    await page.go_back()
    await says(page, "This was already sent")
    await page.get_by_role("link", name="Continue to the application").click()
    await says(page, "Transfer")
    assert await visitor.ledger(page) == ["Marlene"]


async def test_reload_of_a_used_ticket_sends_nothing(visitor: Visitor) -> None:
    page = await visitor.tab()
    await visitor.log_in_quickly()
    await visitor.suspended(page, "Marlene")
    await visitor.enter_code(page)
    await page.wait_for_url("**/account")
    (ticket,) = [r.url for r in visitor.requests if "stepup_resume=" in r.url]
    for _ in range(2):
        await page.goto(ticket)
        await says(page, "This was already sent")
        await page.reload()
    await says(page, "This was already sent")
    assert await visitor.ledger(page) == ["Marlene"]


async def test_reload_of_the_interstitial_asks_the_same_again(visitor: Visitor) -> None:
    page = await visitor.tab()
    await visitor.log_in_quickly()
    await visitor.suspended(page, "Marlene")
    await page.reload()
    await at_step(page)
    assert len(visitor.demo.mails) == 1
    await visitor.enter_code(page, "000000" if visitor.demo.code() != "000000" else "111111")
    await expect(page.get_by_role("alert")).to_be_visible()
    await page.goto(page.url)  # the address of a refused answer is the page's own
    await expect(page.get_by_role("alert")).to_have_count(0)
    await visitor.enter_code(page)
    await page.wait_for_url("**/account")
    assert await visitor.ledger(page) == ["Marlene"]


async def test_cancel_goes_back_to_where_the_user_came_from(visitor: Visitor) -> None:
    page = await visitor.tab()
    await visitor.log_in_quickly()
    address = await visitor.suspended(page, "Marlene")
    await page.get_by_role("button", name="Cancel and go back").click()
    await page.wait_for_url("**/transfer")
    await says(page, "Transfer")
    await page.goto(address)
    await says(page, "Cancelled")
    await page.get_by_role("link", name="Go back").click()
    await page.wait_for_url("**/transfer")
    await page.goto(visitor.base + "/account")
    await page.get_by_role("link", name="Administration").click()
    await at_step(page)
    await page.get_by_role("button", name="Cancel and go back").click()
    await page.wait_for_url("**/account")
    assert await visitor.ledger(page) == []


async def test_back_from_the_interstitial_shows_the_form_as_it_was(visitor: Visitor) -> None:
    page = await visitor.tab()
    await visitor.log_in_quickly()
    await visitor.suspended(page, "Marlene")
    await page.go_back()
    await says(page, "Transfer")
    await expect(page.get_by_label("To", exact=True)).to_have_value("Marlene")
    await page.go_forward()
    await at_step(page)
    await visitor.enter_code(page)
    await page.wait_for_url("**/account")
    assert await visitor.ledger(page) == ["Marlene"]


async def test_what_waited_too_long_has_expired(visitor: Visitor) -> None:
    page = await visitor.tab()
    await visitor.log_in_quickly()
    await visitor.suspended(page, "Marlene")
    code = visitor.demo.code()
    await visitor.demo.advance(10 * 60 + 1)
    await visitor.enter_code(page, code)
    await says(page, "This took too long and has expired")
    await expect(page.get_by_text("This is about POST /transfer")).to_be_visible()
    await page.get_by_role("link", name="Start again").click()
    await says(page, "Transfer")
    assert await visitor.ledger(page) == []


async def test_a_ticket_that_was_not_used_in_time_sends_nothing(visitor: Visitor) -> None:
    """The browser is closed after the code went out, and reopened later."""
    page = await visitor.tab()
    await visitor.log_in_quickly()
    address = await visitor.suspended(page, "Marlene")
    token = await page.locator("input[name=stepup_token]").first.get_attribute("value")
    html = {"Accept": "text/html"}
    form: dict[str, str | float | bool] = {"code": visitor.demo.code(), "stepup_token": token or ""}
    ready = await visitor.context.request.post(address, form=form, headers=html, max_redirects=0)
    way_on = await visitor.context.request.get(visitor.base + ready.headers["location"], headers=html, max_redirects=0)
    ticket = visitor.base + way_on.headers["location"]
    assert "stepup_resume=rt_" in ticket
    await visitor.demo.advance(10 * 60 + 1)
    await page.goto(ticket)
    await says(page, "This took too long and has expired")
    assert await visitor.ledger(page) == []


async def test_a_login_in_another_tab_ends_what_waited(visitor: Visitor) -> None:
    page, other = await visitor.tab(), await visitor.tab()
    await visitor.log_in_quickly()
    address = await visitor.suspended(page, "Marlene")
    code = visitor.demo.code()
    await other.goto(visitor.base + "/logout")
    await visitor.log_in(other)
    await visitor.enter_code(page, code)
    await says(page, "You signed in or out in the meantime")
    await page.goto(address)
    await says(page, "You signed in or out in the meantime")
    await page.get_by_role("link", name="Start again").click()
    await says(page, "Transfer")
    assert await visitor.ledger(page) == []


async def test_somebody_else_in_another_tab_ends_what_waited(visitor: Visitor) -> None:
    page, other = await visitor.tab(), await visitor.tab()
    await visitor.log_in_quickly()
    await visitor.suspended(page, "Marlene")
    code = visitor.demo.code()
    await other.goto(visitor.base + "/logout")
    await visitor.type_login(other, "bob", "builder")
    await says(other, "Please choose a new password")
    await visitor.enter_code(page, code)
    await says(page, "Someone else is signed in now")
    await other.goto(visitor.base + "/logout")
    await visitor.log_in(other)
    assert await visitor.ledger(other) == []


async def test_a_logout_in_another_tab_ends_what_waited(visitor: Visitor) -> None:
    page, other = await visitor.tab(), await visitor.tab()
    await visitor.log_in_quickly()
    await visitor.suspended(page, "Marlene")
    code = visitor.demo.code()
    await other.goto(visitor.base + "/logout")
    await visitor.enter_code(page, code)
    await says(page, "You signed in or out in the meantime")
    await visitor.log_in(other)
    assert await visitor.ledger(other) == []


async def test_a_restart_of_the_gateway_loses_nothing(visitor: Visitor) -> None:
    page = await visitor.tab()
    await visitor.log_in_quickly()
    await visitor.suspended(page, "Marlene")
    code = visitor.demo.code()
    await visitor.demo.restart()
    await page.reload()
    await at_step(page)
    await visitor.enter_code(page, code)
    await page.wait_for_url("**/account")
    assert await visitor.ledger(page) == ["Marlene"]


async def test_who_is_not_logged_in_goes_to_log_in_and_comes_back(visitor: Visitor) -> None:
    page = await visitor.tab("/admin")
    await page.wait_for_url("**/login")
    await visitor.type_login(page)
    await at_step(page)  # both captchas, the login's and the page's own, were solved on the way
    await expect(page.get_by_role("progressbar", name="Step 2 of 2")).to_be_visible()
    await visitor.enter_code(page)
    await page.wait_for_url("**/admin")
    await says(page, "Administration")


async def test_a_link_to_somebody_elses_transaction_opens_nothing(visitor: Visitor, chromium: Browser, demo: Running) -> None:
    page = await visitor.tab()
    await visitor.log_in_quickly()
    address = await visitor.suspended(page, "Marlene")
    async with Visitor.entering(chromium, demo) as other:
        tab = await other.tab()
        await tab.goto(address)
        await says(tab, "This page belongs to another browser")
        await tab.get_by_role("link", name="Start again here").click()
        await says(tab, "Welcome")


async def test_a_browser_that_keeps_no_cookies_is_told_so(demo: Running, tmp_path: Path) -> None:
    profile = tmp_path / "profile"
    (profile / "Default").mkdir(parents=True)
    block = {"profile": {"default_content_setting_values": {"cookies": 2}}}
    (profile / "Default/Preferences").write_text(json.dumps(block))
    async with async_playwright() as playwright:
        context = await playwright.chromium.launch_persistent_context(profile, executable_path=EXECUTABLE, args=ARGUMENTS)
        page = context.pages[0]
        await page.goto(demo.base + "/admin")
        await says(page, "This page belongs to another browser")
        await expect(page.get_by_text("it keeps no cookies for this site: allow them first.")).to_be_visible()
        assert await context.cookies() == []
        await context.close()
