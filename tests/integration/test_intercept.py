"""Answers of upstreams that are taken over, in every lane: redirects to somebody's page, and challenges (RFC 9470)."""

from __future__ import annotations

import re
import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from html import unescape
from pathlib import Path
from typing import Any

import jwt
import pytest
import yaml

from tests.support.gateway import SCRIPT, Browser, Clock, Reply, Running, read, running
from tests.support.lanes import LANES
from tests.support.outside import SECRET, STEPS, Bank, banking

LOGIN: dict[str, Any] = {"from": "login_form", "upstream": "bank", "path": "/login", "cookie": "SID", "success": {"status": [302]}}
RESUME: dict[str, Any] = {"url": "/continue", "secret": SECRET, "audience": "mfa-rule"}
SETTING = {"slow": "slow", "fast": "auto"}
"""Of `lane:`, by the name of the lane."""


def rule(**changes: Any) -> dict[str, Any]:
    intercept = {"upstream": "bank", "location": "https://mfa.example.com/start*", **changes.pop("intercept", {})}
    return {"name": "mfa", "intercept": intercept, "require": ["code"], "resume": {**RESUME, **changes.pop("resume", {})}, **changes}


def challenge(**changes: Any) -> dict[str, Any]:
    return {"name": "api", "intercept": {"upstream": "bank", "challenge": True}, **changes}


class Place:
    def __init__(self, gateway: Running, bank: Bank) -> None:
        self.gateway = gateway
        self.bank = bank

    def browser(self) -> Browser:
        return self.gateway.browser()

    async def log_in(self, browser: Browser, user: str = "alice", **options: Any) -> Reply:
        return await browser.post("/login", {"username": user, "password": "x"}, **options)

    async def signed_in(self, browser: Browser) -> None:
        """With a session that the gateway knows, and without the step: the bank's own redirect is not for us here."""
        page, self.bank.page = self.bank.page, "/home"
        await self.log_in(browser)
        self.bank.page = page
        await browser.get("/")  # behind a body the slow lane keeps the connection for one request more

    async def send(self, browser: Browser, page: Reply) -> Reply:
        """Press the button of the page that leads back."""
        action, fields = form(page)
        return await browser.post(action, fields)


def form(page: Reply) -> tuple[str, dict[str, str]]:
    action = re.search(r'<form method="post" action="([^"]*)"', page.text)
    assert action, (page.status, page.text)
    return unescape(action[1]), {n: unescape(v) for n, v in re.findall(r'type="hidden" name="([^"]*)" value="([^"]*)"', page.text)}


@asynccontextmanager
async def standing(
    folder: Path, lane: str, *rules: dict[str, Any], bank: Bank | None = None, clock: Clock | None = None, **changes: Any
) -> AsyncIterator[Place]:
    async with banking(bank) as (found, url):
        if clock is not None:
            found.clock = clock
        settings: dict[str, Any] = {"steps": STEPS, "identity": [LOGIN], **changes, "rules": list(rules), "lane": lane}
        async with running(folder, clock=clock, upstreams={"bank": {"url": url}}, **settings) as gateway:
            found.keys = gateway.base + "/.stepup/jwks.json"
            yield Place(gateway, found)


@pytest.fixture(params=LANES)
def lane(request: pytest.FixtureRequest) -> str:
    return SETTING[request.param]


async def test_a_redirect_is_taken_over_and_goes_on_at_the_upstream(tmp_path: Path, lane: str) -> None:
    async with standing(tmp_path, lane, rule()) as place:
        browser = place.browser()
        asked = await place.log_in(browser)
        assert asked.location.startswith("/.stepup/t/su_")
        assert browser.cookie("SID")
        assert browser.cookie("theme") == "dark"
        passed = await place.gateway.pass_code(browser, asked.location, follow=False)
        page = await browser.get(passed.location)
        action, fields = form(page)
        assert action == "/continue"
        claims = jwt.decode(fields["token"], SECRET, algorithms=["HS256"], audience="mfa-rule", issuer=place.gateway.base)
        assert (claims["sub"], claims["state"], claims["amr"]) == ("alice", fields["state"], ["otp"])
        done = await place.send(browser, page)
        assert done.text == "signed in: alice by urn:example:mfa"
        assert place.bank.landed == [("POST", fields)]


