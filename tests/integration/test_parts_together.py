"""Where the parts meet: pages of others in somebody else's transaction, rule functions that ask for pages that do not answer, answers given
before in front of an `intercept`."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
import yaml

from tests.integration.test_begin import form
from tests.integration.test_external import NO_COOKIE, asks, at, back, parked, someone
from tests.integration.test_intercept import challenge, rule, standing
from tests.support.external import KYC, Page, sent
from tests.support.gateway import Clock, read, running
from tests.support.outside import STEPS, Bank, issuing

START = 1_800_000_000.0
SURVEY = {**KYC, "answer": "none", "audience": "survey", "url": "http://survey.example.com/", "secret": KYC["secret"] + ", the other"}

FUNCTION = """
SEEN = []


def survey(user, context):
    SEEN.append(context.protocol)
    context.redirect = "survey"


def counted(user, context):
    SEEN.append(context.protocol)
    context.redirect = "terms"
"""


# -- somebody else's transaction ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["query", "form", "parked"])
async def test_who_comes_back_from_a_page_goes_on_to_the_party_outside(tmp_path: Path, way: str) -> None:
    async with issuing() as issuer:
        begin = {"idp": issuer.entry(steps=["kyc"])}
        async with running(tmp_path, steps={**STEPS, "kyc": KYC}, rules=[], identity=[], begin=begin) as gateway:
            browser, page = gateway.browser(), Page()
            there = sent(await browser.get((await browser.get(issuer.start(jti="j-1"))).location))
            assert there.claims()["sub"] == "alice"
            answer = back(there, page.answer(there))
            if way == "query":
                done = await browser.get("/continue?" + urlencode(answer))
            elif way == "form":
                done = await browser.post("/continue", answer)
            else:
                kept = await gateway.browser().post("/continue", answer, headers=NO_COOKIE)
                done = await browser.get(kept.location)
            assert done.status == 200, (done.status, done.text)
            action, fields = form(done)
            assert action == f"{issuer.origin}/continue"
            claims = issuer.verified(fields)
            assert (claims["jti"], claims["acr"]) == ("j-1", "kyc")


async def test_it_waits_as_long_as_the_page_may_take(tmp_path: Path) -> None:
    clock = Clock(START)
    async with issuing() as issuer:
        begin = {"idp": issuer.entry(steps=["kyc"])}
        async with running(tmp_path, clock=clock, steps={**STEPS, "kyc": KYC}, rules=[], identity=[], begin=begin) as gateway:
            browser = gateway.browser()
            start = "/.stepup/begin/idp?" + urlencode({"state": issuer.state(), "session_token": issuer.token(now=START)})
            there = sent(await browser.get((await browser.get(start)).location))
            clock.now += 890
            done = await browser.post("/continue", back(there, Page(now=clock).answer(there)))
            assert done.status == 200, (done.status, done.text)


async def test_who_does_not_accept_goes_back_with_an_error(tmp_path: Path) -> None:
    (tmp_path / "terms.md").write_text("# Terms\n\nBe kind.\n")
    async with issuing() as issuer:
        begin = {"idp": issuer.entry(steps=["terms"])}
        terms = {"kind": "consent", "document": str(tmp_path / "terms.md"), "version": "1"}
        async with running(tmp_path, steps={**STEPS, "terms": terms}, rules=[], identity=[], begin=begin) as gateway:
            browser = gateway.browser()
            begun = await browser.get(issuer.start())
            shown = await browser.get(begun.location)
            said = {"accept": "no", "stepup_token": shown.hidden("stepup_token"), "sha256": shown.hidden("sha256")}
            refused = await browser.post(begun.location, said)
            assert refused.status == 303, refused.text
            assert refused.location.startswith(f"{issuer.origin}/continue?state=theirs-")
            assert "error=access_denied" in refused.location
            assert "token=" not in refused.location


# -- a function and a page that does not answer -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_function_asks_once_per_flow_for_a_page_that_does_not_answer(tmp_path: Path, method: str) -> None:
    (tmp_path / "f.py").write_text(FUNCTION)
    asking = {"name": "survey", "match": {"path": "/vault/**"}, "python": "f.py:survey"}
    async with at(tmp_path, Clock(START), asking, steps={"survey": SURVEY}) as place:
        client = await someone(place)
        way = await asks(client, "/vault/open", {"a": "1"} if method == "POST" else None)
        there = sent(await client.get(way))
        done = await client.get(f"/continue?state={there.state}")
        assert done.status == 303, done.text
        assert (await client.get(done.location)).text == "done for alice"
        [function] = place.gateway.app.live.ruleset.functions.values()
        assert function.__globals__["SEEN"] == ["http", "redirect-callback"]


async def test_so_does_a_script(tmp_path: Path) -> None:
    (tmp_path / "f.py").write_text(FUNCTION)
    asking = {"name": "survey", "match": {"path": "/vault/**"}, "python": "f.py:survey"}
    async with at(tmp_path, Clock(START), asking, steps={"survey": SURVEY}) as place:
        client = await someone(place)
        script = {"Sec-Fetch-Mode": "cors", "Sec-Fetch-Dest": "empty", "Accept": "application/json", "Sec-Fetch-User": ""}
        asked = await client.get("/vault", headers=script)
        assert asked.status == 401
        there = sent(await client.get("/.stepup/t/" + asked.json["state"]))
        assert (await client.get(f"/continue?state={there.state}")).status == 200
        again = await client.get("/vault", headers=script)
        assert (again.status, again.text) == (200, "done for alice")


async def test_a_yaml_rule_that_asks_for_the_same_page_still_asks(tmp_path: Path) -> None:
    (tmp_path / "f.py").write_text(FUNCTION)
    asking = {"name": "survey", "match": {"path": "/vault/**"}, "python": "f.py:survey"}
    also = {"name": "too", "match": {"path": "/vault/**"}, "require": "survey"}
    async with at(tmp_path, Clock(START), asking, also, steps={"survey": SURVEY}) as place:
        client = await someone(place)
        there = sent(await client.get(await asks(client, "/vault/open", {"a": "1"})))
        assert (await client.get(f"/continue?state={there.state}")).status == 409


# -- answers given before ---------------------------------------------------------------------------------------------------------------


async def test_a_function_runs_once_where_the_answer_was_given_before(tmp_path: Path) -> None:
    (tmp_path / "f.py").write_text(FUNCTION)
    (tmp_path / "terms.md").write_text("# Terms\n\nBe kind.\n")
    asking = {"name": "counted", "match": {"path": "/vault/**"}, "python": "f.py:counted"}
    terms = {"kind": "consent", "document": str(tmp_path / "terms.md"), "version": "1"}
    async with at(tmp_path, Clock(START), asking, steps={"terms": terms}) as place:
        client = await someone(place)
        way = await asks(client)
        shown = await client.get(way)
        said = {"accept": "yes", "stepup_token": shown.hidden("stepup_token"), "sha256": shown.hidden("sha256")}
        assert (await client.post(way, said)).status == 303
        other = await someone(place)
        [function] = place.gateway.app.live.ruleset.functions.values()
        function.__globals__["SEEN"].clear()
        assert (await other.get("/vault")).text == "done for alice"
        assert function.__globals__["SEEN"] == ["http"]


def accepting(folder: Path) -> dict[str, Any]:
    (folder / "terms.md").write_text("# Terms\n\nBe kind.\n")
    return {**STEPS, "terms": {"kind": "consent", "document": str(folder / "terms.md"), "version": "1", "acr": "urn:terms"}}


async def accepted(place: Any, browser: Any, way: str) -> Any:
    shown = await browser.get(way)
    said = {"accept": "yes", "stepup_token": shown.hidden("stepup_token"), "sha256": shown.hidden("sha256")}
    return await browser.post(way, said)


async def test_an_intercepted_redirect_knows_the_edition_that_the_pass_holds(tmp_path: Path) -> None:
    async with standing(tmp_path, "auto", rule(require=["terms"]), steps=accepting(tmp_path)) as place:
        browser = place.browser()
        asked = await place.log_in(browser)
        done = await accepted(place, browser, asked.location)
        await place.send(browser, await browser.get(done.location))
        page = await browser.get("/guarded")  # the pass holds it: no page of ours in between
        assert page.status == 200, page.location
        assert (await place.send(browser, page)).text.startswith("signed in: alice")


async def test_an_old_edition_is_not_shown_to_an_upstream_that_judges_by_it(tmp_path: Path) -> None:
    bank = Bank(challenge=('Bearer error="insufficient_user_authentication", acr_values="urn:terms"',), acr="urn:terms")
    async with standing(tmp_path, "auto", challenge(), bank=bank, steps=accepting(tmp_path)) as place:
        browser = place.browser()
        await place.signed_in(browser)
        asked = await browser.get("/api")
        done = await accepted(place, browser, asked.location)
        resumed = await browser.get(done.location, follow=True)
        assert resumed.status == 200, resumed.text
        (tmp_path / "terms.md").write_text("# Terms\n\nBe kinder.\n")
        raw = yaml.safe_load(place.gateway.config.read_text())
        raw["steps"]["terms"]["version"] = "2"
        place.gateway.config.write_text(yaml.safe_dump(raw))
        await place.gateway.app.reload(read(place.gateway.config))
        newer = await browser.get("/api")
        assert newer.status == 303, newer.text
        assert newer.location.startswith("/.stepup/t/su_")


# -- a reload meanwhile -----------------------------------------------------------------------------------------------------------------


async def test_what_another_site_posts_for_a_step_that_a_reload_took_away_is_told(tmp_path: Path) -> None:
    clock = Clock(START)
    async with at(tmp_path, clock) as place:
        client = await someone(place)
        there = sent(await client.get(await asks(client)))
        raw = yaml.safe_load(place.gateway.config.read_text())
        raw["rules"], raw["steps"] = [], {n: s for n, s in raw["steps"].items() if n != "kyc"}
        place.gateway.config.write_text(yaml.safe_dump(raw))
        await place.gateway.app.reload(read(place.gateway.config))
        told = await parked(client, back(there, Page(now=clock).answer(there)))
        assert told.status in (303, 410), told.text
        if told.status == 303:
            told = await client.get(told.location)
        assert told.status == 410, told.text


async def test_who_accepts_again_because_the_rule_wants_it_younger_is_not_asked_for_ever(tmp_path: Path) -> None:
    (tmp_path / "terms.md").write_text("# Terms\n\nBe kind.\n")
    clock = Clock(START)
    asking = {"name": "terms", "match": {"path": "/vault/**"}, "require": "terms", "max_age": "30d"}
    terms = {"kind": "consent", "document": str(tmp_path / "terms.md"), "version": "1"}
    async with at(tmp_path, clock, asking, steps={"terms": terms}) as place:
        for _ in range(2):
            client = await someone(place)
            done = await accepted(place, client, await asks(client))
            back_again = await client.get(done.location)
            assert (await client.get(back_again.location)).text == "done for alice", clock.now
            other = await someone(place)
            assert (await other.get("/vault")).text == "done for alice"
            await place.gateway.advance(31 * 86_400)
