"""Pages of others (`kind: redirect`): there with a token, back with an answer, and on with the very request that was suspended."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import jwt
import pytest
import yaml

from gateway.tokens.keys import generate_private_pem
from tests.support.altcha_client import payload
from tests.support.external import KYC, RULE, SECRET, Page, Sent, sent
from tests.support.gateway import Clock, Reply, read
from tests.support.legacy import CODE, HUMAN, Client, Place, legacy

START = 1_800_000_000.0
JSON = {"Accept": "application/json"}
NO_COOKIE = {"Sec-Fetch-Site": "cross-site", "Origin": "http://kyc.example.com"}


@pytest.fixture
def clock() -> Clock:
    return Clock(START)


@pytest.fixture
def page(clock: Clock) -> Page:
    return Page(now=clock)


@asynccontextmanager
async def at(
    folder: Path, clock: Clock, *rules: dict[str, Any], steps: dict[str, Any] | None = None, top: dict[str, Any] | None = None, **kyc: Any
) -> AsyncIterator[Place]:
    """The application and the gateway; `kyc`: changes to the step of that name."""
    known = {"kyc": {n: v for n, v in {**KYC, **kyc}.items() if v is not None}, "human": HUMAN, "code": CODE, **(steps or {})}
    async with legacy(folder, clock=clock, rules=list(rules) or [RULE], steps=known, **(top or {})) as found:
        yield found


@pytest.fixture
async def place(tmp_path: Path, clock: Clock) -> AsyncIterator[Place]:
    async with at(tmp_path, clock) as found:
        yield found


async def someone(place: Place, name: str = "alice") -> Client:
    client = place.client()
    await client.log_in(name)
    return client


async def asks(client: Client, path: str = "/vault", data: Any = None) -> str:
    """Ask for something; the path of the transaction's page."""
    asked = await client.get(path) if data is None else await client.post(path, data)
    assert asked.status == 303, asked.text
    return asked.location


async def at_page(place: Place, path: str = "/vault", data: Any = None) -> tuple[Client, Sent, str]:
    """A user who has logged in, asked for something, and stands at the page."""
    client = await someone(place)
    way = await asks(client, path, data)
    return client, sent(await client.get(way)), way


def back(at: Sent, token: str | None = None, **more: str) -> dict[str, str]:
    return {"state": at.state, **({"token": token} if token is not None else {}), **more}


async def parked(client: Client, data: Any, **options: Any) -> Reply:
    """What the browser sends for another site's form: none of our cookies."""
    headers = {**NO_COOKIE, **options.pop("headers", {})}
    return await client.post(options.pop("path", "/continue"), data, cookie="", headers=headers, **options)


async def passed(client: Client) -> list[str]:
    return [s["step"] for s in (await client.proved())["steps"]]


# -- there and back ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_there_with_a_token_and_back_with_an_answer(place: Place, page: Page, method: str) -> None:
    client, there, _ = await at_page(place)
    assert there.url == "http://kyc.example.com/verify"
    assert set(there.fields) == {"tenant", "state", "session_token"}
    claims = there.claims()
    assert set(claims) == {"iss", "sub", "aud", "jti", "iat", "exp"}
    assert (claims["iss"], claims["sub"], claims["aud"]) == (place.gateway.base, "alice", "kyc")
    assert claims["exp"] - claims["iat"] == 900
    answer = back(there, page.answer(there))
    done = await client.post("/continue", answer) if method == "POST" else await client.get("/continue?" + urlencode(answer))
    assert (done.status, done.location) == (303, "/vault")
    assert (await client.get("/vault")).text == "done for alice"
    assert await passed(client) == ["kyc"]


async def test_a_suspended_post_is_sent_once_as_it_was(place: Place, page: Page) -> None:
    client, there, _ = await at_page(place, "/vault/open", {"amount": "12"})
    done = await client.post("/continue", back(there, page.answer(there)))
    assert "stepup_resume=" in done.location
    assert (await client.get(done.location)).text == "done for alice"
    assert [p for p in place.app.posted if p[1] == "/vault/open"] == [("POST", "/vault/open", "alice", "amount=12")]
    assert (await client.get(done.location)).status == 410


async def test_the_state_may_stand_in_the_address_and_the_answer_in_the_form(place: Place, page: Page) -> None:
    client, there, _ = await at_page(place)
    done = await client.post(f"/continue?state={there.state}", back(there, page.answer(there), confirm="yes"))
    assert done.location == "/vault"


async def test_the_answer_may_be_called_session_token_as_auth0s_pages_do(place: Place, page: Page) -> None:
    client, there, _ = await at_page(place)
    assert (await client.post("/continue", {"state": there.state, "session_token": page.answer(there)})).location == "/vault"


async def test_names_of_parameters_can_be_chosen(tmp_path: Path, clock: Clock, page: Page) -> None:
    async with at(tmp_path, clock, token_parameter="token", answer_parameter="id_proof") as place:
        client = await someone(place)
        there = sent(await client.get(await asks(client)), "token")
        assert set(there.fields) == {"tenant", "state", "token"}
        assert (await client.post("/continue", {"state": there.state, "id_proof": page.answer(there)})).location == "/vault"


