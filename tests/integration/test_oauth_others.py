"""Providers of another make: they show their pages at the authorize path itself, whose forms lead back to it."""

from __future__ import annotations

import re
import secrets
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from html import escape, unescape
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlencode

import pytest
from aiohttp import web

from tests.support.gateway import Browser, Reply
from tests.support.ports import free_port
from tests.support.provider import CALLBACK, HUMAN, Identity, answered, before

Make = Literal["whole", "short"]
"""What the form of a page holds: all that was asked, and more; or a name for it alone, as with Spring's."""

RULE = {**HUMAN, "match": {"path": "/authorize"}}
OAUTH = {"authorize": "/authorize", "session_cookie": "sid"}


@dataclass
class Provider:
    """It asks for name and password each time, on one page, and takes what was asked from its own notes. codes: what each was given for."""

    make: Make
    notes: dict[str, dict[str, str]] = field(default_factory=dict)
    codes: dict[str, dict[str, str]] = field(default_factory=dict)

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.path != "/authorize":
            return web.Response(status=404)
        if request.method == "POST":
            given = {**request.rel_url.query, **{name: str(value) for name, value in (await request.post()).items()}}
            if given.get("password") == "right":
                return self._code(self.notes.pop(given["note"]))
            if given.get("password"):
                return self._page(request, self.notes[given["note"]], 403)
        else:
            given = dict(request.rel_url.query)
        if "response_type" not in given:
            return web.Response(status=400, text="invalid_request")
        return self._page(request, given, 200)

    def _page(self, request: web.BaseRequest, asked: Mapping[str, str], status: int) -> web.Response:
        note = secrets.token_urlsafe()
        self.notes[note] = dict(asked)
        fields = {"client_id": asked["client_id"], "note": note} | (dict(asked) if self.make == "whole" else {})
        inputs = "".join(f'<input type="hidden" name="{escape(name)}" value="{escape(value)}">' for name, value in fields.items())
        action = "/authorize" if self.make == "short" else escape(request.rel_url.raw_path_qs)
        text = f'<form method="post" action="{action}">{inputs}<input name="name"><input name="password" type="password"></form>'
        return web.Response(status=status, text=text, content_type="text/html")

    def _code(self, asked: dict[str, str]) -> web.Response:
        code = secrets.token_hex()
        self.codes[code] = asked
        return web.Response(status=302, headers={"Location": f"{CALLBACK}?{urlencode({'code': code, 'state': asked.get('state', '')})}"})


@asynccontextmanager
async def behind(folder: Path, make: Make, rule: Mapping[str, Any] = RULE) -> AsyncIterator[tuple[Identity, Provider]]:
    made = Provider(make)
    runner = web.ServerRunner(web.Server(made.answer), shutdown_timeout=0.1)
    await runner.setup()
    port = free_port()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        async with before(folder, f"http://127.0.0.1:{port}", rules=[rule], oauth=OAUTH) as there:
            yield there, made
    finally:
        await runner.cleanup()


async def log_in(browser: Browser, page: Reply, **changes: str) -> Reply:
    found = re.search(r'action="([^"]*)"', page.text)
    assert found, (page.status, page.text)
    fields = {unescape(n): unescape(v) for n, v in re.findall(r'type="hidden" name="([^"]*)" value="([^"]*)"', page.text)}
    return await browser.post(unescape(found[1]), {**fields, "name": "alice", "password": "right", **changes})


@pytest.mark.parametrize("age", ["session", "once"])
@pytest.mark.parametrize("make", ["whole", "short"])
async def test_a_page_at_the_authorize_path_leads_through_the_step_to_one_code(tmp_path: Path, make: Make, age: str) -> None:
    async with behind(tmp_path, make, {**RULE, "max_age": age}) as (there, _):
        browser, path = there.browser(), there.authorize("/authorize")
        suspended = await log_in(browser, await browser.get(path))
        assert suspended.location.startswith("/.stepup/t/su_"), suspended.location
        page = await there.pass_captcha_to(browser, suspended.location)
        assert str(page.url) == there.base + path, "what the form sent is in no address: least of all the password"
        assert answered(await log_in(browser, page))["code"]
        if age == "once":
            again = await log_in(browser, await browser.get(path))
            assert again.location.startswith("/.stepup/t/su_"), again.location


@pytest.mark.parametrize("make", ["whole", "short"])
async def test_a_wrong_password_at_the_authorize_path_changes_nothing(tmp_path: Path, make: Make) -> None:
    async with behind(tmp_path, make) as (there, _):
        browser, path = there.browser(), there.authorize("/authorize")
        wrong = await log_in(browser, await browser.get(path), password="secret")
        suspended = await log_in(browser, wrong)
        page = await there.pass_captcha_to(browser, suspended.location)
        assert str(page.url) == there.base + path


async def test_a_form_that_pretends_to_be_for_another_request_gets_no_code(tmp_path: Path) -> None:
    """The provider goes by its notes, whatever else the form says."""
    rule = {**RULE, "match": {"path": "/authorize", "query": {"scope": "*email*"}}}
    async with behind(tmp_path, "whole", rule) as (there, made):
        for site in ("same-origin", "cross-site"):
            browser = there.browser()
            page = await browser.get(there.authorize("/authorize", scope="openid email"))
            note = re.findall(r'name="note" value="([^"]*)"', page.text)[0]
            lie = there.authorize("/authorize", scope="openid")
            reply = await browser.request(
                "POST", lie, data={"note": note, "password": "right"}, headers={**browser.headers, "Sec-Fetch-Site": site}
            )
            assert not any(code in str(reply.headers) + reply.text for code in made.codes), reply.headers


async def test_without_the_browsers_cookie_a_password_is_in_no_address(tmp_path: Path) -> None:
    async with behind(tmp_path, "whole") as (there, _):
        browser = there.browser()
        page = await browser.get(there.authorize("/authorize"))
        browser.session.cookie_jar.clear(lambda cookie: cookie.key.startswith("stepup"))
        reply = await log_in(browser, page)
        assert answered(reply)["error"] == "interaction_required"
        assert "right" not in reply.location


@pytest.mark.parametrize("make", ["whole", "short"])
async def test_a_rule_for_other_requests_holds_where_none_can_be_told_from_another(tmp_path: Path, make: Make) -> None:
    rule = {**RULE, "match": {"path": "/authorize", "query": {"scope": "*email*"}}, "max_age": "once"}
    async with behind(tmp_path, make, rule) as (there, _):
        browser, path = there.browser(), there.authorize("/authorize")
        once_more = await log_in(browser, await browser.get(path))
        assert once_more.location == path
        suspended = await log_in(browser, await browser.get(path))
        page = await there.pass_captcha_to(browser, suspended.location)
        assert answered(await log_in(browser, page))["code"]
