"""A single-page application in Chromium that holds our script tag and knows nothing else: its requests wait for a dialog and go through."""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest
import pytest_asyncio
from aiohttp import web
from playwright.async_api import Browser, JSHandle, Locator, Page, Route, expect

from tests.browser.demo import Visitor, says
from tests.support.chromium import axe
from tests.support.gateway import Clock
from tests.support.legacy import Habits, Place
from tests.support.ports import free_port
from tests.support.spa import POLICY, Spa, spa

OUTPUT = Path(__file__).parents[1] / "output"

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]


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


async def test_a_fetch_with_json_waits_for_its_code_and_goes_through_once(till: Till) -> None:
    await till.press("Pay")
    await expect(till.dialog).to_have_accessible_name("Please confirm that it is you")
    await expect(till.dialog.get_by_text("a•••e@bank.example")).to_be_visible()
    await till.enter_code()
    await expect(till.output("pay")).to_have_text("200 done for alice")
    await expect(till.dialog).to_have_count(0)
    assert [body.encode("latin-1").decode() for body in till.app.arrived("/api/pay")] == ['{"to":"Marlene & Söhne","amount":25}']
    assert ("X-Till", "7") in till.app.heads[-1]
    assert till.page.url == till.visitor.base + "/"


async def test_an_xhr_with_a_form_sees_one_answer_and_its_events_in_order(till: Till) -> None:
    await till.press("Order")
    await till.enter_code()
    await expect(till.output("order")).to_have_text("200 done for alice [1,loadstart,2,3,4,load]")
    assert [parse_qs(body) for body in till.app.arrived("/api/order")] == [{"what": ["tea"], "much": ["2"]}]
    assert ("X-Till", "7") in till.app.heads[-1]


async def test_an_upload_is_sent_whole_after_the_step(till: Till) -> None:
    data = bytes(range(256)) * 4000
    await till.page.get_by_label("Document").set_input_files({"name": "scan.bin", "mimeType": "application/octet-stream", "buffer": data})
    await till.press("Upload")
    await till.enter_code()
    await expect(till.output("upload")).to_have_text(f"200 für dich scan.bin {hashlib.sha256(data).hexdigest()[:16]}")


async def test_two_requests_at_once_share_one_dialog(till: Till) -> None:
    await till.press("Pay twice")
    await till.enter_code()
    await expect(till.output("both")).to_have_text("200 done for alice / 200 done for alice")
    assert (till.app.arrived("/api/pay/1"), till.app.arrived("/api/pay/2")) == (['{"amount":1}'], ['{"amount":2}'])
    assert len(till.place.gateway.mails) == 1


async def test_a_wrong_code_is_said_at_its_field_and_the_right_one_still_works(till: Till) -> None:
    await till.press("Pay")
    await expect(till.dialog).to_be_visible()
    code = f"{(int(till.place.gateway.code()) + 1) % 10**6:06}"
    await till.enter_code(code)
    await expect(till.dialog.get_by_role("alert")).to_have_text("The code is not right. Only the code from the newest mail counts.")
    field = till.dialog.get_by_label("Code from the mail")
    await expect(field).to_have_attribute("aria-invalid", "true")
    await expect(field).to_have_accessible_description(re.compile("The code is not right"))
    await expect(field).to_be_focused()
    await till.enter_code()
    await expect(till.output("pay")).to_have_text("200 done for alice")


async def test_who_cancels_sends_nothing_and_the_application_gets_the_401(till: Till) -> None:
    for button, leave in (("pay", "click"), ("order", "Escape")):
        await till.press(button.capitalize())
        await expect(till.dialog).to_be_visible()
        if leave == "click":
            await till.dialog.get_by_role("button", name="Cancel").click()
        else:
            await till.page.keyboard.press(leave)
        await expect(till.dialog).to_have_count(0)
        await expect(till.output(button)).to_contain_text('401 {"type": "tag:step-up-gateway,2026:step_up_required"')
        await expect(till.page.get_by_role("button", name=button.capitalize(), exact=True)).to_be_focused()
    await expect(till.output("order")).to_contain_text("[1,loadstart,4,load]")
    assert till.app.posted[1:] == [], "but for the login nothing arrived"


