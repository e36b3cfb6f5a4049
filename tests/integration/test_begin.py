"""The page for others: an issuer sends its users here by token, and gets them back with a signed answer."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import io
import json
import re
import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from html import unescape
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import jwt
import pytest
import yaml
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.support.gateway import SCRIPT, Browser, Clock, Reply, Running, decoded, read, running
from tests.support.outside import SECRET, STEPS, Issuer, issuing

CROSS = {"Sec-Fetch-Site": "cross-site", "Origin": "https://idp.example"}


@asynccontextmanager
async def standing(folder: Path, issuer: Issuer, *, clock: Clock | None = None, **changes: Any) -> AsyncIterator[Running]:
    """A gateway with the entry `idp`. changes: keys of the entry."""
    begin = {"idp": issuer.entry(**changes)}
    async with running(folder, clock=clock, steps=STEPS, rules=[], identity=[], begin=begin) as gateway:
        issuer.gateway_keys = gateway.base + "/.stepup/jwks.json"
        yield gateway


@pytest.fixture
async def issuer() -> AsyncIterator[Issuer]:
    async with issuing() as found:
        yield found


@pytest.fixture
async def gateway(tmp_path: Path, issuer: Issuer) -> AsyncIterator[Running]:
    async with standing(tmp_path, issuer) as found:
        yield found


def form(page: Reply) -> tuple[str, dict[str, str]]:
    """Where a page's form goes, and its hidden fields."""
    action = re.search(r'<form method="post" action="([^"]*)"', page.text)
    assert action, page.text
    return unescape(action[1]), {n: unescape(v) for n, v in re.findall(r'type="hidden" name="([^"]*)" value="([^"]*)"', page.text)}


async def through(gateway: Running, browser: Browser, start: str) -> Reply:
    """From the issuer's redirect to the page that leads back."""
    begun = await browser.get(start)
    assert begun.status == 303, begun.text
    passed = await gateway.pass_code(browser, begun.location, follow=False)
    assert passed.location.startswith("/continue?state=su_"), passed.text
    return await browser.get(passed.location)


async def test_the_user_goes_back_with_an_answer_in_a_form(gateway: Running, issuer: Issuer) -> None:
    browser = gateway.browser()
    page = await through(gateway, browser, issuer.start(jti="j-1"))
    assert page.status == 200
    assert f"form-action 'self' {issuer.origin};" in page.headers["Content-Security-Policy"]
    action, fields = form(page)
    assert action == f"{issuer.origin}/continue"
    claims = issuer.verified(fields)
    assert (claims["sub"], claims["jti"], claims["acr"], claims["amr"]) == ("alice", "j-1", "urn:example:mfa", ["otp"])
    assert claims["exp"] - claims["iat"] == 300
    assert claims["auth_time"] <= claims["iat"]
    back = await browser.post(action, fields)
    assert back.text == "Welcome back, alice"


async def test_a_query_parameter_where_that_is_configured(tmp_path: Path, issuer: Issuer) -> None:
    async with standing(tmp_path, issuer, method="query", answer_issuer="https://stepup.example", lifetime="1m") as gateway:
        sent = await through(gateway, gateway.browser(), issuer.start())
        assert sent.status == 303
        assert sent.location.startswith(f"{issuer.origin}/continue?state=theirs-")
        token = sent.location.partition("&token=")[2]
        assert decoded(token.split(".")[1])["iss"] == "https://stepup.example"
        assert decoded(token.split(".")[1])["exp"] - decoded(token.split(".")[1])["iat"] == 60


async def test_by_published_keys_both_ways(tmp_path: Path) -> None:
    async with issuing(Issuer(secret=None)) as issuer, standing(tmp_path, issuer) as gateway:
        _, fields = form(await through(gateway, gateway.browser(), issuer.start()))
        claims = await asyncio.to_thread(issuer.verified, fields)
        assert claims["sub"] == "alice"
        assert jwt.get_unverified_header(fields["token"])["typ"] == "JWT"


