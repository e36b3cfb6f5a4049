"""The whole demo for Chromium: bank, gateway and mailbox in this process, and a visitor who clicks through them.

Whatever a test does, its pages must not break our own Content-Security-Policy, throw, or ask another host for anything: `Visitor` listens
to every page of its context, and the fixture `visitor` fails the test afterwards for what it heard.
"""

from __future__ import annotations

import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest_asyncio
from playwright.async_api import Browser, BrowserContext, Page, Request, expect

from tests.support.gateway import Browser as HttpBrowser
from tests.support.gateway import Clock, Running, running

BANK_NAME = "bank.test"  # plain http and no loopback name: no WebCrypto, no Sec-Fetch headers

LISTENER = """addEventListener("securitypolicyviolation", (event) =>
    console.error(`POLICY ${event.effectiveDirective} ${event.blockedURI} ${event.sourceFile}:${event.lineNumber}`));"""


@dataclass
class Visitor:
    """One browser context: its cookies, its tabs, and what was wrong in any of them."""

    context: BrowserContext
    demo: Running
    base: str
    complaints: list[str] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    friends: set[str] = field(default_factory=set)

    @classmethod
    async def enter(cls, chromium: Browser, demo: Running, base: str | None = None, **options: Any) -> Visitor:
        """options: of Playwright's `new_context`, e.g. `java_script_enabled=False`."""
        context = await chromium.new_context(**options)
        context.set_default_timeout(10_000)
        visitor = cls(context, demo, base or demo.base)
        if options.get("java_script_enabled", True):
            await context.add_init_script(LISTENER)
        context.on("console", lambda message: visitor._heard(message.text))
        context.on("weberror", lambda error: visitor.complaints.append(str(error.error)))
        context.on("request", visitor._asked)
        return visitor

    @classmethod
    @asynccontextmanager
    async def entering(cls, chromium: Browser, demo: Running, base: str | None = None, **options: Any) -> AsyncIterator[Visitor]:
        """A visitor for as long as the block lasts, who must have had nothing to complain about."""
        found = await cls.enter(chromium, demo, base, **options)
        try:
            yield found
        finally:
            await found.context.close()
        assert found.complaints == [], found.complaints
        assert found.strangers == []

    def _heard(self, text: str) -> None:
        if "POLICY" in text or "Security Policy" in text or "Refused to" in text:
            self.complaints.append(text)

    def _asked(self, request: Request) -> None:
        self.requests.append(request)

    @property
    def strangers(self) -> list[str]:
        """Requests to any other origin than the gateway's, the mailbox's, and those in `friends` (host:port)."""
        ours = {urlsplit(url).netloc for url in (self.base, self.demo.base, self.demo.admin)} | self.friends
        return [r.url for r in self.requests if urlsplit(r.url).scheme in ("http", "https", "ws") and urlsplit(r.url).netloc not in ours]

    async def tab(self, path: str | None = None) -> Page:
        page = await self.context.new_page()
        if path is not None:
            await page.goto(self.base + path)
        return page

    # -- what people do -----------------------------------------------------------------------------------------------

    async def type_login(self, page: Page, user: str = "alice", password: str = "wonderland") -> None:
        """Fill in the bank's form and send it; the captcha comes up."""
        await page.bring_to_front()
        if urlsplit(page.url).path != "/login":
            await page.goto(self.base + "/login")
        await page.get_by_label("User name").fill(user)
        await page.get_by_label("Password").fill(password)
        await page.get_by_role("button", name="Log in").click()

    async def log_in(self, page: Page, user: str = "alice", password: str = "wonderland") -> None:
        """To the account page; the captcha is solved by its own script."""
        await self.type_login(page, user, password)
        await page.wait_for_url("**/account")

    async def log_in_quickly(self, user: str = "alice", password: str = "wonderland") -> None:
        """Over HTTP, with the cookies put into this context: for tests about something else."""
        browser = self.demo.browser()
        browser.headers = {**browser.headers, "Host": urlsplit(self.base).netloc}  # of a name that only Chromium resolves
        await self.demo.log_in(browser, user, password)
        await self.take_over(browser)

    async def take_over(self, browser: HttpBrowser) -> None:
        """Go on with the cookies of a client that spoke HTTP."""
        host = urlsplit(self.base).hostname or ""
        await self.context.add_cookies(
            [
                {"name": m.key, "value": m.value, "domain": host, "path": "/", "httpOnly": True, "sameSite": "Lax"}
                for m in browser.session.cookie_jar
            ]
        )

    async def transfer(self, page: Page, to: str, amount: str = "25") -> None:
        """Type a transfer and send it; where it leads is the caller's to say."""
        await page.bring_to_front()  # Chromium draws a tab in the background once a second only
        await page.goto(self.base + "/transfer")
        await page.get_by_label("To", exact=True).fill(to)
        await page.get_by_label("Amount (EUR)").fill(amount)
        await page.get_by_role("button", name="Transfer").click()

    async def suspended(self, page: Page, to: str) -> str:
        """A transfer that waits for its code. Returns the address of its interstitial."""
        await self.transfer(page, to)
        await at_step(page)
        return page.url

    async def mailed_code(self) -> str:
        """Out of the mailbox page, as a person reads it."""
        mailbox = await self.tab()
        await mailbox.goto(self.demo.admin + "/dev/mailbox")
        text = await mailbox.get_by_role("article").first.inner_text()
        await mailbox.close()
        found = re.findall(r"\b\d{6}\b", text)
        assert len(found) == 1, text
        return str(found[0])

    async def enter_code(self, page: Page, code: str | None = None) -> None:
        await page.bring_to_front()
        await page.get_by_label("Code from the mail").fill(code or self.demo.code())
        await page.get_by_role("button", name="Continue").click()

    async def ledger(self, page: Page) -> list[str]:
        """To whom money went, in order, from the bank's own page."""
        await page.goto(self.base + "/account")
        return await page.locator("#ledger tr td:nth-child(2)").all_inner_texts()


async def at_step(page: Page, heading: str | re.Pattern[str] = "Please confirm that it is you") -> None:
    await page.wait_for_url("**/.stepup/t/su_*")
    await expect(page.get_by_role("heading", level=1)).to_have_text(heading)


async def says(page: Page, heading: str) -> None:
    """The page's own headline: what happened."""
    await expect(page.get_by_role("heading", level=1)).to_have_text(heading)


@pytest_asyncio.fixture(loop_scope="session")
async def demo(tmp_path: Path) -> AsyncIterator[Running]:
    """A demo of the test's own. Its clock stands still until it is advanced, so that nothing expires by itself."""
    async with running(tmp_path, clock=Clock(time.time()), hosts=(BANK_NAME,)) as found:
        yield found


@pytest_asyncio.fixture(loop_scope="session")
async def visitor(chromium: Browser, demo: Running) -> AsyncIterator[Visitor]:
    async with Visitor.entering(chromium, demo) as found:
        yield found
