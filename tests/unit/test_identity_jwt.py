"""Subjects that arrive with the request: a bearer token of an identity provider, a header of a trusted proxy.

The provider is a real one as far as it matters: a JWKS server on loopback, with keys that come, go and lie.
"""

from __future__ import annotations

import asyncio
import base64
import hmac
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import jwt
import pytest
from aiohttp import web
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from gateway.errors import StoreUnavailable
from gateway.identity.header import HeaderSource, HeaderSpec
from gateway.identity.jwt import JwtSource, JwtSpec
from gateway.wire.forwarding import parse_networks
from gateway.wire.head import RequestHead
from gateway.wire.subject import Subject
from gateway.wire.target import parse_target
from tests.support.gateway import running

NOW = 1_800_000_000.0
ISSUER, AUDIENCE = "https://idp.example.com/", "bank"

EC = ec.generate_private_key(ec.SECP256R1())
OTHER = ec.generate_private_key(ec.SECP256R1())
RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
ED = ed25519.Ed25519PrivateKey.generate()
CLAIMS: dict[str, Any] = {"sub": "alice", "iss": ISSUER, "aud": AUDIENCE, "exp": NOW + 60, "iat": NOW, "dept": "law", "age": 41}


def published(key: Any, kid: str, **members: Any) -> dict[str, Any]:
    kind = (
        ECAlgorithm if isinstance(key, ec.EllipticCurvePrivateKey) else RSAAlgorithm if isinstance(key, rsa.RSAPrivateKey) else OKPAlgorithm
    )
    made: dict[str, Any] = kind.to_jwk(key.public_key(), as_dict=True)
    made.pop("key_ops", None)
    return {**made, "kid": kid, "use": "sig", **members}


def signed(key: Any = EC, algorithm: str = "ES256", *, kid: Any = "k1", header: dict[str, Any] | None = None, **claims: Any) -> str:
    """A token; a claim given as None is left out."""
    body = {name: value for name, value in {**CLAIMS, **claims}.items() if value is not None}
    return jwt.encode(body, key, algorithm, headers={**({"kid": kid} if kid is not None else {}), **(header or {})})


class Provider:
    """Its answer can be changed; what was asked of it is counted."""

    def __init__(self) -> None:
        self.keys: list[dict[str, Any]] = [published(EC, "k1")]
        self.answer: web.Response | None = None
        self.asked = 0
        self.url = ""

    async def handle(self, _request: web.Request) -> web.Response:
        self.asked += 1
        if self.answer is not None:
            return web.Response(status=self.answer.status, body=self.answer.body, headers=self.answer.headers)
        return web.json_response({"keys": self.keys})

    def source(self, **settings: Any) -> JwtSource:
        spec = JwtSpec.model_validate({"jwks_url": self.url, "audience": AUDIENCE, "issuer": ISSUER, **settings})
        return JwtSource(spec, "jwt")


@asynccontextmanager
async def serving() -> AsyncIterator[Provider]:
    found, app = Provider(), web.Application()
    app.router.add_get("/jwks.json", found.handle)
    app.router.add_get("/moved", found.handle)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    found.url = f"http://127.0.0.1:{runner.addresses[0][1]}/jwks.json"
    try:
        yield found
    finally:
        await runner.cleanup()


@pytest.fixture
async def provider() -> AsyncIterator[Provider]:
    async with serving() as found:
        yield found


def head(*headers: tuple[str, str], peer: str = "127.0.0.1") -> RequestHead:
    raw = tuple((name.encode(), value.encode("latin-1")) for name, value in headers)
    return RequestHead("GET", parse_target(b"/"), raw, "http", "bank", "http://bank", peer, peer)


async def who(source: JwtSource, token: str, *, now: float = NOW, upstream: str = "bank", scheme: str = "Bearer") -> str | None:
    subject = await source.subject(head(("Authorization", f"{scheme} {token}")), upstream, now)
    return None if subject is None else subject.id


# -- tokens that count ---------------------------------------------------------------------------------------------------


