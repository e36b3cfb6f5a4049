"""A transfer and its code in Chromium: read in the mailbox, typed, pasted, mistyped, asked for again; and what goes out is sent once."""

from __future__ import annotations

import re

import pyotp
import pytest
from playwright.async_api import Browser, Page, expect

from tests.browser.demo import Visitor, at_step, says
from tests.support.fakes_steps import reads
from tests.support.gateway import Running

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]


def another(code: str) -> str:
    """A code that is not that one."""
    return f"{(int(code) + 1) % 1_000_000:06d}"


async def paste(page: Page, text: str) -> None:
    await page.evaluate(
        """(text) => {
          const data = new DataTransfer();
          data.setData("text", text);
          document.activeElement.dispatchEvent(new ClipboardEvent("paste", {clipboardData: data, cancelable: true, bubbles: true}));
        }""",
        text,
    )


async def test_the_transfer_that_was_typed_goes_through_once(visitor: Visitor) -> None:
    page = await visitor.tab()
    await visitor.log_in_quickly()
    await visitor.transfer(page, "Marlene & Söhne", "1234.50")
    await at_step(page)
    await expect(page).to_have_title("Please confirm that it is you – Demo Bank")
    await expect(page.get_by_text("a•••e@")).to_be_visible()
    await expect(page.get_by_text("POST /transfer")).to_be_visible()
    await expect(page.get_by_role("link", name="/dev/mailbox")).to_be_visible()
    await visitor.enter_code(page, await visitor.mailed_code())
    await page.wait_for_url("**/account")
    await expect(page.locator("#ledger tr")).to_have_count(2)
    await expect(page.locator("#ledger")).to_contain_text("Marlene & Söhne")
    await expect(page.locator("#ledger")).to_contain_text("1,234.50")
    assert "stepup" not in page.url


async def test_whoever_was_just_asked_is_left_alone(visitor: Visitor) -> None:
    page = await visitor.tab()
    await visitor.log_in_quickly()
    await visitor.suspended(page, "first")
    await visitor.enter_code(page)
    await page.wait_for_url("**/account")
    await visitor.transfer(page, "second")
    await page.wait_for_url("**/account")
    await visitor.demo.advance(5 * 60 + 1)
    await visitor.transfer(page, "third")
    await at_step(page)
    assert await visitor.ledger(page) == ["first", "second"]


async def test_a_pasted_code_may_have_spaces(visitor: Visitor) -> None:
    page = await visitor.tab()
    await visitor.log_in_quickly()
    await visitor.suspended(page, "Marlene")
    code = visitor.demo.code()
    field = page.get_by_label("Code from the mail")
    await expect(field).to_be_focused()
    await paste(page, f" {code[:3]} {code[3:]}\n")
    await expect(field).to_have_value(code)
    await page.keyboard.press("Enter")
    await page.wait_for_url("**/account")
    assert await visitor.ledger(page) == ["Marlene"]


async def test_without_javascript_the_server_takes_the_spaces_out(chromium: Browser, demo: Running) -> None:
    async with Visitor.entering(chromium, demo, java_script_enabled=False) as visitor:
        page = await visitor.tab()
        await visitor.log_in_quickly()
        await visitor.suspended(page, "Marlene")
        code = demo.code()
        await visitor.enter_code(page, f"{code[:3]} - {code[3:]} ")
        await page.wait_for_url("**/account")
        assert await visitor.ledger(page) == ["Marlene"]


async def test_a_wrong_code_is_said_at_the_field_and_the_right_one_still_works(visitor: Visitor) -> None:
    page = await visitor.tab()
    await visitor.log_in_quickly()
    await visitor.suspended(page, "Marlene")
    code = visitor.demo.code()
    await visitor.enter_code(page, another(code))
    field = page.get_by_label("Code from the mail")
    await expect(page.get_by_role("alert")).to_have_text("Error: The code is not right. Only the code from the newest mail counts.")
    await expect(page).to_have_title(re.compile("^Error: "))
    await expect(field).to_be_focused()
    await expect(field).to_have_attribute("aria-invalid", "true")
    await expect(field).to_have_accessible_description(re.compile("The code is not right"))
    await visitor.enter_code(page, code)
    await page.wait_for_url("**/account")
    assert await visitor.ledger(page) == ["Marlene"]


