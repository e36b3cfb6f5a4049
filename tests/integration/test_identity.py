"""Who it is, against everybody who says they are somebody else: a stranger's application, the gateway, clients that send what they like."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.altcha_client import payload
from tests.support.gateway import SCRIPT, Clock, running
from tests.support.legacy import LOGIN, Client, Habits, Place, bare_client, legacy

TRANSFER: dict[str, Any] = {"name": "transfer", "match": {"path": "/transfer", "method": "POST"}, "require": "code", "max_age": "5m"}
HUMAN_LOGIN: dict[str, Any] = {"name": "login", "match": {"path": "/login", "method": "POST"}, "require": "human", "max_age": "5m"}


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Nobody can write to the state store."""
    lock = sqlite3.connect(folder / "var" / "state.db", isolation_level=None, timeout=10)
    lock.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        lock.execute("ROLLBACK")
        lock.close()


async def pass_captcha(place: Place, client: Client, page: str) -> str:
    """Solve the captcha of a transaction as a script; the way on."""
    shown = await client.get(page, headers={"Accept": "application/json"})
    answer = {"altcha": payload(shown.json["step"]["data"])}
    passed = await client.post(page, json=answer, headers={"Accept": "application/json"})
    assert passed.json["status"] == "passed", passed.text
    return str(passed.json["continue"])


async def resume(client: Client, way: str) -> Any:
    """From /continue to the answer of the application."""
    reply = await client.get(way)
    while reply.status == 303 and ("stepup_resume=" in reply.location or reply.location.startswith("/continue")):
        reply = await client.get(reply.location)
    return reply


async def pass_code(place: Place, client: Client, page: str) -> Any:
    shown = await client.get(page)
    assert shown.status == 200, shown.text
    answered = await client.post(page, {"code": place.gateway.code(), "stepup_token": shown.hidden("stepup_token")})
    assert answered.status == 303, answered.text
    return await resume(client, answered.location)


# -- learning -----------------------------------------------------------------------------------------------------------


async def test_a_login_is_learned_where_it_succeeds_and_gives_a_new_session(tmp_path: Path) -> None:
    async with legacy(tmp_path) as place:
        client = place.client()
        await client.post("/login", {"username": "alice", "password": "wrong"})
        assert (await client.proved())["subject"] == ""
        await client.log_in("alice")
        assert (await client.proved())["subject"] == "alice"
        assert await client.app_says() == "alice"


@pytest.mark.parametrize(
    ("path", "data", "kind"),
    [
        ("/login", b"username=alice&username=bob&password=right", "application/x-www-form-urlencoded"),
        ("/login?username=bob", b"username=alice&password=right", "application/x-www-form-urlencoded"),
        ("/login?username=alice", b"password=right", "application/x-www-form-urlencoded"),
        ("/login", b'{"username": "alice", "password": "right"}', "application/json"),
        ("/login", b"username=alice&password=right", "application/x-www-form-urlencoded; charset=utf-16"),
        ("/login", b"username=%20&password=right", "application/x-www-form-urlencoded"),
        ("/login/", b"username=alice&password=right", "application/x-www-form-urlencoded"),
        ("/x/../login", b"username=alice&password=right", "application/x-www-form-urlencoded"),
        ("/login", b"username=alice&password=right&pad=" + b"x" * 70_000, "application/x-www-form-urlencoded"),
    ],
)
async def test_a_login_that_does_not_name_exactly_one_user_as_configured_teaches_nothing(
    tmp_path: Path, path: str, data: bytes, kind: str
) -> None:
    async with legacy(tmp_path) as place:
        stranger, alice = place.client(), place.client()
        await stranger.post(path, data, headers={"Content-Type": kind})
        assert (await stranger.proved())["subject"] == ""
        await alice.log_in("alice")
        before = dict(alice.cookies)
        await alice.post(path, data, headers={"Content-Type": kind})
        assert (await alice.proved())["subject"] == "", "nobody knows whose session it is now"
        alice.cookies = before
        assert await alice.app_says() == "", "the old pass speaks for nobody any more"


