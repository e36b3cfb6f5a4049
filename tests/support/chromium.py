"""Debian's Chromium under Playwright, one browser for a whole test session and a fresh context for every test.

A module that uses these fixtures runs its tests in the session's event loop, where the browser lives:

    pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]

Async fixtures that a test shares with `page` need `loop_scope="session"` too.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import axe_playwright_python
import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page, async_playwright

EXECUTABLE = Path(os.environ.get("CHROMIUM", "/usr/bin/chromium"))
AXE = Path(axe_playwright_python.__file__).parent / "axe.min.js"
ARGUMENTS = [
    "--no-sandbox",  # tests run as root in containers, where Chromium's own sandbox cannot start
    "--disable-gpu",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--host-resolver-rules=MAP *.test 127.0.0.1",  # RFC 6761: names that are nobody's; plain http to them is no secure context
]


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def chromium() -> AsyncIterator[Browser]:
    """The browser. Fails, and does not skip, where there is none: these tests are part of `make test`."""
    if not EXECUTABLE.exists():  # noqa: ASYNC240 - once, before anything runs
        pytest.fail(
            f"no Chromium at {EXECUTABLE}: install Debian's `chromium`, or name another one in the variable CHROMIUM", pytrace=False
        )
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=EXECUTABLE, args=ARGUMENTS, chromium_sandbox=False)
        yield browser
        await browser.close()


@pytest_asyncio.fixture(loop_scope="session")
async def page(chromium: Browser) -> AsyncIterator[Page]:
    """A page in a context of its own: no cookies, no storage, nothing from another test."""
    context = await chromium.new_context()
    context.set_default_timeout(10_000)
    yield await context.new_page()
    await context.close()


async def axe(page: Page, *rules: str) -> list[str]:
    """What axe-core finds wrong with the page as it is shown now, as `rule: element: why`; best practices included.

    rules: only these, e.g. "color-contrast". Works under our CSP: the engine is put in through the debugger, not as an element.
    """
    if not await page.evaluate("'axe' in window"):
        await page.evaluate(AXE.read_text(encoding="utf-8") + "; undefined")
    options = {"resultTypes": ["violations"], **({"runOnly": list(rules)} if rules else {})}
    result: dict[str, Any] = await page.evaluate("options => axe.run(document, options)", options)
    return [f"{found['id']}: {node['html'][:160]}: {node['failureSummary']}" for found in result["violations"] for node in found["nodes"]]
