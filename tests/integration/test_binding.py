"""Whose a transaction is, and that nobody else gets anywhere with its state, ticket, forms or tokens. Attackers here know addresses, but no
cookies."""

from __future__ import annotations

import asyncio
import base64
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.support.altcha_client import payload
from tests.support.gateway import SCRIPT, Clock
from tests.support.legacy import Client, Place, legacy
from tests.support.raw import raw_client

JSON = {"Accept": "application/json"}
CROSS = {"Sec-Fetch-Site": "cross-site", "Origin": "https://evil.example"}
SEND: dict[str, Any] = {
    "name": "send",
    "match": {"path": "/send", "method": ["POST", "PUT", "DELETE"]},
    "require": "human",
    "max_age": "once",
}
READ: dict[str, Any] = {"name": "read", "match": {"path": "/read/**"}, "require": "human", "max_age": "5m"}
CODE: dict[str, Any] = {"name": "pay", "match": {"path": "/pay", "method": "POST"}, "require": "code", "max_age": "5m"}
NEVER: dict[str, Any] = {"name": "off", "match": {"path": "/off", "method": "POST"}, "require": "human", "max_age": "once", "replay": "off"}
LOOK: dict[str, Any] = {
    "name": "look",
    "match": {"path": "/look", "method": "POST"},
    "require": "human",
    "max_age": "once",
    "replay": "confirm",
}
OVERRIDDEN: dict[str, Any] = {"name": "override", "match": {"path": "/override", "method": "POST"}, "require": "human", "max_age": "5m"}
KEPT: dict[str, Any] = {"name": "kept", "match": {"path": "/kept/*", "method": "POST"}, "require": "human", "max_age": "once"}
RULES = [SEND, READ, KEPT, CODE, NEVER, LOOK, OVERRIDDEN]


pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Place]:
    """One gateway for all tests that need no other settings; whose browser it is differs from test to test."""
    routes = [{"upstream": "bank", "cors": ["https://friend.example"]}]
    async with legacy(tmp_path_factory.mktemp("shared"), rules=RULES, routes=routes, guessing={"foreign_per_address": 1000}) as found:
        yield found


@pytest.fixture
def place(shared: Place) -> Place:
    shared.app.posted.clear()
    shared.app.heads.clear()
    return shared


async def solved(client: Client, page: str) -> dict[str, str]:
    shown = await client.get(page, headers=JSON)
    assert shown.status == 200, shown.text
    return {"altcha": payload(shown.json["step"]["data"])}


async def answered(client: Client, page: str, **headers: str) -> Any:
    """Solve the captcha by JSON; the transaction afterwards."""
    return (await client.post(page, json=await solved(client, page), headers={**JSON, **headers})).json


async def passed(client: Client, page: str, **headers: str) -> str:
    """Solve the captcha, which is the last step; the way on."""
    document = await answered(client, page, **headers)
    assert document["status"] == "passed", document
    return str(document["continue"])


def sent(place: Place, path: str) -> list[str]:
    """The bodies that arrived there."""
    return [body for _, p, _, body in place.app.posted if p == path]


# -- states -------------------------------------------------------------------------------------------------------------


async def test_states_that_are_guessed_are_unknown_and_bounded_for_their_address_alone(tmp_path: Path) -> None:
    async with legacy(tmp_path, rules=RULES) as place:
        client, guesser = place.client(), place.client()
        asked = await client.post("/send", {"x": "1"})
        seen = [(await guesser.get(f"/.stepup/t/su_{'A' * 42}{i % 10}")).status for i in range(32)]
        assert seen == [404] * 30 + [429] * 2
        throttled = await guesser.get(f"/continue?state=su_{'B' * 43}")
        assert throttled.status == 429
        assert int(throttled.headers["Retry-After"]) > 0
        assert (await client.get(asked.location)).status == 200, "who guesses from the same address takes nothing from others"


@pytest.mark.parametrize("state", ["su_", "su_x", "su_" + "A" * 44, "SU_" + "A" * 43, "su_" + "A" * 42 + "%41", "su_..%2f", ""])
async def test_what_is_no_state_is_unknown_without_a_look_into_the_store(place: Place, state: str) -> None:
    assert (await place.client().get(f"/.stepup/t/{state}")).status == 404