async def test_by_query_and_at_another_path(tmp_path: Path, lane: str) -> None:
    async with standing(tmp_path, lane, rule(resume={"url": "/resume", "method": "get", "issuer": "mfa"})) as place:
        browser = place.browser()
        asked = await place.log_in(browser)
        passed = await place.gateway.pass_code(browser, asked.location, follow=False)
        sent = await browser.get(passed.location)
        assert sent.location.startswith("/resume?state=bank-")
        assert (await browser.get(sent.location)).text.startswith("signed in: alice")


async def test_what_is_proved_already_and_young_enough_is_not_asked_again(tmp_path: Path, lane: str) -> None:
    clock = Clock(time.time())
    async with standing(tmp_path, lane, rule(max_age="5m"), clock=clock) as place:
        browser = place.browser()
        asked = await place.log_in(browser)
        passed = await place.gateway.pass_code(browser, asked.location, follow=False)
        await place.send(browser, await browser.get(passed.location))
        await place.gateway.advance(200)
        page = await browser.get("/guarded")
        assert page.status == 200
        claims = jwt.decode(form(page)[1]["token"], options={"verify_signature": False})
        assert claims["iat"] - claims["auth_time"] == 200
        assert (await place.send(browser, page)).text.startswith("signed in: alice")
        await place.gateway.advance(101)
        assert (await browser.get("/guarded")).location.startswith("/.stepup/t/")


async def test_an_upstream_that_asks_again_and_again_is_not_obeyed_for_ever(tmp_path: Path, lane: str) -> None:
    async with standing(tmp_path, lane, rule(), bank=Bank(again=True)) as place:
        browser = place.browser()
        asked = await place.log_in(browser)
        passed = await place.gateway.pass_code(browser, asked.location, follow=False)
        page = await browser.get(passed.location)
        for _ in range(3):
            page = await place.send(browser, page)
            assert page.status == 200
        assert (await place.send(browser, page)).status == 403


async def test_a_script_gets_the_401_and_its_answer_as_json(tmp_path: Path, lane: str) -> None:
    async with standing(tmp_path, lane, rule()) as place:
        browser = place.browser()
        await place.signed_in(browser)
        asked = await browser.json("GET", "/guarded")
        assert (asked.status, asked.json["steps"]) == (401, ["code"])
        assert 'acr_values="urn:example:mfa"' in asked.headers["WWW-Authenticate"]
        page = asked.json["step_up_url"].removeprefix(place.gateway.base)
        await browser.json("GET", page)
        passed = (await browser.json("POST", page, {"code": place.gateway.code()})).json
        sent = (await browser.json("GET", passed["continue"])).json["send"]
        assert sent["url"] == "/continue"
        done = await browser.post(sent["url"], sent["fields"], headers=SCRIPT)
        assert done.text.startswith("signed in: alice")
        again = await browser.json("GET", "/guarded")
        assert (again.status, again.json["status"]) == (200, "passed")


@pytest.mark.parametrize("headers", [{"Sec-Fetch-Dest": "image", "Sec-Fetch-Mode": "no-cors"}, {"Sec-Purpose": "prefetch"}])
async def test_a_subresource_gets_a_401_without_a_transaction(tmp_path: Path, lane: str, headers: dict[str, str]) -> None:
    async with standing(tmp_path, lane, rule()) as place:
        browser = place.browser()
        await place.signed_in(browser)
        asked = await browser.get("/guarded", headers=headers)
        assert (asked.status, "state" in asked.json) == (401, False)


