"""Token endpoints where rule functions, pages of others and terms meet: the steps of a call that nobody can redirect."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from aiohttp import web
from yarl import URL

from tests.support.external import KYC, Page, Sent, sent
from tests.support.gateway import Clock
from tests.support.oauth import Before, Client, gateway_before, hidden

PASSWORD = {"grant_type": "password", "client_id": "spa", "username": "alice", "password": "wonderland"}
CODE = {"kind": "otp", "methods": ["email"], "email": "{subject.id}@example.com"}
TOKENS = {"path": ["/oauth/token", "/oauth/ro"]}
HTML = {"Accept": "text/html", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document", "Sec-Fetch-Site": "none"}

FILE = """
from pathlib import Path

from gateway.functions import Unauthorized

SEEN = Path(__file__).with_suffix(".seen")


def note(user, context):
    with SEEN.open("a") as file:
        file.write(f"{context.protocol} {user.user_id} {user.jti} {context.request.body.get('grant_type')}\\n")


def to_code(user, context):
    note(user, context)
    context.claims["said"] = context.protocol
    context.redirect = "code"


def to_page(user, context):
    note(user, context)
    context.redirect = {"url": "https://page.example.com/start"}
    if context.protocol == "redirect-callback" and context.request.body.get("confirm") != "yes":
        raise Unauthorized("You have to agree.")


def refuse(user, context):
    raise Unauthorized("Not on Sundays.")


def late(user, context):
    # Nothing at first: what it wants comes to light behind the first step.
    note(user, context)
    if user.get("late"):
        context.redirect = "code"