async def test_after_three_wrong_codes_the_page_waits_and_counts(visitor: Visitor) -> None:
    page = await visitor.tab()
    await visitor.log_in_quickly()
    await visitor.suspended(page, "Marlene")
    code = visitor.demo.code()
    await page.clock.install()
    for _ in range(3):
        await visitor.enter_code(page, another(code))
        await expect(page.get_by_role("alert")).to_be_visible()
    button = page.get_by_role("button", name="Continue")
    await expect(button).to_have_attribute("aria-disabled", "true")
    await expect(page.get_by_text("You can try again in 1 second.")).to_be_visible()
    await page.clock.run_for(1000)
    await visitor.demo.advance(1)
    await expect(page.get_by_text("You can try again now.")).to_be_visible()
    await visitor.enter_code(page, code)
    await page.wait_for_url("**/account")
    assert await visitor.ledger(page) == ["Marlene"]


async def test_too_many_wrong_codes_end_it_and_nothing_is_sent(chromium: Browser, demo: Running) -> None:
    async with Visitor.entering(chromium, demo, java_script_enabled=False) as visitor:
        page = await visitor.tab()
        await visitor.log_in_quickly()
        address = await visitor.suspended(page, "Marlene")
        wrong = another(demo.code())
        for wait in (0, 0, 1, 2, 4, 8, 16, 32, 60):
            await visitor.enter_code(page, wrong)
            await expect(page.get_by_role("alert")).to_be_visible()
            await demo.advance(wait)
        await visitor.enter_code(page, wrong)
        await says(page, "We could not confirm it was you")
        await expect(page.get_by_text("Your request was not sent.")).to_be_visible()
        await page.goto(address)
        await says(page, "We could not confirm it was you")
        await page.get_by_role("link", name="Start again").click()
        await says(page, "Transfer")
        assert await visitor.ledger(page) == []


async def test_a_new_code_replaces_the_old_one(visitor: Visitor) -> None:
    page = await visitor.tab()
    await visitor.log_in_quickly()
    await visitor.suspended(page, "Marlene")
    first = visitor.demo.code()
    await visitor.demo.advance(30)
    await page.get_by_role("button", name="Send a new code").click()
    await expect(page.get_by_role("status").filter(has_text="We sent a new code to a•••e@")).to_be_visible()
    second = visitor.demo.code()
    if first != second:  # one in a million
        await visitor.enter_code(page, first)
        await expect(page.get_by_role("alert")).to_contain_text("Only the code from the newest mail counts.")
    await visitor.enter_code(page, second)
    await page.wait_for_url("**/account")
    assert await visitor.ledger(page) == ["Marlene"]


async def test_asking_too_soon_for_a_new_code_does_not_hold_the_one_that_came(visitor: Visitor) -> None:
    page = await visitor.tab()
    await visitor.log_in_quickly()
    await visitor.suspended(page, "Marlene")
    await page.clock.install()
    resend = page.get_by_role("button", name="Send a new code")
    await resend.click()
    await expect(page.get_by_role("alert")).to_contain_text("A code was sent a moment ago.")
    await expect(resend).to_have_attribute("aria-disabled", "true")
    await expect(page.get_by_role("button", name="Continue")).not_to_have_attribute("aria-disabled", "true")
    await page.clock.run_for(60_000)
    await expect(page.get_by_text("You can ask again now.")).to_be_visible()
    await expect(resend).not_to_have_attribute("aria-disabled", "true")
    assert len(visitor.demo.mails) == 1
    await visitor.enter_code(page)
    await page.wait_for_url("**/account")
    assert await visitor.ledger(page) == ["Marlene"]


