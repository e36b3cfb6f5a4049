"""The authorize path of a certified provider where rule functions, records and kinds of requests come in."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from aiohttp import web

from tests.support.gateway import Browser, Reply
from tests.support.oauth import gateway_before
from tests.support.provider import HUMAN, Identity, answered, at_provider, before, identity_provider
from tests.support.raw import answering, raw_client, raw_upstream

AUTH = {"upstream": "idp", "path": "/auth"}
FILE = """
from pathlib import Path

from gateway.functions import Unauthorized

SEEN = Path(__file__).with_suffix(".seen")


def to_page(user, context):
    with SEEN.open("a") as file:
        file.write(context.protocol + "\\n")
    context.redirect = {"url": "https://page.example.com/start?a=b"}
    if context.protocol == "redirect-callback" and context.request.body.get("confirm") != "yes":
        raise Unauthorized("You have to agree.")


def to_survey(user, context):
    with SEEN.open("a") as file:
        file.write(context.protocol + "\\n")
    context.redirect = "survey"


def watch(user, context):
    with SEEN.open("a") as file:
        file.write(context.protocol + "\\n")


def refuse(user, context):
    raise Unauthorized("Not on Sundays.")
"""


SURVEY = {
    "kind": "redirect", "url": "https://survey.example.com/", "answer": "none", "audience": "survey",
    "secret": "for the survey's page alone, 32 bytes",
}  # fmt: skip


def function(name: str) -> dict[str, Any]:
    return {"name": name, "match": AUTH, "python": f"f.py:{name}"}


def with_functions(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "f.py").write_text(FILE)
    return folder


def seen(folder: Path) -> list[str]:
    return (folder / "f.seen").read_text().split()


def outcomes(there: Identity) -> list[str]:
    with sqlite3.connect(there.config.parent / "records.db") as records:
        return [row[0] for row in records.execute("select outcome from audit where event = 'function'")]


async def onward(there: Identity, browser: Browser, answer: Reply) -> Reply:
    """On through our pages and the provider's, up to the answer that leads to the client, or to a step."""
    for _ in range(12):
        way = answer.headers.get("Refresh", "").partition("url=")[2] or answer.headers.get("Location", "")
        if not way or not (at_provider(way, there.base) or way.startswith("/continue")):
            return answer
        answer = await browser.get(way)
    raise AssertionError("it goes round and round")


async def sent_away(there: Identity, browser: Browser, **changes: str) -> str:
    """The state of the function's page."""
    suspended = await there.sign_in(browser, there.authorize(**changes))
    assert suspended.location.startswith("/.stepup/t/su_"), suspended.text
    away = await browser.get(suspended.location)
    assert away.location.startswith("https://page.example.com/start?a=b&state=su_"), away.text
    [state] = parse_qs(urlsplit(away.location).query)["state"]
    return state


async def test_a_function_sends_a_sign_in_to_a_page_of_its_own_and_the_code_arrives_once(tmp_path: Path) -> None:
    async with identity_provider(with_functions(tmp_path), rules=[function("to_page")]) as there:
        browser = there.browser()
        state = await sent_away(there, browser)
        assert set(seen(tmp_path)) == {"oidc-basic-profile"}
        silent = answered(await browser.get(there.authorize(prompt="none", state="s2")))
        assert silent["error"] == "interaction_required"
        end = await onward(there, browser, await browser.post("/continue", {"state": state, "confirm": "yes"}))
        given = answered(end)
        assert given["state"] == "abc"
        assert (await there.token(browser, given["code"]))["id_token"]
        assert "redirect-callback" in seen(tmp_path)
        # It was for that one sign-in: neither its state nor the page counts for another.
        assert (await browser.post("/continue", {"state": state, "confirm": "yes"})).status == 410
        assert "code" not in answered(await browser.get(there.authorize(prompt="none", state="s3")))
        assert await sent_away(there, browser) != state


async def test_a_function_runs_once_for_a_request_and_its_answer(tmp_path: Path) -> None:
    async with identity_provider(with_functions(tmp_path), rules=[function("watch")]) as there:
        browser = there.browser()
        assert answered(await there.sign_in(browser, there.authorize()))["code"]
        (tmp_path / "f.seen").write_text("")
        assert answered(await browser.get(there.authorize()))["code"]
        assert seen(tmp_path) == ["oidc-basic-profile"]