@pytest.mark.parametrize(
    ("location", "taken"),
    [
        ("https://mfa.example.com/start?state=x", True),
        ("https://MFA.example.com:443/start/?state=x", False),
        ("https://MFA.example.com:443/started?state=x", True),
        ("https:\\\\mfa.example.com\\start?state=x", True),
        ("https://mfa.example.com/x/../start?state=x", True),
        ("https://mfa.example.com/%73tart?state=x", True),
        ("http://mfa.example.com/start?state=x", False),
        ("https://mfa.example.com.evil.example/start?state=x", False),
        ("https://mfa.example.com@evil.example/start?state=x", False),
        ("https://mfa.example.com:8443/start?state=x", False),
        ("/start?state=x", False),
        ("https://evil.example/?u=https://mfa.example.com/start", False),
    ],
)
async def test_a_location_is_compared_as_origin_and_path(tmp_path: Path, lane: str, location: str, taken: bool) -> None:
    async with standing(tmp_path, lane, rule(), bank=Bank(after=location)) as place:
        browser = place.browser()
        await place.signed_in(browser)
        asked = await browser.get("/guarded")
        assert asked.location.startswith("/.stepup/t/" if taken else location)


async def test_a_path_on_the_public_origin(tmp_path: Path, lane: str) -> None:
    async with standing(tmp_path, lane, rule(intercept={"location": ["https://x.example/**", "/mfa/**"]})) as place:
        browser = place.browser()
        await place.signed_in(browser)
        for location in ("/mfa/start?state=x", "mfa?state=x", place.gateway.base + "/mfa?state=x"):
            place.bank.after = location
            assert (await browser.get("/guarded")).location.startswith("/.stepup/t/")


@pytest.mark.parametrize(
    "location",
    ["https://mfa.example.com/start", "https://mfa.example.com/start?state=", "https://mfa.example.com/start?state=a&state=b",
     "https://mfa.example.com/start?state=su_like-ours", "https://mfa.example.com/start?state=" + "x" * 5000],
)  # fmt: skip
async def test_a_redirect_without_one_state_is_refused(tmp_path: Path, lane: str, location: str) -> None:
    async with standing(tmp_path, lane, rule(), bank=Bank(after=location)) as place:
        browser = place.browser()
        await place.signed_in(browser)
        refused = await browser.get("/guarded")
        assert refused.status == 502
        assert "Location" not in refused.headers


async def test_several_rules_the_first_that_matches_counts(tmp_path: Path, lane: str) -> None:
    first = rule(name="first", intercept={"location": "https://mfa.example.com/other"}, require=["human"])
    second = rule(name="second", require=["human"])
    async with standing(tmp_path, lane, first, second, rule()) as place:
        browser = place.browser()
        await place.signed_in(browser)
        asked = await browser.json("GET", "/guarded")
        assert asked.json["steps"] == ["human"]


@pytest.mark.parametrize("off", [{"mode": "shadow"}, {"enabled": False}])
async def test_in_shadow_mode_or_switched_off_the_redirect_goes_on(tmp_path: Path, lane: str, off: dict[str, Any]) -> None:
    async with standing(tmp_path, lane, rule(**off)) as place:
        browser = place.browser()
        await place.signed_in(browser)
        assert (await browser.get("/guarded")).location.startswith("https://mfa.example.com/start?")
        assert (await browser.get("/continue?state=theirs")).status == 400


async def test_the_subject_of_the_upstreams_own_token(tmp_path: Path, lane: str) -> None:
    incoming = {"session_token": {"issuer": "bank", "audience": "mfa", "secret": SECRET}}
    async with standing(tmp_path, lane, rule(intercept=incoming), bank=Bank(bare=False), identity=[]) as place:
        browser = place.browser()
        asked = await place.log_in(browser)
        passed = await place.gateway.pass_code(browser, asked.location, follow=False)
        assert place.gateway.mails[0]["to"] == "alice@bank.example"
        page = await browser.get(passed.location)
        token = jwt.decode(form(page)[1]["token"], options={"verify_signature": False})
        assert token["sub"] == "alice"
        assert (await place.send(browser, page)).text.startswith("signed in: alice")
        # proved for whom a token named, not for whom this browser is
        assert (await browser.json("GET", "/.stepup/pass")).json["steps"] == []