async def test_everything_works_by_keyboard_alone(till: Till) -> None:
    await till.page.get_by_role("button", name="Pay", exact=True).focus()
    await till.page.keyboard.press("Enter")
    await expect(till.dialog.get_by_label("Code from the mail")).to_be_focused()
    await till.page.keyboard.press("Tab")
    await expect(till.dialog.get_by_role("button", name="Continue")).to_be_focused()
    await till.page.keyboard.press("Shift+Tab")
    await till.page.keyboard.type(till.place.gateway.code())
    await till.page.keyboard.press("Enter")
    await expect(till.output("pay")).to_have_text("200 done for alice")
    await expect(till.page.get_by_role("button", name="Pay", exact=True)).to_be_focused()


async def test_a_new_code_can_be_asked_for(till: Till) -> None:
    await till.press("Pay")
    await expect(till.dialog).to_be_visible()
    assert till.place.gateway.clock is not None
    await till.place.gateway.advance(61)
    await till.dialog.get_by_role("button", name="Send a new code").click()
    await expect(till.dialog.get_by_role("status")).to_have_text("We sent a new code to a•••e@bank.example.")
    await till.enter_code()
    await expect(till.output("pay")).to_have_text("200 done for alice")


async def test_an_embedded_login_form_solves_its_captcha_by_itself_every_time(chromium: Browser, tmp_path: Path) -> None:
    async with spa(tmp_path) as (place, app), Visitor.entering(chromium, place.gateway) as visitor:
        till = await entered(place, app, visitor)
        for _ in range(2):
            await till.press("Log in")
            await expect(till.output("login")).to_have_text("200 home of alice")
            await expect(till.dialog).to_have_count(0)
        assert app.arrived("/login") == ["username=alice&password=right"] * 2
        assert till.page.url == visitor.base + "/"
        await till.press("Pay")
        await till.enter_code()
        await expect(till.output("pay")).to_have_text("200 done for alice")


async def test_where_the_dialog_cannot_do_a_step_a_window_does_and_the_request_goes_on(chromium: Browser, tmp_path: Path) -> None:
    """The policy lets no worker run, so the captcha is for its own page."""
    app = Spa(Habits(), policy=POLICY + "; worker-src 'none'")
    async with spa(tmp_path, app=app) as (place, _):
        visitor = await Visitor.enter(chromium, place.gateway)
        till = await entered(place, app, visitor)
        await till.press("Check")
        async with visitor.context.expect_page() as opened:
            await till.dialog.get_by_role("link", name="Use a window").click()
        window = await opened.value
        await says(window, "Confirmed – you can go back now")
        await expect(window.get_by_text("Close this window and go back to the application")).to_be_visible()
        await expect(till.output("check")).to_have_text("200 done for")
        assert app.arrived("/api/check") == ["x"]
        assert all("worker" in complaint for complaint in visitor.complaints), visitor.complaints
        await visitor.context.close()


async def test_a_step_that_was_begun_in_the_dialog_can_be_ended_in_a_window(till: Till) -> None:
    await till.press("Pay")
    async with till.visitor.context.expect_page() as opened:
        await till.dialog.get_by_role("link", name="Use a window").click()
    window = await opened.value
    await till.visitor.enter_code(window)
    await says(window, "Confirmed – you can go back now")
    await expect(till.output("pay")).to_have_text("200 done for alice")


