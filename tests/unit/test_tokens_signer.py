from __future__ import annotations

import base64
import hashlib
import hmac
import json
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization

from gateway.errors import TokenInvalid
from gateway.tokens.keys import Keyring, generate_private_pem, jwks, new_keyring, rotate
from gateway.tokens.signer import TokenKind, sign, verify

NOW = 1_800_000_000.25
PEMS = (generate_private_pem("ES256"), generate_private_pem("ES256"))
RING = new_keyring(now=NOW, secret=b"k" * 32, private_pem=PEMS[0], algorithm="ES256")
RSA_RING = new_keyring(now=NOW, secret=b"k" * 32, private_pem=generate_private_pem("RS256"), algorithm="RS256")
CLAIMS = {"iss": "https://a.example", "aud": "bank", "sub": "alice", "jti": "j", "state": "su_x"}


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def token(kind: TokenKind = TokenKind.CONTINUE, keyring: Keyring = RING, now: float = NOW, **claims: Any) -> str:
    return sign(kind, {**CLAIMS, **claims}, keyring=keyring, now=now, ttl=300)


def check(text: str, *, kind: TokenKind = TokenKind.CONTINUE, keyring: Keyring = RING, now: float = NOW, **changed: str) -> dict[str, Any]:
    return verify(kind, text, keyring=keyring, now=now, **{"issuer": "https://a.example", "audience": "bank", **changed})


def handmade(header: str | dict[str, Any], payload: str | dict[str, Any], keyring: Keyring = RING) -> str:
    """Signed properly with our own key, whatever it says."""
    texts = [part if isinstance(part, str) else json.dumps(part) for part in (header, payload)]
    signed = ".".join(b64(text.encode()) for text in texts)
    key = keyring.signing[0]
    algorithm = jwt.get_algorithm_by_name(key.algorithm)
    return f"{signed}.{b64(algorithm.sign(signed.encode(), key.private))}"


def good_header(**changed: Any) -> dict[str, Any]:
    return {"alg": "ES256", "kid": RING.signing[0].kid, "typ": "stepup-continue+jwt", **changed}


def good_payload(**changed: Any) -> dict[str, Any]:
    return {**CLAIMS, "iat": int(NOW), "exp": int(NOW) + 300, **changed}


@pytest.mark.parametrize("keyring", [RING, RSA_RING], ids=["ES256", "RS256"])
@pytest.mark.parametrize("kind", list(TokenKind))
def test_signed_token_verifies_with_its_claims(kind: TokenKind, keyring: Keyring) -> None:
    assert check(token(kind, keyring), kind=kind, keyring=keyring) == {**CLAIMS, "iat": 1_800_000_000, "exp": 1_800_000_300}


def test_handmade_good_token_verifies() -> None:
    """So that the refusals below are refusals of what they change."""
    assert check(handmade(good_header(), good_payload()))["sub"] == "alice"


def test_stranger_can_verify_by_jwks() -> None:
    published = jwt.PyJWK(jwks(RING)["keys"][0])
    text = token()
    assert jwt.get_unverified_header(text) == {"alg": "ES256", "kid": published.key_id, "typ": "stepup-continue+jwt"}
    options: Any = {"verify_exp": False, "verify_iat": False}
    assert jwt.decode(text, published, algorithms=["ES256"], audience="bank", issuer="https://a.example", options=options)["sub"] == "alice"


def test_claims_cannot_stretch_the_life_of_a_token() -> None:
    assert check(token(exp=2e9, iat=1))["exp"] == 1_800_000_300


@pytest.mark.parametrize("kind", list(TokenKind))
def test_one_kind_is_not_accepted_as_another(kind: TokenKind) -> None:
    for other in TokenKind:
        if other is not kind:
            with pytest.raises(TokenInvalid, match="typ"):
                check(token(kind), kind=other)