"""


def function(name: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "match": TOKENS, "python": f"f.py:{name}", **more}


def seen(folder: Path) -> list[list[str]]:
    file = folder / "f.seen"
    return [line.split() for line in file.read_text().splitlines()] if file.exists() else []


def with_functions(folder: Path) -> Path:
    (folder / "f.py").write_text(FILE)
    return folder


async def audited(idp: Before, event: str) -> list[tuple[str, str]]:
    with sqlite3.connect(idp.config.parent / "var/records.db") as records:
        return records.execute("select outcome, detail from audit where event = ?", (event,)).fetchall()


# -- rule functions -----------------------------------------------------------------------------------------------------


async def test_a_function_asks_for_a_step_of_a_password_grant_and_is_told_of_the_callback(tmp_path: Path) -> None:
    async with gateway_before(with_functions(tmp_path), rules=[function("to_code")]) as idp:
        client = idp.client()
        asked = await client.call(PASSWORD)
        assert (asked.status, asked.json["error"], asked.json["steps"]) == (403, "interaction_required", ["code"])
        [first] = seen(tmp_path)
        assert (first[0], first[1], first[3]) == ("oauth2-password", "alice", "password")
        done = await client.call({**PASSWORD, "stepup_token": await idp.passed(client, asked)})
        assert done.status == 200, done.text
        assert done.json["for"] == "alice"
        assert [line[0] for line in seen(tmp_path)] == ["oauth2-password", "redirect-callback"]
        assert seen(tmp_path)[1][2] == first[2]  # user.jti is the transaction's


async def test_nobody_whose_password_is_wrong_runs_a_function(tmp_path: Path) -> None:
    async with gateway_before(with_functions(tmp_path), rules=[function("to_code")]) as idp:
        refused = await idp.client().call({**PASSWORD, "password": "guess"})
        assert refused.json["error"] == "invalid_grant"
        assert seen(tmp_path) == []


async def test_a_function_that_refuses_a_grant_is_in_the_audit_trail(tmp_path: Path) -> None:
    async with gateway_before(with_functions(tmp_path), rules=[function("refuse")]) as idp:
        refused = await idp.client().call(PASSWORD)
        assert (refused.status, refused.json["error"], refused.json["error_description"]) == (403, "access_denied", "Not on Sundays.")
        assert [row[0] for row in await audited(idp, "function")] == ["denied"]


async def test_a_function_of_a_refresh_is_asked_before_the_token_is_rotated(tmp_path: Path) -> None:
    rules = [function("to_code", max_age="5m")]
    async with gateway_before(with_functions(tmp_path), rules=rules, refresh="require", clock=Clock(1_800_000_000.0)) as idp:
        client = idp.client()
        done = await client.call({**PASSWORD, "stepup_token": await idp.passed(client, await client.call(PASSWORD))})
        await idp.advance(301)
        form = {"grant_type": "refresh_token", "client_id": "spa", "refresh_token": done.json["refresh_token"]}
        calls = len(idp.provider.calls)
        asked = await client.call(form)
        assert asked.json["error"] == "interaction_required"
        assert (len(idp.provider.calls), seen(tmp_path)[-1][0]) == (calls, "oauth2-refresh-token")
        again = await client.call({**form, "stepup_token": await idp.passed(client, asked)})
        assert again.status == 200, again.text


async def test_a_function_that_asks_at_the_repeated_call_only_is_asked_once(tmp_path: Path) -> None:
    """It ran for the first time behind the first step, so it is told what kind of call it is, and may ask once."""
    rules = [
        {"name": "terms-first", "match": TOKENS, "require": "terms"},
        {**function("to_code"), "when": "record.terms != null"},
    ]
    (tmp_path / "terms.md").write_text("# Terms\n\nBe nice.\n")
    steps = {"code": CODE, "terms": {"kind": "consent", "document": "terms.md", "version": "1"}}
    async with gateway_before(with_functions(tmp_path), rules=rules, steps=steps) as idp:
        client = idp.client()
        asked = await client.call(PASSWORD)
        assert asked.json["steps"] == ["terms"], asked.text
        await client.step(asked.json["step_up_url"])
        ready = await client.step(asked.json["step_up_url"], {"accept": "yes"})
        more = await client.call({**PASSWORD, "stepup_token": ready.json["token"]})
        assert (more.status, more.json.get("error"), more.json.get("steps")) == (403, "interaction_required", ["code"]), more.text
        assert seen(tmp_path)[-1][0] == "oauth2-password"
        done = await client.call({**PASSWORD, "stepup_token": await idp.passed(client, more)})
        assert done.status == 200, done.text
        assert seen(tmp_path)[-1][0] == "redirect-callback"


async def test_a_function_sends_the_approving_browser_to_a_page_of_its_own(tmp_path: Path) -> None:
    async with gateway_before(with_functions(tmp_path), rules=[function("to_page")]) as idp:
        client, phone = idp.client(), idp.browser()
        for answer, expected in (("yes", 200), ("no", 403)):
            asked = await client.call(PASSWORD)
            away = await phone.get(asked.json["step_up_url"].removeprefix(idp.base))
            there = sent(away)
            assert there.url == "https://page.example.com/start"
            assert dict(there.fields) == {"state": there.state}
            back = await phone.post("/continue", {"state": there.state, "confirm": answer}, follow=True)
            assert "Go back to the app" in back.text, back.text
            assert phone.cookie("stepup") is None
            ready = await client.step(asked.json["step_up_url"])
            done = await client.call({**PASSWORD, "stepup_token": ready.json["token"]})
            assert done.status == expected, done.text


# -- pages of others, and terms ------------------------------------------------------------------------------------------


@pytest.fixture
def clock() -> Clock:
    return Clock(1_800_000_000.0)


def kyc_first(**step: Any) -> dict[str, Any]:
    return {"rules": [{"name": "kyc-first", "match": TOKENS, "require": "kyc"}], "steps": {"kyc": {**KYC, **step}}}


async def away(idp: Before, client: Client) -> tuple[Any, str]:
    asked = await client.call(PASSWORD)
    assert asked.json["error"] == "interaction_required", asked.text
    return asked, asked.json["step_up_url"].removeprefix(idp.base)


@pytest.mark.parametrize("by", ["query", "post", "cross-site"])
async def test_the_approving_browser_goes_to_the_page_and_back_and_the_client_gets_the_token(tmp_path: Path, clock: Clock, by: str) -> None:
    page = Page(now=clock)
    async with gateway_before(tmp_path, clock=clock, **kyc_first()) as idp:
        client, phone, other = idp.client(), idp.browser(), idp.browser()
        _, way = await away(idp, client)
        there = sent(await phone.get(way))
        assert there.claims()["sub"] == "alice"
        fields = {"state": there.state, "token": page.answer(there)}
        assert (await other.get(f"/continue?state={there.state}&token={fields['token']}")).status == 403
        if by == "query":
            back = await phone.get(f"/continue?state={there.state}&token={fields['token']}", follow=True)
        elif by == "post":
            back = await phone.post("/continue", fields, follow=True)
        else:
            parked = await other_site(idp, fields)
            assert parked.status == 303, parked.text
            back = await phone.get(parked.location, follow=True)
        assert back.status == 200
        assert "Go back to the app" in back.text
        assert "eyJ" not in back.text
        assert phone.cookie("stepup") is None
        shown = await phone.get("/.stepup/pass", headers={"Accept": "application/json"})
        assert shown.json["steps"] == []
        ready = await client.step(way)
        assert ready.json["status"] == "passed"
        done = await client.call({**PASSWORD, "stepup_token": ready.json["token"]})
        assert done.json["for"] == "alice"
        again = await phone.post("/continue", fields)  # a reload: it is over, and says so
        assert "Go back to the app" in again.text
        assert "eyJ" not in again.text
        assert (await client.call({**PASSWORD, "stepup_token": ready.json["token"]})).status == 400


async def test_the_call_waits_as_long_as_the_page_may_take(tmp_path: Path, clock: Clock) -> None:
    page = Page(now=clock)
    async with gateway_before(tmp_path, clock=clock, **kyc_first()) as idp:
        client, phone = idp.client(), idp.browser()
        asked, way = await away(idp, client)
        assert asked.json["expires_in"] == 900  # transactions.ttl is ten minutes
        there = sent(await phone.get(way))
        await idp.advance(850)
        await phone.get(f"/continue?state={there.state}&token={page.answer(there)}")
        ready = await client.step(way)
        assert (await client.call({**PASSWORD, "stepup_token": ready.json["token"]})).status == 200


async def other_site(idp: Before, fields: dict[str, str]) -> Any:
    """The page's form: it brings no cookie of ours along (SameSite=Lax)."""
    headers = {"Sec-Fetch-Site": "cross-site", "Origin": "http://kyc.example.com"}
    return await idp.browser().post("/continue", fields, headers=headers)