async def test_without_the_tag_nothing_changes(chromium: Browser, tmp_path: Path) -> None:
    async with spa(tmp_path, app=Spa(Habits(), tag="")) as (place, app), Visitor.entering(chromium, place.gateway) as visitor:
        till = await entered(place, app, visitor)
        await till.log_in()
        await till.press("Pay")
        await expect(till.output("pay")).to_contain_text('"error": "interaction_required"')
        await till.press("Order")
        await expect(till.output("order")).to_contain_text("[1,loadstart,2,3,4,load]")
        await expect(till.output("order")).to_contain_text("401 {")
        await expect(till.dialog).to_have_count(0)


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_the_dialog_is_accessible_in_both_colours(chromium: Browser, tmp_path: Path, scheme: str) -> None:
    app = Spa(Habits(), policy=POLICY + "; style-src-elem 'self' 'unsafe-inline'")  # axe makes a style element
    async with spa(tmp_path, app=app) as (place, _), Visitor.entering(chromium, place.gateway, color_scheme=scheme) as visitor:
        till = await entered(place, app, visitor)
        await till.log_in()
        await till.press("Pay")
        await till.enter_code("000000")
        await expect(till.dialog.get_by_role("alert")).not_to_be_empty()
        assert await axe(till.page) == []


@pytest.mark.parametrize(("name", "width", "scheme"), [("light", 900, "light"), ("dark", 900, "dark"), ("narrow", 320, "light")])
async def test_the_dialog_fits_its_window(chromium: Browser, tmp_path: Path, name: str, width: int, scheme: str) -> None:
    size = {"width": width, "height": 620}
    async with spa(tmp_path) as (place, app), Visitor.entering(chromium, place.gateway, color_scheme=scheme, viewport=size) as visitor:
        till = await entered(place, app, visitor)
        await till.log_in()
        await till.press("Pay")
        await till.enter_code("000000")
        await expect(till.dialog.get_by_role("alert")).not_to_be_empty()
        box = await till.dialog.bounding_box()
        assert box is not None
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= width
        assert await till.dialog.evaluate("dialog => dialog.scrollWidth <= dialog.clientWidth")
        await till.page.screenshot(path=OUTPUT / f"spa-{name}.png")


# -- what applications also do ------------------------------------------------------------------------------------------


async def ran(till: Till, script: str) -> JSHandle:
    """A script of the page that is left running; `result` waits for it."""
    caught = f"(async () => {{ {script} }})().catch(error => `${{error.name}}: ${{error.message}}`)"
    return await till.page.evaluate_handle(f"() => ({{promise: {caught}}})")


async def result(handle: JSHandle) -> Any:
    return await handle.evaluate("held => held.promise")


BODIES = {
    "text": "'some text'",
    "parameters": "new URLSearchParams({a: '1'})",
    "blob": "new Blob(['in a blob'])",
    "buffer": "new TextEncoder().encode('in a buffer').buffer",
}


@pytest.mark.parametrize(
    ("kind", "arrives"), [("text", "some text"), ("parameters", "a=1"), ("blob", "in a blob"), ("buffer", "in a buffer")]
)
async def test_every_kind_of_body_is_sent_again_by_fetch_by_a_request_and_by_xhr(till: Till, kind: str, arrives: str) -> None:
    ways = [
        f"return (await fetch('/api/pay/a', {{method: 'POST', body: {BODIES[kind]}}})).text()",
        f"return (await fetch(new Request(new URL('/api/pay/b', location), {{method: 'POST', body: {BODIES[kind]}}}))).text()",
        f"""const xhr = new XMLHttpRequest();
            xhr.open('POST', '/api/pay/c');
            await new Promise(done => {{ xhr.onload = done; xhr.send({BODIES[kind]}); }});
            return xhr.response""",
    ]
    for path, way in zip("abc", ways, strict=True):
        held = await ran(till, way)
        await till.enter_code()
        assert await result(held) == "done for alice"
        assert till.app.arrived(f"/api/pay/{path}") == [arrives]
        await till.place.gateway.advance(301)


