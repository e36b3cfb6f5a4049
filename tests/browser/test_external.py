"""Pages of others in Chromium: two sites, and two hosts of one site. The pages are the ones that the documents show, as processes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.async_api import Browser, Page, Response, expect

from tests.browser.demo import Visitor, says
from tests.support.external import SECRET
from tests.support.legacy import Place, legacy
from tests.support.outside_pages import page_process, shown
from tests.support.ports import free_port

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]

PAGES = {"flask": shown("python", 'NAME = "kyc"'), "express": shown("js", "express")}
RULES = [{"name": "kyc-first", "match": {"path": "/vault/**"}, "require": "kyc"}]


@dataclass
class Sites:
    place: Place
    base: str
    visitor: Visitor
    answers: list[Response] = field(default_factory=list)

    def saw(self, answer: Response) -> None:
        self.answers.append(answer)

    async def came_back(self) -> list[tuple[str, str | None, str]]:
        """Every request to /continue: method, what cookies came, and where it was sent."""
        return [
            (answer.request.method, (await answer.request.all_headers()).get("cookie"), answer.headers.get("location", ""))
            for answer in self.answers
            if urlsplit(answer.url).path == "/continue"
        ]


@asynccontextmanager
async def sites(
    folder: Path, chromium: Browser, *, ours: str = "a.test", theirs: str = "b.test", kind: str = "flask", script: bool = True, **kyc: Any
) -> AsyncIterator[Sites]:
    """The gateway at one name, the page at another, and a browser that is logged in. kyc: settings of the step."""
    port = free_port()
    step = {"kind": "redirect", "url": f"http://{theirs}:{port}/verify", "audience": "kyc", "secret": SECRET, **kyc}
    async with legacy(folder, rules=RULES, steps={"kyc": step}, hosts=(ours,)) as place:
        base = f"http://{ours}:{urlsplit(place.gateway.base).port}"
        async with (
            page_process(folder, kind, PAGES[kind], port=port, GATEWAY=base, KYC_SECRET=SECRET),
            Visitor.entering(chromium, place.gateway, base, java_script_enabled=script) as visitor,
        ):
            visitor.friends.add(f"{theirs}:{port}")
            found = Sites(place, base, visitor)
            visitor.context.on("response", found.saw)
            browser = place.gateway.browser()
            browser.headers = {**browser.headers, "Host": urlsplit(base).netloc}
            await browser.post("/login", {"username": "alice", "password": "right"})
            await visitor.take_over(browser)
            yield found


async def confirms(page: Page, *, script: bool) -> None:
    await page.get_by_role("button", name="Yes, it is me").click()
    if not script:
        await page.get_by_role("button", name="Go on").click()


@pytest.mark.parametrize("kind", ["flask", "express"])
@pytest.mark.parametrize("script", [True, False], ids=["script", "no script"])
async def test_a_page_on_another_site_posts_back(tmp_path: Path, chromium: Browser, kind: str, script: bool) -> None:
    async with sites(tmp_path, chromium, kind=kind, script=script) as found:
        page = await found.visitor.tab("/vault")
        assert urlsplit(page.url).hostname == "b.test"
        await expect(page.get_by_text("Is it you, alice?")).to_be_visible()
        await confirms(page, script=script)
        await page.wait_for_url(found.base + "/vault")
        await expect(page.get_by_text("done for alice")).to_be_visible()
        first, second = await found.came_back()
        assert first[:2] == ("POST", None)  # SameSite=Lax: no cookie of ours on a POST from another site
        assert first[2].startswith("/continue?h=pk_")
        assert second[0] == "GET"
        assert second[1] is not None
        assert "stepup-browser=" in second[1]


@pytest.mark.parametrize("script", [True, False], ids=["script", "no script"])
async def test_a_page_of_the_same_site_is_taken_directly(tmp_path: Path, chromium: Browser, script: bool) -> None:
    async with sites(tmp_path, chromium, ours="bank.a.test", theirs="pages.a.test", script=script) as found:
        page = await found.visitor.tab("/vault")
        assert urlsplit(page.url).hostname == "pages.a.test"
        await confirms(page, script=script)
        await page.wait_for_url(found.base + "/vault")
        (only,) = await found.came_back()
        assert only[0] == "POST"
        assert only[1] is not None
        assert "stepup-browser=" in only[1]


@pytest.mark.parametrize("kind", ["flask", "express"])
@pytest.mark.parametrize("script", [True, False], ids=["script", "no script"])
async def test_by_forms_both_ways_no_address_holds_a_token(tmp_path: Path, chromium: Browser, kind: str, script: bool) -> None:
    async with sites(tmp_path, chromium, kind=kind, script=script, send="form_post") as found:
        page = await found.visitor.tab("/vault")
        if not script:
            await says(page, "One moment")
            await page.get_by_role("button", name="Continue to b.test").click()
        await confirms(page, script=script)
        await page.wait_for_url(found.base + "/vault")
        addresses = [r.url for r in found.visitor.requests]
        assert not [a for a in addresses if "token" in a or "eyJ" in a]


async def test_a_form_that_was_suspended_is_sent_once_after_the_page(tmp_path: Path, chromium: Browser) -> None:
    async with sites(tmp_path, chromium) as found:
        page = await found.visitor.tab("/home")
        form = "<form method=post action=/vault/open><input name=amount value=12><button>Open</button></form>"
        await page.evaluate("html => { document.body.innerHTML = html }", form)
        await page.get_by_role("button", name="Open").click()
        await expect(page.get_by_text("Is it you, alice?")).to_be_visible()
        assert not [p for p in found.place.app.posted if p[1] == "/vault/open"]
        await confirms(page, script=True)
        await expect(page.get_by_text("done for alice")).to_be_visible()
        assert [p for p in found.place.app.posted if p[1] == "/vault/open"] == [("POST", "/vault/open", "alice", "amount=12")]
        await page.reload()
        await says(page, "This was already sent")
        assert len([p for p in found.place.app.posted if p[1] == "/vault/open"]) == 1


async def test_back_from_the_form_that_sent_itself_stays_there(tmp_path: Path, chromium: Browser) -> None:
    async with sites(tmp_path, chromium, send="form_post") as found:
        page = await found.visitor.tab("/home")
        await page.goto(found.base + "/vault")
        await expect(page.get_by_text("Is it you, alice?")).to_be_visible()
        await page.go_back()
        assert urlsplit(page.url).hostname == "a.test"


async def test_in_another_browser_the_page_leads_nowhere(tmp_path: Path, chromium: Browser) -> None:
    """Somebody who is sent the page's address by somebody else confirms nothing for them."""
    async with sites(tmp_path, chromium) as found:
        mine = await found.visitor.tab("/vault")
        async with Visitor.entering(chromium, found.place.gateway, found.base) as other:
            other.friends |= found.visitor.friends
            theirs = await other.context.new_page()
            await theirs.goto(mine.url)
            await confirms(theirs, script=True)
            await says(theirs, "This page belongs to another browser")
        await confirms(mine, script=True)
        await mine.wait_for_url(found.base + "/vault")