async def test_a_page_that_brings_no_proof_is_visited_once_for_a_sign_in(tmp_path: Path) -> None:
    rules, steps, source = [function("to_survey")], {"survey": SURVEY}, {"from": "header", "name": "X-User"}
    async with identity_provider(
        with_functions(tmp_path), rules=rules, steps=steps, identity=[source], trusted_proxies=["127.0.0.1"]
    ) as there:
        browser = there.browser()
        browser.headers = {**browser.headers, "X-User": "alice"}
        suspended = await there.sign_in(browser, there.authorize())
        away = await browser.get(suspended.location)
        [state] = parse_qs(urlsplit(away.location).query)["state"]
        (tmp_path / "f.seen").write_text("")
        given = answered(await onward(there, browser, await browser.get(f"/continue?state={state}")))
        assert given["code"]
        assert seen(tmp_path) == ["redirect-callback"]
        assert (await browser.get(there.authorize())).location.startswith("/.stepup/t/su_"), "another sign-in, another visit"


@pytest.mark.parametrize("functions", [[], ["to_page"]], ids=["no function", "a function"])
@pytest.mark.parametrize("steps", [[], [HUMAN], [{**HUMAN, "max_age": "once"}]], ids=["no step", "a step", "a step once"])
async def test_a_client_that_wants_a_login_each_time_gets_one(tmp_path: Path, steps: list[Any], functions: list[str]) -> None:
    rules = [*steps, *map(function, functions)]
    async with identity_provider(with_functions(tmp_path), rules=rules) as there:
        browser = there.browser()
        end = await there.sign_in(browser, there.authorize(prompt="login"))  # another login of the provider's would be no answer below
        if steps:
            assert end.location.startswith("/.stepup/t/su_"), end.location
            end = await there.pass_captcha_to(browser, end.location)
        if functions:
            away = await browser.get(end.location)
            [state] = parse_qs(urlsplit(away.location).query)["state"]
            end = await onward(there, browser, await browser.post("/continue", {"state": state, "confirm": "yes"}))
        assert answered(end)["code"]


async def test_two_at_once_get_one_code_for_what_was_asked_once(tmp_path: Path) -> None:
    async with identity_provider(with_functions(tmp_path), rules=[function("to_page")]) as there:
        browser = there.browser()
        state = await sent_away(there, browser)
        back = await browser.post("/continue", {"state": state, "confirm": "yes"})
        while not (way := back.headers.get("Refresh", "").partition("url=")[2]):
            back = await browser.get(back.location)
        ends = await asyncio.gather(*(browser.get(way) for _ in range(3)))
        assert sum("code=" in end.location for end in ends) == 1, [end.location for end in ends]


async def test_a_function_that_refuses_what_the_page_said_ends_the_sign_in(tmp_path: Path) -> None:
    async with identity_provider(with_functions(tmp_path), rules=[function("to_page")]) as there:
        browser = there.browser()
        state = await sent_away(there, browser)
        refused = await browser.post("/continue", {"state": state, "confirm": "no"})
        assert refused.status == 403
        assert "You have to agree." in refused.text
        assert (await browser.post("/continue", {"state": state, "confirm": "yes"})).status == 410


async def test_a_function_that_refuses_a_sign_in_is_told_to_the_client_and_in_the_audit_trail(tmp_path: Path) -> None:
    async with identity_provider(with_functions(tmp_path), rules=[function("refuse")]) as there:
        given = answered(await there.sign_in(there.browser(), there.authorize()))
        assert (given["error"], given["error_description"]) == ("access_denied", "Not on Sundays.")
        assert set(outcomes(there)) == {"denied"}


async def test_a_condition_on_a_record_is_gathered_for_the_answer(tmp_path: Path) -> None:
    (tmp_path / "terms.md").write_text("# Terms\n\nBe nice.\n")
    steps = {
        "human": {"kind": "captcha", "provider": "altcha", "cost": 100, "max_number": 50},
        "terms": {"kind": "consent", "document": "terms.md", "version": "1"},
    }
    rule = {**HUMAN, "when": "record.terms == null"}
    async with identity_provider(tmp_path, rules=[rule], steps=steps) as there:
        browser = there.browser()
        suspended = await there.sign_in(browser, there.authorize())
        assert suspended.location.startswith("/.stepup/t/su_")
        assert answered(await there.pass_captcha_to(browser, suspended.location))["code"]