async def test_an_older_session_lends_nothing_to_whom_the_token_is_about(tmp_path: Path, lane: str) -> None:
    incoming = {"session_token": {"issuer": "bank", "audience": "mfa", "secret": SECRET}}
    quiet = {**LOGIN, "success": {"status": [200]}}
    async with standing(tmp_path, lane, rule(intercept=incoming), bank=Bank(bare=False), identity=[{**LOGIN}]) as place:
        browser = place.browser()
        asked = await place.log_in(browser)
        passed = await place.gateway.pass_code(browser, asked.location, follow=False)
        await place.send(browser, await browser.get(passed.location))
        assert (await browser.get("/guarded")).status == 200  # alice has proved it
        raw = yaml.safe_load(place.gateway.config.read_text())
        raw["identity"] = [quiet]
        place.gateway.config.write_text(yaml.safe_dump(raw, sort_keys=False))
        await place.gateway.app.reload(read(place.gateway.config))
        place.bank.sessions = dict.fromkeys(place.bank.sessions, "bob")  # and the upstream says that it is about bob now
        asked = await browser.get("/guarded")
        assert asked.location.startswith("/.stepup/t/")
        await browser.get(asked.location)
        assert place.gateway.mails[0]["to"] == "bob@bank.example"


@pytest.mark.parametrize("bank", [Bank(bare=True), Bank(bare=False, issuer="other"), Bank(bare=False, more="&session_token=x")])
async def test_a_redirect_whose_token_does_not_verify_is_refused(tmp_path: Path, lane: str, bank: Bank) -> None:
    incoming = {"session_token": {"issuer": "bank", "audience": "mfa", "secret": SECRET}}
    async with standing(tmp_path, lane, rule(intercept=incoming), bank=bank, identity=[]) as place:
        assert (await place.log_in(place.browser())).status == 502


async def test_steps_that_need_somebody_where_nobody_is_known_are_refused(tmp_path: Path, lane: str) -> None:
    async with standing(tmp_path, lane, rule(), identity=[]) as place:
        refused = await place.log_in(place.browser())
        assert refused.status == 403
        assert "theme=dark" in str(refused.headers.getall("Set-Cookie"))


async def test_whoever_cancels_goes_back_to_the_upstream_with_an_error(tmp_path: Path, lane: str) -> None:
    async with standing(tmp_path, lane, rule()) as place:
        browser = place.browser()
        asked = await place.log_in(browser)
        page = await browser.get(asked.location)
        cancelled = await browser.post(asked.location, {"action": "cancel", "stepup_token": page.hidden("stepup_token")})
        assert cancelled.location.startswith("/continue?state=bank-")
        assert (await browser.get(cancelled.location)).text == "not signed in: access_denied"


async def test_another_browser_cannot_go_on(tmp_path: Path, lane: str) -> None:
    async with standing(tmp_path, lane, rule()) as place:
        browser = place.browser()
        asked = await place.log_in(browser)
        passed = await place.gateway.pass_code(browser, asked.location, follow=False)
        assert (await place.browser().get(passed.location)).status == 403


# -- /continue belongs to two ---------------------------------------------------------------------------------------


