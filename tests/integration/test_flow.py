"""The whole way over HTTP: an unmodified app, the gateway, a browser's requests. Every server here is real."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.gateway import Running, running


@pytest.fixture
async def demo(tmp_path: Path) -> AsyncIterator[Running]:
    async with running(tmp_path) as found:
        yield found


async def test_a_login_is_asked_for_a_captcha_and_then_goes_through(demo: Running) -> None:
    browser = demo.browser()
    page = await demo.log_in(browser)
    assert page.status == 200
    assert page.url.path == "/account"
    assert "alice" in page.text


async def test_a_wrong_password_stays_the_apps_business(demo: Running) -> None:
    browser = demo.browser()
    page = await demo.log_in(browser, password="wrong")
    assert page.status == 200
    assert "password" in page.text.lower()
    assert (await browser.get("/account")).status == 302


async def test_a_transfer_waits_for_its_code_and_goes_through_once(demo: Running) -> None:
    browser = demo.browser()
    await demo.log_in(browser)
    asked = await demo.transfer(browser, "Marlene-Unique")
    assert asked.status == 303
    assert asked.location.startswith("/.stepup/t/su_")
    assert await demo.ledger(browser, "Marlene-Unique") == 0
    done = await demo.pass_code(browser, asked.location)
    assert done.status == 200
    assert done.url.path == "/account"
    assert await demo.ledger(browser, "Marlene-Unique") == 1


async def test_a_second_transfer_within_five_minutes_is_not_asked_again(demo: Running) -> None:
    browser = demo.browser()
    await demo.log_in(browser)
    asked = await demo.transfer(browser, "First-Unique")
    await demo.pass_code(browser, asked.location)
    again = await demo.transfer(browser, "Second-Unique")
    assert again.status == 302
    assert await demo.ledger(browser, "Second-Unique") == 1


async def test_bob_changes_his_password_and_logs_in_with_the_new_one(demo: Running) -> None:
    browser = demo.browser()
    await browser.get("/login")
    asked = await browser.post("/login", {"username": "bob", "password": "builder"})
    landed = await demo.pass_captcha(browser, asked.location)
    assert landed.url.path.startswith("/.stepup/t/"), landed.text
    assert "new_password" in landed.text
    new = "Tr0ub4dor-and-9-herons"
    changed = await browser.post(
        landed.url.path,
        {"current_password": "builder", "new_password": new, "confirm_password": new, "stepup_token": landed.hidden("stepup_token")},
        follow=True,
    )
    assert changed.status == 200, changed.text
    assert 'href="/login"' in changed.text
    assert browser.cookie("JSESSIONID") is None
    account = await demo.log_in(browser, "bob", new)
    assert account.url.path == "/account"
    assert account.status == 200


async def test_admin_asks_for_both_steps_one_after_the_other(demo: Running) -> None:
    browser = demo.browser()
    await demo.log_in(browser)
    asked = await browser.get("/admin")
    assert asked.status == 303
    second = await demo.pass_captcha(browser, asked.location)
    assert "Step 2 of 2" in second.text
    done = await demo.pass_code(browser, second.url.path)
    assert (done.status, done.url.path) == (200, "/admin")


async def test_of_fifty_parallel_continues_one_resumes(demo: Running) -> None:
    browser = demo.browser()
    await demo.log_in(browser)
    asked = await demo.transfer(browser, "Fifty-Unique")
    ready = await demo.pass_code(browser, asked.location, follow=False)
    replies = await asyncio.gather(*(browser.get(ready.location, follow=True) for _ in range(50)))
    assert await demo.ledger(browser, "Fifty-Unique") == 1
    landed = [r for r in replies if r.url.path == "/account"]
    assert len(landed) == 1
    others = [r for r in replies if r.url.path != "/account"]
    assert {r.status for r in others} <= {409, 410}
    assert all("sent" in r.text for r in others)


async def test_a_used_ticket_says_that_it_was_sent(demo: Running) -> None:
    browser = demo.browser()
    await demo.log_in(browser)
    asked = await demo.transfer(browser, "Reload-Unique")
    ready = await demo.pass_code(browser, asked.location, follow=False)
    ticket = (await browser.get(ready.location)).location
    assert "stepup_resume=rt_" in ticket
    assert (await browser.get(ticket)).status == 302
    again = await browser.get(ticket)
    assert again.status == 410
    assert "already sent" in again.text
    assert await demo.ledger(browser, "Reload-Unique") == 1


async def test_another_browser_gets_nothing(demo: Running) -> None:
    browser, thief = demo.browser(), demo.browser()
    await demo.log_in(browser)
    asked = await demo.transfer(browser, "Thief-Unique")
    assert (await thief.get(asked.location)).status == 403
    ready = await demo.pass_code(browser, asked.location, follow=False)
    assert (await thief.get(ready.location)).status == 403
    ticket = (await browser.get(ready.location)).location
    assert (await thief.get(ticket)).status == 403
    assert await demo.ledger(browser, "Thief-Unique") == 0


async def test_who_is_not_logged_in_is_sent_to_log_in_and_back(demo: Running) -> None:
    browser = demo.browser()
    asked = await browser.get("/admin")
    assert asked.status == 303
    login = await browser.get(asked.location, follow=True)
    assert login.url.path == "/login"
    posted = await browser.post("/login", {"username": "alice", "password": "wonderland"})
    back = await demo.pass_captcha(browser, posted.location)
    assert back.url.path == asked.location
    second = await demo.pass_captcha(browser, asked.location)
    done = await demo.pass_code(browser, second.url.path)
    assert (done.status, done.url.path) == (200, "/admin")


async def test_a_script_gets_a_401_and_does_the_steps_by_json(demo: Running) -> None:
    browser = demo.browser()
    await demo.log_in(browser)
    form = await browser.get("/transfer")
    data = {"to": "Script-Unique", "amount": "10", "csrf": form.hidden("csrf")}
    asked = await browser.json("POST", "/transfer", data=data)
    assert asked.status == 401
    assert asked.headers["WWW-Authenticate"].startswith('Bearer error="insufficient_user_authentication"')
    assert asked.headers["Content-Type"] == "application/problem+json"
    problem = asked.json
    assert problem["error"] == "interaction_required"
    assert problem["steps"] == ["code"]
    path = problem["step_up_url"].removeprefix(demo.base)
    shown = await browser.json("GET", path)
    assert shown.json["step"]["data"]["method"] == "email"
    wrong = await browser.json("POST", path, {"code": "000000" if demo.code() != "000000" else "111111"})
    assert wrong.status == 422
    assert wrong.json["status"] == "pending"
    assert wrong.json["error"]["field"] == "code"
    passed = await browser.json("POST", path, {"code": demo.code()})
    assert passed.json["status"] == "passed"
    assert passed.json["continue"] == problem["continue_url"].removeprefix(demo.base)
    done = await browser.json("GET", passed.json["continue"])
    assert done.status == 204
    again = await browser.json("POST", "/transfer", data=data)
    assert again.status == 302
    assert await demo.ledger(browser, "Script-Unique") == 1


async def test_what_depends_on_who_somebody_is_is_for_no_shared_cache(demo: Running) -> None:
    browser = demo.browser()
    await demo.log_in(browser)
    assert (await browser.get("/account")).headers["Cache-Control"] == "private, no-cache"  # expired-password asked about alice
    direct = await browser.get(f"{demo.upstream}/static/style.css")
    excused = await browser.get("/static/style.css")
    assert excused.headers.get("Cache-Control") == direct.headers.get("Cache-Control")