async def test_learning_needs_no_store(tmp_path: Path) -> None:
    async with legacy(tmp_path) as place:
        client = place.client()
        await client.get("/login")
        assert "stepup" in client.cookies, "the anonymous session is vouched for"
        with locked(tmp_path):
            await client.log_in("alice")
            assert (await client.proved())["subject"] == "alice"


async def test_a_login_by_fetch_is_not_led_away_to_a_transaction_that_waits(tmp_path: Path) -> None:
    async with legacy(tmp_path, rules=[TRANSFER]) as place:
        client = place.client()
        waiting = await client.post("/transfer", {"to": "Marlene"})
        assert (await client.get(waiting.location)).location == "/login"
        answered = await client.log_in("alice", headers=SCRIPT)
        assert (answered.status, answered.location) == (302, "/home")
        shown = await client.get(waiting.location)
        assert shown.status == 200


async def test_a_transaction_that_was_cancelled_takes_nobody_back(tmp_path: Path) -> None:
    async with legacy(tmp_path, rules=[TRANSFER]) as place:
        client = place.client()
        waiting = await client.post("/transfer", {"to": "Marlene"})
        await client.get(waiting.location)
        cancelled = await client.post(waiting.location, json={"action": "cancel"}, headers={"Accept": "application/json"})
        assert cancelled.json["error"]["code"] == "cancelled"
        assert (await client.log_in("alice")).location == "/home"


# -- a second name ------------------------------------------------------------------------------------------------------


async def test_a_second_name_on_a_living_session_ends_the_pass_for_good(tmp_path: Path) -> None:
    async with legacy(tmp_path, Habits(keeps_value=True)) as place:
        client = place.client()
        await client.log_in("alice")
        stolen = dict(client.cookies)
        await client.log_in("bob")
        assert [user for _, path, user, _ in place.app.posted if path == "/login"] == ["", ""], "alice's session did not go along"
        client.cookies = stolen
        assert (await client.proved())["subject"] == ""
        assert await client.app_says() == ""


async def test_a_second_name_is_not_sent_on_while_the_pass_cannot_be_ended_everywhere(tmp_path: Path) -> None:
    async with legacy(tmp_path) as place:
        client = place.client()
        await client.log_in("alice")
        with locked(tmp_path):
            refused = await client.log_in("bob")
        assert refused.status == 503
        assert int(refused.headers["Retry-After"]) > 0
        assert len(place.app.posted) == 1
        assert (await client.log_in("bob")).status == 302
        assert (await client.proved())["subject"] == "bob"


async def test_the_same_name_again_is_a_login_like_the_first(tmp_path: Path) -> None:
    async with legacy(tmp_path) as place:
        client = place.client()
        await client.log_in("alice")
        old = dict(client.cookies)
        await client.log_in("alice")
        assert await client.app_says() == "alice"
        client.cookies = old
        assert (await client.proved())["subject"] == ""


async def test_a_login_that_the_gateway_does_not_know_is_found_out_where_the_application_can_be_asked(tmp_path: Path) -> None:
    async with legacy(tmp_path, login={"whoami": {"url": "x", "field": "name"}}) as place:
        client = place.client()
        await client.log_in("alice")
        await client.log_in("bob", path="/other-login")
        assert (await client.proved())["subject"] == ""


async def test_every_login_path_that_is_named_teaches_and_ends_a_pass_alike(tmp_path: Path) -> None:
    async with legacy(tmp_path, login={"path": ["/login", "/other-login"]}) as place:
        client = place.client()
        await client.log_in("alice", path="/other-login")
        assert (await client.proved())["subject"] == "alice"
        old = dict(client.cookies)
        await client.log_in("bob", path="/other-login")
        assert (await client.proved())["subject"] == "bob"
        client.cookies = old
        assert (await client.proved())["subject"] == ""


# -- sessions that nothing vouches for ----------------------------------------------------------------------------------


