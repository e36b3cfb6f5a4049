"""The pages in Chromium: nothing for axe to find, nothing blocked by our own policy, and the script's small services."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import pytest
import pytest_asyncio
from aiohttp import web
from playwright.async_api import Browser, Page, expect

from gateway.spec.sections import ThemeSpec
from gateway.web.page import Page as Answer
from tests.browser.gallery import ACTION, SHOWN, gallery, make_pages, real_steps, static
from tests.support.chromium import axe

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]


class Gallery:
    """Serves every page at `/<name>`, and takes answers: what arrived is in `posts`. With `stay`, an answer leads nowhere."""

    def __init__(self, pages: Mapping[str, Answer]) -> None:
        self.pages = pages
        self.static = static()
        self.posts: list[dict[str, str]] = []
        self.asked: list[str] = []
        self.stay = False
        self.url = ""

    async def handle(self, request: web.Request) -> web.Response:
        self.asked.append(request.path)
        if request.method == "POST":
            self.posts.append({key: str(value) for key, value in (await request.post()).items()})
            if self.stay:
                return web.Response(status=204)
            return web.Response(text="<title>after</title>", content_type="text/html")
        if request.path == "/outer":
            return web.Response(text=f'<title>outer</title><iframe src="{request.query["in"]}"></iframe>', content_type="text/html")
        if request.path.startswith(self.static.root):
            answer = self.static.respond(request.path.removeprefix(self.static.root))
        else:
            answer = self.pages.get("step" if request.path == ACTION else request.path[1:])
        if answer is None:
            raise web.HTTPNotFound
        return web.Response(status=answer.status, body=answer.body, headers=list(answer.headers))


@pytest_asyncio.fixture(loop_scope="session")
async def site(tmp_path: Path, page: Page) -> AsyncIterator[Gallery]:
    theme = ThemeSpec(name="Example Bank", support_url="https://bank.example.com/help")
    pages = make_pages(tmp_path, theme, "http://127.0.0.1:8090/dev/mailbox")
    site = Gallery({**gallery(pages), **await real_steps(pages)})
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", site.handle)
    runner = web.AppRunner(app, shutdown_timeout=0)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    site.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    # The pages that send themselves stay where they are.
    for name in ("stepup-send.js", "stepup-handback.js"):
        await page.route(f"**/{name}", lambda route: route.abort())
    yield site
    await runner.cleanup()


async def test_axe_finds_nothing_on_any_page_light_or_dark(page: Page, site: Gallery) -> None:
    site.stay = True  # the captcha answers by itself
    blocked: list[str] = []
    page.on("console", lambda message: blocked.append(message.text) if "Security Policy" in message.text else None)
    page.on("pageerror", lambda error: blocked.append(str(error)))
    found: dict[str, list[str]] = {}
    for name in site.pages:
        await page.goto(f"{site.url}/{name}")
        found[name] = await axe(page)
        await page.emulate_media(color_scheme="dark")
        found[f"{name}, dark"] = await axe(page, "color-contrast")
        await page.emulate_media(color_scheme="light")
    assert {name: violations for name, violations in found.items() if violations} == {}
    assert blocked == []


async def test_dark_is_really_dark(page: Page, site: Gallery) -> None:
    await page.goto(f"{site.url}/step")
    background = "getComputedStyle(document.body).backgroundColor"
    light = await page.evaluate(background)
    await page.emulate_media(color_scheme="dark")
    assert (light, await page.evaluate(background)) == ("rgb(243, 245, 248)", "rgb(16, 20, 26)")


async def test_a_page_asks_for_nothing_but_its_own_two_files(page: Page, site: Gallery) -> None:
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    await page.goto(f"{site.url}/step", wait_until="networkidle")
    files = {url.removeprefix(site.url).rpartition("/")[2] for url in requests if not url.startswith("data:")}
    assert files == {"step", "stepup.css", "stepup-page.js"}
    assert all(url.startswith((site.url, "data:")) for url in requests)
    assert "/favicon.ico" not in site.asked


async def test_no_page_scrolls_sideways_on_a_narrow_screen(page: Page, site: Gallery) -> None:
    await page.set_viewport_size({"width": 320, "height": 640})
    site.stay = True  # the captcha answers by itself
    wide = []
    for name in site.pages:
        if name.startswith("message-") and name not in ("message-expired", "message-denied"):
            continue  # one template, told apart by their words only
        await page.goto(f"{site.url}/{name}", wait_until="domcontentloaded")
        if await page.evaluate("document.documentElement.scrollWidth > innerWidth"):
            wide.append(name)
    assert wide == []


async def test_enter_sends_the_answer_and_no_other_action(page: Page, site: Gallery) -> None:
    await page.goto(f"{site.url}/step")
    await expect(page.locator("#f-code")).to_be_focused()
    await page.keyboard.type("123456")
    await page.keyboard.press("Enter")
    await expect(page).to_have_title("after")
    assert site.posts == [{"stepup_token": "hidden-token", "code": "123456"}]


async def test_the_focus_goes_to_what_is_wrong(page: Page, site: Gallery) -> None:
    await page.goto(f"{site.url}/step-passwords-wrong")
    await expect(page.locator("#f-new_password")).to_be_focused()
    await page.goto(f"{site.url}/step-wrong-whole")
    await expect(page.get_by_role("alert")).to_be_focused()


async def test_other_ways_need_no_answer_and_cancel_neither(page: Page, site: Gallery) -> None:
    for button in ("Send me a code by mail instead", "Cancel and go back"):
        await page.goto(f"{site.url}/step")
        await page.get_by_role("button", name=button).click()
        await expect(page).to_have_title("after")
    assert [post["action"] for post in site.posts] == ["use:email", "cancel"]


async def test_everything_works_without_javascript(chromium: Browser, site: Gallery) -> None:
    context = await chromium.new_context(java_script_enabled=False)
    page = await context.new_page()
    await page.goto(f"{site.url}/step")
    await page.fill("#f-code", "123 456")
    await page.get_by_role("button", name="Continue").click()
    await expect(page).to_have_title("after")
    await page.goto(f"{site.url}/confirm-form")
    await page.get_by_role("button", name="Send", exact=True).click()
    await expect(page).to_have_title("after")
    await context.close()
    assert [post.get("code", post.get("action")) for post in site.posts] == ["123 456", "send"]


async def test_a_second_click_sends_nothing(page: Page, site: Gallery) -> None:
    site.stay = True
    await page.goto(f"{site.url}/step")
    await page.fill("#f-code", "123456")
    prevented = await page.evaluate(
        """() => {
          const prevented = [];
          addEventListener("submit", (event) => prevented.push(event.defaultPrevented));
          const button = document.querySelector("button.primary");
          button.click();
          button.click();
          return prevented;
        }"""
    )
    assert prevented == [False, True]
    await expect(page.get_by_role("button", name="Continue")).to_have_attribute("aria-disabled", "true")


async def test_back_makes_the_form_live_again(page: Page, site: Gallery) -> None:
    await page.goto(f"{site.url}/step")
    for code in ("123456", "654321"):
        await page.fill("#f-code", code)
        await page.get_by_role("button", name="Continue").click()
        await expect(page).to_have_title("after")
        await page.go_back()
    assert [post["code"] for post in site.posts] == ["123456", "654321"]


async def test_a_pasted_code_loses_its_spaces(page: Page, site: Gallery) -> None:
    await page.goto(f"{site.url}/step")
    await page.evaluate(
        """() => {
          const data = new DataTransfer();
          data.setData("text", " 123\\u00a0456-\\u2013\\n");
          const event = new ClipboardEvent("paste", {clipboardData: data, cancelable: true, bubbles: true});
          document.querySelector("#f-code").dispatchEvent(event);
        }"""
    )
    await expect(page.locator("#f-code")).to_have_value("123456")


async def test_a_pause_counts_down_holds_the_answer_and_leaves_other_ways_open(page: Page, site: Gallery) -> None:
    await page.clock.install()
    await page.goto(f"{site.url}/step-throttled")
    answer = page.get_by_role("button", name="Continue")
    await expect(answer).to_have_attribute("aria-disabled", "true")
    await page.fill("#f-code", "123456")
    await page.press("#f-code", "Enter")
    await page.clock.run_for(10_000)
    await expect(page.locator("[data-stepup-wait]")).to_have_text("20 seconds")
    assert site.posts == []
    await page.clock.run_for(20_000)
    await expect(page.get_by_text("You can try again now.")).to_be_visible()
    await answer.click()
    await expect(page).to_have_title("after")
    assert [post["code"] for post in site.posts] == ["123456"]


async def test_the_end_of_a_pause_is_not_needed_to_ask_for_another_code(page: Page, site: Gallery) -> None:
    await page.goto(f"{site.url}/step-throttled")
    await page.get_by_role("button", name="Send me a code by mail instead").click()
    await expect(page).to_have_title("after")
    assert [post["action"] for post in site.posts] == ["use:email"]


async def test_a_page_says_when_its_time_is_nearly_and_wholly_up(page: Page, site: Gallery) -> None:
    await page.clock.install()
    await page.goto(f"{site.url}/step")
    notice = page.locator("[data-stepup-expires]")
    await expect(notice).to_have_text("")
    await page.clock.run_for(515_000)
    await expect(notice).to_contain_text("Less than a minute")
    await page.clock.run_for(60_000)
    await expect(notice).to_contain_text("The time is up")


async def test_in_a_frame_the_link_opens_at_the_top_and_an_interstitial_does_not_show(page: Page, site: Gallery) -> None:
    await page.goto(f"{site.url}/outer?in=/step")
    assert "Confirm the transfer" not in await page.frames[1].content()
    await page.goto(f"{site.url}/outer?in=/framed")
    await page.frame_locator("iframe").get_by_role("link", name="Open it in the whole window").click()
    await page.wait_for_url(f"{site.url}{ACTION}")
    await expect(page.get_by_role("heading", level=1)).to_have_text("Confirm the transfer with a code")


async def test_forced_colours_keep_edges_and_focus(page: Page, site: Gallery) -> None:
    await page.emulate_media(forced_colors="active")
    await page.goto(f"{site.url}/step-wrong-field")
    assert await page.evaluate("getComputedStyle(document.querySelector('.quiet')).borderTopStyle") == "solid"
    assert await page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    assert SHOWN.request_id in await page.inner_text("footer")