async def test_a_rule_on_the_kind_of_request_holds_where_it_is_hybrid(tmp_path: Path) -> None:
    rule = {**HUMAN, "when": 'request.protocol == "oidc-hybrid-profile"'}
    client = {"response_types": ["code", "code id_token"], "grant_types": ["authorization_code", "implicit", "refresh_token"]}
    async with identity_provider(tmp_path, rules=[rule], options={"client": client}) as there:
        browser = there.browser()
        plain = await there.sign_in(browser, there.authorize())
        assert answered(plain)["code"]
        given = await browser.get(there.authorize(response_type="code id_token"))
        assert given.location.startswith("/.stepup/t/su_"), given.location


async def test_a_rule_for_everything_else_does_not_end_a_sign_in_at_continue(tmp_path: Path) -> None:
    rules = [HUMAN, {"name": "others", "match": {"path": "/auth"}, "when": 'request.protocol == "http"', "deny": {}}]
    async with identity_provider(tmp_path, rules=rules) as there:
        browser = there.browser()
        suspended = await there.sign_in(browser, there.authorize())
        assert suspended.location.startswith("/.stepup/t/su_"), suspended.location
        assert answered(await there.pass_captcha_to(browser, suspended.location))["code"]


async def test_the_page_for_others_at_an_answer_by_head_or_part_lets_no_code_out(tmp_path: Path) -> None:
    """Whoever has the provider's session, and reads without a browser."""
    rule = {"name": "sign-in", "match": {"path": "/authorize"}, "require": "code"}
    oauth = {"authorize": "/authorize", "session_cookie": "sid"}
    async with gateway_before(tmp_path, rules=[rule], oauth=oauth) as idp:
        idp.provider.answer = lambda _: web.Response(status=302, headers={"Location": "https://app.example.com/cb?code=c0de&state=s"})
        client = idp.client()
        for method, headers in (("HEAD", {}), ("GET", {"Range": "bytes=0-1"}), ("POST", {}), ("GET", {"Sec-Purpose": "prefetch"})):
            for path in ("/authorize", "/Authorize", "/authorize/", "//authorize", "/authorize;x", "/elsewhere"):
                got = await client.request(method, path + "?response_type=code&prompt=none", headers=headers)
                assert "c0de" not in str(got.headers) + got.text, (method, path)


async def test_a_refresh_token_inherits_nothing_from_a_pass_that_was_taken_back(tmp_path: Path) -> None:
    rules = [HUMAN, {"name": "tokens", "match": {"path": "/token"}, "require": "human"}]
    oauth = {"authorize": "/auth", "token": "/token", "par": "/request", "session_cookie": "_session", "refresh": "inherit"}
    async with identity_provider(tmp_path, rules=rules, oauth=oauth) as there:
        browser, application = there.browser(), there.browser()
        suspended = await there.sign_in(browser, there.authorize())
        done = await there.log_in_at(browser, await there.pass_captcha_to(browser, suspended.location))
        tokens = await there.token(application, answered(done)["code"])

        async def refreshed(token: str) -> Any:
            data = {"grant_type": "refresh_token", "refresh_token": token, "client_id": "app"}
            return (await application.json("POST", "/token", None, data=data)).json

        first = await refreshed(tokens["refresh_token"])
        assert first["access_token"], first
        page = await browser.get("/.stepup/pass")
        assert (await browser.post("/.stepup/pass/revoke", {"stepup_token": page.hidden("stepup_token")})).status in (200, 303)
        refused = await refreshed(first.get("refresh_token", tokens["refresh_token"]))
        assert refused["error"] == "interaction_required"


async def test_an_early_hint_brings_no_code_that_the_answer_may_not(tmp_path: Path) -> None:
    code = b"<https://app.example.com/cb?code=c0de>"
    hint = b"HTTP/1.1 103 Early Hints\r\nLink: " + code + b"\r\n\r\n"
    answer = b"HTTP/1.1 302 Found\r\nLocation: https://app.example.com/cb?code=c0de&state=s\r\nContent-Length: 0\r\n\r\n"
    async with raw_upstream(answering(hint + answer)) as upstream, before(tmp_path, upstream.url) as there:
        host = there.base.partition("://")[2]
        async with raw_client(int(host.rpartition(":")[2])) as client:
            target = there.authorize(prompt="none").encode()
            await client.send(b"GET " + target + b" HTTP/1.1\r\nHost: " + host.encode() + b"\r\nConnection: close\r\n\r\n")
            got = await client.reader.read()
        assert got.startswith(b"HTTP/1.1 303 ")
        assert b"interaction_required" in got
        assert b"c0de" not in got