async def test_a_session_from_before_the_gateway_is_nobodys_and_the_application_asks_for_a_login(tmp_path: Path) -> None:
    async with legacy(tmp_path) as place:
        client = place.client()
        place.app.sessions["old"] = "alice"
        client.cookies["SID"] = "old"
        assert await client.app_says() == ""
        await client.log_in("alice")
        assert await client.app_says() == "alice"
        assert client.cookies["SID"] != "old"


async def test_allow_forwards_such_a_session_as_nobodys(tmp_path: Path) -> None:
    async with legacy(tmp_path, rules=[TRANSFER], login={"unknown_session": "allow"}) as place:
        client = place.client()
        place.app.sessions["old"] = "alice"
        client.cookies["SID"] = "old"
        assert await client.app_says() == "alice"
        asked = await client.post("/transfer", {"to": "Marlene"})
        assert (await client.get(asked.location)).location == "/login", "a code needs to know whose"


async def test_a_suspended_request_goes_with_the_unknown_session_that_it_came_with_or_not_at_all(tmp_path: Path) -> None:
    rule = {"match": {"path": "/contact", "method": "POST"}, "require": "human", "name": "contact", "max_age": "once"}
    async with legacy(tmp_path, rules=[rule], login={"unknown_session": "allow"}) as place:
        client = place.client()
        place.app.sessions |= {"hers": "alice", "planted": "mallory"}
        client.cookies["SID"] = "hers"
        asked = await client.post("/contact", {"text": "one"})
        way = await pass_captcha(place, client, asked.location)
        ticket = (await client.get(way)).location
        client.cookies["SID"] = "planted"
        refused = await client.get(ticket)
        assert refused.status == 403, refused.text
        assert place.app.posted == []
        client.cookies["SID"] = "hers"
        assert (await client.get(ticket)).text == "done for alice"


async def test_a_request_that_came_without_a_session_is_not_sent_with_one(tmp_path: Path) -> None:
    rule = {"match": {"path": "/contact", "method": "POST"}, "require": "human", "name": "contact", "max_age": "once"}
    async with legacy(tmp_path, rules=[rule]) as place:
        client = place.client()
        asked = await client.post("/contact", {"text": "one"})
        await client.get("/login")
        assert "SID" in client.cookies
        done = await resume(client, await pass_captcha(place, client, asked.location))
        assert done.status == 200, done.text
        assert not any("SID" in v for n, v in place.app.heads[-1] if n.lower() == "cookie")


async def test_a_session_that_an_attacker_planted_in_the_victims_browser_is_not_used(tmp_path: Path) -> None:
    async with legacy(tmp_path, Habits(keeps_value=True), login={"whoami": {"url": "x", "field": "name"}}) as place:
        attacker, victim = place.client(), place.client()
        await attacker.get("/login")
        planted = attacker.cookies["SID"]
        victim.cookies["SID"] = planted
        await victim.log_in("alice")
        assert victim.cookies["SID"] != planted
        assert await attacker.app_says() == ""


async def test_a_pass_planted_with_its_session_is_over_at_the_victims_login(tmp_path: Path) -> None:
    async with legacy(tmp_path, Habits(keeps_value=True), login={"whoami": {"url": "x", "field": "name"}}) as place:
        attacker, victim = place.client(), place.client()
        await attacker.get("/login")
        victim.cookies |= attacker.cookies
        await victim.log_in("alice")
        assert (await victim.proved())["subject"] == "alice"
        assert place.app.sessions[attacker.cookies["SID"]] == "alice", "the application fell for it"
        assert await attacker.app_says() == "", "the gateway did not"


async def test_two_cookies_of_one_name_are_none(tmp_path: Path) -> None:
    async with legacy(tmp_path) as place:
        client = place.client()
        await client.log_in("alice")
        session, held = client.cookies["SID"], client.cookies["stepup"]
        assert await client.app_says(cookie=f"SID={session}; stepup={held}") == "alice"
        assert await client.app_says(cookie=f"SID={session}; SID={session}; stepup={held}") == ""
        assert await client.app_says(cookie=f"SID={session}; SID=other; stepup={held}") == ""
        assert await client.app_says(cookie=f"SID={session}; stepup={held}; stepup={held}") == ""
        assert await client.app_says(cookie=f"SID={session}; stepup=x, stepup={held}") == ""
        assert await client.app_says(cookie=f"sid={session}; stepup={held}") == ""