async def test_by_form_post_nothing_of_it_stands_in_an_address(tmp_path: Path, clock: Clock, page: Page) -> None:
    async with at(tmp_path, clock, send="form_post") as place:
        client = await someone(place)
        shown = await client.get(await asks(client))
        there = sent(shown)
        assert there.url == "http://kyc.example.com/verify?tenant=bank"
        assert set(there.fields) == {"state", "session_token"}
        assert "form-action 'self' http://kyc.example.com" in shown.headers["Content-Security-Policy"]
        assert (await client.post("/continue", back(there, page.answer(there)))).location == "/vault"


async def test_a_reload_goes_to_the_page_with_the_same_state_and_jti(place: Place, clock: Clock, page: Page) -> None:
    client, first, way = await at_page(place)
    await place.gateway.advance(30)
    again = sent(await client.get(way))
    assert (again.state, again.claims()["jti"]) == (first.state, first.claims()["jti"])
    assert again.claims()["exp"] == first.claims()["exp"] + 30
    assert (await client.post("/continue", back(first, page.answer(first)))).location == "/vault"


async def test_claims_come_from_where_the_settings_say(tmp_path: Path, clock: Clock) -> None:
    claims = {
        "who": "subject.id",
        "mail": "{subject.id}@bank.example",
        "what": "{request.method} {request.path}",
        "q": "request.query",
        "ip": "request.ip",
        "host": "request.host",
        "level": "subject.claims.level",
        "authorize_again": "authorize_again",
    }
    async with at(tmp_path, clock, claims=claims, lifetime="5m") as place:
        _, there, _ = await at_page(place, "/vault?a=1")
        found = there.claims()
        assert {n: found[n] for n in claims if n != "level"} == {
            "who": "alice",
            "mail": "alice@bank.example",
            "what": "GET /vault",
            "q": "a=1",
            "ip": "127.0.0.1",
            "host": place.gateway.base.removeprefix("http://"),
            "authorize_again": place.gateway.base + "/vault?a=1",
        }
        assert "level" not in found  # what has no value is left out
        assert found["exp"] - found["iat"] == 300


async def test_what_a_form_keeps_can_go_to_a_page(tmp_path: Path, clock: Clock) -> None:
    fields = [{"name": "phone", "label": "Phone", "required": True}, {"name": "note", "label": "Note"}]
    rule = {"name": "profile-first", "match": {"path": "/profile"}, "require": "profile"}
    claims = {"phone": "record.profile.phone", "note": "record.profile.note", "call": "tel:{record.profile.phone}"}
    async with at(tmp_path, clock, rule, RULE, steps={"profile": {"kind": "form", "fields": fields}}, claims=claims) as place:
        client = await someone(place)
        before = sent(await client.get(await asks(client))).claims()
        assert not before.keys() & claims.keys()
        way = await asks(client, "/profile")
        shown = await client.get(way)
        assert (await client.post(way, {"stepup_token": shown.hidden("stepup_token"), "phone": "555 0100"})).status == 303
        after = sent(await client.get(await asks(client, "/vault/2"))).claims()
        assert {n: after[n] for n in claims if n in after} == {"phone": "555 0100", "call": "tel:555 0100"}


async def test_results_of_the_answer_are_claims_that_rules_see(tmp_path: Path, clock: Clock, page: Page) -> None:
    rule = {"name": "level", "match": {"path": "/gold"}, "when": "subject.claims.level != 'gold'", "deny": {"message": "Gold only."}}
    async with at(tmp_path, clock, RULE, rule, results={"level": "kyc_level"}) as place:
        client, there, _ = await at_page(place)
        assert (await client.get("/gold")).status == 403
        await client.post("/continue", back(there, page.answer(there, kyc_level="gold")))
        assert (await client.get("/gold")).status == 200


@pytest.mark.parametrize("value", [["gold"], {"a": 1}, "x" * 600, 10**400, 2**53], ids=["list", "object", "long", "huge", "not exact"])
async def test_results_are_short_scalars(tmp_path: Path, clock: Clock, page: Page, value: Any) -> None:
    async with at(tmp_path, clock, results={"level": "kyc_level"}) as place:
        client, there, _ = await at_page(place)
        assert (await client.post("/continue", back(there, page.answer(there, kyc_level=value)))).status == 400
        assert (await client.post("/continue", back(there, page.answer(there, kyc_level="gold")))).location == "/vault"


async def test_acr_and_amr_say_what_the_page_proved(tmp_path: Path, clock: Clock, page: Page) -> None:
    async with at(tmp_path, clock, amr=["face"], acr="urn:bank:kyc") as place:
        client, there, _ = await at_page(place)
        await client.post("/continue", back(there, page.answer(there)))
        await client.get("/vault")
        (token,) = [v for n, v in place.app.heads[-1] if n.lower() == "x-stepup-token"]
        claims = jwt.decode(token, options={"verify_signature": False})
        assert (claims["acr"], claims["amr"]) == ("urn:bank:kyc", ["face"])


