"""Other pages and other kinds of requests: a forged form, a frame, the app's own scripts, event streams and WebSockets."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from html import escape
from urllib.parse import urlsplit

import pytest
from aiohttp import web
from playwright.async_api import Browser, Page, expect

from tests.browser.demo import BANK_NAME, Visitor, at_step, says
from tests.support.chromium import axe
from tests.support.gateway import Running

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]


@asynccontextmanager
async def attacker(html: str) -> AsyncIterator[str]:
    """Somebody's page on another site. Yields its origin."""

    async def page(_request: web.Request) -> web.Response:
        return web.Response(text=f"<!doctype html><title>Prizes</title>{html}", content_type="text/html")

    app = web.Application()
    app.router.add_get("/", page)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://attacker.test:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def forged(base: str, csrf: str) -> str:
    """A page that sends a transfer by itself. Even the bank's own CSRF value may have leaked."""
    fields = {"to": "Mallory <b>", "amount": "900", "csrf": csrf}
    inputs = "".join(f'<input type="hidden" name="{n}" value="{escape(v)}">' for n, v in fields.items())
    button = "<noscript><button>Claim your prize</button></noscript>"
    return f'<form method="post" action="{base}/transfer">{inputs}{button}</form><script>document.forms[0].submit()</script>'


async def lured(visitor: Visitor, *, script: bool = True) -> Page:
    """Logged in, and then on the attacker's page, which sends its form. Ends at the step that this brings up."""
    page = await visitor.tab()
    await visitor.log_in_quickly()
    await page.goto(visitor.base + "/transfer")
    csrf = await page.locator("input[name=csrf]").get_attribute("value") or ""
    async with attacker(forged(visitor.base, csrf)) as origin:
        visitor.friends.add(urlsplit(origin).netloc)
        await page.goto(origin)
        if not script:  # then the victim must be talked into it
            await page.get_by_role("button", name="Claim your prize").click()
        await at_step(page)
    return page


async def test_a_forged_form_is_shown_before_it_is_sent(visitor: Visitor) -> None:
    page = await lured(visitor)
    await expect(page.get_by_role("progressbar", name="Step 1 of 2")).to_be_visible()
    await visitor.enter_code(page)
    await says(page, "Check before it is sent")
    await expect(page.get_by_role("progressbar", name="Step 2 of 2")).to_be_visible()
    await expect(page.get_by_text("This request did not start on")).to_contain_text("attacker.test")
    for name, value in (("to", "Mallory <b>"), ("amount", "900")):
        row = page.locator("dl div").filter(has=page.locator("dt", has_text=re.compile(f"^{name}$")))
        await expect(row.locator("dd")).to_have_text(value)
    assert await axe(page) == []
    address = page.url
    other = await visitor.tab()
    assert await visitor.ledger(other) == []
    await page.bring_to_front()
    await page.goto(visitor.base + "/continue?state=" + address.rpartition("/")[2])
    await says(page, "Check before it is sent")  # no way around it
    assert await visitor.ledger(other) == []
    await page.bring_to_front()
    await page.get_by_role("button", name="Send", exact=True).click()
    await page.wait_for_url("**/account")
    assert await visitor.ledger(page) == ["Mallory <b>"]


@pytest.mark.parametrize("name", ["localhost", BANK_NAME])
@pytest.mark.parametrize("script", [True, False])
async def test_whoever_did_not_mean_it_cancels(chromium: Browser, demo: Running, name: str, script: bool) -> None:
    """Also where the browser sends no Sec-Fetch headers (plain http), and where it runs no script of ours."""
    base = f"http://{name}:{urlsplit(demo.base).port}"
    async with Visitor.entering(chromium, demo, base, java_script_enabled=script) as visitor:
        page = await lured(visitor, script=script)
        await visitor.enter_code(page)
        await says(page, "Check before it is sent")
        await page.get_by_role("button", name="Cancel, send nothing").click()
        await says(page, "Welcome")  # not back to the attacker's page
        assert await visitor.ledger(page) == []


async def test_a_forged_form_does_not_end_what_waits_in_another_tab(visitor: Visitor) -> None:
    mine = await visitor.tab()
    await visitor.log_in_quickly()
    await visitor.suspended(mine, "Marlene")
    code = visitor.demo.code()
    async with attacker(forged(visitor.base, "guessed")) as origin:
        visitor.friends.add(urlsplit(origin).netloc)
        theirs = await visitor.tab()
        await theirs.goto(origin)
        await at_step(theirs)
    await visitor.enter_code(mine, code)
    await mine.wait_for_url("**/account")
    assert await visitor.ledger(mine) == ["Marlene"]