async def test_a_state_that_is_not_ours_passes_to_the_upstream(tmp_path: Path, lane: str) -> None:
    async with standing(tmp_path, lane, rule()) as place:
        browser = place.browser()
        assert (await browser.get("/continue?state=theirs&error=x")).text == "not signed in: x"
        big = {"state": "theirs", "error": "y" * 60_000}
        assert (await browser.post("/continue", big)).text.startswith("not signed in: yyy")
        assert (await browser.post("/continue?state=theirs", data=b"{}", headers={"Content-Type": "application/json"})).status == 403
        assert [method for method, _ in place.bank.landed] == ["GET", "POST", "POST"]


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/continue", None, 400),
        ("/continue?state=", None, 400),
        ("/continue?state=a&state=b", None, 400),
        ("/continue?state=a", b"state=b", 400),
        ("/continue?state=a", b"state=su_b", 400),
        ("/continue?state=su_" + "x" * 43, None, 404),
        ("/continue?state=su_x", None, 404),
        ("/continue", b"state=su_" + b"x" * 43, 404),
        ("/continue", b"state=%ff%fe&a=\xff", 400),
        ("/continue", b"x=" + b"y" * 70_000, 413),
    ],
)
async def test_nothing_else_does(tmp_path: Path, lane: str, path: str, body: bytes | None, status: int) -> None:
    async with standing(tmp_path, lane, rule()) as place:
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        refused = await place.browser().request("GET" if body is None else "POST", path, data=body, headers=headers)
        assert refused.status == status
        assert place.bank.landed == []


async def test_our_own_states_still_come_by_a_form(tmp_path: Path, lane: str) -> None:
    async with standing(tmp_path, lane, rule()) as place:
        browser = place.browser()
        asked = await place.log_in(browser)
        passed = await place.gateway.pass_code(browser, asked.location, follow=False)
        page = await browser.post("/continue", {"state": passed.location.partition("=")[2]})
        assert (await place.send(browser, page)).text.startswith("signed in: alice")


async def test_without_such_a_rule_no_state_of_others_passes(tmp_path: Path, lane: str) -> None:
    async with standing(tmp_path, lane, rule(resume={"url": "/resume"})) as place:
        assert (await place.browser().get("/continue?state=theirs")).status == 400
        assert place.bank.landed == []


# -- challenges (RFC 9470) ---------------------------------------------------------------------------------------


async def test_a_navigation_that_is_challenged_is_suspended_and_resumed_with_a_token(tmp_path: Path, lane: str) -> None:
    async with standing(tmp_path, lane, challenge()) as place:
        browser = place.browser()
        await place.signed_in(browser)
        asked = await browser.get("/api?x=1")
        assert asked.location.startswith("/.stepup/t/")
        assert browser.cookie("seen") == "1"
        done = await place.gateway.pass_code(browser, asked.location)
        assert (done.url.path, done.json["user"], done.json["acr"]) == ("/api", "alice", "urn:example:mfa")
        assert "private" in done.headers["Cache-Control"]
        assert (await browser.get("/api")).status == 200


async def test_a_script_that_is_challenged_gets_our_401_and_repeats(tmp_path: Path, lane: str) -> None:
    async with standing(tmp_path, lane, challenge()) as place:
        browser = place.browser()
        await place.signed_in(browser)
        asked = await browser.json("POST", "/api/post", {"n": 1})
        assert (asked.status, asked.json["error"], asked.json["steps"]) == (401, "interaction_required", ["code"])
        page = asked.json["step_up_url"].removeprefix(place.gateway.base)
        await browser.json("GET", page)
        passed = (await browser.json("POST", page, {"code": place.gateway.code()})).json
        assert (await browser.json("GET", passed["continue"])).status == 204
        done = await browser.json("POST", "/api/post", {"n": 1})
        assert done.status == 200
        assert len(place.bank.posted) == 2


async def test_a_form_whose_body_is_gone_is_not_sent_again(tmp_path: Path, lane: str) -> None:
    async with standing(tmp_path, lane, challenge()) as place:
        browser = place.browser()
        await place.signed_in(browser)
        asked = await browser.post("/api/post", {"n": "1"})
        done = await place.gateway.pass_code(browser, asked.location)
        assert done.status == 200
        assert len(place.bank.posted) == 1
        assert (await browser.post("/api/post", {"n": "1"})).status == 200