async def test_several_pages_in_one_transaction_have_a_state_and_a_jti_each(tmp_path: Path, clock: Clock, page: Page) -> None:
    other = {**KYC, "audience": "terms", "url": "http://terms.example.com/", "secret": "t" * 40}
    async with at(tmp_path, clock, {**RULE, "require": ["kyc", "terms"]}, steps={"terms": other}) as place:
        client, first, way = await at_page(place)
        moved = await client.post("/continue", back(first, page.answer(first)))
        assert moved.location == way
        second = sent(await client.get(way))
        terms = Page("t" * 40, "terms", clock)
        assert second.url == "http://terms.example.com/"
        assert second.state != first.state
        assert second.claims("t" * 40, audience="terms")["jti"] != first.claims()["jti"]
        # The first page's state, or its answer, is no use for the second.
        assert (await client.post("/continue", back(first, page.answer(first)))).status == 410
        assert (await client.post("/continue", back(second, page.answer(first)))).status == 400
        assert (await client.post("/continue", back(second, terms.answer(second)))).location == "/vault"


async def test_the_request_waits_as_long_as_the_page_may_take(place: Place, clock: Clock, page: Page) -> None:
    client, there, _ = await at_page(place)
    await place.gateway.advance(850)  # transactions.ttl is ten minutes
    assert (await client.post("/continue", back(there, page.answer(there)))).location == "/vault"


async def test_every_page_may_take_its_time(tmp_path: Path, clock: Clock, page: Page) -> None:
    """One after the other, and after a step of ours: what the first ones took is not the last one's fault."""
    other = {**KYC, "audience": "terms", "url": "http://terms.example.com/", "secret": "t" * 40}
    async with at(tmp_path, clock, {**RULE, "require": ["human", "kyc", "terms"]}, steps={"terms": other}) as place:
        client = await someone(place)
        way = await asks(client, "/vault/open", {"a": "1"})
        assert (await client.get(way, headers=JSON)).json["expires_in"] == 600 + 900 + 900
        await place.gateway.advance(590)
        shown = (await client.get(way, headers=JSON)).json
        await client.post(way, json={"altcha": payload(shown["step"]["data"])}, headers=JSON)
        for answers in (page, Page("t" * 40, "terms", clock)):
            there = sent(await client.get(way))
            await place.gateway.advance(850)
            done = await client.post("/continue", back(there, answers.answer(there)))
            assert done.status == 303, done.text
        assert (await client.get(done.location)).text == "done for alice"


async def test_a_page_that_is_asked_for_at_the_end_may_take_its_time_too(tmp_path: Path, clock: Clock, page: Page) -> None:
    async with at(tmp_path, clock, {**RULE, "require": "human"}) as place:
        client = await someone(place)
        way = await asks(client, "/vault/open", {"a": "1"})
        shown = (await client.get(way, headers=JSON)).json
        passed = await client.post(way, json={"altcha": payload(shown["step"]["data"])}, headers=JSON)
        raw = yaml.safe_load(place.gateway.config.read_text())
        raw["rules"].append({**RULE, "name": "more"})
        place.gateway.config.write_text(yaml.safe_dump(raw))
        await place.gateway.app.reload(read(place.gateway.config))
        await place.gateway.advance(590)
        assert (await client.get(passed.json["continue"])).location == way
        there = sent(await client.get(way))
        await place.gateway.advance(850)
        done = await client.post("/continue", back(there, page.answer(there)))
        assert "stepup_resume=" in done.location, done.text
        assert (await client.get(done.location)).text == "done for alice"
        assert [p for p in place.app.posted if p[1] == "/vault/open"] == [("POST", "/vault/open", "alice", "a=1")]


async def test_as_json_the_step_says_where_it_is(place: Place, page: Page) -> None:
    client, there, way = await at_page(place)
    shown = (await client.get(way, headers=JSON)).json["step"]
    assert (shown["kind"], shown["data"]["method"]) == ("redirect", "get")
    assert parse_qs(urlsplit(shown["data"]["url"]).query)["state"] == [there.state]
    passed = await client.post(
        way, headers={**JSON, "Content-Type": "application/json"}, data=b'{"token": "%s"}' % page.answer(there).encode()
    )
    assert passed.json["status"] == "passed"


async def test_nobody_is_sent_to_log_in_first(place: Place, page: Page) -> None:
    client = place.client()
    way = await asks(client)
    assert (await client.get(way)).location == "/login"
    await client.log_in()
    there = sent(await client.get(way))
    assert there.claims()["sub"] == "alice"


async def test_nobody_may_be_asked_where_the_settings_say_so(tmp_path: Path, clock: Clock, page: Page) -> None:
    async with at(tmp_path, clock, subject="any") as place:
        client = place.client()
        there = sent(await client.get(await asks(client)))
        assert there.claims()["sub"] == ""
        assert (await client.post("/continue", back(there, page.answer(there)))).location == "/vault"


# -- keys -------------------------------------------------------------------------------------------------------------


@pytest.fixture
async def key_server(aiohttp_server: Any) -> tuple[str, dict[str, Any]]:
    """Serves whatever key set stands in the mapping."""
    from aiohttp import web

    served: dict[str, Any] = {"keys": []}
    app = web.Application()

    async def keys(_request: web.Request) -> web.Response:
        return web.json_response(served)

    app.router.add_get("/jwks.json", keys)
    server = await aiohttp_server(app)
    return str(server.make_url("/jwks.json")), served


