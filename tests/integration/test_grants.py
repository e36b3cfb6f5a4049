"""Token endpoints behind the gateway: a small provider, a client without cookies, a browser that helps. Every server here is real."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from tests.support.altcha_client import payload
from tests.support.gateway import Clock
from tests.support.oauth import REALM, Before, basic, gateway_before, hidden

PASSWORD = {"grant_type": "password", "client_id": "spa", "username": "alice", "password": "wonderland", "scope": "openid"}


@pytest.fixture
async def idp(tmp_path: Path) -> AsyncIterator[Before]:
    async with gateway_before(tmp_path, clock=Clock(1_800_000_000.0)) as found:
        yield found


async def test_a_password_grant_waits_for_its_step_and_goes_through_once(idp: Before) -> None:
    client = idp.client()
    asked = await client.call(PASSWORD)
    assert asked.status == 403
    assert asked.headers["Cache-Control"] == "no-store"
    assert asked.json["error"] == "interaction_required"
    assert asked.json["state"].startswith("su_")
    assert asked.json["step_up_url"] == f"{idp.base}/.stepup/t/{asked.json['state']}"
    assert asked.json["steps"] == ["code"]
    assert 0 < asked.json["expires_in"] <= 600
    assert "access_token" not in asked.text
    token = await idp.passed(client, asked)
    done = await client.call({**PASSWORD, "stepup_token": token})
    assert done.status == 200, done.text
    assert done.json["for"] == "alice"
    assert done.headers["X-Provider"] == "small"
    again = await client.call({**PASSWORD, "stepup_token": token})
    assert (again.status, again.json["error"]) == (400, "invalid_request")


# -- password and /oauth/ro: the answer is held -------------------------------------------------------------------------


async def test_a_wrong_password_is_the_upstreams_business_and_opens_nothing(idp: Before) -> None:
    client = idp.client()
    refused = await client.call({**PASSWORD, "password": "guess"})
    assert (refused.status, refused.json) == (403, {"error": "invalid_grant", "error_description": "Wrong email or password."})
    assert idp.mails == []
    assert (await client.call({**PASSWORD, "client_id": "web", "client_secret": "no"})).json["error"] == "invalid_client"


async def test_a_user_whom_no_rule_is_about_gets_the_grant_as_it_is(tmp_path: Path) -> None:
    rule = {"name": "alice", "match": {"path": "/oauth/token"}, "when": 'subject.id == "alice"', "require": "code"}
    async with gateway_before(tmp_path, rules=[rule]) as idp:
        client = idp.client()
        assert (await client.call({**PASSWORD, "username": "bob", "password": "builder"})).json["for"] == "bob"
        assert (await client.call(PASSWORD)).json["error"] == "interaction_required"


async def test_conditions_know_what_kind_of_call_it_is(tmp_path: Path) -> None:
    rules = [
        {"name": "ro", "match": {}, "when": 'request.protocol == "oauth2-resource-owner"', "require": "code"},
        {"name": "closed", "match": {}, "when": 'request.protocol == "oauth2-client-credentials"', "deny": {"message": "Not from here."}},
        {"name": "http", "match": {}, "when": 'request.protocol == "http"', "deny": {}},
    ]
    async with gateway_before(tmp_path, rules=rules) as idp:
        client = idp.client()
        assert (await client.call(PASSWORD)).status == 200
        assert (await client.call(PASSWORD, path="/oauth/ro")).json["error"] == "interaction_required"
        denied = await client.call({"grant_type": "client_credentials", "client_id": "spa"})
        assert (denied.status, denied.json["error"], denied.json["error_description"]) == (403, "access_denied", "Not from here.")
        assert len(idp.provider.calls) == 2
        assert (await client.get("/")).status == 403


async def test_resource_owner_and_password_realm_wait_alike_by_form_and_by_json(idp: Before) -> None:
    client = idp.client()
    realm = {**PASSWORD, "grant_type": REALM, "realm": "employees"}
    asked = await client.call(realm)
    assert (await client.call({**realm, "stepup_token": await idp.passed(client, asked)})).json["for"] == "alice"
    document = {"client_id": "spa", "username": "bob", "password": "builder", "connection": "db", "grant_type": "password"}
    ro = await client.request("POST", "/oauth/ro", json=document)
    assert ro.json["error"] == "interaction_required"
    token = await idp.passed(client, ro)
    done = await client.request("POST", "/oauth/ro", json={**document, "stepup_token": token})
    assert done.json["for"] == "bob"
    assert json.loads(idp.provider.calls[-1][2]) == document


async def test_the_token_is_taken_out_of_the_form_and_every_other_byte_stays(idp: Before) -> None:
    client = idp.client()
    body = b"grant_type=password&client_id=spa&&x=%7E~+%2b&username=al%69ce&password=wonderland"
    asked = await client.call(body)
    token = (await idp.passed(client, asked)).encode()
    done = await client.call(body.replace(b"&&", b"&stepup%5ftoken=" + token + b"&&"), headers={"Accept-Encoding": "gzip"})
    assert done.status == 200, done.text
    _, headers, sent = idp.provider.calls[-1]
    assert sent == body
    assert int(headers["Content-Length"]) == len(body)
    assert "Accept-Encoding" not in headers
    assert headers["X-Stepup-Token"].count(".") == 2


async def test_the_client_may_authenticate_by_basic_and_is_bound_by_it(idp: Before) -> None:
    client, header = idp.client(), {"Authorization": basic("web", "s3cret")}
    form = {"grant_type": "password", "username": "alice", "password": "wonderland"}
    asked = await client.call(form, headers=header)
    url = asked.json["step_up_url"]
    assert (await client.step(url)).status == 403
    assert (await client.step(url, headers={"Authorization": basic("web", "other")})).status == 403
    token = await idp.passed(client, asked, header)
    assert (await client.call({**form, "stepup_token": token, "client_id": "web", "client_secret": "s3cret"})).status == 400
    assert (await client.call({**form, "stepup_token": token}, headers=header)).json["for"] == "alice"


@pytest.mark.parametrize(
    "changed",
    [
        {"username": "bob", "password": "builder"},
        {"client_id": "other"},
        {"scope": "openid admin"},
        {"grant_type": REALM},
        {"audience": "https://api.example.com"},
    ],
)
async def test_the_token_is_good_for_that_user_client_and_call_only(idp: Before, changed: dict[str, str]) -> None:
    client = idp.client()
    token = await idp.passed(client, await client.call(PASSWORD))
    refused = await client.call({**PASSWORD, **changed, "stepup_token": token})
    assert (refused.status, refused.json["error"]) == (400, "invalid_request")
    assert len(idp.provider.calls) == 1
    assert (await client.call(PASSWORD, path="/oauth/ro?x")).status == 403
    assert (await client.call({**PASSWORD, "stepup_token": token})).status == 200


async def test_a_wrong_password_does_not_burn_the_token_but_may_not_be_tried_for_ever(idp: Before) -> None:
    client = idp.client()
    token = await idp.passed(client, await client.call(PASSWORD))
    for _ in range(9):
        refused = await client.call({**PASSWORD, "password": "guess", "stepup_token": token})
        assert refused.json["error"] == "invalid_grant"
    assert (await client.call({**PASSWORD, "stepup_token": token})).status == 200
    token = await idp.passed(client, await client.call(PASSWORD))
    for _ in range(10):
        assert (await client.call({**PASSWORD, "password": "guess", "stepup_token": token})).json["error"] == "invalid_grant"
    assert (await client.call({**PASSWORD, "stepup_token": token})).json["error"] == "invalid_request"


async def test_a_device_may_ask_until_its_user_has_agreed(tmp_path: Path) -> None:
    """RFC 8628 §3.5: an answer that there is none yet is no failed attempt."""
    steps = {"human": {"kind": "captcha", "provider": "altcha", "cost": 100, "max_number": 50}}
    rules = [{"name": "tokens-need-a-human", "match": {"path": "/oauth/token"}, "require": "human"}]
    form = {"grant_type": "urn:ietf:params:oauth:grant-type:device_code", "client_id": "tv", "device_code": "d"}
    async with gateway_before(tmp_path, steps=steps, rules=rules) as idp:
        client = idp.client()
        asked = await client.call(form)
        shown = await client.step(asked.json["step_up_url"])
        passed = await client.step(asked.json["step_up_url"], {"altcha": payload(shown.json["step"]["data"])})
        for error in ("authorization_pending", "slow_down") * 10:
            idp.provider.answer = lambda _, error=error: web.json_response({"error": error}, status=400)  # type: ignore[misc]
            waits = await client.call({**form, "stepup_token": passed.json["token"]})
            assert waits.json == {"error": error}
        idp.provider.answer = lambda _: web.json_response({"access_token": "a"})
        assert (await client.call({**form, "stepup_token": passed.json["token"]})).json == {"access_token": "a"}


async def test_of_twenty_parallel_repetitions_one_gets_the_grant(idp: Before) -> None:
    client = idp.client()
    token = await idp.passed(client, await client.call(PASSWORD))
    replies = await asyncio.gather(*(client.call({**PASSWORD, "stepup_token": token}) for _ in range(20)))
    assert sum(reply.status == 200 for reply in replies) == 1
    assert {reply.status for reply in replies} <= {200, 400, 429}
    assert sum("access_token" in reply.text for reply in replies) == 1


async def test_forged_expired_and_foreign_tokens_open_nothing(idp: Before) -> None:
    client = idp.client()
    asked = await client.call(PASSWORD)
    token = await idp.passed(client, asked)
    other = await client.call({**PASSWORD, "stepup_token": "nonsense"})
    assert (other.status, other.json["error"]) == (400, "invalid_request")
    header, payload, signature = token.split(".")
    assert (await client.call({**PASSWORD, "stepup_token": f"{header}.{payload}.{signature[:-4]}AAAA"})).status == 400
    assert (await client.call({**PASSWORD, "stepup_token": f"eyJhbGciOiJub25lIn0.{payload}."})).status == 400
    await idp.advance(301)
    assert (await client.call({**PASSWORD, "stepup_token": token})).status == 400
    fresh = (await client.step(asked.json["step_up_url"])).json["token"]
    await idp.advance(300)
    assert (await client.call({**PASSWORD, "stepup_token": fresh})).status == 400
    assert len(idp.provider.calls) == 1


async def test_two_equal_calls_have_two_transactions(idp: Before) -> None:
    """A thief with the password is not handed the one that its owner is about to pass."""
    client = idp.client()
    first, second = await client.call(PASSWORD), await client.call(PASSWORD)
    assert first.json["state"] != second.json["state"]


async def test_open_calls_of_one_user_are_bounded(tmp_path: Path) -> None:
    async with gateway_before(tmp_path, transactions={"max_per_browser": 2}) as idp:
        client = idp.client()
        assert [(await client.call(PASSWORD)).status for _ in range(3)] == [403, 403, 429]
        assert (await client.call({**PASSWORD, "username": "bob", "password": "builder"})).status == 403


# -- answers that cannot be looked into ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "made",
    [
        lambda: web.Response(text="<h1>in</h1>", content_type="text/html"),
        lambda: web.Response(body=b"\x1f\x8b", headers={"Content-Type": "application/json", "Content-Encoding": "gzip"}),
        lambda: web.Response(text='{"access_token": "a"', content_type="application/json"),
        lambda: web.Response(text="[]", content_type="application/json"),
        lambda: web.json_response({"hello": "world"}),
        lambda: web.Response(status=302, headers={"Location": "/x#access_token=a"}),
        lambda: web.json_response({"access_token": "a" * 2_000_000}),
        lambda: web.Response(status=204),
    ],
)
async def test_what_is_no_grant_that_can_be_read_does_not_leave_and_asks_nobody(idp: Before, made: object) -> None:
    idp.provider.answer = lambda _: made()  # type: ignore[operator]
    client = idp.client()
    refused = await client.call(PASSWORD)
    assert refused.status == 502, refused.text
    assert "access_token" not in refused.text
    assert idp.mails == []


async def test_an_error_that_carries_a_token_is_a_grant(idp: Before) -> None:
    idp.provider.answer = lambda _: web.json_response({"error": "odd", "access_token": "a"}, status=400)
    assert (await idp.client().call(PASSWORD)).json["error"] == "interaction_required"


async def test_a_provider_that_is_away_is_said_to_be(idp: Before) -> None:
    idp.provider.answer = lambda request: request.transport.abort() or web.Response()  # type: ignore[union-attr]
    assert (await idp.client().call(PASSWORD)).status == 502
    error = web.Response(status=500, text="<h1>Oops</h1>", content_type="text/html")
    idp.provider.answer = lambda _: error
    broken = await idp.client().call(PASSWORD)
    assert (broken.status, broken.text) == (500, "<h1>Oops</h1>")


# -- the browser that helps -------------------------------------------------------------------------------------------


async def test_the_page_names_client_user_and_action_and_the_browser_gains_nothing(idp: Before) -> None:
    client, phone, other = idp.client(), idp.browser(), idp.browser()
    asked = await client.call(PASSWORD)
    path = asked.json["step_up_url"].removeprefix(idp.base)
    page = await phone.get(path)
    assert page.status == 200
    for words in ("spa", "alice", "sign in with a password", "only if you have started this yourself"):
        assert words in page.text
    assert (await other.get(path)).status == 403
    assert (await other.post(path, {"code": "000000", "stepup_token": hidden(page.text)})).status == 403
    waiting = await client.step(path)
    assert waiting.json["status"] == "pending"
    done = await phone.post(path, {"code": idp.code(), "stepup_token": hidden(page.text)}, follow=True)
    assert done.status == 200
    assert "Go back to the app" in done.text
    assert "eyJ" not in done.text
    assert phone.cookie("stepup") is None
    assert (await phone.get("/.stepup/pass", headers={"Accept": "application/json"})).json["steps"] == []
    resumed = await phone.get(f"/continue?state={asked.json['state']}")
    assert "Go back to the app" in resumed.text
    assert phone.cookie("stepup") is None
    passed = await client.step(path)
    assert passed.json["status"] == "passed"
    assert (await client.call({**PASSWORD, "stepup_token": passed.json["token"]})).json["for"] == "alice"
    assert "Go back to the app" in (await phone.get(path)).text


async def test_whoever_did_not_start_it_cancels_it_for_the_client(idp: Before) -> None:
    client, phone = idp.client(), idp.browser()
    asked = await client.call(PASSWORD)
    path = asked.json["step_up_url"].removeprefix(idp.base)
    page = await phone.get(path)
    cancelled = await phone.post(path, {"action": "cancel", "stepup_token": hidden(page.text)})
    assert cancelled.status == 200
    assert "Cancelled" in cancelled.text
    state = await client.step(path)
    assert (state.json["status"], state.json["error"]["code"]) == ("failed", "cancelled")


async def test_the_browsers_json_shows_no_token_where_the_client_has_a_secret(idp: Before) -> None:
    client, phone, header = idp.client(), idp.browser(), {"Authorization": basic("web", "s3cret")}
    asked = await client.call({"grant_type": "password", "username": "alice", "password": "wonderland"}, headers=header)
    path = asked.json["step_up_url"].removeprefix(idp.base)
    await phone.get(path)
    done = await phone.json("POST", path, {"code": idp.code()})
    assert done.json == {"state": asked.json["state"], "status": "passed"}
    assert "token" in (await client.step(path, headers=header)).json


# -- refresh ----------------------------------------------------------------------------------------------------------


async def granted(idp: Before, client: object) -> str:
    """A refresh token issued after the step."""
    asked = await client.call(PASSWORD)  # type: ignore[attr-defined]
    token = await idp.passed(client, asked)  # type: ignore[arg-type]
    return str((await client.call({**PASSWORD, "stepup_token": token})).json["refresh_token"])  # type: ignore[attr-defined]


def refresh(token: str, **more: str) -> dict[str, str]:
    return {"grant_type": "refresh_token", "client_id": "spa", "refresh_token": token, **more}


async def test_inherit_lets_a_refresh_token_pass_with_its_successors_whatever_their_age(idp: Before) -> None:
    client = idp.client()
    token = await granted(idp, client)
    for _ in range(3):
        await idp.advance(86_400)
        done = await client.call(refresh(token))
        assert done.status == 200, done.text
        token = done.json["refresh_token"]
    idp.provider.rotates = False
    for _ in range(2):
        await idp.advance(25 * 86_400)
        assert (await client.call(refresh(token))).status == 200
    await idp.advance(31 * 86_400)
    assert (await client.call(refresh(token))).json["error"] == "interaction_required"


async def test_require_asks_again_when_the_proof_is_old_and_does_not_rotate_the_token(tmp_path: Path) -> None:
    async with gateway_before(tmp_path, clock=Clock(1_800_000_000.0), refresh="require") as idp:
        client = idp.client()
        token = await granted(idp, client)
        await idp.advance(300)
        token = (await client.call(refresh(token))).json["refresh_token"]
        await idp.advance(301)
        calls = len(idp.provider.calls)
        asked = await client.call(refresh(token))
        assert asked.json["error"] == "interaction_required"
        assert len(idp.provider.calls) == calls
        page = await idp.browser().get(asked.json["step_up_url"])
        assert "stay signed in" in page.text
        evidence = await idp.passed(client, asked)
        done = await client.call(refresh(token, stepup_token=evidence))
        assert done.status == 200, done.text
        assert idp.provider.forms()[-1] == refresh(token)
        assert (await client.call(refresh(done.json["refresh_token"]))).status == 200


async def test_an_unknown_refresh_token_is_asked_and_where_nobody_is_known_sent_to_sign_in(idp: Before) -> None:
    client = idp.client()
    idp.provider.live["rt-old"] = ("alice", "spa")
    asked = await client.call(refresh("rt-old"))
    assert (asked.status, asked.json["error"]) == (403, "interaction_required")
    assert "state" not in asked.json
    assert "Sign in again" in asked.json["error_description"]
    assert idp.provider.calls == []
    token = await granted(idp, client)
    calls = len(idp.provider.calls)
    assert (await client.call({**refresh(token), "client_id": "other"})).json["error"] == "interaction_required"
    assert len(idp.provider.calls) == calls


async def test_a_code_is_let_pass_where_it_was_gated_and_its_refresh_token_inherits(tmp_path: Path) -> None:
    from gateway.wire.subject import Proof, Subject

    clock = Clock(1_800_000_000.0)
    async with gateway_before(tmp_path, clock=clock, oauth={"authorize": "/authorize", "session_cookie": "sid"}) as idp:
        client = idp.client()
        idp.provider.codes |= {"c-known": "alice", "c-unknown": "alice"}
        proofs = {"code": Proof("code", clock(), ("otp",))}
        await idp.app.issued.remember_code("idp", "c-known", Subject("alice", {}, "session"), proofs, client="spa", now=clock())
        exchange = {"grant_type": "authorization_code", "client_id": "spa", "redirect_uri": "https://app.example.com/cb"}
        first = await client.call({**exchange, "code": "c-known"})
        second = await client.call({**exchange, "code": "c-unknown"})
        assert (first.status, second.status) == (200, 200)
        assert (await client.call(refresh(first.json["refresh_token"]))).status == 200
        assert (await client.call(refresh(second.json["refresh_token"]))).json["error"] == "interaction_required"


async def test_without_a_gate_at_authorize_codes_are_judged_like_everything_else(idp: Before) -> None:
    idp.provider.codes["c"] = "alice"
    exchange = {"grant_type": "authorization_code", "client_id": "spa", "code": "c"}
    assert (await idp.client().call(exchange)).json["error"] == "interaction_required"
    assert idp.provider.calls == []


async def test_remembered_refresh_tokens_of_one_user_are_bounded(tmp_path: Path) -> None:
    async with gateway_before(tmp_path, clock=Clock(1_800_000_000.0), oauth={"max_refresh": 1}) as idp:
        client = idp.client()
        first = await granted(idp, client)
        await idp.advance(60)
        second = await granted(idp, client)
        assert (await client.call(refresh(second))).json["error"] == "interaction_required"
        assert (await client.call(refresh(first))).status == 200


# -- bad input --------------------------------------------------------------------------------------------------------

BAD: list[tuple[bytes, dict[str, str]]] = [
    (b"grant_type=password&username=alice&username=bob&password=wonderland", {}),
    (b"grant_type=password&Username=bob&username=alice&password=wonderland", {}),
    (b"grant_type=password&username%5B%5D=bob&username=alice&password=wonderland", {}),
    (b"grant_type=password&x=1;username=bob&username=alice&password=wonderland", {}),
    (b"grant_type=password&grant.type=refresh_token&username=alice&password=wonderland", {}),
    (b"grant_type=password&grant_type=client_credentials&username=alice&password=wonderland", {}),
    (b"grant_type=password&password=wonderland", {}),
    (b"grant_type=password&username=&password=wonderland", {}),
    (b"grant_type=password&username=%ff&password=wonderland", {}),
    (b"grant_type=password&username=a%00lice&password=wonderland", {}),
    (b"grant_type=password&username=alice&password=wonderland&client_id=spa", {"Authorization": basic("web", "s3cret")}),
    (b"grant_type=password&username=alice&password=wonderland", {"Authorization": "Basic ?"}),
    (b"grant_type=password&username=alice&password=wonderland", {"Content-Type": "text/plain"}),
    (b"grant_type=password&username=alice&password=wonderland", {"Content-Type": "application/x-www-form-urlencoded; charset=utf-16"}),
    (b"grant_type=password&username=alice&password=wonderland", {"Content-Encoding": "gzip"}),
    (b'{"username": "alice", "username": "bob"}', {"Content-Type": "application/json"}),
    (b'{"username": ["alice"], "password": "wonderland", "grant_type": "password"}', {"Content-Type": "application/json"}),
    (b'["password"]', {"Content-Type": "application/json"}),
    (b"\xff\xfe", {"Content-Type": "application/json"}),
    (
        b'--b\r\nContent-Disposition: form-data; name="grant_type"\r\n\r\npassword\r\n--b--\r\n',
        {"Content-Type": "multipart/form-data; boundary=b"},
    ),
]


@pytest.mark.parametrize(("body", "headers"), BAD)
async def test_what_two_servers_could_read_in_two_ways_is_refused(idp: Before, body: bytes, headers: dict[str, str]) -> None:
    refused = await idp.client().call(body, headers=headers)
    assert (refused.status, refused.json["error"]) == (400, "invalid_request"), refused.text
    assert idp.provider.calls == []


async def test_methods_queries_and_sizes_that_are_not_for_a_token_endpoint(idp: Before) -> None:
    client = idp.client()
    shown = await client.get("/oauth/token")
    assert (shown.status, shown.headers["Allow"]) == (405, "POST")
    assert (await client.call(PASSWORD, path="/oauth/token?username=bob")).status == 400
    assert (await client.call({**PASSWORD, "x": "y" * 70_000})).status == 413
    assert (await client.call(PASSWORD, path="/oauth/token/")).status == 404
    assert (await client.call(PASSWORD, path="/oauth/token?p=b2c")).json["error"] == "interaction_required"
    assert (await client.call(PASSWORD, path="/OAuth/%74oken")).json["error"] == "interaction_required"


async def test_scripts_of_configured_origins_may_read_what_the_gateway_says(tmp_path: Path) -> None:
    routes = [{"upstream": "idp", "cors": "https://spa.example.com"}]
    async with gateway_before(tmp_path, routes=routes) as idp:
        client = idp.client()
        asked = await client.call(PASSWORD, headers={"Origin": "https://spa.example.com"})
        assert asked.headers["Access-Control-Allow-Origin"] == "https://spa.example.com"
        foreign = await client.call(PASSWORD, headers={"Origin": "https://evil.example.com"})
        assert "Access-Control-Allow-Origin" not in foreign.headers


async def test_every_outcome_is_in_the_audit_trail(idp: Before) -> None:
    import sqlite3

    client = idp.client()
    await granted(idp, client)
    await client.call({**PASSWORD, "stepup_token": "x"})
    with sqlite3.connect(idp.config.parent / "var/records.db") as records:
        rows = records.execute("select outcome, subject, detail from audit where event = 'grant'").fetchall()
    assert [row[0] for row in rows] == ["thrown away", "issued", "refused"]
    assert all(row[1] == "alice" for row in rows)
    assert "wonderland" not in str(rows)


async def test_the_apps_code_of_the_documents_gets_its_tokens(idp: Before) -> None:
    from tests.integration.test_docs import blocks

    [block] = [b for b in blocks("docs/how-to/oauth-grants.md") if b.language == "python"]
    names: dict[str, Any] = {}
    exec(block.text.replace("http://127.0.0.1:8080", idp.base), names)

    def answers(step: dict[str, str]) -> dict[str, str]:
        assert step["kind"] == "otp"
        return {"code": idp.code()}

    async def token(form: dict[str, str]) -> Any:
        return await asyncio.to_thread(names["token"], form, answers)

    found = await token(PASSWORD)
    assert found["for"] == "alice"
    assert (await token(refresh(found["refresh_token"])))["for"] == "alice"
    with pytest.raises(PermissionError, match="Wrong email"):
        await token({**PASSWORD, "password": "x"})


async def test_what_waits_and_what_is_remembered_outlives_a_restart(tmp_path: Path) -> None:
    async with gateway_before(tmp_path) as idp:
        client = idp.client()
        token = await granted(idp, client)
        asked = await client.call({**PASSWORD, "username": "bob", "password": "builder"})
        await idp.restart()
        assert (await client.call(refresh(token))).status == 200
        evidence = await idp.passed(client, asked)
        await idp.restart()
        done = await client.call({**PASSWORD, "username": "bob", "password": "builder", "stepup_token": evidence})
        assert done.json["for"] == "bob"


async def test_a_password_is_changed_and_the_call_repeated_with_the_new_one(tmp_path: Path) -> None:
    """A step that ends what was asked: the client calls again, it does not go on."""

    async def page(_: web.Request) -> web.Response:
        return web.Response(text='<form method="post"><input name="old"><input name="new"></form>', content_type="text/html")

    async def take(request: web.Request) -> web.Response:
        return web.Response(status=204 if (await request.post())["old"] == "wonderland" else 401)

    app = web.Application()
    app.router.add_get("/change", page)
    app.router.add_post("/change", take)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}/change"
    fields = {"current": "old", "new": "new", "confirm": None}
    steps = {"new": {"kind": "password_change", "backend": {"http": {"url": url, "fields": fields, "success": {"status": [204]}}}}}
    rule = {"name": "renew", "match": {"path": "/oauth/token"}, "require": "new"}
    try:
        async with gateway_before(tmp_path, steps=steps, rules=[rule]) as idp:
            client = idp.client()
            asked = await client.call(PASSWORD)
            new = "Tr0ub4dor-and-9-herons"
            answer = {"current_password": "wonderland", "new_password": new, "confirm_password": new}
            done = await client.step(asked.json["step_up_url"], answer)
            assert done.status == 200, done.text
            assert done.json["error"]["code"] == "authorize_again"
            assert (await idp.browser().get(asked.json["step_up_url"])).status == 403
    finally:
        await runner.cleanup()