@pytest.mark.parametrize("kind", ["", "text", "json", "blob", "arraybuffer"])
async def test_whatever_type_of_response_an_xhr_wants_the_401_is_understood(till: Till, kind: str) -> None:
    held = await ran(
        till,
        f"""const xhr = new XMLHttpRequest();
            xhr.open('POST', '/api/pay');
            xhr.responseType = '{kind}';
            await new Promise(done => {{ xhr.onloadend = done; xhr.send('x'); }});
            return xhr.status""",
    )
    await till.enter_code()
    assert await result(held) == 200


async def test_an_xhr_of_which_nobody_knows_when_it_is_done_is_left_alone(till: Till) -> None:
    """A synchronous one cannot wait."""
    sync = "() => { const x = new XMLHttpRequest(); x.open('POST', '/api/pay', false); x.send('x'); return [x.status, x.responseText]; }"
    status, text = await till.page.evaluate(sync)
    assert status == 401
    assert "interaction_required" in text
    await expect(till.dialog).to_have_count(0)


async def test_a_stream_cannot_be_sent_twice_so_its_401_is_the_applications(till: Till) -> None:
    held = await ran(
        till,
        """const body = new ReadableStream({ start(c) { c.enqueue(new TextEncoder().encode('x')); c.close(); } });
           return (await fetch('/api/pay', {method: 'POST', body, duplex: 'half'})).status""",
    )
    assert await result(held) in (401, "TypeError: Failed to fetch")  # Chromium streams over HTTP/2 only
    await expect(till.dialog).to_have_count(0)


async def test_who_gives_up_waiting_is_told_at_once_and_nothing_is_sent(till: Till) -> None:
    held = await ran(
        till,
        """window.stop = new AbortController();
           return (await fetch('/api/pay', {method: 'POST', body: 'x', signal: stop.signal})).status""",
    )
    await expect(till.dialog).to_be_visible()
    await till.page.evaluate("() => stop.abort()")
    assert str(await result(held)).startswith("AbortError")
    await till.enter_code()
    await expect(till.dialog).to_have_count(0)
    assert till.app.arrived("/api/pay") == []


async def test_an_xhr_that_is_aborted_while_the_dialog_is_open_sends_nothing(till: Till) -> None:
    held = await ran(
        till,
        """window.xhr = new XMLHttpRequest();
           const seen = [];
           for (const type of ['abort', 'load', 'loadend']) xhr.addEventListener(type, () => seen.push(type));
           xhr.open('POST', '/api/pay');
           await new Promise(done => { xhr.onloadend = done; xhr.send('x'); });
           return seen.join()""",
    )
    await expect(till.dialog).to_be_visible()
    await till.page.evaluate("() => xhr.abort()")
    assert await result(held) == "abort,loadend"
    await till.enter_code()
    await expect(till.dialog).to_have_count(0)
    assert till.app.arrived("/api/pay") == []


async def test_several_steps_come_one_after_the_other(till: Till) -> None:
    held = await ran(till, "return (await fetch('/api/vault')).text()")
    await till.enter_code()
    assert await result(held) == "done for alice"


async def test_what_is_asked_once_is_asked_for_each_of_two_requests_at_once(till: Till) -> None:
    both = "return (await Promise.all([1, 2].map(n => fetch('/api/check/' + n, {method: 'POST'})))).map(answer => answer.status)"
    assert await result(await ran(till, both)) == [200, 200]
    assert await result(await ran(till, both.replace("+ n", "+ 3"))) == [200, 200]
    assert [len(till.app.arrived(f"/api/check/{n}")) for n in (1, 2, 3)] == [1, 1, 2]


async def test_too_many_wrong_codes_end_it_and_the_application_gets_the_401(till: Till) -> None:
    await till.press("Pay")
    await expect(till.dialog).to_be_visible()
    wrong = f"{(int(till.place.gateway.code()) + 1) % 10**6:06}"
    for wait in (0, 0, 1, 2, 4, 8, 16, 32, 60, 0):
        await till.enter_code(wrong)
        await expect(till.dialog.get_by_role("alert")).to_be_visible()
        await expect(till.dialog.locator("[inert]")).to_have_count(0)
        await till.place.gateway.advance(wait)
    await expect(till.dialog.get_by_role("alert")).to_have_text("too many wrong answers")
    await till.dialog.get_by_role("button", name="Close").click()
    await expect(till.output("pay")).to_contain_text("401 {")