@pytest.mark.parametrize("query", ["", "?state=", "?state=abc", "?state=su_a&state=su_b", "?STATE=su_a", "?state[]=su_a"])
async def test_continue_needs_exactly_one_state_of_ours(place: Place, query: str) -> None:
    page = await place.client().get("/continue" + query)
    assert page.status == 400
    problem = await place.client().get("/continue" + query, headers=SCRIPT)
    assert (problem.status, problem.json["error"]) == (400, "invalid_request")


async def test_another_browser_reads_answers_cancels_and_continues_nothing(place: Place) -> None:
    client, thief = place.client(), place.client()
    asked = await client.post("/send", {"x": "1"})
    answer = await solved(client, asked.location)
    await thief.post("/send", {"x": "his own"})
    assert (await thief.get(asked.location)).status == 403
    assert (await thief.get(asked.location, headers=JSON)).json.get("step") is None
    assert (await thief.post(asked.location, json=answer, headers=JSON)).status == 403
    assert (await thief.post(asked.location, json={"action": "cancel"}, headers=JSON)).status == 403
    way = await passed(client, asked.location)
    assert (await thief.get(way)).status == 403
    ticket = (await client.get(way)).location
    assert (await thief.get(ticket)).status == 403
    doubled = client.cookies["stepup-browser"]
    assert (await client.get(ticket, cookie=f"stepup-browser={doubled}; stepup-browser={doubled}")).status == 403
    assert sent(place, "/send") == []
    assert (await client.get(ticket)).status == 200
    assert sent(place, "/send") == ["x=1"]


async def test_a_transaction_belongs_to_the_origin_it_began_at(place: Place) -> None:
    client = place.client()
    asked = await client.post("/send", {"x": "1"})
    elsewhere = place.client(place.gateway.base.replace("127.0.0.1", "localhost"))
    elsewhere.cookies = dict(client.cookies)
    assert (await elsewhere.get(asked.location)).status == 403
    way = await passed(client, asked.location)
    ticket = (await client.get(way)).location
    assert (await elsewhere.get(way)).status == 403
    assert (await elsewhere.get(ticket)).status == 403
    assert sent(place, "/send") == []


async def test_a_host_that_is_not_in_public_url_gets_421_before_anything_is_looked_at(place: Place) -> None:
    for host in ("evil.example", "127.0.0.1", "127.0.0.1:1", f"localhost.:{place.gateway.base.rpartition(':')[2]}"):
        answer = await place.client().get("/read/x", headers={"Host": host})
        assert answer.status == 421
        assert "Set-Cookie" not in answer.headers


# -- forged answers -----------------------------------------------------------------------------------------------------


async def test_a_form_without_its_hidden_token_or_from_elsewhere_does_nothing(place: Place) -> None:
    client = place.client()
    asked = await client.post("/send", {"x": "1"})
    page = await client.get(asked.location)
    token = page.hidden("stepup_token")
    other = (await client.get((await client.post("/send", {"x": "2"})).location)).hidden("stepup_token")
    answer = await solved(client, asked.location)
    for form, headers in (
        (answer, {}),
        ({**answer, "stepup_token": ""}, {}),
        ({**answer, "stepup_token": token[:-1]}, {}),
        ({**answer, "stepup_token": other}, {}),
        ({**answer, "stepup_token": token + "é"}, {}),
        ({"action": "cancel"}, {}),
        ({**answer, "stepup_token": token}, {"Sec-Fetch-Site": "cross-site"}),
        ({**answer, "stepup_token": token}, {"Sec-Fetch-Site": "same-site"}),
        ({**answer, "stepup_token": token}, {"Sec-Fetch-Site": "", "Origin": "https://evil.example"}),
    ):
        refused = await client.post(asked.location, form, headers=headers)
        assert refused.status == 403, (form, headers)
    assert (await client.get(asked.location, headers=JSON)).json["status"] == "pending"
    done = await client.post(asked.location, {**answer, "stepup_token": token}, headers={"Origin": place.gateway.base})
    assert done.status == 303