@pytest.mark.parametrize("by", ["query", "post"])
async def test_a_client_that_opens_the_page_by_itself_has_its_browser_known_from_there_on(tmp_path: Path, clock: Clock, by: str) -> None:
    """An app reads the page's address by JSON and opens it in a browser: that browser is seen here for the first time as it comes back."""
    page = Page(now=clock)
    rules = [{"name": "both", "match": TOKENS, "require": ["kyc", "code"]}]
    async with gateway_before(tmp_path, clock=clock, rules=rules, steps={"kyc": KYC, "code": CODE}) as idp:
        client, phone, other = idp.client(), idp.browser(), idp.browser()
        _, way = await away(idp, client)
        url = (await client.step(way)).json["step"]["data"]["url"]
        fields = dict(pair.split("=", 1) for pair in urlsplit(url).query.split("&") if "=" in pair)
        there = Sent(url, fields)
        if by == "query":
            back = await phone.get(f"/continue?state={there.state}&token={page.answer(there)}")
        else:
            await phone.get((await away(idp, client))[1])  # it has a cookie of ours, for something else
            parked = await phone.post("/continue", {"state": there.state, "token": page.answer(there)})
            assert parked.location.startswith("/continue?h="), parked.text
            back = await phone.get(parked.location)
        assert (back.status, back.location) == (303, way), back.text
        form = await phone.get(way)
        assert form.status == 200, form.text
        assert 'name="code"' in form.text
        assert (await other.get(way)).status == 403


async def test_who_comes_back_from_a_page_that_proves_nothing_may_go_again_while_the_rules_ask(tmp_path: Path, clock: Clock) -> None:
    async with gateway_before(tmp_path, clock=clock, **kyc_first(answer="none")) as idp:
        client, phone = idp.client(), idp.browser()
        _, way = await away(idp, client)
        there = sent(await phone.get(way))
        back = await phone.get(f"/continue?state={there.state}", follow=True)
        assert back.status == 200, back.text
        ready = await client.step(way)
        asked = await client.call({**PASSWORD, "stepup_token": ready.json["token"]})
        assert (asked.status, asked.json["error"]) == (403, "interaction_required"), asked.text
        assert asked.json["step_up_url"].endswith(way)


async def test_terms_are_accepted_by_whoever_approves_and_go_along_with_the_refresh_token(tmp_path: Path, clock: Clock) -> None:
    (tmp_path / "terms.md").write_text("# Terms of the house\n\nBe nice.\n")
    steps = {"terms": {"kind": "consent", "document": "terms.md", "version": "1"}}
    rules = [{"name": "terms", "match": TOKENS, "require": "terms"}]
    async with gateway_before(tmp_path, clock=clock, rules=rules, steps=steps) as idp:
        client, phone = idp.client(), idp.browser()
        _, way = await away(idp, client)
        shown = await phone.get(way)
        assert "Terms of the house" in shown.text
        done = await phone.post(way, {"accept": "yes", "stepup_token": hidden(shown.text)}, follow=True)
        assert "Go back to the app" in done.text
        assert phone.cookie("stepup") is None
        ready = await client.step(way)
        granted = await client.call({**PASSWORD, "stepup_token": ready.json["token"]})
        assert granted.json["for"] == "alice"
        form = {"grant_type": "refresh_token", "client_id": "spa", "refresh_token": granted.json["refresh_token"]}
        again = await client.call(form)
        assert again.status == 200, again.text


