"""RFC 7662: a service asks what a token says. It learns of its own tokens, while they count, and of nothing else."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus, urlencode

import jwt
import pytest

from gateway.errors import StoreUnavailable
from gateway.flow.introspection import Inactive, Introspection
from gateway.flow.repository import transaction_id
from gateway.flow.transaction import Event, move
from gateway.stores.revocations import RevocationFeed
from gateway.tokens.inspect import PlainKind
from gateway.tokens.keys import generate_private_pem, rotate
from gateway.tokens.signer import TokenKind, sign
from tests.integration.test_tokens import ALICE, CONFIG, FORGERIES, Place
from tests.support.front import FETCH, fronting
from tests.support.gateway import Clock, read
from tests.support.process import eventually, run_gateway
from tests.support.raw import OK, RawMessage, answering, raw_upstream

SECRET, OLD, OTHER = "s" * 40, "o" * 40, "a+b/c:d%20=&" * 4
CLIENTS: dict[str, Any] = {
    "app": {"secret": [SECRET, OLD], "audience": "app"},
    "elsewhere": {"secret": OTHER, "audience": ["elsewhere", "nowhere"]},
    "both": {"secret": "b" * 40, "audience": ["elsewhere", "app"]},
}
FORM = b"Content-Type: application/x-www-form-urlencoded\r\n"
GUESSES = 5
INACTIVE = {"active": False}


def basic(client: str, secret: str) -> bytes:
    pair = f"{quote_plus(client)}:{quote_plus(secret)}"
    return b"Authorization: Basic " + base64.b64encode(pair.encode()) + b"\r\n"


@dataclass(frozen=True, slots=True)
class Asking(Place):
    async def ask(self, body: str | bytes, fields: bytes = basic("app", SECRET) + FORM, path: str = "") -> RawMessage:
        data = body if isinstance(body, bytes) else body.encode()
        return await self.front.ask(f"POST /.stepup/introspect{path}", fields, data)

    async def says(self, token: str, fields: bytes = basic("app", SECRET) + FORM) -> dict[str, Any]:
        answer = await self.ask(urlencode({"token": token}), fields)
        assert answer.status == 200, answer
        assert answer.head.get(b"content-type") == b"application/json"
        assert answer.head.get(b"cache-control") == b"no-store"
        return dict(json.loads(answer.body))

    async def upstream_token(self, who: bytes = ALICE) -> tuple[str, bytes]:
        held = await self.front.passed("GET /gated", who)
        token = await self.token("GET /gated", held + who)
        assert token is not None
        return token, held


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Asking]:
    clock = Clock(time.time())
    config: Any = {
        **CONFIG,
        "introspection": {"clients": CLIENTS, "rate": {"per_client": 30, "per_address": 40, "window": "1m"}},
        "guessing": {"per_address": GUESSES, "window": "10m"},
    }
    async with raw_upstream(answering(OK)) as upstream, fronting(tmp_path, upstream.url, clock=clock, **config) as front:
        yield Asking(front, upstream, clock)


def error(answer: RawMessage) -> tuple[int, str]:
    assert answer.head.get(b"content-type") == b"application/json"
    assert answer.head.get(b"cache-control") == b"no-store"
    return answer.status, json.loads(answer.body)["error"]


# -- what counts --------------------------------------------------------------------------------------------------------


async def test_an_upstream_learns_what_its_token_says(place: Asking) -> None:
    token, _ = await place.upstream_token()
    said = await place.says(token)
    assert said == {**await place.claims(token), "active": True, "typ": "stepup-upstream+jwt"}
    assert said.keys() >= {"iss", "sub", "aud", "exp", "iat", "jti", "acr", "amr", "auth_time", "sid"}
    assert (said["iss"], said["sub"], said["aud"], said["acr"]) == (place.front.origin, "alice", "app", "human")


async def test_a_continue_token_counts_until_it_is_used(place: Asking) -> None:
    ready, fields = await place.ready("GET /gated", kind=FETCH)
    said = await place.says(ready["token"])
    assert (said["active"], said["typ"], said["state"], said["sub"]) == (True, "stepup-continue+jwt", ready["state"], "alice")
    assert (await place.front.ask(f"GET {ready['continue']}", fields)).status == 204
    assert await place.says(ready["token"]) == INACTIVE


async def test_the_hint_is_no_more_than_that(place: Asking) -> None:
    token, _ = await place.upstream_token()
    for hint in ("access_token", "refresh_token", "nonsense", ""):
        answer = await place.ask(urlencode({"token": token, "token_type_hint": hint, "extra": "x"}))
        assert json.loads(answer.body)["active"] is True


async def test_a_token_from_before_a_rotation_counts_until_the_overlap_is_over(place: Asking, tmp_path: Path) -> None:
    token, _ = await place.upstream_token()
    before = (await place.keys())["keys"]
    done = await asyncio.to_thread(run_gateway, "keys", "rotate", "-c", str(tmp_path / "gateway.yaml"), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    app = place.front.app

    await eventually(lambda: app.keyring.signing[0].kid != before[0]["kid"])
    after = (await place.keys())["keys"]
    assert len(after) == 2
    assert before[0] in after
    assert (await place.claims(token))["sub"] == "alice"
    assert (await place.says(token))["active"] is True
    fresh, _ = await place.upstream_token()
    assert jwt.get_unverified_header(fresh)["kid"] != jwt.get_unverified_header(token)["kid"]
    assert (await place.says(fresh))["active"] is True
    app.keys.ring = rotate(
        app.keyring, now=place.clock() + 90_000, secret=b"n" * 32, private_pem=generate_private_pem("ES256"), algorithm="ES256", keep=3600
    )
    assert before[0] not in (await place.keys())["keys"]
    assert await place.says(token) == INACTIVE


# -- what does not ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("forge", FORGERIES.values(), ids=FORGERIES)
async def test_a_forged_token_is_inactive(place: Asking, forge: Any) -> None:
    token, _ = await place.upstream_token()
    forged = forge(token, (await place.keys())["keys"][0])
    if "&" in forged:
        assert error(await place.ask(f"token={forged}")) == (400, "invalid_request")
    else:
        assert await place.says(forged.replace("%20", " ")) == INACTIVE


async def test_a_token_for_somebody_else_is_inactive(place: Asking) -> None:
    token, _ = await place.upstream_token()
    assert await place.says(token, basic("elsewhere", OTHER) + FORM) == INACTIVE
    assert (await place.says(token, basic("both", "b" * 40) + FORM))["active"] is True


async def test_an_expired_token_is_inactive(place: Asking) -> None:
    token, _ = await place.upstream_token()
    ready, _ = await place.ready()
    await place.advance(59)
    assert (await place.says(token))["active"] is True
    await place.advance(1)
    assert await place.says(token) == INACTIVE
    await place.advance(239)
    assert (await place.says(ready["token"]))["active"] is True
    await place.advance(1)
    assert await place.says(ready["token"]) == INACTIVE


async def test_a_token_of_a_pass_that_was_revoked_is_inactive(place: Asking) -> None:
    token, held = await place.upstream_token()
    other, _ = await place.upstream_token(b"X-Remote-User: bob\r\n")
    done = await place.front.ask("POST /.stepup/pass/revoke", held + FETCH + ALICE + b"Content-Type: application/json\r\n", b"{}")
    assert done.status == 204
    assert await place.says(token) == INACTIVE
    assert (await place.says(other))["active"] is True


async def test_a_token_of_a_transaction_that_has_ended_is_inactive(place: Asking) -> None:
    ready, _ = await place.ready()
    assert (await place.says(ready["token"]))["active"] is True
    app = place.front.app
    claims = jwt.decode(ready["token"], options={"verify_signature": False})
    for changed in ({"state": "su_" + "x" * 43}, {"state": ""}, {"state": None}, {"jti": "another"}):
        twin = sign(TokenKind.CONTINUE, {**claims, **changed}, keyring=app.keyring, now=place.clock(), ttl=60)
        assert await place.says(twin) == INACTIVE
    found = await app.transactions.load(transaction_id(ready["state"]), place.clock())
    assert found is not None
    await app.transactions.save(move(found.transaction, Event.REFUSED), found.version, place.clock())
    assert await place.says(ready["token"]) == INACTIVE


async def test_the_answer_to_an_outside_issuer_counts_for_it_until_it_expires(place: Asking) -> None:
    """Its state is theirs, and so is the memory of what was used."""
    claims = {"iss": place.front.origin, "aud": "elsewhere", "sub": "alice", "jti": "theirs", "state": "abc123"}
    ring, asks = place.front.app.keyring, basic("elsewhere", OTHER) + FORM
    token = sign(PlainKind.ANSWER, claims, keyring=ring, now=place.clock(), ttl=60)  # type: ignore[arg-type]
    assert await place.says(token) == INACTIVE
    assert await place.says(sign(TokenKind.CONTINUE, claims, keyring=ring, now=place.clock(), ttl=60), asks) == INACTIVE
    assert (await place.says(token, asks))["jti"] == "theirs"
    await place.advance(60)
    assert await place.says(token, asks) == INACTIVE


async def test_a_token_of_another_issuer_or_kind_is_inactive_though_we_signed_it(place: Asking) -> None:
    token, _ = await place.upstream_token()
    claims = jwt.decode(token, options={"verify_signature": False})
    ring, now = place.front.app.keyring, place.clock()
    assert (await place.says(sign(TokenKind.UPSTREAM, claims, keyring=ring, now=now, ttl=60)))["active"] is True
    for changed in ({"iss": "https://other.example"}, {"iss": None}, {"aud": ["app"]}, {"aud": None}, {"aud": "bank"}):
        assert await place.says(sign(TokenKind.UPSTREAM, {**claims, **changed}, keyring=ring, now=now, ttl=60)) == INACTIVE
    assert await place.says(sign(TokenKind.CONTINUE, claims, keyring=ring, now=now, ttl=60)) == INACTIVE


async def test_what_a_token_says_cannot_make_it_active_or_another_kind(place: Asking) -> None:
    token, _ = await place.upstream_token()
    claims = jwt.decode(token, options={"verify_signature": False}) | {"active": False, "typ": "stepup-continue+jwt"}
    said = await place.says(sign(TokenKind.UPSTREAM, claims, keyring=place.front.app.keyring, now=place.clock(), ttl=60))
    assert (said["active"], said["typ"]) == (True, "stepup-upstream+jwt")


# -- who may ask --------------------------------------------------------------------------------------------------------


async def test_clients_authenticate_by_header_or_by_form(place: Asking) -> None:
    token, _ = await place.upstream_token()
    assert (await place.says(token, basic("app", OLD) + FORM))["active"] is True
    posted = await place.ask(urlencode({"token": token, "client_id": "app", "client_secret": SECRET}), FORM)
    assert json.loads(posted.body)["active"] is True
    assert await place.says(token, basic("elsewhere", OTHER) + FORM) == INACTIVE
    posted = await place.ask(urlencode({"token": token, "client_id": "elsewhere", "client_secret": OTHER}), FORM)
    assert json.loads(posted.body) == INACTIVE
    named = await place.ask(urlencode({"token": token, "client_id": "app"}))
    assert json.loads(named.body)["active"] is True


WRONG_CLIENTS = {
    "nobody": FORM,
    "another secret": basic("app", "x" * 40) + FORM,
    "another's secret": basic("app", OTHER) + FORM,
    "an unknown client": basic("nobody", SECRET) + FORM,
    "no secret": basic("app", "") + FORM,
    "a bearer token": b"Authorization: Bearer " + b"s" * 40 + b"\r\n" + FORM,
    "not base64": b"Authorization: Basic app:" + b"s" * 40 + b"\r\n" + FORM,
    "no colon": b"Authorization: Basic " + base64.b64encode(b"app") + b"\r\n" + FORM,
    "not UTF-8": b"Authorization: Basic " + base64.b64encode(b"app:\xff") + b"\r\n" + FORM,
    "empty": b"Authorization: \r\n" + FORM,
}


@pytest.mark.parametrize("fields", WRONG_CLIENTS.values(), ids=WRONG_CLIENTS)
async def test_nobody_else_is_told_anything(place: Asking, fields: bytes) -> None:
    token, _ = await place.upstream_token()
    answer = await place.ask(urlencode({"token": token}), fields)
    assert error(answer) == (401, "invalid_client")
    assert (answer.head.get(b"www-authenticate") or b"").startswith(b"Basic realm=")
    assert token.encode() not in answer.body


MALFORMED: dict[str, tuple[bytes, bytes, str]] = {
    "no token": (b"", basic("app", SECRET) + FORM, ""),
    "an empty token": (b"token=", basic("app", SECRET) + FORM, ""),
    "a token twice": (b"token=a&token=a", basic("app", SECRET) + FORM, ""),
    "another parameter twice": (b"token=a&x=1&x=2", basic("app", SECRET) + FORM, ""),
    "a client twice": (b"token=a&client_id=app&client_id=app&client_secret=" + SECRET.encode(), FORM, ""),
    "two ways": (b"token=a&client_id=app&client_secret=" + SECRET.encode(), basic("app", SECRET) + FORM, ""),
    "two headers": (b"token=a", basic("app", SECRET) * 2 + FORM, ""),
    "two names": (b"token=a&client_id=both", basic("app", SECRET) + FORM, ""),
    "in the query": (b"", basic("app", SECRET) + FORM, "?token=a"),
    "the secret in the query": (b"token=a", FORM, f"?client_id=app&client_secret={SECRET}"),
    "JSON": (b'{"token": "a"}', basic("app", SECRET) + b"Content-Type: application/json\r\n", ""),
    "no type": (b"token=a", basic("app", SECRET), ""),
    "not ASCII": (b"token=\xff", basic("app", SECRET) + FORM, ""),
    "not UTF-8": (b"token=%ff", basic("app", SECRET) + FORM, ""),
    "very many": (b"&".join(b"%d=" % i for i in range(50)), basic("app", SECRET) + FORM, ""),
}


@pytest.mark.parametrize(("body", "fields", "path"), MALFORMED.values(), ids=MALFORMED)
async def test_what_cannot_be_read_is_refused(place: Asking, body: bytes, fields: bytes, path: str) -> None:
    assert error(await place.ask(body, fields, path)) == (400, "invalid_request")


async def test_only_post(place: Asking) -> None:
    for method in ("GET", "PUT", "OPTIONS"):
        answer = await place.front.ask(f"{method} /.stepup/introspect", basic("app", SECRET))
        assert (answer.status, answer.head.get(b"allow")) == (405, b"POST")
        assert not answer.head.all(b"access-control-allow-origin")


async def test_a_large_body_is_refused(place: Asking) -> None:
    assert (await place.ask(b"token=" + b"a" * 70_000)).status == 413


async def test_a_charset_and_a_page_s_accept_change_nothing(place: Asking) -> None:
    token, _ = await place.upstream_token()
    typed = FORM.replace(b"\r\n", b"; charset=UTF-8\r\n") + b"Accept: text/html\r\n"
    assert (await place.says(token, basic("app", SECRET) + typed))["active"] is True
    assert error(await place.ask("token=a", basic("app", "x") + typed)) == (401, "invalid_client")


async def test_without_the_section_there_is_no_such_path(tmp_path: Path) -> None:
    async with raw_upstream(answering(OK)) as upstream, fronting(tmp_path, upstream.url, **CONFIG) as front:  # type: ignore[arg-type]
        assert (await front.ask("POST /.stepup/introspect", basic("app", SECRET) + FORM, b"token=a")).status == 404


# -- bounds -------------------------------------------------------------------------------------------------------------


async def test_guessing_secrets_is_bounded_by_address(place: Asking) -> None:
    for _ in range(GUESSES):
        assert error(await place.ask("token=a", basic("app", "guess") + FORM)) == (401, "invalid_client")
    for secret in ("guess", SECRET):
        answer = await place.ask("token=a", basic("app", secret) + FORM)
        assert error(answer) == (429, "temporarily_unavailable")
        assert answer.head.get(b"retry-after") == b"600"
    await place.advance(601)
    assert await place.says("a") == INACTIVE


async def test_right_secrets_use_up_nothing_of_the_guesses(place: Asking) -> None:
    for _ in range(GUESSES + 2):
        assert await place.says("a") == INACTIVE


async def test_how_often_may_be_asked_is_bounded_by_client_and_by_address(place: Asking) -> None:
    for _ in range(30):
        assert await place.says("a") == INACTIVE
    answer = await place.ask("token=a")
    assert (error(answer), answer.head.get(b"retry-after")) == ((429, "temporarily_unavailable"), b"60")
    for _ in range(9):
        assert await place.says("a", basic("both", "b" * 40) + FORM) == INACTIVE
    assert error(await place.ask("token=a", basic("both", "b" * 40) + FORM))[0] == 429
    await place.advance(61)
    assert await place.says("a") == INACTIVE


async def test_nothing_is_said_while_revocations_may_be_missed(place: Asking) -> None:
    token, _ = await place.upstream_token()
    ready, _ = await place.ready()
    app = place.front.app
    late = RevocationFeed(app.state, place.clock)  # never read
    asking = Introspection(
        state=app.state, guessing=app.guessing, transactions=app.transactions, revocations=late, keyring=lambda: app.keyring,
        issuers=lambda: [place.front.origin],
    )  # fmt: skip
    for known in (token, ready["token"]):
        with pytest.raises(StoreUnavailable):
            await asking.look(known, ["app"], place.clock())
    assert isinstance(await asking.look("x", ["app"], place.clock()), Inactive)


async def test_without_a_store_nobody_is_told_anything(place: Asking) -> None:
    token, _ = await place.upstream_token()
    await place.front.app.state.close()
    answer = await place.ask(urlencode({"token": token}))
    assert (answer.status, answer.head.get(b"retry-after")) == (503, b"5")


# -- published keys -----------------------------------------------------------------------------------------------------


async def test_published_keys_may_be_kept_and_asked_for_again_by_their_tag(place: Asking) -> None:
    first = await place.front.ask("GET /.stepup/jwks.json")
    assert first.head.get(b"cache-control") == b"public, max-age=300"
    etag = first.head.get(b"etag")
    assert etag
    for tags in (etag, b'"x", W/' + etag, b"*"):
        same = await place.front.ask("GET /.stepup/jwks.json", b"If-None-Match: %b\r\n" % tags)
        assert (same.status, same.body, same.head.get(b"etag")) == (304, b"", etag)
        assert same.head.get(b"access-control-allow-origin") == b"*"
        assert same.head.get(b"cache-control") == b"public, max-age=300"
    app = place.front.app
    pem = generate_private_pem("ES256")
    app.keys.ring = rotate(app.keyring, now=place.clock(), secret=b"n" * 32, private_pem=pem, algorithm="ES256", keep=3600)
    other = await place.front.ask("GET /.stepup/jwks.json", b"If-None-Match: %b\r\n" % etag)
    assert (other.status, len(json.loads(other.body)["keys"])) == (200, 2)


async def test_any_origin_may_ask_for_the_keys(place: Asking) -> None:
    preflight = b"Origin: https://other.example\r\nAccess-Control-Request-Method: GET\r\nAccess-Control-Request-Headers: if-none-match\r\n"
    answer = await place.front.ask("OPTIONS /.stepup/jwks.json", preflight)
    assert (answer.status, answer.head.get(b"access-control-allow-origin")) == (204, b"*")
    assert b"GET" in (answer.head.get(b"access-control-allow-methods") or b"")
    assert b"If-None-Match" in (answer.head.get(b"access-control-allow-headers") or b"")
    assert not answer.head.all(b"access-control-allow-credentials")


async def test_an_audience_that_no_token_has_is_warned_about(place: Asking, tmp_path: Path) -> None:
    warned = [str(warning) for warning in read(tmp_path / "gateway.yaml").warnings]
    assert len([line for line in warned if "no token is for this audience" in line]) == 3  # nowhere, and elsewhere twice
