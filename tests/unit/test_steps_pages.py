"""The pages and scripts of the steps, in Chromium: the real templates, the real policy of our pages, and steps that judge the answers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pyotp
import pytest
import pytest_asyncio
from aiohttp import ClientSession, web
from aiohttp.test_utils import TestServer
from playwright.async_api import Browser, Page, Route, expect

from gateway.flow.step import Context, Passed, Refused, Step
from gateway.spec.sections import ThemeSpec
from gateway.steps.captcha import Captcha, CaptchaConfig
from gateway.steps.otp import Otp, OtpConfig
from gateway.steps.password_change import PasswordChange, PasswordChangeConfig
from gateway.web.pages import Pages, Shown, Suspended, Trouble
from gateway.web.static import Static
from tests.support.chromium import axe, chromium, page  # noqa: F401 - fixtures
from tests.support.fakes_steps import OldApp, World, reads

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]

STEPS = Path(__file__).parents[2] / "gateway/steps"
FOLDERS = {kind: STEPS / kind for kind in ("captcha", "otp", "password_change")}


@dataclass
class Desk:
    """One transaction with one step, served as the gateway serves it. `sent`: every form that came."""

    step: Step
    context: Context
    world: World = field(default_factory=World)
    sent: list[dict[str, str]] = field(default_factory=list)
    url: str = ""

    def __post_init__(self) -> None:
        self.static = Static("/.stepup", FOLDERS)
        self.pages = Pages(ThemeSpec(), self.static, FOLDERS, prefix="/.stepup")

    def app(self) -> web.Application:
        app = web.Application()
        app.add_routes([web.get("/t", self.show), web.post("/t", self.take), web.get("/.stepup/static/{rest:.+}", self.asset)])
        return app

    async def asset(self, request: web.Request) -> web.Response:
        answer = self.static.respond(request.match_info["rest"])
        assert answer is not None
        return web.Response(status=answer.status, headers=dict(answer.headers), body=answer.body)

    async def show(self, request: web.Request, trouble: Trouble | None = None) -> web.Response:
        view = await self.step.begin(self.context)
        self.context = self.world.later(self.context, view.memory)
        rendered = self.pages.step(
            Shown("n" * 22, "r1"),
            kind=self.step.kind,
            view=view,
            action="/t",
            token="token",
            suspended=Suspended("POST", "/transfer", "127.0.0.1"),
            index=1,
            total=1,
            expires_in=600,
            trouble=trouble,
        )
        return web.Response(status=rendered.status, headers=dict(rendered.headers), body=rendered.body)

    async def take(self, request: web.Request) -> web.Response:
        form = {k: v for k, v in (await request.post()).items() if isinstance(v, str)}
        self.sent.append(form)
        outcome = await self.step.answer(self.context, form)
        if isinstance(outcome, Passed):
            return web.Response(
                text="<!doctype html><link rel=icon href=data:,><title>Passed</title><h1>Passed</h1>", content_type="text/html"
            )
        memory = getattr(outcome, "memory", self.context.memory)
        self.context = self.world.later(self.context, memory)
        trouble = None
        if isinstance(outcome, Refused):
            trouble = Trouble(outcome.code, outcome.public, outcome.field, outcome.retry_after)
        return await self.show(request, trouble)


@pytest_asyncio.fixture(loop_scope="session")
async def open_desk() -> AsyncIterator[Any]:
    servers: list[TestServer] = []

    async def opened(step: Step, world: World, **context: Any) -> Desk:
        desk = Desk(step, world.context(**context), world)
        server = TestServer(desk.app())
        await server.start_server()
        servers.append(server)
        desk.url = f"http://127.0.0.1:{server.port}/t"
        return desk

    yield opened
    for server in servers:
        await server.close()


def captcha(world: World, **config: Any) -> Captcha:
    return Captcha.build(
        "human", CaptchaConfig.model_validate({"cost": 20, "max_number": 100, "text_wait": "0s", **config}), world.services
    )


def otp(world: World, **config: Any) -> Otp:
    return Otp.build("code", OtpConfig.model_validate({"email": "{subject.id}@bank.example.com", **config}), world.services)


def password_change(world: World) -> PasswordChange:
    return PasswordChange.build("pw", PasswordChangeConfig.model_validate(OldApp.config("http://127.0.0.1:9")), world.services)


@pytest.fixture
def complaints(page: Page) -> list[str]:  # noqa: F811 - a fixture
    """What the browser's console says: violations of our policy, errors in scripts."""
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text) if message.type in {"error", "warning"} else None)
    page.on("pageerror", lambda error: said.append(str(error)))
    return said


