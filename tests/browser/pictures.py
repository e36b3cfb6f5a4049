"""Takes the pictures in docs/images from the running demo: `python -m tests.browser.pictures` (port 8090 must be free)."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from typing import Any

import yaml
from playwright.async_api import Browser, Page, async_playwright

from tests.browser.demo import Visitor, at_step, says
from tests.support.chromium import ARGUMENTS, EXECUTABLE
from tests.support.gateway import DEMO, Running, running
from tests.support.spa import spa

FOLDER = Path(__file__).parents[2] / "docs/images"
BASE = "http://bank.example.com"
REACH = {
    "title": "How can we reach you?",
    "text": "We call when something is odd, and never to sell you anything.",
    "fields": [
        {"name": "phone", "type": "tel", "label": "Phone", "required": True, "help": "With the country, as in +44 20 7946 0018."},
        {"name": "plan", "type": "radio", "label": "Plan", "choices": ["Small", "Large"]},
        {"name": "news", "type": "checkbox", "label": "Send me news"},
    ],
}


async def take() -> None:
    config: dict[str, Any] = {"public_url": [BASE, "http://127.0.0.1:1"], "admin": {"listen": "127.0.0.1:8090"}}
    with tempfile.TemporaryDirectory() as folder:
        async with running(Path(folder), **config) as demo, async_playwright() as playwright:
            rules = f"--host-resolver-rules=MAP bank.example.com:80 {demo.base.removeprefix('http://')}"
            browser = await playwright.chromium.launch(
                executable_path=EXECUTABLE, args=[*ARGUMENTS, "--disable-lcd-text", rules], chromium_sandbox=False
            )
            for scheme in ("light", "dark"):
                visitor = await Visitor.enter(browser, demo, BASE, color_scheme=scheme, viewport={"width": 640, "height": 480})
                await walk(visitor, demo, scheme)
                await visitor.context.close()
            await till(Path(folder) / "spa", browser)
            await browser.close()
    with tempfile.TemporaryDirectory() as folder:
        raw: dict[str, Any] = yaml.safe_load(DEMO.read_text())
        rule = {"name": "profile", "match": {"path": "/transfer"}, "require": "profile"}
        config |= {"steps": raw["steps"] | {"profile": {"kind": "form", **REACH}}, "rules": [*raw["rules"], rule]}
        async with running(Path(folder), terms=True, **config) as demo, async_playwright() as playwright:
            rules = f"--host-resolver-rules=MAP bank.example.com:80 {demo.base.removeprefix('http://')}"
            browser = await playwright.chromium.launch(
                executable_path=EXECUTABLE, args=[*ARGUMENTS, "--disable-lcd-text", rules], chromium_sandbox=False
            )
            visitor = await Visitor.enter(browser, demo, BASE, color_scheme="light", viewport={"width": 760, "height": 480})
            await asked_once(visitor)
            await browser.close()


async def till(folder: Path, browser: Browser) -> None:
    async with spa(folder) as (place, _):
        visitor = await Visitor.enter(browser, place.gateway, color_scheme="light", viewport={"width": 640, "height": 560})
        client = place.client()
        await client.log_in(path="/other-login")
        await visitor.context.add_cookies([{"name": n, "value": v, "url": visitor.base} for n, v in client.cookies.items()])
        page = await visitor.tab("/")
        await page.get_by_role("button", name="Pay", exact=True).click()
        field = page.get_by_role("dialog").get_by_label("Code from the mail")
        await field.wait_for()
        await field.press_sequentially(place.gateway.code()[:3])
        await picture(page, "spa-dialog")
        await visitor.context.close()


async def walk(visitor: Visitor, demo: Running, scheme: str) -> None:
    page = await visitor.tab("/login")
    await page.route("**/captcha-worker.js", half_way)
    await visitor.type_login(page)
    await at_step(page, "A quick check that you are a person")
    if scheme == "light":
        await picture(page, "captcha")
    await page.unroute("**/captcha-worker.js")
    await page.reload()
    await page.wait_for_url("**/account")
    await visitor.suspended(page, "Marlene")
    await page.get_by_label("Code from the mail").press_sequentially(demo.code()[:3])
    await picture(page, f"interstitial-otp-{scheme}")
    if scheme == "dark":
        return
    await page.get_by_role("button", name="Cancel and go back").click()
    await page.goto(BASE + "/logout")
    await visitor.type_login(page, "bob", "builder")
    await says(page, "Please choose a new password")
    await page.get_by_label("New password", exact=True).press_sequentially("nine-herons-Trom")
    await page.locator("[data-strength-text]").filter(has_text=".").wait_for()
    await picture(page, "password-change")


async def asked_once(visitor: Visitor) -> None:
    page = await visitor.tab("/login")
    await visitor.type_login(page)
    await at_step(page, "Terms of use of Demo Bank")
    await picture(page, "consent")
    await page.get_by_role("button", name="Accept", exact=True).click()
    await page.goto(BASE + "/transfer")
    await page.get_by_label("Phone").fill("ring me up")
    await page.get_by_role("button", name="Continue").click()
    await page.get_by_label("Large").check()
    await picture(page, "form")


async def half_way(route: Any) -> None:
    await route.fulfill(body="postMessage({progress: 62})", content_type="text/javascript")


async def picture(page: Page, name: str) -> None:
    """The whole page, without a blinking caret."""
    await page.screenshot(path=FOLDER / f"{name}.png", full_page=True, caret="hide")


if __name__ == "__main__":
    FOLDER.mkdir(parents=True, exist_ok=True)
    asyncio.run(take())
