"""/continue: what it takes, the rules run again, and what they may still say there."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.altcha_client import payload
from tests.support.gateway import SCRIPT, Browser, Reply, Running, read, running


@pytest.fixture
async def demo(tmp_path: Path) -> AsyncIterator[Running]:
    async with running(tmp_path) as found:
        yield found


async def reload(demo: Running, *rules: dict[str, Any]) -> None:
    """Add rules to the running gateway's own."""
    raw = yaml.safe_load(demo.config.read_text())
    raw["rules"] += rules
    demo.config.write_text(yaml.safe_dump(raw, sort_keys=False))
    await demo.app.reload(read(demo.config))


async def ready(demo: Running, browser: Browser, to: str) -> str:
    """A transfer whose code was given; the path of its /continue."""
    await demo.log_in(browser)
    asked = await demo.transfer(browser, to)
    return (await demo.pass_code(browser, asked.location, follow=False)).location


async def test_state_and_token_may_come_by_a_form(demo: Running) -> None:
    browser = demo.browser()
    way = await ready(demo, browser, "Form-Unique")
    state = way.partition("state=")[2]
    token = (await browser.json("GET", f"/.stepup/t/{state}")).json["token"]
    done = await browser.post("/continue", {"state": state, "token": token}, follow=True)
    assert (done.status, done.url.path) == (200, "/account")
    assert await demo.ledger(browser, "Form-Unique") == 1


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/continue", b"", 400),
        ("/continue?state=", b"", 400),
        ("/continue?state=theirs", b"", 400),
        ("/continue?state={state}&state={state}", b"", 400),
        ("/continue?state={state}", b"state={state}", 400),
        ("/continue?state={state}", b"x=\xff", 400),
        ("/continue?state={state}", b"x=" + b"y" * 70_000, 413),
        ("/continue?state={state}&token=a.b.c", b"", 400),
        ("/continue?state={state}&token=a&token=b", b"", 400),
        ("/continue?state=su_short", b"", 404),
        ("/continue?state=su_" + "x" * 43, b"", 404),
    ],
)
async def test_what_continue_cannot_take_resumes_nothing(demo: Running, path: str, body: bytes, status: int) -> None:
    browser = demo.browser()
    way = await ready(demo, browser, "Wrong-Unique")
    state = way.partition("state=")[2]
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    refused = await browser.post(path.replace("{state}", state), body.replace(b"{state}", state.encode()), headers=headers)
    assert refused.status == status
    assert await demo.ledger(browser, "Wrong-Unique") == 0
    assert (await browser.get(way, follow=True)).url.path == "/account"


async def test_a_missing_state_is_told_in_the_words_that_auth0_users_know(demo: Running) -> None:
    told = (await demo.browser().json("GET", "/continue")).json
    assert (told["error"], told["status"]) == ("invalid_request", 400)
    assert "state" in told["detail"]
    page = await demo.browser().get("/continue")
    assert page.status == 400
    assert "invalid_request: the state parameter is missing. Send back the original state that you received." in page.text


async def test_other_methods_are_refused(demo: Running) -> None:
    assert (await demo.browser().request("PUT", "/continue?state=su_x")).status == 405


async def test_an_open_transaction_goes_back_to_its_step(demo: Running) -> None:
    browser = demo.browser()
    await demo.log_in(browser)
    asked = await demo.transfer(browser, "Early-Unique")
    state = asked.location.rpartition("/")[2]
    assert (await browser.get(f"/continue?state={state}")).location == asked.location
    early = await browser.json("GET", f"/continue?state={state}")
    assert (early.status, early.json["error"]) == (409, "step_pending")
    assert await demo.ledger(browser, "Early-Unique") == 0


async def test_a_step_that_the_rules_ask_for_meanwhile_is_added_once(demo: Running) -> None:
    browser = demo.browser()
    way = await ready(demo, browser, "More-Unique")
    await reload(demo, {"name": "new", "match": {"path": "/transfer"}, "require": "human", "max_age": "once"})
    back = await browser.get(way)
    assert back.status == 303
    assert back.location.startswith("/.stepup/t/")
    assert await demo.ledger(browser, "More-Unique") == 0
    done = await demo.pass_captcha(browser, back.location)
    assert done.url.path == "/account"
    assert await demo.ledger(browser, "More-Unique") == 1


async def test_a_second_step_that_is_asked_for_meanwhile_ends_it(demo: Running) -> None:
    browser = demo.browser()
    way = await ready(demo, browser, "Again-Unique")
    await reload(demo, {"name": "new", "match": {"path": "/transfer"}, "require": "human", "max_age": "once"})
    page = (await browser.get(way)).location
    shown = await browser.json("GET", page)
    await browser.json("POST", page, {"altcha": payload(shown.json["step"]["data"])})
    await reload(demo, {"name": "newer", "match": {"path": "/transfer"}, "require": "new-password"})
    refused = await browser.get(way)
    assert refused.status == 403
    assert (await browser.get(way)).status == 410
    assert await demo.ledger(browser, "Again-Unique") == 0


async def test_a_deny_at_continue_refuses_and_throws_the_request_away(demo: Running) -> None:
    browser = demo.browser()
    way = await ready(demo, browser, "Denied-Unique")
    await reload(demo, {"name": "closed", "match": {"path": "/transfer"}, "deny": {"status": 451, "message": "The bank is closed."}})
    refused = await browser.get(way)
    assert refused.status == 451
    assert "The bank is closed." in refused.text
    assert (await browser.get(way)).status == 410
    assert await demo.ledger(browser, "Denied-Unique") == 0


