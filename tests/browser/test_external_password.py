"""A password that must be changed, at a page of others in a process of its own that knows only the token; from the first login to the
second."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml
from aiohttp import web
from playwright.async_api import Browser, Page, expect

from gateway.demo.state import Bank
from tests.browser.demo import Visitor, says
from tests.support.gateway import DEMO, Clock, Running, read, running
from tests.support.outside_pages import page_process, shown
from tests.support.ports import free_port

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]

CODE = shown("python", 'NAME = "passwords"')
SECRET = "another example of a shared secret, long enough"
NEW = "a quite new password"


@asynccontextmanager
async def administration(bank: Bank) -> AsyncIterator[str]:
    """Where the bank's administrators set passwords. The bank keeps the sessions of the user."""

    async def put(request: web.Request) -> web.Response:
        body = await request.json()
        user = bank.users[body["user"]]
        user.password, user.expired = body["password"], False
        return web.Response(status=204)

    app = web.Application()
    app.router.add_put("/users", put)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/users"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def bank_with_page(folder: Path) -> AsyncIterator[tuple[Running, str, str]]:
    """The demo, whose users change passwords at a page of another site. Yields it, its origin, and the page's host."""
    port = free_port()
    raw = yaml.safe_load(DEMO.read_text())
    step = {
        "kind": "redirect",
        "url": f"http://passwords.test:{port}/change",
        "audience": "passwords",
        "secret": SECRET,
        "send": "form_post",
        "lifetime": "5m",
        "claims": {"authorize_again": "authorize_again"},
        "then": "authorize_again",
    }
    raw["steps"]["new-password"] = step
    raw["steps"]["human"] |= {"cost": 100, "max_number": 50}
    async with running(folder, clock=Clock(time.time()), hosts=("bank.test",), steps=raw["steps"]) as demo:
        assert demo.bank is not None
        base = f"http://bank.test:{urlsplit(demo.base).port}"
        async with (
            administration(demo.bank) as users,
            page_process(folder, "flask", CODE, port=port, GATEWAY=base, PASSWORDS_SECRET=SECRET, USERS=users),
        ):
            yield demo, base, f"passwords.test:{port}"


async def changes(page: Page) -> None:
    await page.get_by_label("New password").fill(NEW)
    await page.get_by_role("button", name="Change it").click()


async def test_must_change_then_the_page_then_a_login_with_the_new_password(tmp_path: Path, chromium: Browser) -> None:
    async with bank_with_page(tmp_path) as (demo, base, host), Visitor.entering(chromium, demo, base) as visitor:
        visitor.friends.add(host)
        page = await visitor.tab()
        await visitor.type_login(page, "bob", "builder")
        await page.wait_for_url(f"http://{host}/change")
        state = [r.post_data_json["state"] for r in visitor.requests if urlsplit(r.url).path == "/change" and r.post_data_json]
        way = next(u for r in reversed(visitor.requests) if "/.stepup/t/su_" in (u := r.url))
        await changes(page)
        await page.wait_for_url(base + "/login")  # by way of /account, which nobody may see now
        assert demo.bank is not None
        assert demo.bank.users["bob"].password == NEW
        # That transaction is over.
        for path in (f"/continue?state={state[-1]}", "/continue?state=" + way.rpartition("/")[2]):
            answer = await page.request.get(base.replace("bank.test", "127.0.0.1") + path)
            assert answer.status in (403, 404)  # another name is another origin
            over = await page.goto(base + path)
            assert over is not None
            assert over.status == 410
        await visitor.log_in(page, "bob", NEW)
        await expect(page.get_by_text("bob", exact=False).first).to_be_visible()
        over = await page.goto(f"{base}/continue?state={state[-1]}")
        assert over is not None
        assert over.status == 410


async def test_a_transfer_begins_anew_at_its_form(tmp_path: Path, chromium: Browser) -> None:
    """The password expires while a form is filled in; what was suspended is not sent, and the user is led to the form."""
    async with bank_with_page(tmp_path) as (demo, base, host), Visitor.entering(chromium, demo, base) as visitor:
        visitor.friends.add(host)
        assert demo.bank is not None
        demo.bank.users["bob"].expired = False
        page = await visitor.tab()
        await visitor.log_in(page, "bob", "builder")
        await page.goto(base + "/transfer")
        raw = yaml.safe_load(demo.config.read_text())
        raw["rules"] = [{"name": "all", "match": {"path": "/transfer/**", "method": "POST"}, "require": "new-password"}]
        demo.config.write_text(yaml.safe_dump(raw))
        await demo.app.reload(read(demo.config))
        await page.get_by_label("To", exact=True).fill("Marlene")
        await page.get_by_label("Amount (EUR)").fill("25")
        await page.get_by_role("button", name="Transfer").click()
        await page.wait_for_url(f"http://{host}/change")
        way = next(u for r in reversed(visitor.requests) if "/.stepup/t/su_" in (u := r.url))
        await changes(page)
        await page.wait_for_url(base + "/login")  # by way of /transfer, where no rule asks
        over = await page.goto(f"{base}/continue?state=" + way.rpartition("/")[2])
        assert over is not None
        assert over.status == 410
        await visitor.log_in(page, "bob", NEW)
        assert await visitor.ledger(page) == []


async def test_who_goes_back_without_changing_it_is_led_to_the_page_again(tmp_path: Path, chromium: Browser) -> None:
    async with bank_with_page(tmp_path) as (demo, base, host), Visitor.entering(chromium, demo, base) as visitor:
        visitor.friends.add(host)
        page = await visitor.tab()
        await visitor.type_login(page, "bob", "builder")
        await page.wait_for_url(f"http://{host}/change")
        await page.goto(base + "/account")
        await page.wait_for_url(f"http://{host}/change")
        await changes(page)
        await page.wait_for_url(base + "/login")
        await visitor.type_login(page, "bob", "builder")
        await expect(page).not_to_have_url(base + "/account")
        await visitor.log_in(page, "bob", NEW)
        await says(page, "Account")