@pytest.mark.parametrize(
    ("kind", "status"),
    [("text/plain", 415), ("", 415), ("application/x-www-form-urlencoded", 403), ("multipart/form-data; boundary=x", 415),
     ("text/plain; application/json", 415), ("application/jsonp", 415)],
)  # fmt: skip
async def test_json_needs_its_content_type_which_no_form_can_send(place: Place, kind: str, status: int) -> None:
    client = place.client()
    asked = await client.post("/send", {"x": "1"})
    body = json.dumps({"action": "cancel"}).encode()
    headers = {**CROSS, "Content-Type": kind} if kind else CROSS
    refused = await client.post(asked.location, body, headers=headers, skip_auto_headers=("Content-Type",))
    assert refused.status == status
    assert (await client.get(asked.location, headers=JSON)).json["status"] == "pending"


@pytest.mark.parametrize(
    "body",
    [b"[" * 60_000, b'{"a": 1}', b'{"a": "1", "a": "2"}', b"{", b"[]", b"\xff", b'{"a": ' + b"9" * 5000 + b"}", b'{"\\ud800": 1}',
     b"{" + b",".join(b'"%d": ""' % i for i in range(5000)) + b', "0": ""}'],
)  # fmt: skip
async def test_json_that_is_no_object_of_texts_is_a_400(place: Place, body: bytes) -> None:
    client = place.client()
    asked = await client.post("/send", {"x": "1"})
    assert (await client.post(asked.location, body, headers={**JSON, "Content-Type": "application/json"})).status == 400


@pytest.mark.parametrize("body", [b"a=1&a=2", b"a=%ff", b"\xff=1", b"&".join(b"%d=" % i for i in range(200))])
async def test_a_form_that_cannot_be_read_is_a_400(place: Place, body: bytes) -> None:
    client = place.client()
    asked = await client.post("/send", {"x": "1"})
    assert (await client.post(asked.location, body, headers={"Content-Type": "application/x-www-form-urlencoded"})).status == 400


async def test_a_foreign_page_may_not_ask_before_and_may_not_read(place: Place) -> None:
    client = place.client()
    asked = await client.post("/send", {"x": "1"})
    preflight = {"Sec-Fetch-Mode": "cors", "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type"}
    for origin, allowed in (("https://evil.example", None), ("null", None), ("https://friend.example", "https://friend.example")):
        answer = await client.request("OPTIONS", asked.location, headers={**preflight, "Origin": origin})
        assert answer.headers.get("Access-Control-Allow-Origin") == allowed
        shown = await client.get(asked.location, headers={**SCRIPT, "Origin": origin})
        assert shown.headers.get("Access-Control-Allow-Origin") == allowed
        refused = await client.post("/send", {"x": "1"}, headers={**SCRIPT, "Origin": origin})
        assert (refused.status, refused.headers.get("Access-Control-Allow-Origin")) == (401, allowed)


# -- forged requests ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers",
    [
        CROSS,
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "", "Origin": "https://evil.example"},
        {"Sec-Fetch-Site": "", "Origin": "null"},
    ],
)
async def test_a_form_of_another_site_is_shown_before_it_is_sent(place: Place, headers: dict[str, str]) -> None:
    client = place.client()
    asked = await client.post("/send", {"to": "Mallory <b>", "amount": "77", "password": "hush"}, headers=headers)
    assert (await answered(client, asked.location))["remaining"] == ["confirm"]
    assert (await client.get("/continue?state=" + asked.location.rpartition("/")[2])).location == asked.location
    page = await client.get(asked.location)
    assert "Mallory &lt;b&gt;" in page.text
    assert "77" in page.text
    assert "hush" not in page.text
    as_json = (await client.get(asked.location, headers=JSON)).json["step"]
    assert as_json["kind"] == "confirm"
    assert {"name": "amount", "value": "77"} in as_json["data"]["body"]["fields"]
    assert "hush" not in json.dumps(as_json)
    assert (await client.post(asked.location, {"stepup_token": page.hidden("stepup_token")})).status == 422
    assert sent(place, "/send") == []
    agreed = await client.post(asked.location, {"action": "send", "stepup_token": page.hidden("stepup_token")})
    ticket = (await client.get(agreed.location)).location
    assert (await client.get(ticket)).status == 200
    assert len(sent(place, "/send")) == 1