@pytest.mark.parametrize(
    "fields",
    [
        ('Bearer error="insufficient_user_authentication", acr_values="urn:other"',),
        ('Bearer error="insufficient_user_authentication"',),
        ('Bearer error="invalid_token"',),
        ('Bearer error="insufficient_user_authentication", acr_values="urn:example:mfa", max_age=soon',),
        ('Bearer error="insufficient_user_authentication, acr_values=urn:example:mfa',),
        ('Bearer error="insufficient_user_authentication", acr_values="urn:example:mfa", error="x"',),
        ("Basic realm=x",),
        (),
    ],
)
async def test_what_no_step_of_ours_can_meet_passes_unchanged(tmp_path: Path, lane: str, fields: tuple[str, ...]) -> None:
    async with standing(tmp_path, lane, challenge(), bank=Bank(challenge=fields)) as place:
        browser = place.browser()
        await place.signed_in(browser)
        passed = await browser.get("/api")
        assert (passed.status, passed.text) == (401, "more proof, please")
        assert passed.headers.getall("WWW-Authenticate", []) == list(fields)


@pytest.mark.parametrize(
    "fields",
    [
        ("Basic realm=\"a, b\", Bearer error=insufficient_user_authentication , acr_values=\"x urn:example:mfa\"",),
        ("Basic realm=x", 'DPoP algs="ES256 PS256", error="insufficient_user_authentication", acr_values="urn:example:mfa"'),
        ('bearer ERROR="insufficient_user_\\authentication", Acr_Values="human urn:example:mfa"',),
    ],
)  # fmt: skip
async def test_challenges_are_read_by_their_grammar(tmp_path: Path, lane: str, fields: tuple[str, ...]) -> None:
    async with standing(tmp_path, lane, challenge(), bank=Bank(challenge=fields)) as place:
        browser = place.browser()
        await place.signed_in(browser)
        asked = await browser.json("GET", "/api")
        assert asked.json["steps"] == (["human"] if "human" in fields[0] else ["code"])


async def test_required_steps_bound_what_a_challenge_may_name_and_stand_in_where_it_names_none(tmp_path: Path, lane: str) -> None:
    silent = ('Bearer error="insufficient_user_authentication"',)
    async with standing(tmp_path, lane, challenge(require=["human"]), bank=Bank(challenge=silent)) as place:
        browser = place.browser()
        await place.signed_in(browser)
        assert (await browser.json("GET", "/api")).json["steps"] == ["human"]
        place.bank.challenge = ('Bearer error="insufficient_user_authentication", acr_values="urn:example:mfa"',)
        assert (await browser.json("GET", "/api")).text == "more proof, please"


async def test_max_age_is_honoured(tmp_path: Path, lane: str) -> None:
    clock = Clock(time.time())
    fields = ('Bearer error="insufficient_user_authentication", acr_values="urn:example:mfa", max_age=60',)
    async with standing(tmp_path, lane, challenge(), bank=Bank(challenge=fields, max_age=60), clock=clock) as place:
        browser = place.browser()
        await place.signed_in(browser)
        asked = await browser.get("/api")
        assert (await place.gateway.pass_code(browser, asked.location)).status == 200
        await place.gateway.advance(50)
        assert (await browser.get("/api")).status == 200
        await place.gateway.advance(20)
        again = await browser.get("/api")
        assert again.location.startswith("/.stepup/t/")
        assert (await browser.json("GET", "/api")).json["steps"] == ["code"]
        assert (await place.gateway.pass_code(browser, again.location)).status == 200


