"""Login with its captcha in Chromium: with WebCrypto, without it, and without any script."""

from __future__ import annotations

from urllib.parse import urlsplit

import pytest
from playwright.async_api import Browser, Page, expect

from tests.browser.demo import BANK_NAME, Visitor, at_step, says
from tests.support.fakes_steps import reads
from tests.support.gateway import Running

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]

CHECK = "A quick check that you are a person"


async def asked(page: Page) -> str:
    """The captcha's question in words."""
    return await page.locator("label", has_text="?").inner_text()


async def test_the_pages_script_solves_the_captcha_and_the_login_goes_on(visitor: Visitor) -> None:
    page = await visitor.tab("/login")
    await visitor.log_in(page)
    await says(page, "Account")
    await expect(page.get_by_text("Logged in as alice")).to_be_visible()
    assert await page.evaluate("isSecureContext")


@pytest.mark.parametrize("name", ["localhost", BANK_NAME])
async def test_the_captcha_is_solved_under_other_names_too(chromium: Browser, demo: Running, name: str) -> None:
    base = f"http://{name}:{urlsplit(demo.base).port}"
    async with Visitor.entering(chromium, demo, base) as visitor:
        page = await visitor.tab("/login")
        await visitor.log_in(page)
        assert page.url == f"{base}/account"
        # Without WebCrypto it was our own SHA-256 that found the counter.
        assert await page.evaluate("crypto.subtle === undefined") == (name == BANK_NAME)


async def test_both_ways_to_derive_a_key_agree(visitor: Visitor) -> None:
    """The worker is asked for the same challenge twice, once with WebCrypto taken away."""
    page = await visitor.tab("/login")
    await page.route("**/captcha.js", lambda route: route.abort())
    await visitor.type_login(page)
    await at_step(page, CHECK)
    script = await page.locator("[data-captcha]").get_attribute("data-worker")
    parameters = await page.evaluate("JSON.parse(document.querySelector('[data-captcha]').dataset.challenge).parameters")
    await page.goto(visitor.base + "/")  # the bank has no policy that would forbid `new Function`
    solve = """async ([script, parameters, own]) => {
      const source = await (await fetch(script)).text();
      const answers = [];
      const scope = {addEventListener: (_, heard) => { scope.heard = heard; }, postMessage: (data) => answers.push(data)};
      scope.crypto = own ? {} : crypto;
      new Function("self", "performance", source)(scope, performance);
      await scope.heard({data: parameters});
      return answers.at(-1).solution;
    }"""
    native, own = [await page.evaluate(solve, [script, parameters, own]) for own in (False, True)]
    assert own["counter"] == native["counter"]
    assert own["derivedKey"] == native["derivedKey"]


async def test_a_wrong_password_is_said_by_the_bank(visitor: Visitor) -> None:
    page = await visitor.tab("/login")
    await visitor.type_login(page, password="looking-glass")
    await expect(page.get_by_role("alert")).to_have_text("The user name or the password is wrong.")
    await visitor.log_in(page)
    await says(page, "Account")


async def test_every_login_needs_a_solution_of_its_own(visitor: Visitor) -> None:
    page = await visitor.tab()
    await visitor.log_in(page)
    await page.get_by_role("link", name="Log out").click()
    asked: list[str] = []
    page.on("framenavigated", lambda frame: asked.append(urlsplit(frame.url).path))
    await visitor.log_in(page)
    assert any(path.startswith("/.stepup/t/su_") for path in asked)


async def test_without_javascript_a_question_is_answered(chromium: Browser, demo: Running) -> None:
    async with Visitor.entering(chromium, demo, java_script_enabled=False) as visitor:
        page = await visitor.tab("/login")
        await visitor.type_login(page)
        await at_step(page, CHECK)
        await expect(page.get_by_text("Checking your browser")).to_be_hidden()
        field = page.get_by_role("textbox")
        question = await asked(page)
        await demo.advance(4)  # an answer counts some seconds after its question was shown
        await field.fill("not the answer")
        await page.get_by_role("button", name="Continue").click()
        await expect(page.get_by_text("That was not the answer. Here is another question.")).to_be_visible()
        assert await asked(page) != question
        await demo.advance(4)
        await page.get_by_role("textbox").fill(reads(await asked(page)))
        await page.get_by_role("button", name="Continue").click()
        await says(page, "Account")


async def test_a_question_can_be_answered_instead_while_the_check_runs(visitor: Visitor) -> None:
    page = await visitor.tab("/login")
    await page.route("**/captcha-worker.js", lambda route: route.fulfill(body="", content_type="text/javascript"))
    await visitor.type_login(page)
    await at_step(page, CHECK)
    await expect(page.get_by_role("textbox")).to_be_hidden()
    await expect(page.get_by_role("button", name="Continue")).to_be_hidden()  # there is nothing to do yet
    await page.get_by_text("Answer a question instead").click()
    await visitor.demo.advance(4)
    await page.get_by_role("textbox").fill(reads(await asked(page)))
    await page.get_by_role("button", name="Continue").click()
    await says(page, "Account")


async def test_a_check_that_cannot_run_opens_the_question(visitor: Visitor) -> None:
    page = await visitor.tab("/login")
    await page.route("**/captcha-worker.js", lambda route: route.fulfill(status=404))
    await visitor.type_login(page)
    await at_step(page, CHECK)
    await expect(page.get_by_text("The check could not run in this browser.")).to_be_visible()
    await expect(page.get_by_role("textbox")).to_be_visible()
    await page.unroute("**/captcha-worker.js")
    await page.get_by_role("link", name="Try the check again").click()
    await says(page, "Account")


async def test_cookies_are_ours_alone_and_no_script_reads_them(visitor: Visitor) -> None:
    page = await visitor.tab()
    await visitor.log_in(page)
    ours = {c["name"]: c for c in await visitor.context.cookies() if c["name"].startswith("stepup")}
    assert len(ours) == 2  # the pass, and the browser's binding
    for cookie in ours.values():
        assert (cookie["httpOnly"], cookie["sameSite"], cookie["path"]) == (True, "Lax", "/")
        assert cookie["expires"] == -1  # gone with the browser
        assert cookie["domain"] == "127.0.0.1"  # host-only
        assert len(cookie["name"]) + len(cookie["value"]) <= 2048
    assert "stepup" not in await page.evaluate("document.cookie")