async def test_a_form_of_another_site_begins_it_too(gateway: Running, issuer: Issuer) -> None:
    browser = gateway.browser()
    fields = {"state": issuer.state(), "session_token": issuer.token()}
    begun = await browser.post("/.stepup/begin/idp", fields, headers=CROSS)
    assert begun.status == 303
    assert "stepup-arrival=" in begun.headers["Set-Cookie"]
    assert (await gateway.pass_code(browser, begun.location, follow=False)).location.startswith("/continue")


async def test_a_second_form_of_the_same_token_finds_the_open_one_by_a_redirect(gateway: Running, issuer: Issuer) -> None:
    browser, bare = gateway.browser(), gateway.browser()
    fields = {"state": issuer.state(), "session_token": issuer.token()}
    begun = await browser.post("/.stepup/begin/idp", fields, headers=CROSS)
    # The form of another site carries no Lax cookie; the redirect that answers it does.
    again = await bare.post("/.stepup/begin/idp", fields, headers=CROSS)
    assert again.location.startswith("/.stepup/begin/idp?again=")
    assert (await browser.get(again.location)).location == begun.location
    assert (await bare.get(again.location)).status == 410


async def test_a_reload_finds_the_open_transaction_and_another_browser_does_not(gateway: Running, issuer: Issuer) -> None:
    browser, start = gateway.browser(), issuer.start()
    first = await browser.get(start)
    assert (await browser.get(start)).location == first.location
    other = await gateway.browser().get(start)
    assert other.status == 410
    assert f'href="{issuer.origin}/"' in other.text
    assert len(gateway.mails) == 0
    page = await through(gateway, browser, start)
    assert issuer.verified(form(page)[1])["sub"] == "alice"
    done = await browser.get(start)  # after all is done the token leads to the page that says so
    assert done.location == first.location


async def test_an_answer_that_got_lost_is_sent_again_while_it_lives(tmp_path: Path, issuer: Issuer) -> None:
    clock = Clock(time.time())
    async with standing(tmp_path, issuer, clock=clock) as gateway:
        browser = gateway.browser()
        begun = await browser.get(issuer.start(now=clock.now))
        way = (await gateway.pass_code(browser, begun.location, follow=False)).location
        first = form(await browser.get(way))
        await gateway.advance(200)
        assert form(await browser.get(way)) == first
        assert (await browser.get(begun.location)).location == way
        assert (await gateway.browser().get(way)).status == 403
        await gateway.advance(101)
        late = await browser.get(way)
        assert late.status == 410
        assert f"Go back to {issuer.origin.removeprefix('http://')}" in late.text


async def test_two_continues_at_once_send_one_answer(gateway: Running, issuer: Issuer) -> None:
    browser = gateway.browser()
    begun = await browser.get(issuer.start())
    way = (await gateway.pass_code(browser, begun.location, follow=False)).location
    pages = await asyncio.gather(*(browser.get(way) for _ in range(4)))
    assert {page.status for page in pages} == {200}
    assert len({form(page)[1]["token"] for page in pages}) == 1


async def test_whoever_cancels_goes_back_with_an_error_and_without_a_token(gateway: Running, issuer: Issuer) -> None:
    browser = gateway.browser()
    begun = await browser.get(issuer.start())
    page = await browser.get(begun.location)
    assert f"form-action 'self' {issuer.origin};" in page.headers["Content-Security-Policy"]
    cancelled = await browser.post(begun.location, {"action": "cancel", "stepup_token": page.hidden("stepup_token")})
    assert cancelled.location.startswith(f"{issuer.origin}/continue?state=theirs-")
    assert "error=access_denied" in cancelled.location
    assert "token=" not in cancelled.location
    state = begun.location.rpartition("/")[2]
    ended = await browser.get(f"/continue?state={state}")
    assert (ended.status, "error=access_denied" in ended.text) == (410, True)


