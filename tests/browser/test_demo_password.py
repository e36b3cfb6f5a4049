"""Bob, whose password has expired, in Chromium: nothing else before he has changed it, and then the new one counts."""

from __future__ import annotations

import pytest
from playwright.async_api import Browser, Page, expect

from tests.browser.demo import Visitor, says
from tests.support.gateway import Running

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]

ASKED = "Please choose a new password"
NEW = "nine-herons-Trombone-42"


async def fill(page: Page, current: str, new: str, again: str | None = None) -> None:
    await page.get_by_label("Current password").fill(current)
    await page.get_by_label("New password", exact=True).fill(new)
    await page.get_by_label("New password again").fill(new if again is None else again)
    await page.get_by_role("button", name="Change password").click()


async def test_bob_changes_his_password_and_logs_in_with_the_new_one(visitor: Visitor) -> None:
    page = await visitor.tab("/login")
    await visitor.type_login(page, "bob", "builder")
    await says(page, ASKED)
    await expect(page.get_by_label("Current password")).to_be_focused()
    await fill(page, "builder", NEW)
    await says(page, "Your password has changed")
    await page.get_by_role("link", name="Sign in").click()
    await page.wait_for_url("**/login")
    await expect(page.get_by_role("link", name="Log in")).to_be_visible()  # the old session is over
    await visitor.type_login(page, "bob", "builder")
    await expect(page.get_by_role("alert")).to_have_text("The user name or the password is wrong.")
    await visitor.log_in(page, "bob", NEW)
    await says(page, "Account")
    await expect(page.get_by_text("expired")).to_have_count(0)


async def test_bob_gets_nowhere_else_but_out(visitor: Visitor) -> None:
    page = await visitor.tab("/login")
    await visitor.type_login(page, "bob", "builder")
    await says(page, ASKED)
    for path in ("/account", "/transfer", "/admin", "/account/password", "/", "/ACCOUNT", "/static/..%2faccount"):
        await page.goto(visitor.base + path)
        await says(page, ASKED)
    await page.goto(visitor.base + "/logout")
    await says(page, "Welcome")


async def test_strength_is_shown_while_typing(visitor: Visitor) -> None:
    page = await visitor.tab("/login")
    await visitor.type_login(page, "bob", "builder")
    await says(page, ASKED)
    field, meter = page.get_by_label("New password", exact=True), page.get_by_role("meter", name="Strength, estimated")
    said = page.locator("[data-strength-text]")
    await expect(meter).to_be_hidden()
    values = []
    for password, words in (
        ("abc", "9 more characters needed."),
        ("bob-bob-bob-bob", "It must not hold your user name."),
        (NEW, "Strong."),
    ):
        await field.fill(password)
        await expect(said).to_have_text(words)
        values.append(await meter.evaluate("meter => meter.value"))
    assert values[0] == 0
    assert values[-1] == 4
    await page.get_by_label("New password again").fill("something else")
    await expect(said).to_have_text("The two new passwords differ.")
    await field.fill("")
    await expect(meter).to_be_hidden()


async def test_what_is_wrong_is_said_at_its_field(visitor: Visitor) -> None:
    page = await visitor.tab("/login")
    await visitor.type_login(page, "bob", "builder")
    await says(page, ASKED)
    tries = (
        ("builder", "short", None, "New password"),
        ("builder", NEW, NEW + "x", "New password again"),
        ("builder", "password1234", None, "New password"),
        ("not-my-password", NEW, None, "Current password"),
    )
    for current, new, again, label in tries:
        await fill(page, current, new, again)
        field = page.get_by_label(label, exact=True)
        await expect(field).to_have_attribute("aria-invalid", "true")
        await expect(field).to_be_focused()
        await expect(page.get_by_role("alert")).to_have_count(1)
        await expect(page.locator("[aria-invalid]")).to_have_count(1)
        for each in await page.locator("input[type=password]").all():
            await expect(each).to_have_value("")  # no password ever comes back
    await fill(page, "builder", NEW)
    await says(page, "Your password has changed")


async def test_without_javascript(chromium: Browser, demo: Running) -> None:
    async with Visitor.entering(chromium, demo, java_script_enabled=False) as visitor:
        page = await visitor.tab()
        browser = demo.browser()
        await browser.get("/login")
        asked = await browser.post("/login", {"username": "bob", "password": "builder"})
        await demo.pass_captcha(browser, asked.location)
        await visitor.take_over(browser)
        await page.goto(visitor.base + "/account")
        await says(page, ASKED)
        await expect(page.get_by_role("meter")).to_be_hidden()
        await fill(page, "builder", "short")
        await expect(page.get_by_role("alert")).to_be_visible()
        await fill(page, "builder", NEW)
        await says(page, "Your password has changed")