async def test_a_token_names_the_subject_its_claims_and_the_source(provider: Provider) -> None:
    source = provider.source(claims={"department": "dept", "years": "age", "team": "team"})
    found = await source.subject(head(("Authorization", f"Bearer {signed()}")), "bank", NOW)
    assert found == Subject("alice", {"department": "law", "years": 41, "team": None}, "jwt")


@pytest.mark.parametrize(
    ("key", "algorithm", "members"),
    [
        (EC, "ES256", {}),
        (EC, "ES256", {"alg": "ES256", "key_ops": ["verify"]}),
        (RSA, "RS256", {}),
        (RSA, "PS256", {"alg": "PS256"}),
        (ED, "EdDSA", {}),
    ],
)
async def test_the_keys_own_algorithm_is_used(provider: Provider, key: Any, algorithm: str, members: dict[str, Any]) -> None:
    provider.keys = [published(OTHER, "other"), published(key, "k1", **members)]
    assert await who(provider.source(), signed(key, algorithm)) == "alice"


async def test_the_scheme_is_read_whatever_its_case_and_the_audience_may_be_one_of_several(provider: Provider) -> None:
    assert await who(provider.source(), signed(aud=["shop", AUDIENCE]), scheme="bEARER") == "alice"


async def test_another_claim_may_hold_the_id(provider: Provider) -> None:
    assert await who(provider.source(subject="email"), signed(email="alice@example.com")) == "alice@example.com"


async def test_clocks_may_differ_by_half_a_minute(provider: Provider) -> None:
    source = provider.source()
    assert await who(source, signed(exp=NOW - 29)) == "alice"
    assert await who(source, signed(nbf=NOW + 29)) == "alice"
    assert await who(source, signed(exp=NOW - 31)) is None
    assert await who(source, signed(nbf=NOW + 31)) is None


async def test_a_source_of_one_upstream_is_silent_at_others(provider: Provider) -> None:
    source = provider.source(upstream="shop")
    assert await who(source, signed(), upstream="bank") is None
    assert provider.asked == 0
    assert await who(source, signed(), upstream="shop") == "alice"


# -- tokens that do not --------------------------------------------------------------------------------------------------


def unsigned(header: dict[str, Any], claims: dict[str, Any], signature: bytes = b"") -> str:
    parts = (json.dumps(header).encode(), json.dumps(claims).encode(), signature)
    return ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts)


def keyed_with_the_public_key() -> str:
    """RFC 8725 §2.1: the RSA key, which everybody knows, as the secret of an HMAC."""
    pem = RSA.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    body = unsigned({"alg": "HS256", "typ": "JWT", "kid": "rsa"}, CLAIMS).rpartition(".")[0]
    signature = base64.urlsafe_b64encode(hmac.digest(pem, body.encode(), "sha256")).rstrip(b"=").decode()
    return f"{body}.{signature}"


def tampered() -> str:
    first, _, signature = signed().split(".")
    body = base64.urlsafe_b64encode(json.dumps({**CLAIMS, "sub": "admin"}).encode()).rstrip(b"=").decode()
    return f"{first}.{body}.{signature}"