def signing_key(kid: str) -> tuple[Any, dict[str, Any]]:
    from cryptography.hazmat.primitives.serialization import load_pem_private_key
    from jwt.algorithms import ECAlgorithm

    key: Any = load_pem_private_key(generate_private_pem("ES256").encode(), None)
    return key, {**ECAlgorithm.to_jwk(key.public_key(), as_dict=True), "kid": kid, "alg": "ES256", "use": "sig"}


async def test_by_published_keys_both_ways(tmp_path: Path, clock: Clock, key_server: tuple[str, dict[str, Any]]) -> None:
    url, served = key_server
    key, public = signing_key("k1")
    served["keys"] = [public]
    async with at(tmp_path, clock, secret=None, jwks_url=url) as place:
        client, there, _ = await at_page(place)
        ours = jwt.PyJWK((await client.get("/.stepup/jwks.json")).json["keys"][0])
        assert there.header()["typ"] == "stepup-page+jwt"
        asked = there.claims(ours.key, "ES256")
        answer = {"iss": "kyc", "aud": asked["iss"], "sub": "alice", "jti": asked["jti"], "state": there.state}
        answer |= {"iat": int(clock.now), "exp": int(clock.now) + 60}
        other, _ = signing_key("k1")
        pem = ours.key.public_bytes(*_pem())
        wrong = [
            jwt.encode(answer, other, algorithm="ES256", headers={"kid": "k1"}),  # another key under the same name
            jwt.encode(answer, key, algorithm="ES256", headers={"kid": "k2"}),
            jwt.encode(answer, key, algorithm="ES256"),
            _hs256_by(pem, answer),  # HS256 by a public key
            there.token,  # our own token back
        ]
        for token in wrong:
            assert (await client.post("/continue", back(there, token))).status == 400
            await place.gateway.advance(61)
            answer |= {"iat": int(clock.now), "exp": int(clock.now) + 60}
        right = jwt.encode(answer, key, algorithm="ES256", headers={"kid": "k1"})
        assert (await client.post("/continue", back(there, right))).location == "/vault"


async def test_keys_that_cannot_be_had_let_nothing_pass(tmp_path: Path, clock: Clock) -> None:
    key, _ = signing_key("k1")
    async with at(tmp_path, clock, secret=None, jwks_url="http://127.0.0.1:9/jwks.json") as place:
        client, there, way = await at_page(place)
        token = jwt.encode({"iss": "kyc"}, key, algorithm="ES256", headers={"kid": "k1"})
        assert (await client.post("/continue", back(there, token))).status == 503
        assert (await client.get(way)).status == 303  # not burnt


async def test_a_key_that_was_taken_out_counts_no_more(tmp_path: Path, clock: Clock, key_server: tuple[str, dict[str, Any]]) -> None:
    url, served = key_server
    old, public = signing_key("old")
    served["keys"] = [public]
    async with at(tmp_path, clock, secret=None, jwks_url=url) as place:
        client, there, _ = await at_page(place)
        asked = jwt.decode(there.token, options={"verify_signature": False})
        answer = {"iss": "kyc", "aud": asked["iss"], "sub": "alice", "jti": asked["jti"], "state": there.state}
        assert (await client.post("/continue", back(there, "a.b.c"))).status == 400
        served["keys"] = [signing_key("new")[1]]
        await place.gateway.advance(301)
        answer |= {"iat": int(clock.now), "exp": int(clock.now) + 60}
        token = jwt.encode(answer, old, algorithm="ES256", headers={"kid": "old"})
        assert (await client.post("/continue", back(there, token))).status == 400


def _pem() -> tuple[Any, Any]:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return Encoding.PEM, PublicFormat.SubjectPublicKeyInfo


def _hs256_by(key: bytes, claims: dict[str, Any], **header: Any) -> str:
    """Any bytes as an HS256 key: PyJWT refuses to sign by what looks like a public one."""
    import base64
    import hashlib
    import hmac
    import json

    def part(data: Any) -> str:
        return base64.urlsafe_b64encode(json.dumps(data).encode()).rstrip(b"=").decode()

    text = f"{part({'alg': 'HS256', 'typ': 'JWT', **header})}.{part(claims)}"
    return text + "." + base64.urlsafe_b64encode(hmac.digest(key, text.encode(), hashlib.sha256)).rstrip(b"=").decode()


# -- what is refused ----------------------------------------------------------------------------------------------------

WRONG: dict[str, dict[str, Any]] = {
    "another issuer": {"iss": "other"},
    "ourselves as issuer": {"iss": "http://127.0.0.1"},
    "another audience": {"aud": "https://other.example.com"},
    "no audience": {"aud": None},
    "another user": {"sub": "bob"},
    "no user": {"sub": None},
    "another jti": {"jti": "x"},
    "no jti": {"jti": None},
    "another state": {"state": "su_" + "x" * 43},
    "no state": {"state": None},
    "expired": {"exp": int(START) - 1},
    "no exp": {"exp": None},
    "no iat": {"iat": None},
    "from the future": {"iat": int(START) + 600, "exp": int(START) + 900},
    "not yet": {"nbf": int(START) + 600},
    "a list as user": {"sub": ["alice"]},
}


