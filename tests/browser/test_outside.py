"""The page for others in Chromium: an issuer on another site sends its user by a form, and gets them back; with and without JavaScript."""

from __future__ import annotations

import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import pytest
from playwright.async_api import Browser, Page, expect

from tests.browser.demo import Visitor
from tests.support.chromium import axe
from tests.support.gateway import Clock, Running, running
from tests.support.outside import SECRET, STEPS, Bank, Issuer, banking, issuing

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]

GATE = "gate.test"


@asynccontextmanager
async def two_sites(folder: Path, *, method: str = "post") -> AsyncIterator[tuple[Running, str, Issuer]]:
    """gate.test and idp.test."""
    async with issuing(host="idp.test") as issuer:
        begin = {"idp": issuer.entry(method=method)}
        async with running(folder, hosts=(GATE,), steps=STEPS, rules=[], identity=[], begin=begin) as gateway:
            yield gateway, f"http://{GATE}:{urlsplit(gateway.base).port}", issuer


async def enter(page: Page, gateway: Running) -> None:
    await expect(page.get_by_label("Code")).to_be_visible()
    await page.get_by_label("Code").fill(gateway.code())
    await page.get_by_role("button", name="Continue", exact=True).click()


@pytest.mark.parametrize("script", [True, False])
@pytest.mark.parametrize("method", ["post", "query"])
async def test_there_and_back_by_a_form_of_another_site(chromium: Browser, tmp_path: Path, script: bool, method: str) -> None:
    async with (
        two_sites(tmp_path, method=method) as (gateway, base, issuer),
        Visitor.entering(chromium, gateway, base, java_script_enabled=script) as visitor,
    ):
        visitor.friends.add(urlsplit(issuer.origin).netloc)
        page = await visitor.tab()
        await page.goto(f"{issuer.origin}/leave?" + urlencode({"to": f"{base}/.stepup/begin/idp"}))
        await page.get_by_role("button", name="Go").click()
        await expect(page.get_by_text("asks for this, and waits for")).to_contain_text(urlsplit(issuer.origin).netloc)
        await enter(page, gateway)
        if method == "post" and not script:
            await expect(page.get_by_role("heading", name="One moment")).to_be_visible()
            await page.get_by_role("button", name="Continue").click()
        await expect(page.get_by_text("Welcome back, alice")).to_be_visible()
        assert [way for way, _ in issuer.arrived] == ["POST" if method == "post" else "GET"]
        assert issuer.done[0]["amr"] == ["otp"]


@pytest.mark.parametrize("method", ["post", "query"])
async def test_origins_behind_the_continue_url_are_named_for_browsers_that_hold_forms_to_them(
    chromium: Browser, tmp_path: Path, method: str
) -> None:
    async with issuing(host="app.test") as app, issuing(host="idp.test") as issuer:
        issuer.onward = f"{app.origin}/leave?to=x"
        begin = {"idp": issuer.entry(method=method, next_origins=app.origin)}
        async with running(tmp_path, hosts=(GATE,), steps=STEPS, rules=[], identity=[], begin=begin) as gateway:
            base = f"http://{GATE}:{urlsplit(gateway.base).port}"
            async with Visitor.entering(chromium, gateway, base) as visitor:
                visitor.friends |= {urlsplit(issuer.origin).netloc, urlsplit(app.origin).netloc}
                page = await visitor.tab()
                await page.goto(base + issuer.start())
                await enter(page, gateway)
                await page.wait_for_url(f"{app.origin}/**")
                assert len(issuer.done) == 1


async def test_back_in_the_history_sends_nothing_by_itself(chromium: Browser, tmp_path: Path) -> None:
    async with two_sites(tmp_path) as (gateway, base, issuer), Visitor.entering(chromium, gateway, base) as visitor:
        visitor.friends.add(urlsplit(issuer.origin).netloc)
        page = await visitor.tab()
        await page.goto(base + issuer.start())
        await enter(page, gateway)
        await expect(page.get_by_text("Welcome back, alice")).to_be_visible()
        await page.go_back()
        if "/continue" in page.url and GATE in page.url:
            await expect(page.get_by_role("button", name="Continue")).to_be_visible()
        assert len(issuer.arrived) == 1


async def test_whoever_cancels_is_back_at_the_issuer(chromium: Browser, tmp_path: Path) -> None:
    async with two_sites(tmp_path) as (gateway, base, issuer), Visitor.entering(chromium, gateway, base) as visitor:
        visitor.friends.add(urlsplit(issuer.origin).netloc)
        page = await visitor.tab()
        await page.goto(f"{issuer.origin}/leave?" + urlencode({"to": f"{base}/.stepup/begin/idp"}))
        await page.get_by_role("button", name="Go").click()
        await page.get_by_role("button", name="Cancel and go back").click()
        await expect(page.get_by_text("Welcome back, not: access_denied")).to_be_visible()
        assert issuer.done == []


async def test_the_page_that_leads_on_can_be_read_by_everybody(chromium: Browser, tmp_path: Path) -> None:
    async with two_sites(tmp_path) as (gateway, base, issuer), Visitor.entering(chromium, gateway, base) as visitor:
        visitor.friends.add(urlsplit(issuer.origin).netloc)
        page = await visitor.tab()
        await page.route(re.compile(r"stepup-send\.js"), lambda route: route.abort())
        await page.goto(base + issuer.start())
        await enter(page, gateway)
        await expect(page.get_by_role("heading", name="One moment")).to_be_visible()
        assert await axe(page) == []
        visitor.complaints.clear()  # the script that was held back


@pytest.mark.parametrize("script", [True, False])
async def test_an_applications_own_second_factor_is_taken_over(chromium: Browser, tmp_path: Path, script: bool) -> None:
    """The page of others is never asked for: `Visitor` would tell."""
    rule = {
        "name": "mfa",
        "intercept": {"upstream": "bank", "location": "https://mfa.example.com/start*"},
        "require": ["code"],
        "resume": {"url": "/continue", "secret": SECRET, "audience": "mfa-rule"},
    }
    login = {"from": "login_form", "upstream": "bank", "path": "/login", "cookie": "SID", "success": {"status": [302]}}
    clock = Clock(time.time())
    async with banking(Bank()) as (bank, url):
        settings: dict[str, Any] = {"upstreams": {"bank": {"url": url}}, "identity": [login], "steps": STEPS, "rules": [rule]}
        async with (
            running(tmp_path, hosts=(GATE,), clock=clock, **settings) as gateway,
            Visitor.entering(chromium, gateway, f"http://{GATE}:{urlsplit(gateway.base).port}", java_script_enabled=script) as visitor,
        ):
            page = await visitor.tab()
            await page.goto(visitor.base + "/form")
            await page.get_by_role("button", name="Sign in").click()
            await enter(page, gateway)
            if not script:
                await page.get_by_role("button", name="Continue").click()
            await expect(page.get_by_text("signed in: alice by urn:example:mfa")).to_be_visible()
            assert [way for way, _ in bank.landed] == ["POST"]