async def test_a_form_of_our_own_site_is_not_shown_again(place: Place) -> None:
    client = place.client()
    asked = await client.post("/send", {"x": "1"}, headers={"Origin": place.gateway.base})
    ticket = (await client.get(await passed(client, asked.location))).location
    assert "stepup_resume=" in ticket


async def test_replay_confirm_shows_every_request(place: Place) -> None:
    client = place.client()
    asked = await client.post("/look", {"x": "1"})
    assert (await answered(client, asked.location))["step"]["kind"] == "confirm"


async def test_a_link_of_another_site_that_says_it_is_a_post_is_shown_too(place: Place) -> None:
    client = place.client()
    asked = await client.get("/override?_method=POST&to=Mallory", headers={"Sec-Fetch-Site": "cross-site"})
    assert asked.status == 303
    assert (await answered(client, asked.location))["step"]["kind"] == "confirm"


async def test_replay_off_stores_nothing_and_a_repetition_counts_once(place: Place) -> None:
    client = place.client()
    asked = await client.post("/off", {"x": "1"})
    page = await client.get(await passed(client, asked.location))
    assert page.status == 200, page.text
    assert "Location" not in page.headers
    assert sent(place, "/off") == []
    assert (await client.post("/off", {"x": "2"})).status == 200
    assert (await client.post("/off", {"x": "3"})).status == 303
    assert sent(place, "/off") == ["x=2"]


# -- tickets ------------------------------------------------------------------------------------------------------------


async def test_a_ticket_is_good_for_its_own_address_and_for_get_only(place: Place) -> None:
    client = place.client()
    asked = await client.post("/send", {"x": "1"})
    ticket = (await client.get(await passed(client, asked.location))).location
    value = ticket.partition("=")[2]
    forged = value[:50] + ("A" if value[50] != "A" else "B") + value[51:]
    for method, target in (
        ("GET", f"/open?stepup_resume={value}"),
        ("GET", f"/send?to=me&stepup_resume={value}"),
        ("GET", f"/%73end?stepup_resume={value}"),
        ("POST", ticket),
        ("HEAD", ticket),
        ("PUT", ticket),
    ):
        assert (await client.request(method, target)).status == 400, (method, target)
    for target in (
        f"{ticket}&stepup_resume={value}",
        f"/send?stepup_resume={forged}",
        "/send?stepup_resume=",
        "/send?stepup%5Fresume=rt_x",
    ):
        assert (await client.get(target)).status == 404, target
    assert sent(place, "/send") == []
    assert (await client.get(ticket)).status == 200
    assert (await client.get(ticket)).status == 410
    assert sent(place, "/send") == ["x=1"]


async def test_an_address_with_a_ticket_that_is_none_opens_nothing(place: Place) -> None:
    client = place.client()
    for target in ("/open?stepup_resume=rt_x", f"/send?stepup_resume=rt_{'A' * 65}", "/read/x?stepup_resume"):
        assert (await client.get(target)).status == 404
        assert (await client.post(target, {"x": "1"})).status == 404
    assert place.app.heads == []


async def test_a_ticket_never_reaches_the_application(place: Place) -> None:
    client = place.client()
    asked = await client.request("PUT", "/send?a=%20b&c", data=b"body")
    ticket = (await client.get(await passed(client, asked.location))).location
    await client.get(ticket)
    assert [(m, p, b) for m, p, _, b in place.app.posted] == [("PUT", "/send?a=%20b&c", "body")]
    assert "stepup_resume" not in str(place.app.heads)


# -- whoever has changed ------------------------------------------------------------------------------------------------


async def test_another_subject_cannot_finish_what_one_began(place: Place) -> None:
    client = place.client()
    await client.log_in("alice")
    asked = await client.post("/pay", {"to": "Marlene"})
    page = await client.get(asked.location)
    code = {"code": place.gateway.code(), "stepup_token": page.hidden("stepup_token")}
    await client.log_in("bob")
    assert (await client.get(asked.location)).status == 403
    assert (await client.post(asked.location, code)).status == 403
    assert (await client.get("/continue?state=" + asked.location.rpartition("/")[2])).status == 403
    assert sent(place, "/pay") == []