async def test_in_a_frame_there_is_a_link_to_the_top(visitor: Visitor) -> None:
    page = await visitor.tab()
    await visitor.log_in_quickly()
    await page.goto(visitor.base + "/account")
    await page.evaluate("document.body.append(Object.assign(document.createElement('iframe'), {src: '/admin', title: 'part'}))")
    frame = page.frame_locator("iframe")
    await expect(frame.get_by_role("heading", level=1)).to_have_text("One more step")
    assert await axe(page, "color-contrast", "frame-title", "link-name") == []
    await frame.get_by_role("link", name="Open it in the whole window").click()
    await at_step(page)
    await visitor.enter_code(page)
    await page.wait_for_url("**/admin")


async def test_in_a_foreign_frame_nothing_of_ours_is_shown(visitor: Visitor) -> None:
    await visitor.log_in_quickly()
    page = await visitor.tab()
    async with attacker(f'<iframe src="{visitor.base}/admin"></iframe>') as origin:
        visitor.friends.add(urlsplit(origin).netloc)
        await page.goto(origin, wait_until="networkidle")
        assert "One more step" not in await page.frames[1].content()
    assert all("frame" in complaint for complaint in visitor.complaints)
    visitor.complaints.clear()


FETCH = """async () => {
  const answer = await fetch("/transfer", {method: "POST", body: new URLSearchParams({to: "Script", amount: "5"})});
  const header = (name) => answer.headers.get(name);
  return [answer.status, answer.redirected, header("content-type"), header("www-authenticate"), await answer.text()];
}"""


async def test_the_apps_own_script_gets_a_401_that_it_can_act_on(visitor: Visitor) -> None:
    page = await visitor.tab()
    await visitor.log_in_quickly()
    await page.goto(visitor.base + "/transfer")
    csrf = await page.locator("input[name=csrf]").get_attribute("value")
    status, redirected, kind, challenge, body = await page.evaluate(FETCH)
    assert (status, redirected, kind) == (401, False, "application/problem+json")
    assert "insufficient_user_authentication" in challenge
    problem = json.loads(body)
    assert (problem["error"], problem["steps"]) == ("interaction_required", ["code"])
    window = await visitor.tab()
    await window.goto(problem["step_up_url"])
    await visitor.enter_code(window)
    await says(window, "Confirmed – you can go back now")
    assert await axe(window) == []
    repeated = await page.evaluate(
        """async (csrf) => {
          const body = new URLSearchParams({to: "Script", amount: "5", csrf});
          const answer = await fetch("/transfer", {method: "POST", body});
          return [answer.status, new URL(answer.url).pathname];
        }""",
        csrf,
    )
    assert repeated == [200, "/account"]
    assert await visitor.ledger(page) == ["Script"]


async def test_a_picture_of_a_gated_page_opens_no_transaction(visitor: Visitor) -> None:
    page = await visitor.tab()
    await visitor.log_in_quickly()
    await page.goto(visitor.base + "/account")
    async with page.expect_response("**/admin") as answer:
        await page.evaluate("new Image().src = '/admin'")
    found = await answer.value
    assert found.status == 401
    assert "state" not in json.loads(await found.text())


async def test_event_streams_and_websockets_pass_through(visitor: Visitor) -> None:
    page = await visitor.tab()
    await visitor.log_in_quickly()
    await page.goto(visitor.base + "/account")
    heard = await page.evaluate(
        """() => new Promise((done) => {
          const heard = [];
          const source = new EventSource("/events?count=3&interval=0.05");
          source.addEventListener("tick", (event) => {
            heard.push(JSON.parse(event.data).number);
            if (heard.length < 3) return;
            source.close();
            done(heard);
          });
        })"""
    )
    assert heard == [1, 2, 3]
    said = await page.evaluate(
        """() => new Promise((done, fail) => {
          const socket = new WebSocket(location.origin.replace("http", "ws") + "/ws", ["echo"]);
          const heard = [];
          socket.onopen = () => { socket.send("grüße"); socket.send(new Uint8Array([0, 255, 7])); };
          socket.onmessage = async ({data}) => {
            heard.push(typeof data === "string" ? data : Array.from(new Uint8Array(await data.arrayBuffer())));
            if (heard.length === 2) socket.close(1000);
          };
          socket.onclose = ({code}) => done([socket.protocol, code, ...heard]);
          socket.onerror = () => fail(new Error("refused"));
        })"""
    )
    assert said == ["echo", 1000, "grüße", [0, 255, 7]]


async def test_an_upload_from_a_page_arrives_whole(visitor: Visitor) -> None:
    page = await visitor.tab()
    await visitor.log_in_quickly()
    await page.goto(visitor.base + "/upload")
    content = bytes(range(256)) * 8192
    await page.get_by_label("Document").set_input_files({"name": "zwei MB.bin", "mimeType": "application/octet-stream", "buffer": content})
    await page.get_by_role("button", name="Upload").click()
    await page.wait_for_function("document.contentType === 'application/json'")
    assert json.loads(await page.inner_text("body"))["sha256"] == hashlib.sha256(content).hexdigest()