async def test_too_many_wrong_answers_lead_back_too(tmp_path: Path, issuer: Issuer) -> None:
    clock = Clock(time.time())
    async with standing(tmp_path, issuer, clock=clock) as gateway:
        browser = gateway.browser()
        begun = await browser.get(issuer.start(now=clock.now))
        for _ in range(10):
            await gateway.advance(61)
            answer = await browser.json("POST", begun.location, {"code": "000000"})
            if answer.json["status"] != "pending":
                break
        assert answer.json["status"] in ("failed", "expired")
        assert answer.json["continue"].startswith(f"{issuer.origin}/continue?state=")
        assert "error=access_denied" in answer.json["continue"]


async def test_by_json_the_answer_is_the_scripts_to_send(gateway: Running, issuer: Issuer) -> None:
    browser = gateway.browser()
    begun = await browser.get(issuer.start())
    await browser.json("GET", begun.location)
    passed = (await browser.json("POST", begun.location, {"code": gateway.code()})).json
    assert (passed["status"], "token" in passed) == ("passed", False)
    sent = (await browser.json("GET", passed["continue"])).json
    assert (sent["send"]["method"], sent["send"]["url"]) == ("post", f"{issuer.origin}/continue")
    assert issuer.verified(sent["send"]["fields"])["sub"] == "alice"


async def test_nothing_of_it_goes_into_the_pass(gateway: Running, issuer: Issuer) -> None:
    browser = gateway.browser()
    page = await through(gateway, browser, issuer.start())
    assert "stepup=" not in str(page.headers.getall("Set-Cookie", []))
    shown = await browser.json("GET", "/.stepup/pass")
    assert shown.json["steps"] == []


async def test_claims_of_the_token_are_the_subjects(tmp_path: Path, issuer: Issuer) -> None:
    steps = {"code": {**STEPS["code"], "email": "{subject.claims.mail}"}}
    begin = {"idp": issuer.entry(claims={"mail": "email"}, subject="uid")}
    async with running(tmp_path, steps=steps, rules=[], identity=[], begin=begin) as gateway:
        browser = gateway.browser()
        begun = await browser.get(issuer.start(sub="u-77", uid="alice", email="a@example.org"))
        await browser.get(begun.location)
        assert gateway.mails[0]["to"] == "a@example.org"


async def test_the_homegrown_page_of_the_document(tmp_path: Path, issuer: Issuer) -> None:
    """Both halves as they stand there."""
    document = (Path(__file__).parents[2] / "docs/how-to/begin.md").read_text()
    code: dict[str, Any] = {}
    exec(re.findall(r"^```python\n(.*?)^```", document, re.MULTILINE | re.DOTALL)[0], code)
    steps = {"code": {"kind": "otp", "methods": ["email"], "email": "{subject.claims.mail}"}}
    begin = {"idp": issuer.entry(issuer=code["ISSUER"], audience=code["AUDIENCE"], claims={"mail": "email"})}
    suspended: dict[str, str] = {}
    used: set[str] = set()
    async with running(tmp_path, steps=steps, rules=[], identity=[], begin=begin) as gateway:
        browser = gateway.browser()
        away = code["start"](gateway.base, "alice", "alice@example.org", SECRET, suspended)
        _, fields = form(await through(gateway, browser, away.removeprefix(gateway.base)))
        assert code["finish"]({**fields, "state": "another"}, SECRET, dict(suspended), used) is None
        assert code["finish"](fields, SECRET, dict(suspended), used) == "alice"
        assert code["finish"](fields, SECRET, dict(suspended), used) is None


# -- continue URLs ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("by", ["token", "query"])
async def test_of_several_continue_urls_the_token_or_the_query_chooses(tmp_path: Path, issuer: Issuer, by: str) -> None:
    second = f"{issuer.origin}/tenant/continue"
    async with standing(tmp_path, issuer, continue_url=[f"{issuer.origin}/continue", second]) as gateway:
        start = issuer.start(continue_uri=second) if by == "token" else issuer.start() + "&" + urlencode({"continue_url": second})
        assert form(await through(gateway, gateway.browser(), start))[0] == second


