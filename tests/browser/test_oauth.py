"""A certified OpenID provider behind the gateway, and an application on another site that signs people in there, in Chromium.

Both by https: a cookie for frames of other sites (SameSite=None) is a secure one.
"""

from __future__ import annotations

import base64
import hashlib
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from html import escape
from pathlib import Path
from urllib.parse import urlencode, urlsplit

import aiohttp
import pytest
from aiohttp import web
from playwright.async_api import Browser, Page, expect

from tests.support.certificates import Authority
from tests.support.chromium import ARGUMENTS, EXECUTABLE, axe
from tests.support.ports import free_port
from tests.support.provider import HUMAN, VERIFIER, Identity, identity_provider

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]

CHALLENGE = base64.urlsafe_b64encode(hashlib.sha256(VERIFIER.encode()).digest()).rstrip(b"=").decode()
COOKIES = {"keys": ["of no consequence"], "long": {"sameSite": "none", "secure": True}, "short": {"sameSite": "lax", "secure": True}}
HOLD = "<script>parent.postMessage(document.querySelector('pre').textContent, '*')</script>"
FRAME = """<h1>Silent</h1><p id=told>waiting</p><script>addEventListener('message', (event) => {
  const given = event.data.response ?? JSON.parse(event.data);
  document.querySelector('#told').textContent = given.error ?? (given.code ? 'a code' : 'nothing'); });</script>
<iframe src="{src}"></iframe>"""


class Client:
    """The application: it signs people in by code with PKCE, refreshes, and renews in a hidden frame."""

    def __init__(self, origin: str, provider: str, trust: ssl.SSLContext) -> None:
        self.origin = origin
        self.provider = provider
        self._trust = trust

    def authorize(self, **changes: str) -> str:
        asked = {
            "client_id": "app", "response_type": "code", "redirect_uri": self.origin + "/cb", "scope": "openid", "state": "abc",
            "code_challenge": CHALLENGE, "code_challenge_method": "S256", **changes,
        }  # fmt: skip
        return f"{self.provider}/auth?{urlencode(asked)}"

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        query = request.rel_url.query
        match request.path:
            case "/":
                return _html(f'<h1>App</h1><a href="{escape(self.authorize())}">Sign in</a>')
            case "/cb":
                return _html(f"<h1>Signed in</h1><pre>{escape(json.dumps(await self._tokens(query)))}</pre>")
            case "/silent":
                changes = {"prompt": "none", "state": "s2", "redirect_uri": self.origin + "/silent-cb", **query}
                return _html(FRAME.replace("{src}", escape(self.authorize(**changes))))
            case "/silent-cb":
                given = {name: str(value) for name, value in [*query.items(), *(await request.post()).items()]}
                return _html(f"<pre>{escape(json.dumps(given))}</pre>{HOLD}")
            case _:
                return web.Response(status=404)

    async def _tokens(self, query: object) -> dict[str, object]:
        given = dict(query)  # type: ignore[call-overload]
        if "code" not in given:
            return dict(given)
        code = {"grant_type": "authorization_code", "code": given["code"], "redirect_uri": self.origin + "/cb", "code_verifier": VERIFIER}
        first = await self._token(**code)
        again = await self._token(grant_type="refresh_token", refresh_token=str(first.get("refresh_token")))
        return {"id_token": "id_token" in first, "refreshed": "access_token" in again}

    async def _token(self, **data: str) -> dict[str, object]:
        connector = aiohttp.TCPConnector(ssl=self._trust, resolver=_Loopback())
        headers = {"Accept": "application/json"}
        async with (
            aiohttp.ClientSession(connector=connector) as session,
            session.post(self.provider + "/token", data={**data, "client_id": "app"}, headers=headers) as answer,
        ):
            return dict(await answer.json())


class _Loopback(aiohttp.abc.AbstractResolver):
    async def resolve(self, host: str, port: int = 0, family: int = 2) -> list[aiohttp.abc.ResolveResult]:
        return [aiohttp.abc.ResolveResult(hostname=host, host="127.0.0.1", port=port, family=family, proto=0, flags=0)]

    async def close(self) -> None:
        """Nothing is held."""


def _html(text: str) -> web.Response:
    return web.Response(text=f"<!doctype html><html lang=en><title>App</title>{text}</html>", content_type="text/html")