@pytest.mark.parametrize("kind", WRONG)
async def test_a_wrong_answer_resumes_nothing_and_burns_nothing(place: Place, page: Page, kind: str) -> None:
    client, there, way = await at_page(place, "/vault/open", {"a": "1"})
    refused = await client.post("/continue", back(there, page.answer(there, **WRONG[kind])))
    assert refused.status == 400
    assert f'href="{way}"' in refused.text  # the way on
    told = await client.post("/continue", back(there, page.answer(there, **WRONG[kind])), headers=JSON)
    assert (told.status, told.json["error"]) == (400, "bad_token")
    assert not [p for p in place.app.posted if p[1] == "/vault/open"]
    assert (await client.post("/continue", back(there, page.answer(there)))).status == 303


def forged(there: Sent, page: Page, kind: str) -> str:
    claims = page.claims(there)
    match kind:
        case "alg none":
            return jwt.encode(claims, "", algorithm="none")
        case "another secret":
            return jwt.encode(claims, "o" * 40, algorithm="HS256")
        case "HS512":
            return jwt.encode(claims, SECRET * 2, algorithm="HS512")
        case "jku" | "x5u" | "jwk" | "crit":
            value: Any = {"jwk": {"kty": "oct"}, "crit": ["exp"]}.get(kind, "http://evil.example/keys")
            return _hs256_by(SECRET.encode(), claims, **{kind: value})
        case "typ of ours":
            return _hs256_by(SECRET.encode(), claims, typ="stepup-continue+jwt")
        case "our own token":
            return there.token
        case "cut off":
            return page.answer(there)[:-3]
        case "padded":
            return page.answer(there) + "="
        case "huge":
            return page.answer(there, x="y" * 9000)
        case _:
            return kind


FORGED = [
    "alg none",
    "another secret",
    "HS512",
    "jku",
    "x5u",
    "jwk",
    "crit",
    "typ of ours",
    "our own token",
    "cut off",
    "padded",
    "huge",
    "a.b.c",
]


@pytest.mark.parametrize("kind", FORGED)
async def test_a_forged_answer_is_none(place: Place, page: Page, kind: str) -> None:
    client, there, _ = await at_page(place)
    assert (await client.post("/continue", back(there, forged(there, page, kind)))).status == 400
    assert await passed(client) == []
    assert (await client.post("/continue", back(there, page.answer(there)))).location == "/vault"


async def test_a_missing_answer_is_named(place: Place) -> None:
    client, there, _ = await at_page(place)
    page = await client.get(f"/continue?state={there.state}")
    assert page.status == 400
    assert "The page&#39;s answer is missing" in page.text
    told = await client.get(f"/continue?state={there.state}", headers=JSON)
    assert (told.status, told.json["error"]) == (400, "invalid_request")
    assert "`token`" in told.json["detail"]


async def test_an_answer_and_its_state_count_once(place: Place, page: Page) -> None:
    client, there, _ = await at_page(place)
    answer = back(there, page.answer(there))
    assert (await client.post("/continue", answer)).status == 303
    assert (await client.post("/continue", answer)).status == 410
    _, again, _ = await at_page(place)
    assert (await client.post("/continue", {**answer, "state": again.state})).status in (400, 403)


async def test_of_answers_sent_at_once_one_counts(place: Place, page: Page) -> None:
    client, there, _ = await at_page(place, "/vault/open", {"a": "1"})
    answer = back(there, page.answer(there))
    replies = await asyncio.gather(*(client.post("/continue", answer) for _ in range(8)))
    statuses = sorted(r.status for r in replies)
    assert statuses.count(303) == 1, statuses
    assert set(statuses) <= {303, 410}
    (done,) = [r for r in replies if r.status == 303]
    assert (await client.get(done.location)).status == 200
    assert len([p for p in place.app.posted if p[1] == "/vault/open"]) == 1


async def test_ten_wrong_answers_end_the_transaction(place: Place, page: Page) -> None:
    client, there, _ = await at_page(place)
    for number in range(10):
        refused = await client.post("/continue", back(there, page.answer(there, jti="x")))
        assert refused.status == (403 if number == 9 else 400)
        await place.gateway.advance(61)
    assert (await client.post("/continue", back(there, page.answer(there)))).status == 410


async def test_after_three_wrong_answers_the_next_has_to_wait(place: Place, page: Page) -> None:
    client, there, _ = await at_page(place)
    for _ in range(4):
        await client.post("/continue", back(there, page.answer(there, jti="x")))
    held = await client.post("/continue", back(there, page.answer(there)))
    assert held.status == 429
    assert held.headers["Retry-After"]


async def test_a_state_of_a_page_opens_nothing_else(place: Place, page: Page) -> None:
    client, there, way = await at_page(place)
    assert (await client.get(f"/.stepup/t/{there.state}")).status == 404
    assert (await client.get(f"/.stepup/t/{there.state}", headers=JSON)).status == 404
    own = way.rpartition("/")[2]
    assert (await client.post("/continue", {"state": own, "token": page.answer(there)})).status == 400
    assert (await client.get(f"/continue?state={own}")).location == way  # still open


async def test_another_browser_gets_nothing_from_it(place: Place, page: Page) -> None:
    client, there, _ = await at_page(place)
    other = await someone(place, "mallory")
    await other.get("/vault")  # has a cookie of its own
    assert (await other.post("/continue", back(there, page.answer(there)))).status == 403
    assert (await client.post("/continue", back(there, page.answer(there)))).location == "/vault"