async def test_a_script_that_continues_twice_at_once_is_told_once(demo: Running) -> None:
    browser = demo.browser()
    await demo.log_in(browser)
    form = await browser.get("/transfer")
    asked = await browser.json("POST", "/transfer", data={"to": "Twice-Unique", "amount": "1", "csrf": form.hidden("csrf")})
    page = asked.json["step_up_url"].removeprefix(demo.base)
    await browser.json("GET", page)
    passed = await browser.json("POST", page, {"code": demo.code()})
    replies = await asyncio.gather(*(browser.json("GET", passed.json["continue"]) for _ in range(10)))
    assert sorted(r.status for r in replies) == [204] + [410] * 9
    assert {r.json["error"]["code"] for r in replies if r.status == 410} == {"used"}


@pytest.mark.parametrize(
    "rule",
    [
        {
            "name": "limit",
            "match": {"path": "/transfer", "method": "POST"},
            "when": "double(request.form.amount) > 1000.0",
            "deny": {"message": "Too much."},
        },
        {
            "name": "big",
            "match": {"path": "/transfer", "method": "POST"},
            "when": "double(request.form.amount) > 1000.0",
            "require": "human",
        },
    ],
    ids=["deny", "require"],
)
async def test_what_a_script_sends_is_looked_into_when_it_sends_it_again(demo: Running, rule: dict[str, Any]) -> None:
    """Its body is not stored: at /continue nobody can say what is in it, and nothing is resumed."""
    await reload(demo, rule)
    browser = demo.browser()
    await demo.log_in(browser)
    form = await browser.get("/transfer")

    async def send(amount: str) -> Reply:
        fields = {"to": "Looked-Unique", "amount": amount, "csrf": form.hidden("csrf")}
        return await browser.request("POST", "/transfer", headers=SCRIPT, data=fields)

    page = (await send("5")).json["step_up_url"].removeprefix(demo.base)
    await browser.json("GET", page)
    passed = await browser.json("POST", page, {"code": demo.code()})
    assert (await browser.json("GET", passed.json["continue"])).status == 204
    assert (await send("5000")).status == (403 if "deny" in rule else 401)
    assert await demo.ledger(browser, "Looked-Unique") == 0
    assert (await send("5")).location == "/account"
    assert await demo.ledger(browser, "Looked-Unique") == 1


async def test_who_comes_with_a_state_or_token_that_is_not_theirs_stands_in_the_audit_trail(demo: Running) -> None:
    browser, other = demo.browser(), demo.browser()
    way = await ready(demo, browser, "Audit-Unique")
    unknown = "su_" + "x" * 43
    assert (await browser.get(way + "&token=a.b.c")).status == 400
    assert (await other.get(way)).status == 403
    assert (await other.get(way.replace("/continue?state=", "/.stepup/t/"))).status == 403
    assert (await other.get(f"/continue?state={unknown}")).status == 404
    assert (await other.get("/continue?state=su_short")).status == 404  # nobody's, and as many as anybody likes
    with closing(sqlite3.connect(demo.config.parent / "var/records.db")) as records:
        lines = records.execute("SELECT subject, outcome, detail FROM audit WHERE event = 'transaction' ORDER BY id").fetchall()
    assert [(subject, outcome) for subject, outcome, _ in lines] == [("alice", "refused"), *[("", "refused")] * 3]
    reasons = [json.loads(detail)["reason"] for _, _, detail in lines]
    assert reasons[0].startswith("continue token: ")
    assert reasons[1:] == ["no cookie came along", "no cookie came along", "no such transaction"]
    assert unknown not in str(lines)
    assert (await browser.get(way, follow=True)).url.path == "/account"


@pytest.mark.parametrize(
    ("method", "headers"),
    [("HEAD", {}), ("GET", {"Sec-Purpose": "prefetch;prerender"}), ("GET", {"Sec-Fetch-Dest": "image", "Sec-Fetch-Mode": "no-cors"})],
    ids=["head", "prefetch", "image"],
)
async def test_what_nobody_looks_at_uses_nothing_up(demo: Running, method: str, headers: dict[str, str]) -> None:
    await reload(demo, {"name": "once-a-session", "match": {"path": "/account"}, "require": "code"})
    browser = demo.browser()
    asked = await demo.log_in(browser)
    way = (await demo.pass_code(browser, asked.url.path, follow=False)).location
    assert (await browser.request(method, way, headers=headers)).status == 405
    assert (await browser.get(way)).location == "/account"


@pytest.mark.parametrize(
    ("method", "headers"),
    [("HEAD", {}), ("GET", {"Sec-Purpose": "prefetch;prerender"}), ("GET", {"Sec-Fetch-Dest": "image", "Sec-Fetch-Mode": "no-cors"})],
    ids=["head", "prefetch", "image"],
)
async def test_what_nobody_looks_at_begins_no_step(demo: Running, method: str, headers: dict[str, str]) -> None:
    await reload(demo, {"name": "transfer", "match": {"path": "/transfer", "method": "POST"}, "require": "code"})
    browser = demo.browser()
    await demo.log_in(browser)
    page = (await demo.transfer(browser, "Unique")).location
    refused = await browser.request(method, page, headers=headers)
    assert (refused.status, refused.headers["Allow"]) == (405, "GET, POST")
    assert demo.mails == []
    assert (await browser.get(page)).status == 200
    assert len(demo.mails) == 1


async def test_more_than_continue_takes_is_told_without_talk_of_a_confirmation(demo: Running) -> None:
    refused = await demo.browser().post("/continue", b"x=" + b"y" * 70_000, headers={"Content-Type": "application/x-www-form-urlencoded"})
    assert refused.status == 413
    assert "More was sent than is taken here" in refused.text