@pytest.mark.parametrize("kept", ["inherit", "require"])
async def test_new_terms_are_asked_of_refresh_tokens_too(tmp_path: Path, clock: Clock, kept: str) -> None:
    (tmp_path / "terms.md").write_text("# Terms of the house\n\nBe nice.\n")
    steps = {"terms": {"kind": "consent", "document": "terms.md", "version": "1"}}
    rules = [{"name": "terms", "match": TOKENS, "require": "terms"}]
    async with gateway_before(tmp_path, clock=clock, rules=rules, steps=steps, refresh=kept) as idp:
        client = idp.client()
        _, way = await away(idp, client)
        await client.step(way)
        ready = await client.step(way, {"accept": "yes"})
        granted = await client.call({**PASSWORD, "stepup_token": ready.json["token"]})
        form = {"grant_type": "refresh_token", "client_id": "spa", "refresh_token": granted.json["refresh_token"]}
        again = await client.call(form)
        assert again.status == 200, again.text
        idp.config.write_text(idp.config.read_text().replace("version: '1'", "version: '2'"))
        await idp.restart()
        asked = await client.call({**form, "refresh_token": again.json["refresh_token"]})
        assert (asked.json.get("error"), asked.json.get("steps")) == ("interaction_required", ["terms"]), asked.text


# -- other ways in --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path", ["/oauth/token/;x", "/oauth/token%2f", "/oauth/token;/", "/oauth/token/%3bx", "/OAUTH/token%2F", "/oauth//token/;a=b"]
)
async def test_no_spelling_with_a_slash_at_the_end_is_a_way_around_a_rule_for_the_path(tmp_path: Path, path: str) -> None:
    async with gateway_before(tmp_path) as idp:
        # A server that drops `;…` and a slash at the end, as Java's do.
        idp.provider.answer = lambda _: web.json_response({"access_token": "a"})
        client = idp.client()
        refused = await client.session.post(URL(idp.base + path, encoded=True), data=PASSWORD, headers={"Accept": "application/json"})
        assert "access_token" not in await refused.text()
        assert refused.status in (403, 404)


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (json.dumps({k: v for k, v in PASSWORD.items() if k != "x"}).encode(), "application/x-www-form-urlencoded"),
        (b"username=alice&password=wonderland&client_id=spa", "application/x-www-form-urlencoded"),
        (b"grant_type=Password&username=alice&password=wonderland&client_id=spa", "application/x-www-form-urlencoded"),
        (b"grant_type=password+&username=alice&password=wonderland&client_id=spa", "application/x-www-form-urlencoded"),
        (b'{"grant_type": "password\\u00a0", "username": "alice", "password": "wonderland"}', "application/json"),
    ],
)
async def test_a_grant_that_only_the_provider_may_recognise_is_refused(tmp_path: Path, body: bytes, kind: str) -> None:
    rule = {"name": "password", "match": TOKENS, "when": 'request.protocol == "oauth2-password"', "require": "code"}
    async with gateway_before(tmp_path, rules=[rule]) as idp:
        idp.provider.answer = lambda _: web.json_response({"access_token": "a"})
        refused = await idp.client().call(body, headers={"Content-Type": kind})
        assert (refused.status, refused.json["error"]) == (400, "invalid_request"), refused.text
        assert idp.provider.calls == []


async def test_the_continue_token_of_a_grant_resumes_nothing_and_speaks_for_no_other_transaction(tmp_path: Path) -> None:
    rules = [
        {"name": "tokens", "match": TOKENS, "require": "code", "max_age": "10m"},
        {"name": "pages", "match": {"path": "/page"}, "require": "human"},
    ]
    steps = {"code": CODE, "human": {"kind": "captcha", "cost": 1, "max_number": 5}}
    async with gateway_before(tmp_path, rules=rules, steps=steps) as idp:
        client, phone = idp.client(), idp.browser()
        asked = await client.call(PASSWORD)
        token = await idp.passed(client, asked)
        for path in (f"/continue?state={asked.json['state']}&token={token}", f"/continue?state={asked.json['state']}"):
            for who in (client, phone):
                answer = await who.get(path)
                assert answer.status in (200, 303), answer.text
                assert who.cookie("stepup") is None if who is phone else True
                assert "access_token" not in answer.text
        suspended = await phone.get("/page")
        state = suspended.location.rpartition("/")[2]
        refused = await phone.get(f"/continue?state={state}&token={token}")
        assert refused.status == 400
        assert (await client.call({**PASSWORD, "stepup_token": token})).status == 200  # not used up by any of it


async def test_without_a_state_store_no_grant_leaves(tmp_path: Path) -> None:
    async with gateway_before(tmp_path) as idp:
        client = idp.client()
        asked = await client.call(PASSWORD)
        token = await idp.passed(client, asked)
        await idp.app.state.close()
        for form in (PASSWORD, {**PASSWORD, "stepup_token": token}):
            refused = await client.call(form)
            assert refused.status == 503, refused.text
            assert "access_token" not in refused.text