async def test_another_user_in_the_same_browser_is_refused(place: Place, page: Page) -> None:
    client, there, _ = await at_page(place)
    await client.get("/logout")
    await client.log_in("mallory")
    assert (await client.post("/continue", back(there, page.answer(there)))).status == 403


async def test_an_answer_for_one_user_is_none_for_another(place: Place, page: Page) -> None:
    _, alices, _ = await at_page(place)
    mallory = await someone(place, "mallory")
    theirs = sent(await mallory.get(await asks(mallory)))
    assert (await mallory.post("/continue", back(theirs, page.answer(alices)))).status == 400


@pytest.mark.parametrize(
    ("path", "body", "headers", "status"),
    [
        ("/continue", "token={t}", {}, 400),  # no state
        ("/continue?state={s}&state={s}", "token={t}", {}, 400),
        ("/continue", "state={s}&state={s}&token={t}", {}, 400),
        ("/continue?state={s}", "state=su_" + "x" * 43 + "&token={t}", {}, 400),
        ("/continue", "state={s}&token={t}&token={t}", {}, 400),
        ("/continue", "state={s}&token={t}&x=1&x=2", {}, 400),
        ("/continue?token={t}&token=x", "state={s}", {}, 400),
        ("/continue", "state=su_" + "x" * 43 + "&token={t}", {}, 404),
        ("/continue", "state=theirs&token={t}", {}, 400),
        ("/continue?state={s}", "token={t}", {"Content-Type": ""}, 400),
        ("/continue?state={s}", "--B\r\n", {"Content-Type": "multipart/form-data; boundary=B"}, 415),
        ("/continue?state={s}", "token={t}", {"Content-Type": "text/plain"}, 415),
        ("/continue?state={s}", '{"token": "{t}"}', {"Content-Type": "application/json"}, 400),
        ("/continue?state={s}", "token={t}&x=" + "y" * 20_000, {}, 413),
        ("/continue?state={s}", "x" * 10_000_000, {}, 413),
        ("/continue?state={s}", "token=\xff", {}, 400),
        ("/continue?state={s}", "&".join(f"n{i}=1" for i in range(300)), {}, 400),
    ],
)
async def test_what_cannot_be_taken_resumes_nothing(
    place: Place, page: Page, path: str, body: str, headers: dict[str, str], status: int
) -> None:
    client, there, _ = await at_page(place)

    def filled(text: str) -> str:
        return text.replace("{s}", there.state).replace("{t}", page.answer(there))

    sent_headers = {"Content-Type": "application/x-www-form-urlencoded", **headers}
    skip = ["Content-Type"] if sent_headers["Content-Type"] == "" else []
    refused = await client.post(filled(path), io.BytesIO(filled(body).encode("latin-1")), headers=sent_headers, skip_auto_headers=skip)
    assert refused.status == status
    assert await passed(client) == []
    await place.gateway.advance(61)
    assert (await client.post("/continue", back(there, page.answer(there)))).location == "/vault"


@pytest.mark.parametrize(
    "headers", [{"Sec-Purpose": "prefetch;prerender"}, {"Sec-Fetch-Dest": "image", "Sec-Fetch-Mode": "no-cors"}], ids=["prefetch", "image"]
)
async def test_what_nobody_looks_at_uses_nothing_up(place: Place, page: Page, headers: dict[str, str]) -> None:
    client, there, _ = await at_page(place)
    way = "/continue?" + urlencode(back(there, page.answer(there)))
    assert (await client.get(way, headers=headers)).status == 405
    assert (await client.request("HEAD", way)).status == 405
    kept = await parked(client, back(there, page.answer(there)))
    assert (await client.get(kept.location, headers=headers)).status == 405
    assert (await client.get(kept.location)).location == "/vault"


async def test_an_expired_transaction_is_told(place: Place, page: Page, clock: Clock) -> None:
    client, there, _ = await at_page(place)
    await place.gateway.advance(901)
    assert (await client.post("/continue", back(there, page.answer(there)))).status == 410


async def test_refusals_stand_in_the_audit_trail(place: Place, page: Page) -> None:
    client, there, _ = await at_page(place)
    await client.post("/continue", back(there, page.answer(there, sub="bob")))
    await client.post("/continue", back(there, page.answer(there)))
    import sqlite3

    with sqlite3.connect(place.gateway.config.parent / "var/records.db") as records:
        lines = records.execute("select step, outcome, detail from audit").fetchall()
    outcomes = [(outcome, detail) for step, outcome, detail in lines if step == "kyc"]
    assert [outcome for outcome, _ in outcomes] == ["refused", "passed"]
    assert "sub is missing or another one" in outcomes[0][1]
    assert there.state not in str(lines)
    assert page.answer(there) not in str(lines)


# -- from another site, without our cookie ------------------------------------------------------------------------------


