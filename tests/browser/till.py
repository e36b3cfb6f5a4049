"""The application of tests/support/spa.py in Chromium, and somebody before it."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest_asyncio
from playwright.async_api import Browser, JSHandle, Locator, Page, expect

from tests.browser.demo import Visitor
from tests.support.gateway import Clock
from tests.support.legacy import Place
from tests.support.spa import Spa, spa


@dataclass
class Till:
    """The application with somebody before it."""

    place: Place
    app: Spa
    visitor: Visitor
    page: Page

    @property
    def dialog(self) -> Locator:
        return self.page.get_by_role("dialog")

    def output(self, button: str) -> Locator:
        return self.page.locator(f"#{button} output, #{button} ~ output")

    async def log_in(self) -> None:
        """As alice, over HTTP, by a way that asks nothing."""
        client = self.place.client()
        await client.log_in(path="/other-login")
        await self.visitor.context.add_cookies([{"name": n, "value": v, "url": self.visitor.base} for n, v in client.cookies.items()])

    async def enter_code(self, code: str | None = None) -> None:
        field = self.dialog.get_by_label("Code from the mail")
        await expect(field).to_be_visible()
        await field.fill(code or self.place.gateway.code())
        await self.dialog.get_by_role("button", name="Continue").click()

    async def press(self, button: str) -> None:
        await self.page.get_by_role("button", name=button, exact=True).click()


async def entered(place: Place, app: Spa, visitor: Visitor) -> Till:
    return Till(place, app, visitor, await visitor.tab("/"))


@pytest_asyncio.fixture(loop_scope="session")
async def till(chromium: Browser, tmp_path: Path) -> AsyncIterator[Till]:
    async with spa(tmp_path, clock=Clock(time.time())) as (place, app), Visitor.entering(chromium, place.gateway) as visitor:
        found = await entered(place, app, visitor)
        await found.log_in()
        yield found


async def ran(till: Till, script: str) -> JSHandle:
    """A script of the page that is left running; `result` waits for it."""
    caught = f"(async () => {{ {script} }})().catch(error => `${{error.name}}: ${{error.message}}`)"
    return await till.page.evaluate_handle(f"() => ({{promise: {caught}}})")


async def result(handle: JSHandle) -> Any:
    return await handle.evaluate("held => held.promise")