@pytest.mark.parametrize(
    "other",
    [
        "https://evil.example/continue",
        "{origin}/other",
        "{origin}@evil.example/continue",
        "{origin}.evil.example/continue",
        "//evil.example/continue",
        "javascript:alert(1)",
        "{origin}/continue/../other",
        "{origin}\\@evil.example/continue",
        "http:{path}",
        "",
    ],
)
@pytest.mark.parametrize("by", ["token", "query"])
async def test_a_continue_url_that_is_not_configured_is_refused(gateway: Running, issuer: Issuer, other: str, by: str) -> None:
    url = other.replace("{origin}", issuer.origin).replace("{path}", issuer.origin.partition(":")[2] + "x/continue")
    start = issuer.start(continue_url=url) if by == "token" else issuer.start() + "&" + urlencode({"continue_url": url})
    refused = await gateway.browser().json("GET", start)
    assert (refused.status, refused.json["error"]) == (400, "invalid_request")


# -- bad input ---------------------------------------------------------------------------------------


def forged(name: str, issuer: Issuer, gateway: Running) -> str:
    """A token that is not to be taken."""
    good, at = jwt.decode(issuer.token(), options={"verify_signature": False}), int(time.time())
    key = gateway.app.keyring.signing[0]
    match name:
        case "alg none":
            return jwt.encode(good, "", algorithm="none")
        case "another secret":
            return jwt.encode(good, "another secret of 32 bytes or more..", algorithm="HS256")
        case "HS256 by our public key":
            public = key.private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)

            def b64(data: bytes) -> str:
                return base64.urlsafe_b64encode(data).rstrip(b"=").decode()

            head = b64(b'{"alg":"HS256","typ":"JWT"}') + "." + b64(json.dumps(good).encode())
            return head + "." + b64(hmac.new(public, head.encode(), hashlib.sha256).digest())
        case "our own key":
            return jwt.encode(good, key.private, algorithm="ES256", headers={"kid": key.kid})
        case "jku":
            return jwt.encode(good, SECRET, algorithm="HS256", headers={"jku": "https://evil.example/jwks"})
        case "x5u":
            return jwt.encode(good, SECRET, algorithm="HS256", headers={"x5u": "https://evil.example/cert"})
        case "our typ":
            return jwt.encode(good, SECRET, algorithm="HS256", headers={"typ": "stepup-continue+jwt"})
        case "expired":
            return issuer.token(iat=at - 600, exp=at - 1)
        case "for ever":
            return issuer.token(exp=at + 10**8)
        case "no exp":
            return issuer.token(exp=None)
        case "from the future":
            return issuer.token(iat=at + 600, exp=at + 900)
        case "no jti":
            return issuer.token(jti=None)
        case "odd jti":
            return issuer.token(jti="a\nb")
        case "no sub":
            return issuer.token(sub="")
        case "another issuer":
            return issuer.token(iss="https://other.example/")
        case "another audience":
            return issuer.token(aud="someone")
        case "too long":
            return issuer.token(more="x" * 9000)
        case _:
            return name


@pytest.mark.parametrize(
    "name",
    [
        "alg none", "another secret", "HS256 by our public key", "our own key", "jku", "x5u", "our typ", "expired", "for ever", "no exp",
        "from the future", "no jti", "odd jti", "no sub", "another issuer", "another audience", "too long", "a.b.c", "nonsense",
    ],
)  # fmt: skip
async def test_a_token_that_does_not_verify_begins_nothing(gateway: Running, issuer: Issuer, name: str) -> None:
    token = forged(name, issuer, gateway)
    refused = await gateway.browser().post("/.stepup/begin/idp", {"state": "s", "session_token": token}, headers=SCRIPT)
    assert (refused.status, refused.json["error"]) == (400, "invalid_token")