async def test_what_another_site_posts_is_fetched_back_with_the_cookie(place: Place, page: Page) -> None:
    client, there, _ = await at_page(place, "/vault/open", {"a": "1"})
    kept = await parked(client, back(there, page.answer(there), confirm="yes"))
    assert kept.status == 303
    assert kept.location.startswith("/continue?h=pk_")
    assert await passed(client) == []
    done = await client.get(kept.location)
    assert "stepup_resume=" in done.location
    assert (await client.get(done.location)).status == 200
    assert (await client.get(kept.location)).status == 410


async def test_a_handle_is_no_use_to_anybody_else(place: Place, page: Page) -> None:
    client, there, _ = await at_page(place)
    kept = await parked(client, back(there, page.answer(there)))
    other = await someone(place, "mallory")
    await other.get("/vault")
    assert (await other.get(kept.location)).status == 403
    assert (await other.get(kept.location, cookie="")).status == 403
    assert (await client.get(kept.location)).location == "/vault"  # it was not used up


async def test_a_handle_counts_for_a_minute_and_once(place: Place, page: Page) -> None:
    client, there, _ = await at_page(place)
    first = await parked(client, back(there, page.answer(there)))
    await place.gateway.advance(61)
    assert (await client.get(first.location)).status == 410
    second = await parked(client, back(there, page.answer(there)))
    replies = await asyncio.gather(*(client.get(second.location) for _ in range(5)))
    assert sorted(r.status for r in replies) == [303, 410, 410, 410, 410]


@pytest.mark.parametrize("handle", ["pk_" + "x" * 43, "pk_short", "x", "pk_" + "x" * 43 + "&h=pk_" + "y" * 43])
async def test_other_handles_are_nothing(place: Place, handle: str) -> None:
    client, _, _ = await at_page(place)
    assert (await client.get(f"/continue?h={handle}")).status == 410


@pytest.mark.parametrize("kind", WRONG)
async def test_what_is_wrong_is_told_at_once_and_parks_and_counts_nothing(place: Place, page: Page, kind: str) -> None:
    client, there, _ = await at_page(place)
    assert (await parked(client, back(there, page.answer(there, **WRONG[kind])))).status == 400
    kept = await parked(client, back(there, page.answer(there)))
    assert (await client.get(kept.location)).location == "/vault"


async def test_without_the_cookie_guesses_count_against_the_address(tmp_path: Path, clock: Clock, page: Page) -> None:
    async with at(tmp_path, clock, top={"guessing": {"foreign_per_address": 5}}) as place:
        client, there, _ = await at_page(place)
        answers = [await parked(client, back(there, page.answer(there, jti="x"))) for _ in range(7)]
        assert [a.status for a in answers] == [400] * 5 + [429] * 2
        assert (await client.post("/continue", back(there, page.answer(there)))).location == "/vault"


async def test_what_waits_for_one_state_is_bounded(place: Place, page: Page) -> None:
    client, there, _ = await at_page(place)
    answers = [await parked(client, back(there, page.answer(there))) for _ in range(12)]
    assert [a.status for a in answers] == [303] * 10 + [429] * 2


async def test_a_missing_answer_of_another_site_is_named_too(place: Place) -> None:
    client, there, _ = await at_page(place)
    refused = await parked(client, back(there))
    assert refused.status == 400
    assert "answer is missing" in refused.text


async def test_what_is_parked_is_sealed(place: Place, page: Page) -> None:
    client, there, _ = await at_page(place)
    token = page.answer(there)
    kept = await parked(client, back(there, token, confirm="a-word-to-look-for"))
    handle = kept.location.partition("h=")[2]
    for file in (place.gateway.config.parent / "var").glob("state.db*"):
        for secret in (token, there.state, handle, "a-word-to-look-for"):
            assert secret.encode() not in file.read_bytes()
    assert (await client.get(kept.location)).location == "/vault"


# -- pages that do not answer -------------------------------------------------------------------------------------------


async def test_who_comes_back_without_an_answer_has_proved_nothing(tmp_path: Path, clock: Clock) -> None:
    async with at(tmp_path, clock, answer="none") as place:
        client, there, way = await at_page(place, "/vault/open", {"a": "1"})
        told = await client.get(f"/continue?state={there.state}")
        assert told.status == 409
        assert "One thing is still open" in told.text
        assert f'href="{way}"' in told.text
        assert not [p for p in place.app.posted if p[1] == "/vault/open"]
        again = sent(await client.get(way))
        assert again.state != there.state
        assert again.claims()["jti"] != there.claims()["jti"]
        assert (await client.get(f"/continue?state={there.state}")).status == 410  # the first one is used
        for _ in range(8):
            assert (await client.get(f"/continue?state={again.state}")).status == 409
            again = sent(await client.get(way))
        assert (await client.get(f"/continue?state={again.state}")).status == 403  # the tenth time is the last
        assert (await client.get(way)).status == 410
        assert await passed(client) == []


async def test_the_request_goes_on_once_the_rules_no_longer_ask(tmp_path: Path, clock: Clock) -> None:
    async with at(tmp_path, clock, answer="none") as place:
        client, there, way = await at_page(place, "/vault/open", {"a": "1"})
        assert (await client.get(f"/continue?state={there.state}")).status == 409
        again = sent(await client.get(way))
        raw = yaml.safe_load(place.gateway.config.read_text())
        raw["rules"] = []  # whatever the page did: now nobody asks
        place.gateway.config.write_text(yaml.safe_dump(raw))
        await place.gateway.app.reload(read(place.gateway.config))
        done = await client.post("/continue", back(again, confirm="yes"))
        assert "stepup_resume=" in done.location
        assert (await client.get(done.location)).status == 200
        assert await passed(client) == []
        assert [p[1] for p in place.app.posted] == ["/login", "/vault/open"]