async def test_the_captcha_passes_by_itself(page: Page, open_desk: Any, complaints: list[str]) -> None:  # noqa: F811 - a fixture
    world = World()
    desk = await open_desk(captcha(world), world)
    await page.goto(desk.url)
    await expect(page.get_by_role("heading", name="Passed")).to_be_visible()
    assert len(desk.sent) == 1
    assert complaints == []


async def test_the_captcha_passes_on_plain_http_where_webcrypto_is_missing(page: Page, open_desk: Any) -> None:  # noqa: F811 - a fixture
    """http://bank.test is no secure context. Its requests are answered from the loopback server."""
    world = World()
    desk = await open_desk(captcha(world, cost=3, max_number=40), world)
    base = desk.url.removesuffix("/t")

    async def relay(route: Route) -> None:
        request = route.request
        target = base + urlsplit(request.url).path
        async with ClientSession() as client:
            kind = {"Content-Type": request.headers["content-type"]} if request.method == "POST" else {}
            async with client.request(request.method, target, data=request.post_data, headers=kind) as answer:
                await route.fulfill(status=answer.status, headers=dict(answer.headers), body=await answer.read())

    await page.route("http://bank.test/**", relay)
    await page.goto("http://bank.test/t")
    await expect(page.get_by_role("heading", name="Passed")).to_be_visible()
    assert await page.evaluate("[isSecureContext, typeof crypto.subtle]") == [False, "undefined"]


async def test_a_captcha_that_cannot_run_offers_the_question_and_a_retry(page: Page, open_desk: Any) -> None:  # noqa: F811 - a fixture
    world = World()
    desk = await open_desk(captcha(world), world)
    await page.route("**/captcha-worker.js", lambda route: route.abort())
    await page.goto(desk.url)
    await expect(page.get_by_role("status").filter(has_text="could not run")).to_be_visible()
    assert await page.get_by_role("link", name="Try the check again").get_attribute("href") == "/t"
    assert await axe(page) == []
    await page.get_by_role("textbox").fill(reads(desk.context.memory["question"]))
    await page.get_by_role("button", name="Continue").click()
    await expect(page.get_by_role("heading", name="Passed")).to_be_visible()


async def test_after_an_error_the_captcha_waits_for_the_user(page: Page, open_desk: Any) -> None:  # noqa: F811 - a fixture
    world = World()
    desk = await open_desk(captcha(world), world)
    await page.route("**/captcha-worker.js", lambda route: route.abort())
    await page.goto(desk.url)
    await page.get_by_role("textbox").fill("no idea")
    await page.unroute("**/captcha-worker.js")
    await page.get_by_role("button", name="Continue").click()
    await expect(page.get_by_role("status").filter(has_text="You can continue")).to_be_visible()
    await expect(page.get_by_text("That was not the answer")).to_be_visible()
    assert await axe(page) == []
    assert len(desk.sent) == 1
    await page.get_by_role("button", name="Continue").click()
    await expect(page.get_by_role("heading", name="Passed")).to_be_visible()