async def test_a_pass_counts_at_its_own_origin_only(tmp_path: Path) -> None:
    async with legacy(tmp_path) as place:
        client = place.client()
        await client.log_in("alice")
        elsewhere = place.client(place.gateway.base.replace("127.0.0.1", "localhost"))
        elsewhere.cookies = dict(client.cookies)
        assert (await elsewhere.proved())["subject"] == ""
        assert await elsewhere.app_says() == ""


async def test_a_changed_pass_is_none(tmp_path: Path) -> None:
    async with legacy(tmp_path) as place:
        client = place.client()
        await client.log_in("alice")
        payload, _, tag = client.cookies["stepup"].partition(".")
        for forged in (f"{payload[:-2]}AA.{tag}", f"{payload}.{tag[:-2]}AA", payload, f"{payload}.", ""):
            assert (await client.proved(cookie=f"stepup={forged}"))["subject"] == ""


# -- rotation and logout ------------------------------------------------------------------------------------------------


async def test_a_rotation_takes_the_pass_along_and_leaves_the_old_value_ten_seconds(tmp_path: Path) -> None:
    clock = Clock(1_800_000_000.0)
    async with legacy(tmp_path, clock=clock) as place:
        client = place.client()
        await client.log_in("alice")
        old = client.cookies["SID"]
        await client.get("/rotate")
        assert client.cookies["SID"] != old
        assert await client.app_says() == "alice"
        held = client.cookies["stepup"]
        await place.gateway.advance(9.9)
        assert await client.app_says(cookie=f"SID={old}; stepup={held}") == "alice"
        await place.gateway.advance(0.2)
        assert await client.app_says(cookie=f"SID={old}; stepup={held}") == ""
        assert await client.app_says() == "alice"


async def test_a_suspended_request_survives_any_number_of_rotations(tmp_path: Path) -> None:
    clock = Clock(1_800_000_000.0)
    async with legacy(tmp_path, rules=[TRANSFER], clock=clock) as place:
        client = place.client()
        await client.log_in("alice")
        asked = await client.post("/transfer", {"to": "Marlene"})
        for _ in range(8):
            await place.gateway.advance(15)
            await client.get("/rotate")
        done = await pass_code(place, client, asked.location)
        assert done.text == "done for alice"


async def test_a_new_login_of_the_same_user_is_another_session(tmp_path: Path) -> None:
    async with legacy(tmp_path, rules=[TRANSFER]) as place:
        client = place.client()
        await client.log_in("alice")
        asked = await client.post("/transfer", {"to": "Marlene"})
        await client.log_in("alice")
        refused = await client.get(asked.location)
        assert refused.status == 403
        assert "/transfer" not in [path for _, path, _, _ in place.app.posted]


async def test_a_logout_ends_the_pass_wherever_it_was_copied_to(tmp_path: Path) -> None:
    async with legacy(tmp_path) as place:
        client = place.client()
        await client.log_in("alice")
        copy = dict(client.cookies)
        await client.get("/logout")
        assert "stepup" not in client.cookies
        client.cookies = copy
        assert (await client.proved())["subject"] == ""


async def test_a_cookie_deleted_beside_the_new_one_is_another_cookie(tmp_path: Path) -> None:
    async with legacy(tmp_path, Habits(beside=True)) as place:
        client = place.client()
        await client.get("/login")
        await client.log_in("alice")
        assert (await client.proved())["subject"] == "alice"
        assert await client.app_says() == "alice"


