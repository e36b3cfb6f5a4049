"""consent and form, whole: asked once, kept, remembered over logins, seen by rules, told in tokens. By page and by JSON."""

from __future__ import annotations

import json
import re
import sqlite3
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import closing
from html import unescape
from pathlib import Path
from typing import Any

import pytest
import yaml

from gateway.errors import StoreUnavailable
from gateway.flow.ports import Entry
from tests.support.gateway import DEMO, Browser, Clock, Reply, Running, decoded, read, running

PROFILE: dict[str, Any] = {
    "kind": "form",
    "title": "How can we reach you?",
    "text": "We call when something is odd.",
    "fields": [
        {"name": "phone", "type": "tel", "label": "Phone", "required": True, "autocomplete": "tel", "help": "With the country."},
        {"name": "plan", "type": "radio", "label": "Plan", "choices": ["small", {"value": "large", "label": "Large"}], "required": True},
        {"name": "born", "type": "date", "label": "Born", "max": "2026-01-01"},
        {"name": "note", "type": "textarea", "label": "Note"},
        {"name": "news", "type": "checkbox", "label": "Send me news"},
    ],
    "claims": {"phone": "phone", "news": "news"},
}
ANSWERS = {"phone": "+44 20 7946 0018", "plan": "large", "born": "1990-12-10", "note": "<b>Call</b>\r\nlater", "news": "yes"}
ECHO = {"name": "echo-needs-profile", "match": {"path": "/echo"}, "require": "profile"}


def configuration(*rules: dict[str, Any], **steps: Any) -> dict[str, Any]:
    """Sections of the demo's configuration: its own rules but for the captcha, and these before them."""
    raw = yaml.safe_load(DEMO.read_text())
    return {
        "steps": raw["steps"] | {"human": {"kind": "captcha", "cost": 100, "max_number": 50}, "profile": PROFILE} | steps,
        "rules": [*rules, *(rule for rule in raw["rules"] if rule["name"] != "login-needs-human")],
    }


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[Running]:
    async with running(tmp_path, clock=Clock(time.time()), terms=True, **configuration(ECHO)) as found:
        yield found


async def logged_in(gateway: Running, user: str = "alice", password: str = "wonderland") -> Browser:
    browser = gateway.browser()
    done = await browser.post("/login", {"username": user, "password": password})
    assert (done.status, done.location) == (302, "/account")
    return browser


async def asked(browser: Browser, path: str) -> str:
    reply = await browser.get(path)
    assert reply.status == 303, reply.text
    assert reply.location.startswith("/.stepup/t/su_")
    return reply.location


async def answered(browser: Browser, page: str, answers: Mapping[str, str], *, follow: bool = True) -> Reply:
    shown = await browser.get(page)
    assert shown.status == 200, shown.text
    return await browser.post(page, {**answers, "stepup_token": shown.hidden("stepup_token")}, follow=follow)


def audit(gateway: Running, step: str) -> list[tuple[str, str]]:
    with closing(sqlite3.connect(gateway.config.parent / "var/records.db")) as records:
        rows = records.execute("SELECT outcome, detail FROM audit WHERE step = ? ORDER BY id", (step,)).fetchall()
    return [(outcome, json.loads(detail).get("reason", "")) for outcome, detail in rows]


def document(gateway: Running, kind: str) -> list[bytes]:
    with closing(sqlite3.connect(gateway.config.parent / "var/records.db")) as records:
        return [value for (value,) in records.execute("SELECT value FROM documents WHERE kind = ?", (kind,))]


async def changed(gateway: Running, **steps: Any) -> None:
    """Other settings of some steps, and a reload."""
    raw = yaml.safe_load(gateway.config.read_text())
    for name, settings in steps.items():
        raw["steps"][name] |= settings
    gateway.config.write_text(yaml.safe_dump(raw, sort_keys=False))
    await gateway.app.reload(read(gateway.config))


async def away(*_: str) -> Entry | None:
    raise StoreUnavailable("away")