def test_expired_token_is_refused() -> None:
    assert check(token(), now=NOW + 299)
    with pytest.raises(TokenInvalid, match="expired"):
        check(token(), now=int(NOW) + 300)


def test_token_of_a_clock_ahead_is_accepted_within_its_skew() -> None:
    assert check(token(now=NOW + 4))
    with pytest.raises(TokenInvalid, match="iat"):
        check(token(now=NOW + 60))


def test_token_that_is_not_valid_yet_is_refused() -> None:
    assert check(token(nbf=int(NOW)))
    with pytest.raises(TokenInvalid, match="nbf"):
        check(token(nbf=int(NOW) + 60))


def test_other_issuer_or_audience_is_refused() -> None:
    with pytest.raises(TokenInvalid, match="iss"):
        check(token(), issuer="https://b.example")
    with pytest.raises(TokenInvalid, match="aud"):
        check(token(), audience="shop")
    with pytest.raises(TokenInvalid, match="aud"):
        check(token(aud=["bank", "shop"]))


def test_other_key_is_refused() -> None:
    other = new_keyring(now=NOW, secret=b"k" * 32, private_pem=PEMS[1], algorithm="ES256")
    with pytest.raises(TokenInvalid, match="kid"):
        check(token(keyring=other))
    stolen_name = handmade(good_header(), good_payload(), other)
    with pytest.raises(TokenInvalid, match="signature"):
        check(stolen_name)


def test_token_of_a_rotated_key_verifies_until_the_key_is_dropped() -> None:
    old = token()
    rotated = rotate(RING, now=NOW, secret=b"l" * 32, private_pem=PEMS[1], algorithm="ES256", keep=3600)
    assert check(old, keyring=rotated)
    assert check(token(keyring=rotated), keyring=rotated)
    dropped = rotate(rotated, now=NOW + 3601, secret=b"m" * 32, private_pem=generate_private_pem("ES256"), algorithm="ES256", keep=3600)
    with pytest.raises(TokenInvalid, match="kid"):
        check(old, keyring=dropped)


@pytest.mark.parametrize("name", ["none", "None", "NONE", ""])
def test_no_algorithm_is_refused(name: str) -> None:
    unsigned = f"{b64(json.dumps(good_header(alg=name)).encode())}.{b64(json.dumps(good_payload()).encode())}."
    with pytest.raises(TokenInvalid):
        check(unsigned)
    with pytest.raises(TokenInvalid, match="alg"):
        check(unsigned + "AA")


@pytest.mark.parametrize("keyring", [RING, RSA_RING], ids=["ES256", "RS256"])
def test_public_key_is_no_shared_secret(keyring: Keyring) -> None:
    """RFC 8725 §2.1: HS256 by the published key."""
    key = keyring.signing[0]
    public = key.private.public_key()
    for encoding, shape in (
        (serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo),
        (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo),
    ):
        secret = public.public_bytes(encoding, shape)
        signed = f"{b64(json.dumps(good_header(alg='HS256', kid=key.kid)).encode())}.{b64(json.dumps(good_payload()).encode())}"
        with pytest.raises(TokenInvalid, match="alg"):
            check(f"{signed}.{b64(hmac.digest(secret, signed.encode(), hashlib.sha256))}", keyring=keyring)


def test_algorithm_of_another_key_is_refused() -> None:
    with pytest.raises(TokenInvalid, match="alg"):
        check(handmade(good_header(alg="RS256"), good_payload()))


@pytest.mark.parametrize(
    "extra",
    [
        {"jku": "https://evil.example/jwks.json"},
        {"x5u": "https://evil.example/"},
        {"x5c": ["AA"]},
        {"jwk": jwks(RING)["keys"][0]},
        {"crit": ["exp"], "exp": 1},
        {"b64": True},
        {"zip": "DEF"},
        {"cty": "JWT"},
    ],
)
def test_other_header_parameters_are_refused(extra: dict[str, Any]) -> None:
    with pytest.raises(TokenInvalid, match="header parameters"):
        check(handmade(good_header(**extra), good_payload()))


