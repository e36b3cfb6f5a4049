"""docs/how-to/spa.md in Chromium: its page, its rules and its two programs do what it says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from playwright.async_api import Browser, expect

from gateway.web.static import HERE
from tests.browser.demo import Visitor
from tests.integration.test_docs import ROOT, blocks, read_yaml
from tests.support.legacy import Habits
from tests.support.spa import POLICY, Spa, spa

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]

NAME = "docs/how-to/spa.md"
[PAGE] = [b.text for b in blocks(NAME) if b.marked("page")]
[PROGRAM] = [b.text for b in blocks(NAME) if b.marked("app.js")]
[BY_HAND] = [b.text for b in blocks(NAME) if b.marked("by hand")]
[RULES] = [read_yaml(b.text)["rules"] for b in blocks(NAME) if b.language == "yaml"]


class Documented(Spa):
    """The document's page and program, and its other program as `/hand.js`."""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        match request.path:
            case "/" | "/bare":
                text = PAGE if request.path == "/" else PAGE.replace("/.stepup/static/stepup.js", "/hand.js")
                return web.Response(text=text, content_type="text/html", headers={"Content-Security-Policy": POLICY})
            case "/app.js":
                return web.Response(text=PROGRAM, content_type="text/javascript")
            case "/hand.js":
                return web.Response(text=BY_HAND, content_type="text/javascript")
            case _:
                return await super().handle(request)


async def test_the_page_signs_in_and_orders_without_being_left(chromium: Browser, tmp_path: Path) -> None:
    app = Documented(Habits())
    async with spa(tmp_path, app=app, rules=RULES) as (place, _), Visitor.entering(chromium, place.gateway) as visitor:
        page = await visitor.tab("/")
        said = page.locator("output")
        await page.get_by_label("User").fill("alice")
        await page.get_by_label("Password").fill("right")
        await page.get_by_role("button", name="Sign in").click()
        await expect(said).to_have_text("Signed in.")
        await page.get_by_role("button", name="Order tea").click()
        await page.get_by_role("dialog").get_by_role("button", name="Cancel").click()
        await expect(said).to_have_text("Not ordered.")
        await page.get_by_role("button", name="Order tea").click()
        field = page.get_by_role("dialog").get_by_label("Code from the mail")
        await expect(field).to_be_visible()
        await field.fill(place.gateway.code())
        await page.keyboard.press("Enter")
        await expect(said).to_have_text("Ordered.")
        assert app.arrived("/api/orders") == ['{"what":"tea"}']
        assert page.url == visitor.base + "/"


async def test_a_page_with_a_dialog_of_its_own_needs_no_script_of_ours(chromium: Browser, tmp_path: Path) -> None:
    app = Documented(Habits())
    async with spa(tmp_path, app=app, rules=RULES) as (place, _), Visitor.entering(chromium, place.gateway) as visitor:
        client = place.client()
        await client.log_in(path="/other-login")
        await visitor.context.add_cookies([{"name": n, "value": v, "url": visitor.base} for n, v in client.cookies.items()])
        page = await visitor.tab("/bare")
        asked: list[Any] = []

        def answer(step: Any, error: Any) -> dict[str, str]:
            asked.append((step["kind"], error and error["code"]))
            return {"code": place.gateway.code() if error else ""}

        await page.expose_function("answer", answer)
        order = "() => withStepUp(new Request('/api/orders', {method: 'POST', body: 'tea'}), answer).then(answer => answer.text())"
        assert await page.evaluate(order) == "done for alice"
        assert asked == [("otp", None), ("otp", "missing")]
        assert app.arrived("/api/orders") == ["tea"]


async def test_the_size_that_is_stated_is_the_size() -> None:
    assert f"is {len((HERE / 'stepup.js').read_bytes()):,} bytes" in (ROOT / NAME).read_text()