@pytest.mark.parametrize("question", [True, False])
async def test_the_captcha_without_javascript(chromium: Browser, open_desk: Any, question: bool) -> None:  # noqa: F811 - a fixture
    world = World()
    desk = await open_desk(captcha(world, text_question=question), world)
    context = await chromium.new_context(java_script_enabled=False)
    plain = await context.new_page()
    await plain.goto(desk.url)
    if question:
        await plain.get_by_label(desk.context.memory["question"]).fill(reads(desk.context.memory["question"]))
        await plain.keyboard.press("Enter")
        await expect(plain.get_by_role("heading", name="Passed")).to_be_visible()
    else:
        await expect(plain.get_by_text("This check needs JavaScript")).to_be_visible()
    await context.close()


async def test_codes_by_mail_and_the_way_to_an_authenticator(page: Page, open_desk: Any, complaints: list[str]) -> None:  # noqa: F811 - a fixture
    world = World()
    desk = await open_desk(otp(world), world)
    await page.goto(desk.url)
    code = page.get_by_label("Code from the mail")
    await expect(code).to_be_focused()
    assert await code.get_attribute("autocomplete") == "one-time-code"
    assert await axe(page) == []
    await code.fill("000000" if world.mailed_code() != "000000" else "111111")
    await page.keyboard.press("Enter")
    await expect(page.locator("#f-code-error")).to_contain_text("not right")
    assert await axe(page) == []
    await page.get_by_role("button", name="Set up an authenticator app").click()
    await page.get_by_label("Code from the mail").fill(world.mailed_code())
    await page.keyboard.press("Enter")
    key = await page.locator("code").inner_text()
    assert await page.get_by_role("img", name="QR code").locator("svg").is_visible()
    assert await axe(page) == []
    await page.get_by_label("Code from your authenticator app").fill(pyotp.TOTP(key.replace(" ", "")).at(int(world.now)))
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("heading", name="Passed")).to_be_visible()
    assert complaints == []


async def test_the_page_of_somebody_who_cannot_be_reached(page: Page, open_desk: Any) -> None:  # noqa: F811 - a fixture
    world = World()
    desk = await open_desk(otp(world, methods="email"), world, subject="a,b")
    await page.goto(desk.url)
    await expect(page.get_by_role("heading", name="We cannot send you a code")).to_be_visible()
    assert await axe(page) == []


async def test_the_strength_shows_while_typing(page: Page, open_desk: Any, complaints: list[str]) -> None:  # noqa: F811 - a fixture
    world = World()
    desk = await open_desk(password_change(world), world, subject="bob")
    await page.goto(desk.url)
    meter, text = page.locator("meter"), page.get_by_role("status").locator("visible=true")
    assert not await meter.is_visible()
    new = page.get_by_label("New password", exact=True)
    values = []
    for typed in ("a", "bobbobbobbob", "aaaaaaaaaaaaaaaa", "abcdefghijklmnop", "quartz lantern", "quartz-Umbrella 71 lantern"):
        await new.fill(typed)
        values.append(float(await meter.evaluate("m => m.value")))
    assert values[:4] == [0, 0, 0, 0]
    assert 0 < values[4] <= values[5] == 4
    await new.fill("short")
    await expect(text).to_have_text("7 more characters needed.")
    await new.fill("quartz Bob umbrella")
    await expect(text).to_have_text("It must not hold your user name.")
    assert await axe(page) == []
    assert complaints == []


async def test_passwords_do_not_come_back(page: Page, open_desk: Any) -> None:  # noqa: F811 - a fixture
    world = World()
    desk = await open_desk(password_change(world), world, subject="bob")
    await page.goto(desk.url)
    await page.get_by_label("Current password").fill("builder")
    await page.get_by_label("New password", exact=True).fill("quartz-Umbrella 71 lantern")
    await page.get_by_label("New password again").fill("quartz-Umbrella 72 lantern")
    await page.get_by_role("button", name="Change password").click()
    await expect(page.locator("#f-confirm_password-error")).to_contain_text("not the same")
    content = await page.content()
    assert "builder" not in content
    assert "Umbrella" not in content
    assert await axe(page) == []