@pytest.mark.parametrize(
    "token",
    [
        pytest.param(signed(OTHER), id="another key under the same name"),
        pytest.param(tampered(), id="tampered"),
        pytest.param(unsigned({"alg": "none", "kid": "k1"}, CLAIMS), id="alg none"),
        pytest.param(unsigned({"alg": "NONE", "kid": "k1"}, CLAIMS, b"x"), id="alg NONE"),
        pytest.param(keyed_with_the_public_key(), id="HS256 with the public key"),
        pytest.param(signed(RSA, "PS256", kid="rsa"), id="PS256 with a key of RS256"),
        pytest.param(signed(RSA, "RS512", kid="rsa"), id="RS512 with a key of RS256"),
        pytest.param(signed(kid=None), id="no kid"),
        pytest.param(unsigned({"alg": "ES256", "kid": 7}, CLAIMS, b"x" * 64), id="kid is no text"),
        pytest.param(signed(kid="nobody"), id="unknown kid"),
        pytest.param(signed(header={"crit": ["b64"], "b64": False}), id="critical header that is not understood"),
        pytest.param(signed(iss="https://evil.example/"), id="another issuer"),
        pytest.param(signed(iss=None), id="no issuer"),
        pytest.param(signed(aud="shop"), id="another audience"),
        pytest.param(signed(aud=["shop"]), id="other audiences"),
        pytest.param(signed(aud=None), id="no audience"),
        pytest.param(signed(exp=None), id="no exp"),
        pytest.param(signed(exp="tomorrow"), id="exp is text"),
        pytest.param(signed(exp=True), id="exp is a boolean"),
        pytest.param(signed(exp=float("nan")), id="exp is not a number"),
        pytest.param(signed(nbf="x"), id="nbf is text"),
        pytest.param(signed(sub=None), id="no sub"),
        pytest.param(signed(sub=""), id="empty sub"),
        pytest.param(signed(sub="a" * 257), id="long sub"),
        pytest.param(unsigned({"alg": "ES256", "kid": "k1"}, {}), id="no signature"),
        pytest.param("", id="empty"),
        pytest.param("a.b.c", id="no JSON"),
        pytest.param("....", id="dots"),
        pytest.param("\xe4.\xf6.\xfc", id="not ASCII"),
        pytest.param("x" * 20_000, id="longer than 16 KiB"),
        pytest.param(signed() + " " + signed(), id="two tokens"),
    ],
)
async def test_a_token_that_does_not_verify_is_nobodys(provider: Provider, token: str) -> None:
    provider.keys = [published(EC, "k1"), published(RSA, "rsa", alg="RS256")]
    source = provider.source()
    assert await who(source, token) is None
    assert await who(source, signed()) == "alice"


async def test_an_expiry_of_any_size_is_a_time(provider: Provider) -> None:
    source = provider.source()
    assert await who(source, signed(exp=10**400)) == "alice"
    assert await who(source, signed(nbf=10**400)) is None


async def test_two_authorization_headers_are_none(provider: Provider) -> None:
    field = ("Authorization", f"Bearer {signed()}")
    assert await provider.source().subject(head(field, field), "bank", NOW) is None


@pytest.mark.parametrize("header", [("Authorization", "Basic YTpi"), ("Authorization", "Bearer"), ("Cookie", "a=b")])
async def test_without_a_bearer_token_the_provider_is_not_asked(provider: Provider, header: tuple[str, str]) -> None:
    assert await provider.source().subject(head(header), "bank", NOW) is None
    assert provider.asked == 0


@pytest.mark.parametrize(
    "entry",
    [
        pytest.param(published(EC, "k1", use="enc"), id="for encryption"),
        pytest.param(published(EC, "k1", key_ops=["sign"]), id="not for verifying"),
        pytest.param(published(EC, "k1", key_ops=5), id="key_ops is no list"),
        pytest.param(published(EC, "k1", alg="HS256"), id="alg of another kind"),
        pytest.param(published(EC, "k1", alg="none"), id="alg none"),
        pytest.param(published(EC, "k1", crv="P-999"), id="unknown curve"),
        pytest.param(published(EC, "k1", x="!"), id="damaged"),
        pytest.param({**ECAlgorithm.to_jwk(EC, as_dict=True), "kid": "k1", "use": "sig"}, id="private"),
        pytest.param({"kty": "oct", "k": "c2VjcmV0", "kid": "k1", "alg": "HS256"}, id="a shared secret"),
        pytest.param({name: v for name, v in published(EC, "k1").items() if name != "kid"}, id="without a name"),
        pytest.param({"kty": ["EC"], "kid": "k1"}, id="nonsense"),
        pytest.param("k1", id="no object"),
    ],
)
async def test_a_published_key_that_is_none_for_verifying_is_left_out(provider: Provider, entry: Any) -> None:
    provider.keys = [entry, published(OTHER, "k2")]
    source = provider.source()
    assert await who(source, signed()) is None
    assert await who(source, signed(OTHER, kid="k2")) == "alice"


# -- the provider --------------------------------------------------------------------------------------------------------