@pytest.mark.parametrize(
    "changed", [{"typ": "JWT"}, {"typ": None}, {"typ": "application/stepup-continue+jwt"}, {"kid": "x"}, {"kid": ["x"]}, {"kid": 5}]
)
def test_other_header_values_are_refused(changed: dict[str, Any]) -> None:
    with pytest.raises(TokenInvalid, match=r"typ|kid"):
        check(handmade(good_header(**changed), good_payload()))


def test_missing_header_parameters_are_refused() -> None:
    for name in ("alg", "kid", "typ"):
        header = good_header()
        del header[name]
        with pytest.raises(TokenInvalid, match="header parameters"):
            check(handmade(header, good_payload()))


@pytest.mark.parametrize("name", ["exp", "iat"])
@pytest.mark.parametrize("value", [None, "1900000000", True, [1], 1e999])
def test_time_that_is_no_number_is_refused(name: str, value: object) -> None:
    text = json.dumps(good_payload(**{name: value})).replace("Infinity", "1e999")
    with pytest.raises(TokenInvalid, match=f"{name} is no time"):
        check(handmade(good_header(), text))


@pytest.mark.parametrize("name", ["exp", "iat", "iss", "aud"])
def test_missing_claim_is_refused(name: str) -> None:
    payload = good_payload()
    del payload[name]
    with pytest.raises(TokenInvalid, match=name):
        check(handmade(good_header(), payload))


def test_repeated_names_are_refused() -> None:
    header = json.dumps(good_header())
    payload = json.dumps(good_payload())
    with pytest.raises(TokenInvalid, match="unique"):
        check(handmade(header[:-1] + ', "typ": "stepup-continue+jwt"}', payload))
    with pytest.raises(TokenInvalid, match="unique"):
        check(handmade(header, payload[:-1] + ', "sub": "bob"}'))
    with pytest.raises(TokenInvalid, match="unique"):
        check(handmade(header, payload[:-1] + ', "results": {"a": 1, "a": 2}}'))


@pytest.mark.parametrize("payload", ["[]", "null", "", "{", '{"exp": NaN}', '{"a": ' + "[" * 2000])
def test_payload_that_is_no_object_is_refused(payload: str) -> None:
    with pytest.raises(TokenInvalid):
        check(handmade(good_header(), payload))


def test_other_spellings_of_a_good_token_are_refused() -> None:
    text = token()
    header, payload, signature = text.split(".")
    variants = [
        text + "=",
        text + "==",
        f"{header}=.{payload}.{signature}",
        f"{header}.{payload}==.{signature}",
        " " + text,
        text + "\n",
        f"{header}.{payload}.{signature}.",
        f"{header}.{payload}",
        f"{header}..{signature}",
        text.replace(".", ".\n"),
        f"{header}.{payload}.{signature[:10]}!{signature[10:]}",
        "",
        "..",
        "é.é.é",
    ]
    for variant in variants:
        with pytest.raises(TokenInvalid):
            check(variant)


def test_trailing_bits_must_be_zero() -> None:
    """86 characters for 64 bytes: the last carries four bits that stand for nothing."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    text = token()
    last = alphabet.index(text[-1])
    for other in range(last - last % 16, last - last % 16 + 16):
        if other != last:
            with pytest.raises(TokenInvalid, match="base64url"):
                check(text[:-1] + alphabet[other])


def test_standard_base64_alphabet_is_refused() -> None:
    text = next(t for t in (token(jti=str(i)) for i in range(500)) if "-" in t or "_" in t)
    with pytest.raises(TokenInvalid, match="base64url"):
        check(text.replace("-", "+").replace("_", "/"))


def test_token_beyond_the_size_bound_is_refused_unread() -> None:
    with pytest.raises(TokenInvalid, match="8192"):
        check(token(results={"x": "y" * 9000}))