async def test_a_person_is_told_where_to_begin_again(gateway: Running, issuer: Issuer) -> None:
    query = {"state": "s", "session_token": forged("expired", issuer, gateway)}
    refused = await gateway.browser().post("/.stepup/begin/idp", query)
    assert refused.status == 400
    assert "start again there" in refused.text
    assert "Go back to the step" not in refused.text


@pytest.mark.parametrize("name", ["wrong kid", "HS256 with the key's name", "another key"])
async def test_nor_one_that_no_published_key_has_signed(tmp_path: Path, name: str) -> None:
    async with issuing(Issuer(secret=None)) as issuer, standing(tmp_path, issuer) as gateway:
        good = jwt.decode(issuer.token(), options={"verify_signature": False})
        token = {
            "wrong kid": lambda: jwt.encode(good, issuer.key, algorithm="ES256", headers={"kid": "idp-2"}),
            "HS256 with the key's name": lambda: jwt.encode(good, SECRET, algorithm="HS256", headers={"kid": "idp-1"}),
            "another key": lambda: jwt.encode(good, Issuer().key, algorithm="ES256", headers={"kid": "idp-1"}),
        }[name]()
        refused = await gateway.browser().post("/.stepup/begin/idp", {"state": "s", "session_token": token}, headers=SCRIPT)
        assert (refused.status, refused.json["error"]) == (400, "invalid_token")


async def test_keys_that_cannot_be_had_are_a_503(tmp_path: Path) -> None:
    async with issuing(Issuer(secret=None)) as issuer:
        begin = {"idp": {**issuer.entry(), "jwks_url": "http://127.0.0.1:9/jwks"}}
        async with running(tmp_path, steps=STEPS, rules=[], identity=[], begin=begin) as gateway:
            assert (await gateway.browser().get(issuer.start())).status == 503


@pytest.mark.parametrize(
    ("query", "body", "headers", "status"),
    [
        ("session_token={t}", None, {}, 400),
        ("state=&session_token={t}", None, {}, 400),
        ("state=s", None, {}, 400),
        ("state=s&state=s&session_token={t}", None, {}, 400),
        ("state=s&session_token={t}&session_token={t}", None, {}, 400),
        ("state=s&session_token={t}", b"state=s", {}, 400),
        ("", b"state=s&session_token={t}", {"Content-Type": "text/plain"}, 415),
        ("", b"state=s&session_token={t}", {"Content-Type": ""}, 415),
        ("", b"state=s\xff&session_token={t}", {}, 400),
        ("", b"x" * 10_000_000, {}, 413),
        ("state=" + "s" * 5000 + "&session_token={t}", None, {}, 400),
        ("again=nonsense", None, {}, 410),
    ],
)
async def test_what_begin_cannot_take(
    gateway: Running, issuer: Issuer, query: str, body: bytes | None, headers: dict[str, str], status: int
) -> None:
    token = issuer.token()
    sent = {"Content-Type": "application/x-www-form-urlencoded", **headers}
    path = "/.stepup/begin/idp?" + query.replace("{t}", token)
    options: dict[str, Any] = {"data": io.BytesIO(body.replace(b"{t}", token.encode()))} if body is not None else {}
    if body is not None and not sent["Content-Type"]:
        del sent["Content-Type"]
        options["skip_auto_headers"] = ["Content-Type"]
    browser = gateway.browser()
    refused = await browser.request("POST" if body is not None else "GET", path, headers=sent, **options)
    assert refused.status == status
    # and the token is not used up by it
    assert (await browser.get(f"/.stepup/begin/idp?state=s&session_token={token}")).status == 303