async def test_a_session_cookie_that_our_own_pages_do_not_get_is_no_obstacle(tmp_path: Path) -> None:
    """Java servers set JSESSIONID for the application's path only."""
    async with legacy(tmp_path, Habits(cookie_path="/bank"), rules=[{**TRANSFER, "match": {"path": "/bank/transfer", "method": "POST"}}],
                      login={"path": "/bank/login", "logout": "/bank/logout"}) as place:  # fmt: skip
        browser = place.gateway.browser()
        asked = await browser.post("/bank/transfer", {"to": "Marlene"})
        login = await browser.get(asked.location)
        assert login.location == "/bank/login"
        back = await browser.post("/bank/login", {"username": "alice", "password": "right"})
        assert back.location == asked.location
        shown = await browser.get(asked.location)
        assert shown.status == 200, shown.text
        code = {"code": place.gateway.code(), "stepup_token": shown.hidden("stepup_token")}
        seen = await browser.post(asked.location, code, follow=True)
        done = await browser.post(asked.location, {"action": "send", "stepup_token": seen.hidden("stepup_token")}, follow=True)
        assert done.text == "done for alice"
        await browser.get("/bank/rotate")
        again = await browser.post("/bank/transfer", {"to": "Second"})
        assert again.text == "done for alice", "the proof is good for five minutes"
        await browser.get("/bank/logout")
        assert (await browser.post("/bank/transfer", {"to": "Third"})).status == 303


async def test_who_logged_out_meanwhile_cannot_finish_by_the_pass_alone(tmp_path: Path) -> None:
    async with legacy(tmp_path, rules=[TRANSFER]) as place:
        client = place.client()
        await client.log_in("alice")
        asked = await client.post("/transfer", {"to": "Marlene"})
        shown = await client.get(asked.location)
        copy = dict(client.cookies)
        await client.get("/logout")
        client.cookies = {n: v for n, v in copy.items() if n != "SID"}
        code = {"code": place.gateway.code(), "stepup_token": shown.hidden("stepup_token")}
        assert (await client.post(asked.location, code)).status == 403


async def test_a_ticket_is_not_taken_without_the_session(tmp_path: Path) -> None:
    async with legacy(tmp_path, rules=[TRANSFER]) as place:
        client = place.client()
        await client.log_in("alice")
        asked = await client.post("/transfer", {"to": "Marlene"})
        shown = await client.get(asked.location)
        code = {"code": place.gateway.code(), "stepup_token": shown.hidden("stepup_token")}
        del client.cookies["SID"]
        ready = await client.post(asked.location, code)
        ticket = (await client.get(ready.location)).location
        assert "stepup_resume=" in ticket
        assert (await client.get(ticket)).status == 403
        assert "/transfer" not in [path for _, path, _, _ in place.app.posted]


# -- claims -------------------------------------------------------------------------------------------------------------


async def test_a_claim_does_not_go_away_with_the_browsers_cookie(tmp_path: Path) -> None:
    async with running(tmp_path) as demo:
        browser = demo.browser()
        landed = await demo.log_in(browser, "bob", "builder")
        assert landed.url.path.startswith("/.stepup/t/")
        for cookie in ("", "pw=fine", "pw=; pw=x"):
            session = f"JSESSIONID={browser.cookie('JSESSIONID')}; stepup={browser.cookie('stepup')}; {cookie}"
            asked = await bare_client(demo).get("/account", cookie=session)
            assert asked.status == 303, asked.text
            assert asked.location.startswith("/.stepup/t/")


# -- a captcha before the login ------------------------------------------------------------------------------------------


async def test_what_was_proved_before_the_login_goes_along_and_what_somebody_proved_does_not(tmp_path: Path) -> None:
    async with legacy(tmp_path, rules=[HUMAN_LOGIN, TRANSFER]) as place:
        client = place.client()
        asked = await client.log_in("alice")
        assert (await resume(client, await pass_captcha(place, client, asked.location))).status == 302
        assert [s["step"] for s in (await client.proved())["steps"]] == ["human"]
        asked = await client.post("/transfer", {"to": "Marlene"})
        await pass_code(place, client, asked.location)
        assert {s["step"] for s in (await client.proved())["steps"]} == {"human", "code"}
        await client.log_in("bob")
        proved = await client.proved()
        assert (proved["subject"], proved["steps"]) == ("bob", [])