@pytest.mark.parametrize(
    ("method", "headers"),
    [
        ("HEAD", {}),
        ("HEAD", SCRIPT),
        ("GET", {"Sec-Purpose": "prefetch"}),
        ("GET", {"Sec-Fetch-Dest": "image", "Sec-Fetch-Mode": "no-cors"}),
    ],
)
async def test_what_nobody_looks_at_uses_up_no_continue(place: Place, method: str, headers: dict[str, str]) -> None:
    client = place.client()
    asked = await client.get("/read/x")
    way = await passed(client, asked.location)
    unseen = await client.request(method, way, headers=headers)
    assert (unseen.status, unseen.headers["Allow"], unseen.headers.getall("Set-Cookie", [])) == (405, "GET, POST", [])
    assert (await client.get(way)).location == "/read/x"


async def test_a_client_finds_its_state_in_whatever_it_is_told_of_it(place: Place) -> None:
    client = place.client()
    asked = await client.get("/read/y", headers=SCRIPT)
    state = asked.json["state"]
    page = f"/.stepup/t/{state}"
    assert (await client.get(page, headers=JSON)).json["state"] == state
    assert (await answered(client, page))["state"] == state
    assert (await client.get(f"/continue?state={state}", headers=SCRIPT)).status == 204
    for way in (page, f"/continue?state={state}"):
        over = await client.get(way, headers=SCRIPT)
        assert (over.status, over.json["status"], over.json["state"]) == (410, "failed", state)
    again = await client.post("/send", {"x": "1"})
    cancelled = await client.post(again.location, json={"action": "cancel"}, headers=SCRIPT)
    assert cancelled.json["state"] == again.location.rpartition("/")[2]


async def test_what_was_cancelled_stays_cancelled_and_its_content_is_gone(place: Place) -> None:
    client = place.client()
    asked = await client.post("/send", {"x": "1"}, headers={"Referer": place.gateway.base + "/form?step=2"})
    page = await client.get(asked.location)
    back = await client.post(asked.location, {"action": "cancel", "stepup_token": page.hidden("stepup_token")})
    assert (back.status, back.location) == (303, "/form?step=2")
    assert (await client.get(asked.location)).status == 410
    assert (await client.post(asked.location, json={"altcha": "x"}, headers=JSON)).status == 410
    assert (await client.get("/continue?state=" + asked.location.rpartition("/")[2])).status == 410
    assert sent(place, "/send") == []


@pytest.mark.parametrize(
    "referer",
    [
        "https://evil.example/x", "//evil.example/", "http://[", "http://127.0.0.1:1/x", "", "x", "{base}//evil.example/",
        "{base}/\\evil.example", "{base}@evil.example/", "{base}/.stepup/t/su_x", "{base}/continue?state=x",
        "{base}/a?stepup_resume=rt_x", "{base}/%0d%0aSet-Cookie:x",
    ],
)  # fmt: skip
async def test_a_cancel_never_leads_away_from_the_origin(place: Place, referer: str) -> None:
    client = place.client()
    line = referer.replace("{base}", place.gateway.base)
    asked = await client.post("/send", {"x": "1"}, headers={"Referer": line})
    assert asked.status in (303, 400), asked.text
    if asked.status == 303:
        page = await client.get(asked.location)
        back = await client.post(asked.location, {"action": "cancel", "stepup_token": page.hidden("stepup_token")})
        assert back.location in ("/", "/%0d%0aSet-Cookie:x")


async def test_a_target_that_looks_like_another_host_leads_back_here(place: Place) -> None:
    client = place.client()
    asked = await client.get("//evil.example/..//read/x")
    if asked.status == 303:
        done = await client.get(await passed(client, asked.location))
        assert done.location.startswith("/.//evil.example")