@pytest.mark.parametrize(
    ("method", "headers", "status"),
    [("PUT", {}, 405), ("HEAD", {}, 405), ("GET", {"Sec-Purpose": "prefetch"}, 400), ("GET", {"Sec-Fetch-Dest": "image"}, 400)],
)
async def test_only_a_person_begins(gateway: Running, issuer: Issuer, method: str, headers: dict[str, str], status: int) -> None:
    start = issuer.start()
    changed = {**headers, **({"Sec-Fetch-Mode": "no-cors"} if "Sec-Fetch-Dest" in headers else {})}
    assert (await gateway.browser().request(method, start, headers=changed)).status == status
    assert (await gateway.browser().get(start)).status == 303


async def test_an_unknown_entry_is_unknown(gateway: Running, issuer: Issuer) -> None:
    assert (await gateway.browser().get(issuer.start("other"))).status == 404


async def test_bounds_on_open_transactions_use_no_token_up(tmp_path: Path, issuer: Issuer) -> None:
    begin = {"idp": issuer.entry()}
    limits = {"max_per_browser": 1}
    async with running(tmp_path, steps=STEPS, rules=[], identity=[], begin=begin, transactions=limits) as gateway:
        browser, start = gateway.browser(), issuer.start()
        first = await browser.get(issuer.start())
        assert (await browser.get(start)).status == 429
        page = await browser.get(first.location)
        await browser.post(first.location, {"action": "cancel", "stepup_token": page.hidden("stepup_token")})
        assert (await browser.get(start)).status == 303


async def test_an_entry_that_a_reload_took_away_answers_nobody(gateway: Running, issuer: Issuer) -> None:
    browser = gateway.browser()
    begun = await browser.get(issuer.start())
    way = (await gateway.pass_code(browser, begun.location, follow=False)).location
    raw = yaml.safe_load(gateway.config.read_text())
    del raw["begin"]
    gateway.config.write_text(yaml.safe_dump(raw, sort_keys=False))
    await gateway.app.reload(read(gateway.config))
    gone = await browser.get(way)
    assert gone.status == 410
    assert "token" not in gone.headers.get("Location", "")


async def test_what_was_done_stands_in_the_audit_trail(gateway: Running, issuer: Issuer) -> None:
    await through(gateway, gateway.browser(), issuer.start())
    await gateway.browser().post("/.stepup/begin/idp", {"state": "s", "session_token": issuer.token(aud="other")}, headers=SCRIPT)
    with closing(sqlite3.connect(gateway.config.parent / "var/records.db")) as records:
        rows = records.execute("SELECT event, outcome, rule FROM audit ORDER BY id").fetchall()
    assert ("begin", "begun", "begin:idp") in rows
    assert ("outside", "answered", "begin:idp") in rows
    assert ("begin", "refused", "begin:idp") in rows


async def test_who_has_answered_for_good_is_not_asked_again_and_the_answer_says_when_it_was(tmp_path: Path, issuer: Issuer) -> None:
    clock = Clock(time.time() - 60)  # the issuer's stands at the end of it
    profile = {"kind": "form", "fields": [{"name": "phone", "label": "Phone", "required": True}], "claims": {"phone": "phone"}}
    entry = {"idp": issuer.entry(steps=["profile"])}
    async with running(tmp_path, clock=clock, steps={"profile": profile}, rules=[], identity=[], begin=entry) as gateway:
        issuer.gateway_keys = gateway.base + "/.stepup/jwks.json"
        first = gateway.browser()
        page = (await first.get(issuer.start(now=clock()))).location
        shown = await first.get(page)
        passed = await first.post(page, {"phone": "555 0100", "stepup_token": shown.hidden("stepup_token")}, follow=True)
        at = issuer.verified(form(passed)[1])["auth_time"]
        await gateway.advance(60)
        back = await gateway.browser().get(issuer.start(), follow=True)
        claims = issuer.verified(form(back)[1])
        assert (claims["results"], claims["auth_time"]) == ({"phone": "555 0100"}, at)
        bob = await gateway.browser().get(issuer.start(sub="bob"), follow=True)
        assert "Phone" in bob.text
