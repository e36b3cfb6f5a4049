"""What single-page applications also do, and what else can be asked of them: every kind of request, step, policy and origin."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from playwright.async_api import Browser, Response, Route, expect

from gateway.wire.cookies import browser_cookie
from tests.browser.demo import Visitor, says
from tests.browser.till import Till, entered, ran, result
from tests.support.legacy import Habits
from tests.support.ports import free_port
from tests.support.spa import POLICY, Spa, spa

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]

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


async def test_a_page_that_asks_for_everything_at_once_still_has_one_dialog(till: Till) -> None:
    many = "return (await Promise.all([...Array(40).keys()].map(n => fetch(`/api/pay/${n}`, {method: 'POST'})))).map(a => a.status)"
    held = await ran(till, many)
    await till.enter_code()
    assert await result(held) == [200] * 40
    assert len(till.place.gateway.mails) == 1


async def test_where_scripts_must_be_trusted_the_dialog_still_comes(chromium: Browser, tmp_path: Path) -> None:
    app = Spa(Habits(), policy=POLICY + "; require-trusted-types-for 'script'; trusted-types 'none'")
    async with spa(tmp_path, app=app) as (place, _), Visitor.entering(chromium, place.gateway) as visitor:
        till = await entered(place, app, visitor)
        await till.log_in()
        await till.press("Pay")
        await till.enter_code()
        await expect(till.output("pay")).to_have_text("200 done for alice")


STEP: dict[str, Any] = {
    "name": "x",
    "kind": "form",
    "title": "Who are you?",
    "lead": "We ask once.",
    "actions": [],
    "data": {"text": "The terms,\nin two lines."},
    "fields": [
        {"name": "accept", "type": "radio", "label": "Your answer", "required": True,
         "choices": [{"value": "yes", "label": "I agree"}, {"value": "no", "label": "I do not"}]},
        {"name": "news", "type": "checkbox", "label": "Send me news", "required": False},
        {"name": "about", "type": "textarea", "label": "About you", "required": False},
        {"name": "born", "type": "date", "label": "Born on", "required": True, "help": "As in your passport."},
    ],
}  # fmt: skip


async def test_every_kind_of_field_can_be_answered(till: Till) -> None:
    given: list[Any] = []

    async def fake(route: Route) -> None:
        document: dict[str, Any] = {"state": "su_x", "status": "pending", "step": STEP, "error": None}
        if route.request.method == "POST":
            given.append(route.request.post_data_json)
            document = {"status": "failed", "error": {"code": "failed", "message": "That is all."}}
        await route.fulfill(json=document)

    await till.page.route("**/.stepup/t/*", fake)
    await till.press("Pay")
    await expect(till.dialog.locator("pre")).to_have_text("The terms,\nin two lines.")
    await till.dialog.get_by_label("Your answer").select_option("I do not")
    await till.dialog.get_by_label("Send me news").check()
    await till.dialog.get_by_label("About you").fill("a\nb")
    await till.dialog.get_by_role("button", name="Continue").click()
    assert given == [], "a date is required"
    await till.dialog.get_by_label("Born on").fill("2000-02-29")
    await till.dialog.get_by_role("button", name="Continue").click()
    await expect(till.dialog.get_by_role("alert")).to_have_text("That is all.")
    assert [{k: v.replace("\r", "") for k, v in answers.items()} for answers in given] == [
        {"accept": "no", "news": "yes", "about": "a\nb", "born": "2000-02-29"}
    ]


async def test_a_page_of_others_is_for_a_window(till: Till) -> None:
    document = {"status": "pending", "step": {**STEP, "kind": "redirect", "fields": [], "data": {"url": "https://kyc.test/"}}}
    await till.page.route("**/.stepup/t/*", lambda route: route.fulfill(json=document))
    await till.press("Pay")
    await expect(till.dialog.get_by_role("link", name="Use a window")).to_be_focused()
    await expect(till.dialog.get_by_role("button")).to_have_text(["Cancel"])


async def test_where_two_first_401s_each_set_a_cookie_the_request_is_repeated_for_the_one_that_stayed(till: Till) -> None:
    await till.visitor.context.clear_cookies(name=browser_cookie(secure=False))
    both, refused = asyncio.Event(), 0

    def hear(answer: Response) -> None:
        nonlocal refused
        refused += answer.status == 401
        if refused == 2:
            both.set()

    async def hold(route: Route) -> None:
        """The first step is asked for only when both cookies are set: else somebody types a code for the one that went."""
        await both.wait()
        await route.continue_()

    till.page.on("response", hear)
    await till.page.route("**/.stepup/t/**", hold)
    await till.press("Pay twice")
    await till.enter_code()
    await expect(till.output("both")).to_have_text("200 done for alice / 200 done for alice")