@asynccontextmanager
async def two_sites(folder: Path, chromium: Browser, **changes: object) -> AsyncIterator[tuple[Identity, Client, Page]]:
    """The provider at idp.test, behind the gateway; the application at app.test; and a page that is open nowhere yet."""
    authority = Authority(folder)
    issued = authority.issue("idp.test", "app.test")
    port = free_port()
    origin = f"https://app.test:{port}"
    redirects = [origin + "/cb", origin + "/silent-cb"]
    features = {
        "devInteractions": {"enabled": False}, "webMessageResponseMode": {"enabled": True},
    }  # fmt: skip
    options = {"redirect_uris": redirects, "configuration": {"cookies": COOKIES, "features": features}}
    tls = {"cert_file": issued.cert_file, "key_file": issued.key_file}
    async with identity_provider(folder / "idp", name="idp.test", tls=tls, options=options, **changes) as there:  # type: ignore[arg-type]
        client = Client(origin, there.base, ssl.create_default_context(cafile=authority.ca_file))
        runner = web.ServerRunner(web.Server(client.answer), shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port, ssl_context=issued.server_context()).start()
        # Cookies of other sites in frames are blocked here unless this says otherwise.
        preferences = folder / "profile" / "Default" / "Preferences"
        preferences.parent.mkdir(parents=True)
        preferences.write_text(json.dumps({"profile": {"cookie_controls_mode": 0, "block_third_party_cookies": False}}))
        context = await chromium.browser_type.launch_persistent_context(
            folder / "profile", executable_path=EXECUTABLE, args=ARGUMENTS, chromium_sandbox=False, ignore_https_errors=True
        )
        context.set_default_timeout(10_000)
        try:
            yield there, client, await context.new_page()
        finally:
            await context.close()
            await runner.cleanup()


async def log_in(page: Page, client: Client) -> None:
    await page.goto(client.origin)
    await page.get_by_role("link", name="Sign in").click()
    await page.get_by_label("Name").fill("alice")
    await page.get_by_label("Password").fill("right")
    await page.get_by_role("button", name="Log in").click()


async def told(page: Page, client: Client, **changes: str) -> str:
    """What a hidden frame on the application's site is told."""
    await page.goto(f"{client.origin}/silent?{urlencode(changes)}")
    await expect(page.locator("#told")).not_to_have_text("waiting")
    return await page.locator("#told").inner_text()


async def test_signing_in_leads_through_the_step_and_on_to_tokens(tmp_path: Path, chromium: Browser) -> None:
    async with two_sites(tmp_path, chromium) as (_, client, page):
        await log_in(page, client)
        assert "/.stepup/t/su_" in page.url
        await page.get_by_role("heading", name="Signed in").wait_for()  # the captcha solves itself
        assert json.loads(await page.locator("pre").inner_text()) == {"id_token": True, "refreshed": True}


async def test_a_hidden_frame_gets_a_code_only_with_the_steps_passed(tmp_path: Path, chromium: Browser) -> None:
    rule = {**HUMAN, "name": "by-hand", "require": ["slow"]}
    steps = {"slow": {"kind": "captcha", "provider": "altcha", "cost": 100, "max_number": 50}}
    async with two_sites(tmp_path, chromium, rules=[rule], steps=steps) as (_, client, page):
        await page.route("**/captcha/*.js", lambda route: route.abort())  # so that it waits
        await log_in(page, client)
        assert "/.stepup/t/su_" in page.url
        waiting = page.url
        for mode in ("query", "form_post", "web_message"):
            assert await told(page, client, response_mode=mode) == "interaction_required", mode
        await page.unroute("**/captcha/*.js")
        await page.goto(waiting)
        await page.get_by_role("heading", name="Signed in").wait_for()
        for mode in ("query", "form_post", "web_message"):
            assert await told(page, client, response_mode=mode) == "a code", mode
        frame = page.frames[-1]
        assert frame.parent_frame is not None


async def test_the_page_that_hands_an_error_back_is_fit_for_everybody(tmp_path: Path, chromium: Browser) -> None:
    async with two_sites(tmp_path, chromium) as (there, client, page):
        await page.route("**/captcha/*.js", lambda route: route.abort())
        await page.route("**/stepup-handback.js", lambda route: route.abort())
        await log_in(page, client)
        await page.goto(client.authorize(prompt="none", response_mode="form_post", redirect_uri=client.origin + "/silent-cb"))
        assert urlsplit(page.url).netloc == urlsplit(there.base).netloc
        assert await axe(page) == []
        await page.get_by_role("button", name="Continue to").click()
        assert "interaction_required" in await page.locator("pre").inner_text()