async def test_an_authenticator_app_is_set_up_and_asked_next_time(visitor: Visitor) -> None:
    page = await visitor.tab()
    await visitor.log_in_quickly()
    await visitor.suspended(page, "Marlene")
    await page.get_by_role("button", name="Set up an authenticator app").click()
    await expect(page.get_by_role("status")).to_contain_text("First type in the code from the mail")
    await visitor.enter_code(page)
    await says(page, "Set up your authenticator app")
    await expect(page.get_by_role("img", name="QR code")).to_be_visible()
    key = (await page.locator("code").inner_text()).replace(" ", "")
    assert visitor.demo.clock is not None
    app = pyotp.TOTP(key)
    await page.get_by_label("Code from your authenticator app").fill(app.at(int(visitor.demo.clock.now)))
    await page.get_by_role("button", name="Continue").click()
    await page.wait_for_url("**/account")
    await visitor.demo.advance(5 * 60 + 1)
    await visitor.transfer(page, "Otto")
    await at_step(page)
    mails = len(visitor.demo.mails)
    await page.get_by_label("Code from your authenticator app").fill(app.at(int(visitor.demo.clock.now)))
    await page.get_by_role("button", name="Continue").click()
    await page.wait_for_url("**/account")
    assert await visitor.ledger(page) == ["Marlene", "Otto"]
    assert len(visitor.demo.mails) == mails


async def test_by_keyboard_alone(visitor: Visitor) -> None:
    """From the login to the ledger without a mouse, and with the focus in sight all along."""
    page = await visitor.tab("/login")
    press = page.keyboard.press
    await page.get_by_label("User name").focus()
    await page.keyboard.type("alice")
    await press("Tab")
    await page.keyboard.type("wonderland")
    await press("Enter")
    await page.wait_for_url("**/account")
    await page.goto(visitor.base + "/transfer")
    await page.get_by_label("To", exact=True).focus()
    await page.keyboard.type("Marlene")
    await press("Tab")
    await page.keyboard.type("10")
    await press("Enter")
    await at_step(page)
    await expect(page.get_by_label("Code from the mail")).to_be_focused()
    reached = []
    for _ in range(4):
        await press("Tab")
        reached.append(await page.evaluate("document.activeElement.textContent.trim()"))
        assert await page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    assert reached == ["Continue", "Send a new code", "Set up an authenticator app", "Cancel and go back"]
    for _ in range(4):
        await press("Shift+Tab")
    await page.keyboard.type(visitor.demo.code())
    await press("Tab")
    await press("Space")
    await page.wait_for_url("**/account")
    assert await visitor.ledger(page) == ["Marlene"]


async def test_admin_has_two_steps_and_says_which_one_it_is(visitor: Visitor) -> None:
    page = await visitor.tab()
    await visitor.log_in_quickly()
    await page.route("**/captcha-worker.js", lambda route: route.fulfill(body="", content_type="text/javascript"))
    await page.goto(visitor.base + "/admin")
    await at_step(page, "A quick check that you are a person")
    await expect(page.get_by_role("progressbar", name="Step 1 of 2")).to_be_visible()
    await page.unroute("**/captcha-worker.js")
    await page.reload()
    await at_step(page)
    await expect(page.get_by_role("progressbar", name="Step 2 of 2")).to_be_visible()
    await visitor.enter_code(page)
    await page.wait_for_url("**/admin")
    await says(page, "Administration")
    await page.goto(visitor.base + "/account")
    await page.get_by_role("link", name="Administration").click()
    await says(page, "Administration")  # both count for as long as the pass


async def test_both_steps_of_admin_without_javascript(chromium: Browser, demo: Running) -> None:
    async with Visitor.entering(chromium, demo, java_script_enabled=False) as visitor:
        page = await visitor.tab()
        await visitor.log_in_quickly()
        await page.goto(visitor.base + "/admin")
        await at_step(page, "A quick check that you are a person")
        await demo.advance(4)  # an answer counts some seconds after its question was shown
        await page.get_by_role("textbox").fill(reads(await page.locator("label", has_text="?").inner_text()))
        await page.get_by_role("button", name="Continue").click()
        await at_step(page)
        await expect(page.get_by_role("progressbar", name="Step 2 of 2")).to_be_visible()
        await visitor.enter_code(page)
        await says(page, "Administration")