async def test_max_age_0_is_for_this_very_request(tmp_path: Path, lane: str) -> None:
    clock = Clock(time.time())
    fields = ('Bearer error="insufficient_user_authentication", acr_values="urn:example:mfa", max_age=0',)
    async with standing(tmp_path, lane, challenge(), bank=Bank(challenge=fields, max_age=1), clock=clock) as place:
        browser = place.browser()
        await place.signed_in(browser)
        asked = await browser.get("/api")
        assert (await place.gateway.pass_code(browser, asked.location)).status == 200
        await place.gateway.advance(5)
        assert (await browser.get("/api")).location.startswith("/.stepup/t/")


async def test_a_challenge_for_what_was_shown_is_a_loop_and_ends(tmp_path: Path, lane: str) -> None:
    async with standing(tmp_path, lane, challenge(), bank=Bank(acr="never")) as place:
        browser = place.browser()
        await place.signed_in(browser)
        asked = await browser.get("/api")
        looped = await place.gateway.pass_code(browser, asked.location)
        assert (looped.status, "We keep asking" in looped.text) == (403, True)
        script = await browser.json("GET", "/api")
        assert (script.status, script.text) == (401, "more proof, please")


async def test_an_old_proof_is_never_shown_as_a_young_one(tmp_path: Path, lane: str) -> None:
    """auth_time is the oldest one's for an upstream that judges by it."""
    clock = Clock(time.time())
    both = {"name": "both", "match": {"path": "/home"}, "require": ["code", "human"]}
    async with standing(tmp_path, lane, challenge(), both, clock=clock) as place:
        browser = place.browser()
        await place.signed_in(browser)
        began = clock.now
        asked = await browser.get("/home")
        after = await place.gateway.pass_code(browser, asked.location, follow=False)
        await place.gateway.advance(100)
        await place.gateway.pass_captcha(browser, after.location)
        await browser.get("/api")
        claims = jwt.decode(place.bank.tokens[-1], options={"verify_signature": False})
        assert claims["acr"] == "urn:example:mfa human"
        assert claims["auth_time"] == int(began)


async def test_a_revoked_pass_shows_nothing(tmp_path: Path, lane: str) -> None:
    async with standing(tmp_path, lane, challenge()) as place:
        browser = place.browser()
        await place.signed_in(browser)
        asked = await browser.get("/api")
        assert (await place.gateway.pass_code(browser, asked.location)).status == 200
        shown = await browser.get("/.stepup/pass")
        await browser.post("/.stepup/pass/revoke", {"stepup_token": shown.hidden("stepup_token")})
        await browser.get("/api")
        assert place.bank.tokens[-1] == ""


async def test_nobody_is_sent_to_log_in_first(tmp_path: Path, lane: str) -> None:
    async with standing(tmp_path, lane, challenge()) as place:
        asked = await place.browser().get("/api")
        assert asked.location.startswith("/.stepup/t/")
    async with standing(tmp_path / "2", lane, challenge(), identity=[]) as place:
        assert (await place.browser().get("/api")).text == "more proof, please"


async def test_in_shadow_mode_a_challenge_goes_on(tmp_path: Path, lane: str) -> None:
    async with standing(tmp_path, lane, challenge(mode="shadow")) as place:
        browser = place.browser()
        await place.signed_in(browser)
        assert (await browser.get("/api")).text == "more proof, please"


async def test_what_was_taken_over_stands_in_the_audit_trail(tmp_path: Path) -> None:
    async with standing(tmp_path, "auto", rule()) as place:
        browser = place.browser()
        asked = await place.log_in(browser)
        passed = await place.gateway.pass_code(browser, asked.location, follow=False)
        await browser.get(passed.location)
        place.bank.after = "https://mfa.example.com/start"
        await browser.get("/guarded")
        with closing(sqlite3.connect(place.gateway.config.parent / "var/records.db")) as records:
            rows = records.execute("SELECT event, outcome, rule FROM audit ORDER BY id").fetchall()
        assert ("outside", "answered", "intercept:mfa") in rows
        assert ("intercept", "refused", "mfa") in rows