async def test_keys_are_fetched_once_and_again_when_they_are_old(provider: Provider) -> None:
    source = provider.source(refresh="5m")
    assert [await who(source, signed(exp=NOW + 9999), now=NOW + at) for at in (0, 1, 299)] == ["alice"] * 3
    assert provider.asked == 1
    assert await who(source, signed(exp=NOW + 9999), now=NOW + 300) == "alice"
    assert provider.asked == 2


async def test_requests_at_once_share_one_fetch(provider: Provider) -> None:
    source = provider.source()
    assert await asyncio.gather(*(who(source, signed()) for _ in range(20))) == ["alice"] * 20
    assert provider.asked == 1


async def test_an_unknown_name_fetches_again_but_not_at_every_request(provider: Provider) -> None:
    source = provider.source()
    assert await who(source, signed()) == "alice"
    provider.keys = [published(EC, "k1"), published(OTHER, "k2")]
    assert await who(source, signed(OTHER, kid="k2"), now=NOW + 9) is None
    assert provider.asked == 1
    assert await who(source, signed(OTHER, kid="k2"), now=NOW + 10) == "alice"
    assert provider.asked == 2
    for at in (11, 12, 19):
        assert await who(source, signed(kid="made up"), now=NOW + at) is None
    assert provider.asked == 2


async def test_a_key_that_was_withdrawn_ends_with_the_next_fetch(provider: Provider) -> None:
    source = provider.source(refresh="1m")
    assert await who(source, signed(exp=NOW + 9999)) == "alice"
    provider.keys = [published(OTHER, "k2")]
    assert await who(source, signed(exp=NOW + 9999), now=NOW + 60) is None


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(web.Response(status=500), id="500"),
        pytest.param(web.Response(status=302, headers={"Location": "/moved"}), id="redirect"),
        pytest.param(web.Response(body=b"<html>"), id="no JSON"),
        pytest.param(web.Response(body=b"[" * 100_000), id="deep"),
        pytest.param(web.Response(body=b'{"keys": []}' + b" " * 300_000), id="too long"),
    ],
)
async def test_without_keys_a_token_cannot_be_judged_and_that_is_a_fault(provider: Provider, answer: web.Response) -> None:
    """Fail closed: not "nobody", which some rules would let pass."""
    provider.answer = answer
    source = provider.source()
    with pytest.raises(StoreUnavailable, match="cannot be had"):
        await who(source, signed())
    asked = provider.asked
    with pytest.raises(StoreUnavailable):
        await who(source, signed(), now=NOW + 1)
    assert provider.asked == asked, "a provider that is away is not asked at every request"
    provider.answer = None
    assert await who(source, signed(), now=NOW + 20) == "alice"


async def test_keys_outlive_a_provider_that_is_away_for_a_while_only(provider: Provider) -> None:
    source = provider.source(refresh="1m")
    token = signed(exp=NOW + 99_999)
    assert await who(source, token) == "alice"
    provider.answer = web.Response(status=503)
    assert await who(source, token, now=NOW + 100) == "alice"
    with pytest.raises(StoreUnavailable):
        await who(source, token, now=NOW + 600)


async def test_a_provider_that_nobody_reaches_is_a_fault_that_names_it() -> None:
    async with serving() as gone:
        source = gone.source()
    with pytest.raises(StoreUnavailable, match=r"http://127\.0\.0\.1:\d+/jwks\.json"):
        await who(source, signed())


# -- in a gateway --------------------------------------------------------------------------------------------------------