async def test_without_an_answer_it_may_be_parked_as_well(tmp_path: Path, clock: Clock) -> None:
    async with at(tmp_path, clock, answer="none") as place:
        client, there, _ = await at_page(place)
        kept = await parked(client, back(there, confirm="yes"))
        assert (await client.get(kept.location)).status == 409


# -- a password that must be changed -----------------------------------------------------------------------------------


async def test_an_answer_may_end_the_session_itself(tmp_path: Path, clock: Clock, page: Page) -> None:
    claims = {"authorize_again": "authorize_again"}
    async with at(tmp_path, clock, then="authorize_again", claims=claims) as place:
        client, there, way = await at_page(place)
        done = await client.post("/continue", back(there, page.answer(there)))
        assert done.location == way
        shown = await client.get(way)
        assert (shown.status, "Sign in" in shown.text) == (200, True)
        assert (await client.proved())["subject"] == ""
        assert await client.app_says() == ""
        assert (await client.post("/continue", back(there, page.answer(there)))).status == 410


@pytest.mark.parametrize("cause", [{"Referer": "http://kyc.example.com/verify"}, {"Sec-Fetch-Site": "cross-site"}])
async def test_who_comes_back_to_begin_anew_logs_in_again_and_the_transaction_is_over(
    tmp_path: Path, clock: Clock, page: Page, cause: dict[str, str]
) -> None:
    claims = {"authorize_again": "authorize_again"}
    async with at(tmp_path, clock, then="authorize_again", claims=claims, lifetime="5m") as place:
        client, there, way = await at_page(place)
        again = there.claims()["authorize_again"].removeprefix(place.gateway.base)
        assert again == "/vault"
        # A reload is not a return: it leads to the page once more.
        assert (await client.get(again)).location == way
        anew = await client.get(again, headers=cause)
        assert (anew.status, anew.location) == (303, "/vault")
        assert (await client.proved())["subject"] == ""
        assert await client.app_says() == ""
        assert (await client.get("/vault")).status == 303  # nobody: to log in first
        assert (await client.post("/continue", back(there, page.answer(there)))).status == 410
        assert (await client.get("/continue?state=" + way.rpartition("/")[2])).status == 410
        await client.log_in()
        assert (await client.post("/continue", back(there, page.answer(there)))).status == 410


async def test_for_a_post_it_begins_anew_at_the_page_it_came_from(tmp_path: Path, clock: Clock) -> None:
    claims = {"authorize_again": "authorize_again"}
    async with at(tmp_path, clock, then="authorize_again", claims=claims) as place:
        client = await someone(place)
        asked = await client.post("/vault/open", {"a": "1"}, headers={"Referer": place.gateway.base + "/vault/form?x=1"})
        there = sent(await client.get(asked.location))
        assert there.claims()["authorize_again"] == place.gateway.base + "/vault/form?x=1"


async def test_a_cancel_that_another_tab_overtakes_cancels_all_the_same(tmp_path: Path, clock: Clock) -> None:
    """The gateway has seen how the transaction stands, and waits for the rest of the form."""
    async with at(tmp_path, clock, {**RULE, "require": ["human", "code"]}) as place:
        client = await someone(place)
        way = await asks(client)
        token = (await client.get(way)).hidden("stepup_token")
        more = asyncio.Event()

        async def slowly() -> AsyncIterator[bytes]:
            yield b"action=cancel&"
            await more.wait()
            yield b"stepup_token=" + token.encode()

        form = {"Content-Type": "application/x-www-form-urlencoded"}
        cancelled = asyncio.ensure_future(client.post(way, slowly(), headers=form))
        for _ in range(5):
            shown = (await client.get(way, headers=JSON)).json
        await client.post(way, json={"altcha": payload(shown["step"]["data"])}, headers=JSON)
        more.set()
        assert (await cancelled).status == 303
        assert (await client.get(way)).status == 410


@pytest.mark.parametrize(("changes", "status"), [({}, 400), ({"answer": "none"}, 409)])
async def test_who_comes_back_without_having_done_it_can_cancel(
    tmp_path: Path, clock: Clock, changes: dict[str, Any], status: int
) -> None:  # fmt: skip
    """The step's own page leads straight to the page of others: there is no other place where one could."""
    async with at(tmp_path, clock, **changes) as place:
        client = await someone(place)
        way = (await client.post("/vault/open", {"a": "1"}, headers={"Referer": place.gateway.base + "/vault/form"})).location
        there = sent(await client.get(way))
        told = await client.get(f"/continue?state={there.state}")
        assert told.status == status
        assert f'<form method="post" action="{way}"' in told.text
        fields = {"action": told.hidden("action"), "stepup_token": told.hidden("stepup_token")}
        assert (await client.post(way, fields)).location == "/vault/form"
        assert (await client.get(way)).status == 410
        assert [p[1] for p in place.app.posted] == ["/login"]