async def test_nobody_elses_401_opens_a_dialog(till: Till) -> None:
    """Another origin that the application reads cannot ask for passwords here, nor can it name another origin's page."""
    problem = {"error": "interaction_required", "state": "su_x", "steps": ["code"], "step_up_url": till.visitor.base + "/.stepup/t/su_x"}
    headers = {"Access-Control-Allow-Origin": "*", "Content-Type": "application/problem+json"}

    async def foreign(route: Route) -> None:
        await route.fulfill(status=401, headers=headers, body=json.dumps(problem))

    async def own(route: Route) -> None:
        await route.fulfill(status=401, headers=headers, body=json.dumps({**problem, "step_up_url": "https://evil.test/t/su_x"}))

    till.app.policy = POLICY.replace("connect-src 'self'", "connect-src *")
    await till.page.goto(till.visitor.base + "/")
    till.visitor.friends.add("other.test")
    await till.page.route("http://other.test/**", foreign)
    await till.page.route("**/api/fake", own)
    for url in ("http://other.test/x", "/api/fake"):
        assert await result(await ran(till, f"return (await fetch('{url}')).status")) == 401
    await expect(till.dialog).to_have_count(0)


async def test_a_bearer_token_goes_along_to_the_steps_and_the_window_needs_none(chromium: Browser, tmp_path: Path) -> None:
    app = Spa(Habits(), policy=POLICY + "; worker-src 'none'")
    async with spa(tmp_path, app=app) as (place, _):
        visitor = await Visitor.enter(chromium, place.gateway)
        till = await entered(place, app, visitor)
        held = await ran(till, "return (await fetch('/api/check/t', {method: 'POST', headers: {Authorization: 'Bearer abc'}})).text()")
        async with visitor.context.expect_page() as opened:
            await till.dialog.get_by_role("link", name="Use a window").click()
        await says(await opened.value, "Confirmed – you can go back now")
        assert await result(held) == "done for "
        assert ("Authorization", "Bearer abc") in app.heads[-1]
        await visitor.context.close()


async def test_another_origin_of_the_same_site_whose_gateway_names_it(chromium: Browser, tmp_path: Path) -> None:
    """The tag is the gateway's: its origin may ask for steps as well. Fetch sends cookies there because the application says so."""
    port = free_port()
    routes = [{"path": "/api/**", "upstream": "bank", "cors": [f"http://app.till.test:{port}"]}, {"upstream": "bank"}]
    async with spa(tmp_path, routes=routes, hosts=("api.till.test",)) as (place, app):
        app.friend = f"http://app.till.test:{port}"
        api = place.gateway.base.replace("127.0.0.1", "api.till.test")
        here = Spa(Habits(), tag=f'<script src="{api}/.stepup/static/stepup.js"></script>', policy="default-src *; style-src *")
        web_app = web.Application()
        web_app.router.add_route("*", "/{tail:.*}", here.handle)
        runner = web.AppRunner(web_app, access_log=None, shutdown_timeout=1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        try:
            visitor = await Visitor.enter(chromium, place.gateway, base=f"http://app.till.test:{port}")
            till = await entered(place, here, visitor)
            held = await ran(till, f"return (await fetch('{api}/api/check', {{method: 'POST', credentials: 'include'}})).status")
            async with visitor.context.expect_page() as opened:  # a worker of another origin cannot be had
                await till.dialog.get_by_role("link", name="Use a window").click()
            await says(await opened.value, "Confirmed – you can go back now")
            assert await result(held) == 200
            assert len(app.arrived("/api/check")) == 1
            await visitor.context.close()
        finally:
            await runner.cleanup()
