"""Every page that the demo can bring up, as it really comes up: nothing for axe, nothing against our own policy, and little to load."""

from __future__ import annotations

from urllib.parse import urlsplit

import pytest
from playwright.async_api import Browser, Page, expect

from tests.browser.demo import Visitor, at_step, says
from tests.support.chromium import axe
from tests.support.gateway import Running

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]


class Inspector:
    """Looks at a page as it is now, light and dark, and remembers what is wrong."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.found: dict[str, list[str]] = {}

    async def look(self, page: Page, name: str) -> None:
        self.seen.append(name)
        wrong = await axe(page)
        await page.emulate_media(color_scheme="dark")
        wrong += [f"dark: {found}" for found in await axe(page, "color-contrast")]
        await page.emulate_media(color_scheme="light")
        if await page.evaluate("document.documentElement.scrollWidth > innerWidth"):
            wrong.append("it scrolls sideways")
        if wrong:
            self.found[name] = wrong


async def test_axe_finds_nothing_on_the_way_through_the_steps(chromium: Browser, demo: Running) -> None:
    look = Inspector()
    async with Visitor.entering(chromium, demo, viewport={"width": 360, "height": 740}) as visitor:
        page = await visitor.tab("/login")
        await page.route("**/captcha-worker.js", lambda route: route.fulfill(body="", content_type="text/javascript"))
        await visitor.type_login(page)
        await at_step(page, "A quick check that you are a person")
        await look.look(page, "captcha, running")
        await page.get_by_text("Answer a question instead").click()
        await demo.advance(4)
        await page.get_by_role("textbox").fill("no idea")
        await page.get_by_role("button", name="Continue").click()
        await expect(page.get_by_role("alert")).to_be_visible()
        await look.look(page, "captcha, wrong answer")
        await visitor.log_in_quickly()
        await visitor.suspended(page, "Marlene")
        await look.look(page, "code")
        await page.get_by_role("button", name="Send a new code").click()
        await expect(page.get_by_role("alert")).to_be_visible()
        await look.look(page, "code, asked too soon for another")
        await demo.advance(11)
        await page.goto(page.url)
        await page.get_by_role("button", name="Send a new code").click()
        await expect(page.locator(".notice")).to_be_visible()
        await look.look(page, "code, another was sent")
        wrong = "000000" if demo.code() != "000000" else "111111"
        for _ in range(3):
            await visitor.enter_code(page, wrong)
            await expect(page.get_by_role("alert")).to_be_visible()
        await look.look(page, "code, wrong and held")
        await demo.advance(2)
        await page.goto(page.url)
        await page.get_by_role("button", name="Set up an authenticator app").click()
        await visitor.enter_code(page)
        await says(page, "Set up your authenticator app")
        await look.look(page, "authenticator app")
        await page.get_by_role("button", name="Cancel and go back").click()
        await page.wait_for_url("**/transfer")
        await page.goto(visitor.base + "/logout")
        await page.unroute("**/captcha-worker.js")
        await visitor.type_login(page, "bob", "builder")
        await says(page, "Please choose a new password")
        await page.get_by_label("New password", exact=True).fill("Trombone")
        await expect(page.locator("[data-strength-text]")).not_to_be_empty()
        await look.look(page, "password")
        await page.get_by_label("Current password").fill("builder")
        await page.get_by_label("New password again").fill("Trombone")
        await page.get_by_role("button", name="Change password").click()
        await expect(page.get_by_role("alert")).to_be_visible()
        await look.look(page, "password, too short")
    assert look.found == {}
    assert len(look.seen) == 9


async def test_axe_finds_nothing_where_things_end(visitor: Visitor) -> None:
    look = Inspector()
    page = await visitor.tab()
    base, demo = visitor.base, visitor.demo
    await visitor.log_in_quickly()
    sent = await visitor.suspended(page, "Marlene")
    await visitor.enter_code(page)
    await page.wait_for_url("**/account")
    await page.goto(sent)
    await says(page, "This was already sent")
    await look.look(page, "sent")
    await page.goto(base + "/.stepup/pass")
    await says(page, "What this browser has confirmed")
    await look.look(page, "pass")
    await demo.advance(5 * 60 + 1)
    cancelled = await visitor.suspended(page, "Otto")
    await page.get_by_role("button", name="Cancel and go back").click()
    await page.goto(cancelled)
    await says(page, "Cancelled")
    await look.look(page, "cancelled")
    expired = await visitor.suspended(page, "Otto")
    await demo.advance(10 * 60 + 1)
    await page.goto(expired)
    await says(page, "This took too long and has expired")
    await look.look(page, "expired")
    for path, heading in (
        ("/continue", "This link does not work"),
        ("/.stepup/t/su_" + "x" * 43, "There is nothing here"),
        ("/.stepup/elsewhere", "There is nothing here"),
    ):
        await page.goto(base + path)
        await says(page, heading)
        await look.look(page, path)
    await page.goto(demo.admin + "/dev/mailbox")
    await says(page, "Demo mailbox")
    await look.look(page, "mailbox")
    await page.goto(base + "/.stepup/pass")
    await page.get_by_role("button", name="Forget this browser").click()
    await says(page, "Forgotten")
    await look.look(page, "forgotten")
    assert look.found == {}


async def test_the_bank_itself_is_unharmed(visitor: Visitor) -> None:
    """Its pages come through as they are: no policy, no script, no style of ours."""
    page = await visitor.tab()
    await visitor.log_in_quickly()
    answer = await page.goto(visitor.base + "/account")
    assert answer is not None
    assert "content-security-policy" not in answer.headers
    assert await page.evaluate("getComputedStyle(document.querySelector('header')).backgroundColor") == "rgb(29, 59, 94)"


async def test_a_first_interstitial_is_under_30_kb_on_the_wire_and_all_ours(visitor: Visitor) -> None:
    """Head and body of every answer, from the login form's POST until the captcha is solved; its worker included."""
    page = await visitor.tab("/login")
    await page.route("**/.stepup/t/su_*", lambda route: route.fulfill(status=204) if route.request.method == "POST" else route.fallback())
    visitor.requests.clear()
    await visitor.type_login(page)
    await at_step(page, "A quick check that you are a person")
    await expect(page.get_by_text("Done. One moment.")).to_be_visible()
    loaded = [r for r in visitor.requests if not r.url.startswith("data:") and not (r.method == "POST" and "/.stepup/" in r.url)]
    files = {r.url.rpartition("/")[2] for r in loaded if "/static/" in r.url}
    assert files == {"stepup.css", "stepup-page.js", "captcha.js", "captcha-worker.js"}
    assert {urlsplit(r.url).netloc for r in loaded} == {urlsplit(visitor.base).netloc}
    weight = 0
    for request in loaded:
        answer = await request.response()
        assert answer is not None
        # Chromium does not tell the size of a worker's body; ours all have a Content-Length.
        weight += (await request.sizes())["responseHeadersSize"] + int((await answer.all_headers())["content-length"])
    assert 15_000 < weight < 30_000


async def test_what_breaks_our_policy_is_noticed(visitor: Visitor) -> None:
    """That the visitor hears of violations is what the silence in all other tests rests on."""
    page = await visitor.tab()
    await visitor.log_in_quickly()
    await visitor.suspended(page, "Marlene")
    await page.evaluate("document.body.append(Object.assign(document.createElement('script'), {textContent: 'window.broken = 1'}))")
    await page.evaluate("document.body.append(Object.assign(new Image(), {src: 'http://attacker.test/pixel'}))")
    assert await page.evaluate("window.broken") is None
    assert {"script-src-elem", "img-src"} <= {complaint.split()[1] for complaint in visitor.complaints if complaint.startswith("POLICY")}
    assert visitor.strangers == ["http://attacker.test/pixel"]
    visitor.complaints.clear()
    visitor.requests.clear()