# -- who gets no transaction --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "headers"),
    [
        ("HEAD", {}),
        ("OPTIONS", {}),
        ("GET", {"Sec-Purpose": "prefetch;prerender"}),
        ("GET", {"Purpose": "prefetch"}),
        ("GET", {"Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "image"}),
        ("GET", {"Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "script"}),
        ("GET", {"Sec-Fetch-Mode": "cors", "Sec-Fetch-Dest": "font"}),
        ("GET", {"Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "style"}),
        ("GET", {"Sec-Fetch-Mode": "websocket", "Sec-Fetch-Dest": "", "Connection": "Upgrade", "Upgrade": "websocket"}),
    ],
)
async def test_what_nobody_looks_at_gets_a_401_and_opens_nothing(place: Place, method: str, headers: dict[str, str]) -> None:
    client = place.client()
    answer = await client.request(method, "/read/x", headers=headers)
    assert answer.status == 401
    assert answer.headers["WWW-Authenticate"].startswith('Bearer error="insufficient_user_authentication"')
    assert "Set-Cookie" not in answer.headers
    if method != "HEAD":
        assert "state" not in answer.json


async def test_a_true_preflight_passes_unasked_and_no_other_options(place: Place) -> None:
    client = place.client()
    preflight = {"Origin": "https://friend.example", "Access-Control-Request-Method": "GET"}
    assert (await client.request("OPTIONS", "/read/x", headers=preflight)).status == 200
    assert (await client.request("OPTIONS", "/read/x", headers=preflight, data=b"x")).status == 401
    assert (await client.request("OPTIONS", "/read/x", headers={"Origin": "https://friend.example"})).status == 401


async def test_a_frame_gets_a_link_to_the_top_and_no_form(place: Place) -> None:
    client = place.client()
    frame = {"Sec-Fetch-Dest": "iframe"}
    asked = await client.get("/read/x", headers=frame)
    assert asked.status == 303
    page = await client.get(asked.location, headers=frame)
    assert page.status == 200
    assert "<form" not in page.text
    assert 'target="_top"' in page.text
    assert "frame-ancestors 'self'" in page.headers["Content-Security-Policy"]
    assert "frame-ancestors 'none'" in (await client.get(asked.location)).headers["Content-Security-Policy"]


# -- scripts ------------------------------------------------------------------------------------------------------------


async def test_a_script_whose_step_counts_once_repeats_its_request_once(place: Place) -> None:
    client = place.client()
    asked = await client.post("/send", {"x": "1"}, headers=SCRIPT)
    assert asked.status == 401
    page = asked.json["step_up_url"].removeprefix(place.gateway.base)
    done = await client.get(await passed(client, page), headers=SCRIPT)
    assert done.status == 204
    assert (await client.post("/send?other", {"x": "1"}, headers=SCRIPT)).status == 401
    assert (await client.request("PUT", "/send", data={"x": "1"}, headers=SCRIPT)).status == 401
    thief = place.client()
    thief.cookies["stepup"] = client.cookies["stepup"]
    assert (await thief.post("/send", {"x": "2"}, headers=SCRIPT)).status == 401
    parallel = await asyncio.gather(*(client.post("/send", {"x": "2"}, headers=SCRIPT) for _ in range(8)))
    assert sorted(r.status for r in parallel) == [200] + [401] * 7
    assert sent(place, "/send") == ["x=2"]


async def test_an_api_client_without_cookies_is_bound_by_its_authorization(place: Place) -> None:
    client, other = place.client(), place.client()
    mine, his = ({"Accept": "application/json", "Authorization": f"Basic {base64.b64encode(who).decode()}"} for who in (b"a:1", b"b:2"))
    client.headers, other.headers = mine, his
    asked = await client.get("/read/x")
    assert asked.status == 401
    assert "Set-Cookie" not in asked.headers
    assert (await client.get("/read/x")).json["state"] == asked.json["state"], "the same request again is the same transaction"
    page = asked.json["step_up_url"].removeprefix(place.gateway.base)
    assert (await other.get(page)).status == 403
    assert (await client.get(page, headers={"Authorization": ""})).status == 403
    way = await passed(client, page, **mine)
    assert (await other.get(way)).status == 403
    assert (await client.get(way)).status == 204
    assert (await client.get("/read/x")).status == 200, "with the pass that came along"
    other.cookies = {}
    assert (await other.get("/read/x")).status == 401


async def test_a_script_that_cannot_be_asked_for_a_body_again_is_judged_on_the_body_that_it_sends(tmp_path: Path) -> None:
    deny = {
        "name": "no",
        "match": {"path": "/send", "method": "POST"},
        "when": 'request.form.x == "evil"',
        "deny": {"status": 403, "message": "No."},
    }
    async with legacy(tmp_path, rules=[SEND, deny]) as place:
        client = place.client()
        asked = await client.post("/send", {"x": "good"}, headers=SCRIPT)
        page = asked.json["step_up_url"].removeprefix(place.gateway.base)
        await client.get(await passed(client, page), headers=SCRIPT)
        assert (await client.post("/send", {"x": "evil"}, headers=SCRIPT)).status == 403


# -- our names ----------------------------------------------------------------------------------------------------------


async def test_our_cookies_and_headers_go_to_no_application_and_come_from_none(place: Place) -> None:
    client = place.client()
    await client.post("/send", {"x": "1"})
    await client.get("/login")
    ours = "stepup=x; stepup-browser=y; __Host-stepup=z; __Host-stepup-browser=w; mine=1"
    forged = {
        "X-Stepup-Token": "t",
        "x_stepup_subject": "alice",
        "X-STEPUP_Anything": "1",
        "X-Forwarded-For": "10.0.0.1",
        "Forwarded": "for=1",
    }
    await client.get("/open", cookie=ours, headers=forged)
    head = place.app.heads[-1]
    assert [v for n, v in head if n.lower() == "cookie"] == ["mine=1"]
    assert not [n for n, _ in head if n.lower().replace("_", "-").startswith("x-stepup")]
    assert [v for n, v in head if n.lower() == "x-forwarded-for"] == ["127.0.0.1"]


async def test_the_replayed_request_carries_its_own_headers_and_not_those_of_the_ticket(place: Place) -> None:
    client = place.client()
    asked = await client.post(
        "/send", {"x": "1"}, headers={"X-Mine": "then", "Accept-Language": "de"}, cookie="theme=dark; stepup-browser=no"
    )
    ticket = (await client.get(await passed(client, asked.location))).location
    await client.get(
        ticket, headers={"X-Mine": "now", "X-New": "1"}, cookie=f"theme=light; stepup-browser={client.cookies['stepup-browser']}"
    )
    head = {n.lower(): v for n, v in place.app.heads[-1]}
    assert (head["x-mine"], head["accept-language"], head["cookie"]) == ("then", "de", "theme=dark")
    assert "x-new" not in head
    assert "x-stepup-token" in head


# -- bounds -------------------------------------------------------------------------------------------------------------


async def test_a_browser_has_a_bounded_number_of_open_transactions_and_ending_one_makes_room(tmp_path: Path) -> None:
    async with legacy(tmp_path, rules=RULES, transactions={"max_per_browser": 3}) as place:
        client = place.client()
        asked = [await client.post(f"/send?{i}", {"x": "1"}) for i in range(5)]
        assert [a.status for a in asked] == [303, 303, 303, 429, 429]
        page = await client.get(asked[0].location)
        await client.post(asked[0].location, {"action": "cancel", "stepup_token": page.hidden("stepup_token")})
        assert (await client.post("/send?9", {"x": "1"})).status == 303


async def test_a_body_that_is_too_large_to_keep_is_refused_with_the_bound(tmp_path: Path) -> None:
    async with legacy(tmp_path, rules=RULES, transactions={"max_body": "1KiB"}) as place:
        client = place.client()
        assert (await client.post("/send", b"x" * 1024)).status == 303
        assert (await client.post("/send", b"x" * 1025)).status == 413
        assert (await client.post("/send", b"x" * 1025, headers=SCRIPT)).status == 401, "of a script's body nothing is kept"


@pytest.mark.parametrize("max_age", ["session", "once"])
async def test_what_is_too_large_to_keep_can_be_sent_after_the_steps(tmp_path: Path, max_age: str) -> None:
    """The page that refuses it leads to them: nothing else may ever ask this user for them."""
    upload = {"name": "upload", "match": {"path": "/upload", "method": "POST"}, "require": "human", "max_age": max_age}
    async with legacy(tmp_path, rules=[upload], transactions={"max_body": "1KiB"}) as place:
        client = place.client()
        large = b"x" * 100_000
        refused = await client.post("/upload", large)
        assert refused.status == 413
        (way,) = re.findall(r'href="(/.stepup/t/su_[^"]+)"', refused.text)
        shown = await client.get(way, headers={"Accept": "application/json"})
        fields = {"altcha": payload(shown.json["step"]["data"]), "stepup_token": (await client.get(way)).hidden("stepup_token")}
        done = await client.get((await client.post(way, fields)).location)
        assert "repeat what you were doing" in done.text
        assert place.app.posted == []
        assert (await client.post("/upload", large)).status == 200
        assert [len(body) for *_, body in place.app.posted] == [100_000]


async def test_a_body_that_trickles_in_is_given_up(tmp_path: Path) -> None:
    async with legacy(tmp_path, rules=RULES, limits={"body_timeout": "300ms"}) as place:
        host, port = place.gateway.base.removeprefix("http://").split(":")
        async with raw_client(int(port)) as peer:
            head = f"POST /send HTTP/1.1\r\nHost: {host}:{port}\r\nAccept: text/html\r\nContent-Length: 100\r\n\r\nx"
            await peer.send(head.encode())
            assert (await peer.head()).status == 408


async def test_the_same_step_asked_again_and_again_without_an_answer_ends_in_an_explanation(tmp_path: Path) -> None:
    clock = Clock(1_800_000_000.0)
    async with legacy(tmp_path, rules=RULES, clock=clock) as place:
        client = place.client()
        await client.get("/read/other")
        seen = [(await client.get("/read/x")).status for _ in range(5)]
        assert seen[:3] == [303, 303, 303]
        assert 303 not in seen[3:]
        await place.gateway.advance(61)
        assert (await client.get("/read/x")).status == 303


async def test_an_expired_state_says_so_and_sends_nothing(tmp_path: Path) -> None:
    clock = Clock(1_800_000_000.0)
    async with legacy(tmp_path, rules=RULES, clock=clock) as place:
        client = place.client()
        asked = await client.post("/send", {"x": "1"})
        ticket = (await client.get(await passed(client, asked.location))).location
        await place.gateway.advance(601)
        for target in (asked.location, "/continue?state=" + asked.location.rpartition("/")[2], ticket):
            assert (await client.get(target)).status == 410
        await place.gateway.advance(3601)
        assert (await client.get(asked.location)).status == 404
        assert sent(place, "/send") == []


async def test_a_form_may_lead_to_where_the_application_redirects_to_and_nowhere_else(tmp_path: Path) -> None:
    """Browsers hold a form to its whole chain of redirects."""
    async with legacy(tmp_path, rules=RULES, upstream={"next_origins": "https://sso.example"}) as place:
        client = place.client()
        asked = await client.post("/look", {"x": "1"})
        step = await client.get(asked.location)
        await answered(client, asked.location)
        confirm = await client.get(asked.location)
        for page in (step, confirm):
            assert "form-action 'self' https://sso.example;" in page.headers["Content-Security-Policy"]


async def test_a_state_is_not_logged_even_where_it_stands_in_a_path_that_is_not_ours(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    state = "su_" + "S" * 43
    for path in (f"/%2estepup/t/{state}", f"/.STEPUP/t/{state}", f"/.stepup/t/{state}", f"/continue?state={state}", f"/open?state={state}"):
        await place.client().get(path)
    client = place.client()
    asked = await client.get(f"/read/{state}")
    assert (await client.get(await passed(client, asked.location))).location == f"/read/{state}"
    asked = await client.post(f"/kept/{state}", {"x": "1"})
    assert (await client.get((await client.get(await passed(client, asked.location))).location)).status == 200
    logged = capsys.readouterr()
    assert "/.STEPUP/t/" in logged.out + logged.err
    assert state not in logged.out + logged.err