class TestConsent:
    async def test_the_terms_come_once_before_the_account(self, gateway: Running) -> None:
        browser = await logged_in(gateway)
        page = await asked(browser, "/account")
        shown = await browser.get(page)
        assert "<h1>Terms of use of Demo Bank</h1>" in shown.text
        assert "<h2>What you may do</h2>" in shown.text
        assert "Version 2026-11" in shown.text
        done = await answered(browser, page, {"accept": "yes"})
        assert (done.status, done.url.path) == (200, "/account")
        assert (await browser.get("/account")).status == 200
        [(outcome, reason)] = audit(gateway, "terms")
        assert outcome == "passed"
        assert reason.startswith("consent: accepted version 2026-11, sha256 ")
        [kept] = document(gateway, "consent")
        assert json.loads(kept)["accepted"][0]["address"] == "127.0.0.1"

    async def test_another_login_in_another_browser_is_not_asked_and_sees_no_redirect(
        self, gateway: Running, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        browser = await logged_in(gateway)
        await answered(browser, await asked(browser, "/account"), {"accept": "yes"})
        other = await logged_in(gateway)
        first = await other.get("/account")
        assert first.status == 200
        assert "alice" in first.text
        assert any(c.startswith("stepup=") for c in first.headers.getall("Set-Cookie"))
        held = await other.json("GET", "/.stepup/pass")
        assert [s["step"] for s in held.json["steps"]] == ["terms"]
        monkeypatch.setattr(gateway.app.records, "get", away)  # from now on the pass alone says so
        assert (await other.get("/account")).status == 200

    async def test_a_new_version_asks_again_also_whoever_holds_a_pass(self, gateway: Running) -> None:
        browser = await logged_in(gateway)
        await answered(browser, await asked(browser, "/account"), {"accept": "yes"})
        await changed(gateway, terms={"version": "2026-12"})
        done = await answered(browser, await asked(browser, "/account"), {"accept": "yes"})
        assert done.status == 200
        [kept] = document(gateway, "consent")
        assert [e["version"] for e in json.loads(kept)["accepted"]] == ["2026-11", "2026-12"]

    async def test_a_text_that_changes_while_it_is_read_is_shown_before_it_counts(self, gateway: Running) -> None:
        browser = await logged_in(gateway)
        page = await asked(browser, "/account")
        shown = await browser.get(page)
        other = gateway.config.parent / "other.md"
        other.write_text("# Other terms\n")
        await changed(gateway, terms={"document": str(other)})
        form = {"accept": "yes", "stepup_token": shown.hidden("stepup_token")}
        refused = await browser.post(page, form)
        assert refused.status == 422
        assert "There is a newer text" in refused.text
        assert "<h1>Other terms</h1>" in refused.text
        stale = await browser.post(page, {**form, "sha256": shown.hidden("sha256")})  # a tab that still shows the old text
        assert stale.status == 422
        assert (await browser.post(page, form, follow=True)).url.path == "/account"

    async def test_refusing_ends_it_with_a_way_on_and_nothing_is_resumed(self, gateway: Running) -> None:
        browser = await logged_in(gateway)
        page = await asked(browser, "/account")
        done = await answered(browser, page, {"accept": "no"})
        assert (done.status, str(done.url.path)) == (200, page)
        assert "You did not accept" in done.text
        assert (await browser.get(page)).status == 410
        state = page.rpartition("/")[2]
        assert (await browser.get(f"/continue?state={state}")).status == 410
        assert [outcome for outcome, _ in audit(gateway, "terms")] == ["declined"]
        assert document(gateway, "consent") == []
        assert await asked(browser, "/account") != page

    @pytest.mark.parametrize(("to", "origin"), [("/", ""), ("https://example.com/bye", "https://example.com")])
    async def test_refusing_leads_where_the_settings_say(self, gateway: Running, to: str, origin: str) -> None:
        await changed(gateway, terms={"decline": {"to": to}})
        browser = await logged_in(gateway)
        page = await asked(browser, "/account")
        policy = (await browser.get(page)).headers["Content-Security-Policy"]
        assert f"form-action 'self'{' ' + origin if origin else ''};" in policy
        done = await answered(browser, page, {"accept": "no"}, follow=False)
        assert (done.status, done.location) == (303, to)
        again = await browser.json("GET", "/account")
        ended = await browser.json("POST", again.json["step_up_url"], {"accept": "no"})
        assert ended.status == 422  # it was not shown
        await browser.json("GET", again.json["step_up_url"])
        ended = await browser.json("POST", again.json["step_up_url"], {"accept": "no"})
        assert (ended.status, ended.json["status"], ended.json["error"]["code"]) == (200, "failed", "declined")
        assert ended.json["leads_to"] == (gateway.base + to if to == "/" else to)

    async def test_by_json_the_document_comes_along(self, gateway: Running) -> None:
        browser = await logged_in(gateway)
        refused = await browser.json("GET", "/account")
        page = refused.json["step_up_url"]
        step = (await browser.json("GET", page)).json["step"]
        assert (step["kind"], step["data"]["version"]) == ("consent", "2026-11")
        assert step["data"]["text"].startswith("# Terms of use of Demo Bank")
        assert "<table>" in step["data"]["html"]
        assert step["fields"] == [
            {
                "name": "accept", "type": "radio", "label": "Your answer", "required": True,
                "choices": [{"value": "yes", "label": "Accept"}, {"value": "no", "label": "Do not accept"}],
            }
        ]  # fmt: skip
        nothing = await browser.json("POST", page, {})
        assert (nothing.status, nothing.json["error"]["code"], nothing.json["error"]["field"]) == (422, "missing", "accept")
        passed = await browser.json("POST", page, {"accept": "yes"})
        assert passed.json["status"] == "passed"
        assert (await browser.json("GET", passed.json["continue"])).status == 204
        assert (await browser.json("GET", "/account")).status == 200

    async def test_a_script_of_somebody_who_accepted_before_gets_no_401(self, gateway: Running) -> None:
        browser = await logged_in(gateway)
        await answered(browser, await asked(browser, "/account"), {"accept": "yes"})
        assert (await (await logged_in(gateway)).json("GET", "/account")).status == 200

    async def test_nobody_logs_in_first_and_comes_back_to_the_terms(self, gateway: Running) -> None:
        browser = gateway.browser()
        page = await asked(browser, "/account")
        to_login = await browser.get(page)
        assert (to_login.status, to_login.location) == (303, "/login")
        back = await browser.post("/login", {"username": "alice", "password": "wonderland"})
        assert (back.status, back.location) == (303, page)
        assert (await answered(browser, page, {"accept": "yes"})).url.path == "/account"

    async def test_a_store_that_is_away_lets_nobody_through(self, gateway: Running, monkeypatch: pytest.MonkeyPatch) -> None:
        browser = await logged_in(gateway)

        monkeypatch.setattr(gateway.app.records, "get", away)
        refused = await browser.get("/account")
        assert refused.status == 503
        assert refused.headers["Retry-After"]


class TestForm:
    async def test_answers_are_given_once_and_go_into_tokens(self, gateway: Running) -> None:
        browser = await logged_in(gateway)
        page = await asked(browser, "/echo")
        shown = await browser.get(page)
        assert "<h1>How can we reach you?</h1>" in shown.text
        assert "We call when something is odd." in shown.text
        done = await answered(browser, page, ANSWERS)
        assert (done.status, done.url.path) == (200, "/echo")
        for reply in (done, await (await logged_in(gateway)).get("/echo")):
            sent = dict(json.loads(reply.body)["headers"])
            token = decoded(sent["X-Stepup-Token"].split(".")[1])
            assert token["results"] == {"phone": ANSWERS["phone"], "news": True}
            assert token["acr"] == "profile"
        [kept] = document(gateway, "form")
        assert b"7946" not in kept
        assert audit(gateway, "profile") == [("passed", "form: answered born, news, note, phone, plan")]

    async def test_mistakes_are_all_told_at_once_and_what_was_typed_stays(self, gateway: Running) -> None:
        browser = await logged_in(gateway)
        page = await asked(browser, "/echo")
        refused = await answered(browser, page, {**ANSWERS, "phone": "call me", "born": "tomorrow", "plan": "huge"})
        assert refused.status == 422
        assert "Please check 3 things:" in refused.text
        for text in (refused.text, (await browser.get(page)).text):  # a reload keeps it too
            assert 'value="call me"' in text
            assert 'value="tomorrow"' in text
            assert "&lt;b&gt;Call&lt;/b&gt;\nlater</textarea>" in text
            assert re.search(r'<input type="checkbox"[^>]* checked>', text)
        assert re.findall(r'href="#f-(\w+)"', refused.text) == ["phone", "plan", "born"]
        for _ in range(12):  # nothing is guessed here: no delay, no end
            assert (await answered(browser, page, {"phone": "x"})).status == 422
        assert (await answered(browser, page, ANSWERS)).url.path == "/echo"

    async def test_by_json_fields_are_described_and_errors_are_by_field(self, gateway: Running) -> None:
        browser = await logged_in(gateway)
        page = (await browser.json("GET", "/echo")).json["step_up_url"]
        fields = {f["name"]: f for f in (await browser.json("GET", page)).json["step"]["fields"]}
        assert fields["phone"] == {
            "name": "phone", "type": "tel", "label": "Phone", "required": True, "autocomplete": "tel", "help": "With the country.",
        }  # fmt: skip
        assert fields["plan"]["choices"] == [{"value": "small", "label": "small"}, {"value": "large", "label": "Large"}]
        assert (fields["born"]["max"], fields["born"]["required"]) == ("2026-01-01", False)
        refused = await browser.json("POST", page, {"phone": "x"})
        error = refused.json["error"]
        assert (refused.status, error["code"], error["field"]) == (422, "invalid", "phone")
        assert set(error["fields"]) == {"phone", "plan"}
        assert error["message"] == error["fields"]["phone"]
        passed = await browser.json("POST", page, ANSWERS)
        assert decoded(passed.json["token"].split(".")[1])["results"] == {"phone": ANSWERS["phone"], "news": True}

    async def test_a_new_required_field_is_asked_for_with_the_others_filled_in(self, gateway: Running) -> None:
        browser = await logged_in(gateway)
        await answered(browser, await asked(browser, "/echo"), ANSWERS)
        city = {"name": "city", "label": "City", "required": True}
        await changed(gateway, profile={"fields": [*PROFILE["fields"], city]})
        page = await asked(browser, "/echo")
        text = unescape((await browser.get(page)).text)
        assert f'value="{ANSWERS["phone"]}"' in text
        assert (await answered(browser, page, {**ANSWERS, "city": "London"})).url.path == "/echo"

    async def test_a_post_waits_for_the_form_and_is_sent_once(self, tmp_path: Path) -> None:
        rule = {"name": "profile", "match": {"path": "/transfer", "method": "POST"}, "require": ["terms", "profile"]}
        config = configuration(rule)
        config["rules"] = [r for r in config["rules"] if r["name"] != "transfer-needs-code"]
        async with running(tmp_path, **config) as gateway:
            browser = await logged_in(gateway)
            waits = await gateway.transfer(browser, "Once-Unique")
            terms = await answered(browser, waits.location, {"accept": "yes"})
            assert "Step 2 of 2" in terms.text
            await answered(browser, waits.location, ANSWERS)
            assert await gateway.ledger(browser, "Once-Unique") == 1
            await changed(gateway, profile={"fields": [*PROFILE["fields"], {"name": "city", "label": "C", "required": True}]})
            other = await logged_in(gateway)
            waits = await gateway.transfer(other, "Twice-Unique")
            page = await other.get(waits.location)  # of two steps, one was answered before: nobody counts it
            assert "How can we reach you?" in page.text
            assert "Step 2" not in page.text
            await answered(other, waits.location, {**ANSWERS, "city": "London"})
            assert await gateway.ledger(other, "Twice-Unique") == 1
            assert [outcome for outcome, _ in audit(gateway, "terms")] == ["passed", "remembered"]


class TestRecordsInRules:
    async def test_conditions_look_at_records(self, tmp_path: Path) -> None:
        rules = (
            {"name": "terms", "match": {"path": "/account"}, "when": 'record.terms.version != "2026-11"', "require": "terms"},
            {"name": "large", "match": {"path": "/transfer", "method": "GET"}, "when": 'record.profile.plan != "large"',
             "deny": {"message": "For the large plan only."}},
            {"name": "echo", "match": {"path": "/echo"}, "require": "profile"},
        )  # fmt: skip
        async with running(tmp_path, **configuration(*rules)) as gateway:
            browser = await logged_in(gateway)
            assert (await browser.get("/transfer")).status == 403
            await answered(browser, await asked(browser, "/account"), {"accept": "yes"})
            await answered(browser, await asked(browser, "/echo"), ANSWERS)
            other = await logged_in(gateway)
            for path in ("/account", "/transfer"):
                assert (await other.get(path)).status == 200
            bob = await logged_in(gateway, "bob", "builder")
            assert (await bob.get("/transfer")).status == 403
            assert (await gateway.browser().get("/transfer")).status == 403

    @pytest.mark.parametrize(("on_error", "status"), [("deny", 503), ("skip", 200), ("allow", 200), ("require", 303)])
    async def test_a_store_that_is_away_is_the_rules_on_error(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, on_error: str, status: int
    ) -> None:
        rule = {"name": "x", "match": {"path": "/account"}, "when": "record.profile.plan == 'x'", "require": "code", "on_error": on_error}

        async with running(tmp_path, **configuration(rule)) as gateway:
            browser = await logged_in(gateway)
            monkeypatch.setattr(gateway.app.records, "get", away)
            assert (await browser.get("/account")).status == status


async def test_a_subject_that_comes_with_each_request_is_remembered_too(tmp_path: Path) -> None:
    """No session of the application, and at first no pass: the one that is made carries what the form set."""
    identity = [{"from": "header", "name": "X-User"}]
    async with running(tmp_path, identity=identity, trusted_proxies=["127.0.0.1"], **{**configuration(ECHO), "rules": [ECHO]}) as gateway:
        first = gateway.browser()
        first.headers = {**first.headers, "X-User": "carol"}
        page = await asked(first, "/echo")
        await answered(first, page, ANSWERS)
        other = gateway.browser()
        other.headers = {**other.headers, "X-User": "carol"}
        for _ in range(2):  # by the record, then by the pass
            echoed = await other.get("/echo")
            assert echoed.status == 200
            token = decoded(dict(json.loads(echoed.body)["headers"])["X-Stepup-Token"].split(".")[1])
            assert (token["sub"], token["results"]) == ("carol", {"phone": ANSWERS["phone"], "news": True})
            assert other.cookie("stepup")
        stranger = gateway.browser()
        stranger.headers = {**stranger.headers, "X-User": "Carol"}
        await asked(stranger, "/echo")