async def test_one_captcha_is_good_for_five_logins(tmp_path: Path) -> None:
    async with legacy(tmp_path, rules=[HUMAN_LOGIN]) as place:
        client = place.client()
        guess = {"username": "alice", "password": "guess"}
        asked = await client.post("/login", guess)
        assert (await resume(client, await pass_captcha(place, client, asked.location))).text == "wrong"
        copies = [dict(client.cookies) for _ in range(7)]
        statuses = []
        for copy in copies:
            client.cookies = copy
            statuses.append((await client.post("/login", guess)).status)
        assert statuses == [200] * 5 + [303] * 2
        asked = await client.post("/login", guess)
        assert (await resume(client, await pass_captcha(place, client, asked.location))).text == "wrong"
        assert (await client.log_in("alice")).status == 302


# -- other sources ------------------------------------------------------------------------------------------------------


async def test_a_header_names_nobody_unless_a_trusted_proxy_sends_it(tmp_path: Path) -> None:
    rule = {"name": "secret", "match": {"path": "/secret"}, "who": "anonymous", "deny": {"status": 403, "message": "Nobody."}}
    identity = [{"from": "header", "name": "X-Remote-User"}]
    async with legacy(tmp_path, rules=[rule], identity=identity) as place:
        client = place.client()
        for name in ("X-Remote-User", "x_remote_user", "X-REMOTE_USER"):
            assert (await client.get("/secret", headers={name: "alice"})).status == 403
            await client.get("/open", headers={name: "alice"})
            sent = {n.lower().replace("_", "-") for n, _ in place.app.heads[-1]}
            assert "x-remote-user" not in sent
    async with legacy(tmp_path / "trusted", rules=[rule], identity=identity, trusted_proxies=["127.0.0.1"]) as place:
        client = place.client()
        assert (await client.get("/secret", headers={"X-Remote-User": "alice"})).status == 200
        assert (await client.get("/secret")).status == 403
        assert (await client.get("/secret", headers={"X-Remote-User": " "})).status == 403


async def test_a_proof_of_one_header_user_does_not_count_for_another(tmp_path: Path) -> None:
    rule = {"name": "secret", "match": {"path": "/secret"}, "require": "code"}
    identity = [{"from": "header", "name": "X-Remote-User"}, LOGIN]
    async with legacy(tmp_path, rules=[rule], identity=identity, trusted_proxies=["127.0.0.1"]) as place:
        client = place.client()
        client.headers["X-Remote-User"] = "alice"
        asked = await client.get("/secret")
        done = await pass_code(place, client, asked.location)
        assert done.location == "/secret"
        assert (await client.get("/secret")).status == 200
        await client.get("/login")
        assert "SID" in client.cookies
        assert (await client.get("/secret")).status == 200, "a session of the application does not cost the proof"
        client.headers["X-Remote-User"] = "bob"
        asked = await client.get("/secret")
        assert asked.status == 303
        client.headers["X-Remote-User"] = "alice"
        assert (await client.get(asked.location)).status == 403


@pytest.mark.parametrize("pieces", [False, True])
async def test_whoami_confirms_a_login_that_keeps_its_session(tmp_path: Path, pieces: bool) -> None:
    habits = Habits(keeps_value=True, pieces=pieces)
    async with legacy(tmp_path, habits, login={"whoami": {"url": "x", "field": "name"}}) as place:
        client = place.client()
        await client.get("/login")
        value = client.cookies["SID"]
        await client.log_in("alice")
        assert client.cookies["SID"] == value
        assert (await client.proved())["subject"] == "alice"


async def test_without_whoami_a_login_that_keeps_its_session_teaches_nothing(tmp_path: Path) -> None:
    async with legacy(tmp_path, Habits(keeps_value=True)) as place:
        client = place.client()
        await client.get("/login")
        await client.log_in("alice")
        assert (await client.proved())["subject"] == ""


async def test_whoami_that_says_another_name_teaches_nothing(tmp_path: Path) -> None:
    async with legacy(tmp_path, login={"whoami": {"url": "x", "field": "other"}}) as place:
        client = place.client()
        await client.log_in("alice")
        assert (await client.proved())["subject"] == ""