async def test_a_gateway_takes_the_subject_from_the_token_and_answers_503_without_keys(provider: Provider, tmp_path: Path) -> None:
    identity = [{"from": "jwt", "jwks_url": provider.url, "audience": AUDIENCE, "issuer": ISSUER, "claims": {"dept": "dept"}}]
    rules = [
        {"name": "lawyers", "match": {"path": "/echo"}, "when": 'subject.claims.dept != "law"', "deny": {}},
        {"name": "named", "match": {"path": "/echo"}, "when": 'subject.source != "jwt"', "deny": {}},
    ]
    async with running(tmp_path, identity=identity, rules=rules) as there:
        browser = there.browser()
        token = signed(exp=4_000_000_000, iat=1)
        assert (await browser.json("GET", "/echo")).status == 403
        assert (await browser.json("GET", "/echo", headers={"Authorization": f"Bearer {token}"})).status == 200
        other = signed(exp=4_000_000_000, iat=1, dept="art")
        assert (await browser.json("GET", "/echo", headers={"Authorization": f"Bearer {other}"})).status == 403
    async with running(tmp_path / "again", identity=identity, rules=rules) as there:
        provider.answer = web.Response(status=500)
        answer = await there.browser().json("GET", "/echo", headers={"Authorization": f"Bearer {token}"})
        assert (answer.status, "Retry-After" in answer.headers) == (503, True)


# -- header --------------------------------------------------------------------------------------------------------------

PROXY = parse_networks(["10.0.0.0/8"])


def named(*headers: tuple[str, str], peer: str = "10.0.0.1", upstream: str | None = None) -> Subject | None:
    spec = HeaderSpec.model_validate({"name": "X-Forwarded-User", "upstream": upstream, "claims": {"mail": "X-Forwarded-Email"}})
    return asyncio.run(HeaderSource(spec, PROXY, "header").subject(head(*headers, peer=peer), "bank", NOW))


def test_a_trusted_proxy_names_the_subject_and_its_claims() -> None:
    found = named(("x-forwarded-user", " alice "), ("X-Forwarded-Email", "a@b.example"))
    assert found == Subject("alice", {"mail": "a@b.example"}, "header")
    assert named(("X-Forwarded-User", "alice")) == Subject("alice", {"mail": None}, "header")


@pytest.mark.parametrize("peer", ["192.0.2.1", "127.0.0.1", "::1", ""])
def test_from_anybody_else_the_header_names_nobody(peer: str) -> None:
    assert named(("X-Forwarded-User", "admin"), peer=peer) is None


@pytest.mark.parametrize(
    "headers",
    [
        (),
        (("X-Forwarded-User", ""),),
        (("X-Forwarded-User", "  "),),
        (("X-Forwarded-User", "alice"), ("X-Forwarded-User", "alice")),
        (("X-Forwarded-User", "alice"), ("x-forwarded-user", "admin")),
        (("X-Forwarded-User", "a" * 257),),
        (("X-Forwarded-User", "a\x00b"),),
        (("X_Forwarded_User", "alice"),),
    ],
)
def test_a_header_that_is_missing_empty_doubled_or_odd_names_nobody(headers: tuple[tuple[str, str], ...]) -> None:
    assert named(*headers) is None


def test_a_header_for_one_upstream_names_nobody_at_others() -> None:
    assert named(("X-Forwarded-User", "alice"), upstream="shop") is None
    assert named(("X-Forwarded-User", "alice"), upstream="bank") is not None


async def test_a_gateway_believes_the_header_from_its_proxy_only_and_never_passes_it_on_from_others(tmp_path: Path) -> None:
    identity = [{"from": "header", "name": "X-User"}]
    rules = [{"name": "known", "match": {"path": "/echo"}, "when": 'subject.id != "alice"', "deny": {}}]
    async with running(tmp_path / "one", identity=identity, rules=rules, trusted_proxies=["127.0.0.1"]) as there:
        answer = await there.browser().json("GET", "/echo", headers={"X-User": "alice"})
        assert answer.status == 200
        assert ["X-User", "alice"] in answer.json["headers"]
    async with running(tmp_path / "two", identity=identity, rules=rules) as there:
        assert (await there.browser().json("GET", "/echo", headers={"X-User": "alice"})).status == 403
    async with running(tmp_path / "three", identity=identity, rules=[]) as there:
        for name in ("X-User", "x_user"):
            answer = await there.browser().json("GET", "/echo", headers={name: "alice"})
            assert answer.status == 200
            assert not [value for key, value in answer.json["headers"] if key.lower().replace("_", "-") == "x-user"]
