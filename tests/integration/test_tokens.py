"""Tokens as their receivers get them: the upstream its own, with keys from the JWKS; /continue only those of its own transaction."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jwt
import pytest
import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm

from gateway.tokens.signer import TokenKind, sign
from tests.support.front import CHROME, FETCH, Front, cookie_line, cookies, fronting
from tests.support.gateway import DEMO, Clock, decoded, running
from tests.support.raw import OK, RawMessage, RawUpstream, answering, raw_upstream

ALICE = b"X-Remote-User: alice\r\n"
BOB = b"X-Remote-User: bob\r\n"
RULES = [
    {"name": "gated", "match": {"path": "/gated/**"}, "require": "human"},
    {"name": "each-time", "match": {"path": "/each/**"}, "require": "human", "max_age": "once"},
    {"name": "short", "match": {"path": "/short/**"}, "require": "human", "max_age": "30s"},
    {"name": "members", "match": {"path": "/members/**"}, "when": 'subject.id == ""', "deny": {"status": 451}},
]
CONFIG = {
    "rules": RULES,
    "identity": [{"from": "header", "name": "X-Remote-User"}],
    "trusted_proxies": ["127.0.0.1"],
}


@dataclass(frozen=True, slots=True)
class Place:
    front: Front
    upstream: RawUpstream
    clock: Clock

    async def advance(self, seconds: float) -> None:
        self.clock.advance(seconds)
        await self.front.app.feed.refresh()

    async def token(self, line: str, fields: bytes) -> str | None:
        """What the upstream got as `X-Stepup-Token` with a request that passed."""
        self.upstream.requests.clear()
        answer = await self.front.ask(line, fields)
        assert answer.status == 200, answer
        (request,) = self.upstream.requests
        values = request.head.all(b"x-stepup-token")
        assert len(values) <= 1
        return values[0].decode() if values else None

    async def keys(self) -> dict[str, Any]:
        answer = await self.front.ask("GET /.stepup/jwks.json")
        assert answer.head.get(b"content-type") == b"application/jwk-set+json"
        assert answer.head.get(b"access-control-allow-origin") == b"*"
        return json.loads(answer.body)  # type: ignore[no-any-return]

    async def claims(self, token: str, audience: str = "app") -> dict[str, Any]:
        """Verified as an upstream would, by PyJWT and the published keys. The clock of the gateway is the real one, or ahead of it."""
        header = jwt.get_unverified_header(token)
        (key,) = [key for key in jwt.PyJWKSet.from_dict(await self.keys()).keys if key.key_id == header["kid"]]
        late = max(0.0, self.clock() - time.time())
        required = ["iss", "aud", "sub", "jti", "iat", "exp"]
        found = jwt.decode(
            token, key.key, [key.algorithm_name], audience=audience, issuer=self.front.origin, leeway=late, options={"require": required}
        )
        return dict(found)

    async def ready(self, line: str = "POST /gated", fields: bytes = ALICE, kind: bytes = CHROME) -> tuple[dict[str, Any], bytes]:
        """A transaction that is READY, as JSON, and everything its browser sends."""
        asked = await self.front.ask(line, kind + fields, b"a=1" if line.startswith("POST") else None)
        document, binding = await self.front.solve(asked, fields)
        return dict(document), binding + kind + fields


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    clock = Clock(time.time())
    async with raw_upstream(answering(OK)) as upstream, fronting(tmp_path, upstream.url, clock=clock, **CONFIG) as front:  # type: ignore[arg-type]
        yield Place(front, upstream, clock)


# -- upstream token -----------------------------------------------------------------------------------------------------


async def test_the_upstream_verifies_its_token_with_the_published_keys(place: Place) -> None:
    held = await place.front.passed("GET /gated", ALICE)
    token = await place.token("GET /gated", held + ALICE)
    assert token is not None
    assert jwt.get_unverified_header(token)["typ"] == "stepup-upstream+jwt"
    assert set(jwt.get_unverified_header(token)) == {"alg", "kid", "typ"}
    claims = await place.claims(token)
    assert claims["iss"] == place.front.origin
    assert (claims["aud"], claims["sub"], claims["acr"]) == ("app", "alice", "human")
    assert claims["amr"] == []  # RFC 8176 has no name for a captcha: it says nothing about who somebody is
    assert claims["auth_time"] == int(place.clock())
    assert 0 < claims["exp"] - claims["iat"] <= 60
    assert claims["sid"]
    with pytest.raises(jwt.InvalidAudienceError):
        await place.claims(token, "another")


async def test_published_keys_are_public_and_signature_only(place: Place) -> None:
    (key,) = (await place.keys())["keys"]
    assert (key["kty"], key["use"], key["alg"], key["crv"]) == ("EC", "sig", "ES256", "P-256")
    assert key.keys() == {"kty", "use", "alg", "kid", "crv", "x", "y"}


async def test_nobodys_token_says_so(place: Place) -> None:
    held = await place.front.passed("GET /gated")
    token = await place.token("GET /gated", held)
    assert token is not None
    claims = await place.claims(token)
    assert (claims["sub"], claims["acr"]) == ("", "human")


async def test_only_what_a_pass_let_through_carries_a_token(place: Place) -> None:
    held = await place.front.passed("GET /gated", ALICE)
    for path in ("/", "/gatedx", "/members/x", "/xgated/gated"):
        assert await place.token(f"GET {path}", held + ALICE) is None
    assert await place.token("GET /short", held + ALICE) is not None
    assert await place.token("POST /gated/x", held + ALICE) is not None


async def test_a_token_is_kept_between_requests_and_replaced_before_it_gets_short(place: Place) -> None:
    held = await place.front.passed("GET /gated", ALICE)
    first = await place.token("GET /gated", held + ALICE)
    await place.advance(20)
    assert await place.token("GET /gated/2", held + ALICE) == first
    await place.advance(25)
    second = await place.token("GET /gated", held + ALICE)
    assert second is not None
    assert second != first
    assert (await place.claims(second))["exp"] - place.clock() > 15


async def test_the_kept_token_is_of_one_pass_and_of_what_it_proved(place: Place) -> None:
    alice, bob, nobody = [await place.front.passed("GET /gated", who) + who for who in (ALICE, BOB, b"")]
    again = await place.front.passed("GET /gated", ALICE) + ALICE
    tokens = [await place.token("GET /gated", held) for held in (alice, bob, nobody, again)]
    claims = [await place.claims(token or "") for token in tokens]
    assert [c["sub"] for c in claims] == ["alice", "bob", "", "alice"]
    assert len({c["sid"] for c in claims}) == 4
    assert len({c["jti"] for c in claims}) == 4


async def test_a_pass_of_another_subject_opens_nothing(place: Place) -> None:
    held = await place.front.passed("GET /gated", ALICE)
    place.upstream.requests.clear()
    for who in (BOB, b"", ALICE + BOB):
        assert (await place.front.ask("GET /gated", held + FETCH + who)).status == 401
    assert place.upstream.requests == []


async def test_a_clients_own_token_never_takes_its_place(place: Place) -> None:
    held = await place.front.passed("GET /gated", ALICE)
    genuine = await place.token("GET /gated", held + ALICE)
    forged = b"X-Stepup-Token: forged\r\nx_stepup_token: forged\r\nX-STEPUP-TOKEN: forged\r\nConnection: X-Stepup-Token\r\n"
    assert await place.token("GET /gated", held + ALICE + forged) == genuine
    assert await place.token("GET /", held + ALICE + forged) is None
    assert not [value for _, value in place.upstream.requests[0].head.fields if value == b"forged"]


async def test_a_resumed_request_carries_its_token_once(place: Place) -> None:
    for line in ("POST /gated", "POST /each"):
        ready, fields = await place.ready(line)
        resumed = await place.front.ask(f"GET {ready['continue']}", fields)
        assert resumed.status == 303
        ticket = (resumed.head.get(b"location") or b"").decode()
        binding = fields.split(b"\r\n")[0].removeprefix(b"Cookie: ")
        sent = cookie_line([binding, *cookies(resumed)]) + fields.partition(b"\r\n")[2]
        token = await place.token(f"GET {ticket}", sent)
        assert place.upstream.requests[0].head.line == line.encode() + b" HTTP/1.1"
        claims = await place.claims(token or "")
        assert (claims["sub"], claims["acr"]) == ("alice", "human")
        assert claims["sid"]
        assert "state" not in claims


async def test_each_upstream_gets_a_token_of_its_own(tmp_path: Path) -> None:
    clock = Clock(time.time())
    async with raw_upstream(answering(OK)) as one, raw_upstream(answering(OK)) as two:
        routes = [{"path": "/gated/two/**", "upstream": "two"}, {"upstream": "one"}]
        async with fronting(tmp_path, {"one": one.url, "two": two.url}, clock=clock, routes=routes, **CONFIG) as front:  # type: ignore[arg-type]
            held = await front.passed("GET /gated", ALICE) + ALICE
            first = await Place(front, one, clock).token("GET /gated", held)
            second = await Place(front, two, clock).token("GET /gated/two", held)
            assert (await Place(front, one, clock).claims(first or "", "one"))["aud"] == "one"
            assert (await Place(front, two, clock).claims(second or "", "two"))["aud"] == "two"


async def test_a_token_names_the_steps_that_its_request_needed_and_the_latest_time(tmp_path: Path) -> None:
    clock = Clock(time.time())
    started = int(clock())
    captcha = {"kind": "captcha", "cost": 1, "max_number": 5}
    rules = [{"name": "a", "match": {"path": "/**"}, "require": "human"}, {"name": "b", "match": {"path": "/b/**"}, "require": "again"}]
    config: Any = {**CONFIG, "rules": rules, "steps": {"human": captcha, "again": captcha}}
    async with raw_upstream(answering(OK)) as upstream, fronting(tmp_path, upstream.url, clock=clock, **config) as front:
        place = Place(front, upstream, clock)
        held = await front.passed("GET /a", ALICE)
        await place.advance(100)
        asked = await front.ask("GET /b", held + FETCH + ALICE)
        assert json.loads(asked.body)["steps"] == ["again"]
        ready, _ = await front.solve(asked, held + ALICE)
        done = await front.ask(f"GET {ready['continue']}", held + FETCH + ALICE)
        binding = held.removeprefix(b"Cookie: ").strip().split(b"; ")[0]
        both = cookie_line([binding, *cookies(done)]) + ALICE
        claims = await place.claims(await place.token("GET /b", both) or "")
        assert (claims["acr"], claims["auth_time"]) == ("human again", started + 100)
        claims = await place.claims(await place.token("GET /a", both) or "")
        assert (claims["acr"], claims["auth_time"]) == ("human", started)


# -- continue token -----------------------------------------------------------------------------------------------------


async def test_a_continue_token_says_what_the_contract_says(place: Place) -> None:
    ready, _ = await place.ready()
    token = ready["token"]
    assert jwt.get_unverified_header(token)["typ"] == "stepup-continue+jwt"
    claims = await place.claims(token)
    assert (claims["aud"], claims["sub"], claims["state"], claims["acr"]) == ("app", "alice", ready["state"], "human")
    assert claims["rules"] == ["gated"]
    assert claims["auth_time"] == int(place.clock())
    assert claims["amr"] == []
    assert 0 < claims["exp"] - claims["iat"] <= 300


@pytest.mark.parametrize("way", ["query", "form"])
async def test_a_continue_token_may_come_along_to_continue(place: Place, way: str) -> None:
    ready, fields = await place.ready()
    assert (await _continue(place, ready["state"], ready["token"], fields, way=way)).status == 303


async def _continue(place: Place, state: str, token: str, fields: bytes, *, way: str = "query") -> RawMessage:
    if way == "query":
        return await place.front.ask(f"GET /continue?state={state}&token={token}", fields)
    form = b"Content-Type: application/x-www-form-urlencoded\r\n"
    return await place.front.ask("POST /continue", fields + form, f"state={state}&token={token}".encode())


def _b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _resigned(token: str, key: Any, algorithm: str, claims: Mapping[str, Any] | None = None, **header: Any) -> str:
    """The same claims (or others) under another key and header."""
    head = {**jwt.get_unverified_header(token), **header}
    return jwt.encode({**decoded(token.split(".")[1]), **(claims or {})}, key, algorithm, headers=head)


def _hmac_by_public_key(token: str, jwk: dict[str, Any]) -> str:
    """The oldest trick: HS256 with the public key as its secret (PyJWT refuses to, so by hand)."""
    public = ECAlgorithm.from_jwk(jwk)
    assert isinstance(public, ec.EllipticCurvePublicKey)
    pem = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    head = _b64(json.dumps({**jwt.get_unverified_header(token), "alg": "HS256"}).encode())
    signed = f"{head}.{token.split('.')[1]}"
    return f"{signed}.{_b64(hmac.digest(pem, signed.encode(), hashlib.sha256))}"


def _unsigned(token: str, name: str) -> str:
    head = _b64(json.dumps({**jwt.get_unverified_header(token), "alg": name}).encode())
    return f"{head}.{token.split('.')[1]}."


def _flipped(token: str, part: int) -> str:
    parts = token.split(".")
    middle = len(parts[part]) // 2
    parts[part] = parts[part][:middle] + ("A" if parts[part][middle] != "A" else "B") + parts[part][middle + 1 :]
    return ".".join(parts)


def _own_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def _with_embedded_key(token: str) -> str:
    key = _own_key()
    return _resigned(token, key, "ES256", jwk=ECAlgorithm.to_jwk(key.public_key(), as_dict=True))


FORGERIES: dict[str, Callable[[str, dict[str, Any]], str]] = {
    "alg none": lambda token, _: _unsigned(token, "none"),
    "alg None": lambda token, _: _unsigned(token, "None"),
    "no alg": lambda token, _: _unsigned(token, ""),
    "HS256 by the public key": _hmac_by_public_key,
    "another key": lambda token, _: _resigned(token, _own_key(), "ES256"),
    "another key under a kid of its own": lambda token, _: _resigned(token, _own_key(), "ES256", kid="mine"),
    "a key that it brings along": lambda token, _: _with_embedded_key(token),
    "a signature byte": lambda token, _: _flipped(token, 2),
    "a payload byte": lambda token, _: _flipped(token, 1),
    "a header byte": lambda token, _: _flipped(token, 0),
    "no signature": lambda token, _: token.rpartition(".")[0] + ".",
    "two parts": lambda token, _: token.rpartition(".")[0],
    "padding": lambda token, _: token + "==",
    "a blank behind it": lambda token, _: token + "%20",
    "not a token": lambda _token, _: "x",
    "very long": lambda token, _: token + "A" * 7000,
    "itself, twice": lambda token, _: f"{token}&token={token}",
}


@pytest.mark.parametrize("forge", FORGERIES.values(), ids=FORGERIES)
async def test_a_forged_token_resumes_nothing_and_the_transaction_goes_on(
    place: Place, forge: Callable[[str, dict[str, Any]], str]
) -> None:
    ready, fields = await place.ready()
    forged = forge(ready["token"], (await place.keys())["keys"][0])
    for way in ("query", "form"):
        await _refused(place, ready["state"], forged, fields, way)
    assert (await _continue(place, ready["state"], ready["token"], fields)).status == 303


async def _refused(place: Place, state: str, token: str, fields: bytes, way: str = "query") -> None:
    answer = await _continue(place, state, token, fields.replace(CHROME, FETCH), way=way)
    assert (answer.status, json.loads(answer.body)["error"]) == (400, "bad_token")
    page = await _continue(place, state, token, fields, way=way)
    assert page.status == 400
    assert (page.head.get(b"content-type") or b"").startswith(b"text/html")
    assert not page.head.all(b"set-cookie")
    assert place.upstream.requests == []


async def test_an_expired_continue_token_is_refused_and_a_new_one_may_be_had(place: Place) -> None:
    ready, fields = await place.ready()
    await place.advance(299)
    again = json.loads((await place.front.ask(f"GET /.stepup/t/{ready['state']}", fields.replace(CHROME, FETCH))).body)
    await place.advance(2)
    await _refused(place, ready["state"], ready["token"], fields)
    assert (await _continue(place, ready["state"], again["token"], fields)).status == 303


async def test_another_transactions_token_is_refused(place: Place) -> None:
    first, fields = await place.ready()
    second, others = await place.ready()
    await _refused(place, first["state"], second["token"], fields)
    await _refused(place, second["state"], first["token"], others)


async def test_no_kind_of_token_is_taken_for_another(place: Place) -> None:
    ready, fields = await place.ready()
    held = await place.front.passed("GET /gated", ALICE)
    upstream = await place.token("GET /gated", held + ALICE)
    assert upstream is not None
    place.upstream.requests.clear()
    await _refused(place, ready["state"], upstream, fields)
    claims = decoded(ready["token"].split(".")[1])
    for kind in (TokenKind.UPSTREAM, SimpleNamespace(value="JWT"), SimpleNamespace(value="")):
        twin = sign(kind, claims, keyring=place.front.app.keyring, now=place.clock(), ttl=60)  # type: ignore[arg-type]
        await _refused(place, ready["state"], twin, fields)  # nothing but its kind is wrong
    twin = sign(TokenKind.CONTINUE, claims, keyring=place.front.app.keyring, now=place.clock(), ttl=60)
    assert (await _continue(place, ready["state"], twin, fields)).status == 303
    # The other way round there is nothing to accept it: it neither opens a gate nor gets to an upstream as one of its own.
    for spoof in (b"X-Stepup-Token: %b\r\n", b"Authorization: Bearer %b\r\n", b"Cookie: stepup=%b\r\n"):
        assert (await place.front.ask("GET /gated", spoof % ready["token"].encode() + FETCH + ALICE)).status == 401
        assert (await place.front.ask("GET /gated", spoof % upstream.encode() + FETCH + ALICE)).status == 401
    assert await place.token("GET /", b"X-Stepup-Token: %b\r\n" % ready["token"].encode() + ALICE) is None


async def test_a_token_does_not_stand_in_for_the_browser_that_it_was_given_to(place: Place) -> None:
    ready, fields = await place.ready()
    thief = fields.partition(b"\r\n")[2]
    answer = await _continue(place, ready["state"], ready["token"], thief)
    assert (answer.status, place.upstream.requests) == (403, [])


async def test_a_used_token_resumes_nothing_more(place: Place) -> None:
    ready, fields = await place.ready("GET /gated", kind=FETCH)
    assert (await _continue(place, ready["state"], ready["token"], fields)).status == 204
    assert (await _continue(place, ready["state"], ready["token"], fields)).status in (409, 410)


# -- with the demo's login ----------------------------------------------------------------------------------------------


async def test_behind_a_login_the_app_gets_one_token_for_both_steps(tmp_path: Path) -> None:
    demo_rules = yaml.safe_load(DEMO.read_text())["rules"]
    rules = [*demo_rules, {"name": "echo", "match": {"path": "/echo/**"}, "require": ["human", "code"]}]
    async with running(tmp_path, rules=rules) as demo:
        browser = demo.browser()
        await demo.log_in(browser)
        asked = await browser.get("/echo/x")
        second = await demo.pass_captcha(browser, asked.location)
        arrived = (await demo.pass_code(browser, second.url.path)).json
        keys = jwt.PyJWKSet.from_dict((await browser.json("GET", "/.stepup/jwks.json")).json)
    assert arrived["target"] == "/echo/x"
    (token,) = [value for name, value in arrived["headers"] if name == "X-Stepup-Token"]
    key = keys[jwt.get_unverified_header(token)["kid"]]
    claims = jwt.decode(token, key.key, ["ES256"], audience="bank", issuer=demo.base)
    assert (claims["sub"], claims["acr"], claims["amr"]) == ("alice", "human code", ["otp"])
    assert claims["exp"] - claims["iat"] <= 60


async def test_the_time_in_a_token_is_that_of_the_step_and_not_of_the_login(tmp_path: Path) -> None:
    clock = Clock(time.time())
    began = int(clock())
    rules = [*yaml.safe_load(DEMO.read_text())["rules"], {"name": "echo", "match": {"path": "/echo/**"}, "require": "code"}]
    async with running(tmp_path, clock=clock, rules=rules) as demo:
        browser = demo.browser()
        await demo.log_in(browser)
        await demo.advance(200)
        asked = await browser.get("/echo/x")
        await browser.get(asked.location)  # sends the code
        await demo.advance(100)
        ready = await demo.pass_code(browser, asked.location, follow=False)
        await demo.advance(50)
        arrived = (await browser.get(ready.location, follow=True)).json
        await demo.advance(500)
        later = (await browser.get("/echo/x")).json
    for document in (arrived, later):
        (token,) = [value for name, value in document["headers"] if name == "X-Stepup-Token"]
        claims = decoded(token.split(".")[1])
        assert (claims["acr"], claims["auth_time"]) == ("code", began + 300)
    assert decoded(token.split(".")[1])["iat"] == began + 850
