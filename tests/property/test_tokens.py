"""Nothing but what we signed counts, and what we signed comes back as it was."""

from __future__ import annotations

import string
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import SealBroken, TokenInvalid
from gateway.tokens.compact import b64decode, b64encode
from gateway.tokens.keys import generate_private_pem, new_keyring
from gateway.tokens.passes import NoPass, Pass, Vouched, read_pass, sign_pass
from gateway.tokens.signer import TokenKind, sign, verify
from gateway.tokens.vault import KeyVault
from gateway.wire.subject import Proof, Subject

NOW = 1_800_000_000.0
ORIGIN = "https://a.example"
RING = new_keyring(now=NOW, secret=b"k" * 32, private_pem=generate_private_pem("ES256"), algorithm="ES256")
VAULT = KeyVault(RING, lambda: bytes(12))
TOKEN = sign(TokenKind.UPSTREAM, {"iss": ORIGIN, "aud": "bank", "sub": "alice", "jti": "j"}, keyring=RING, now=NOW, ttl=60)
COOKIE = sign_pass(Pass("s" * 22, ORIGIN, NOW, NOW, Subject("alice", {"a": 1}, "login_form")), VAULT, NOW) or ""

words = st.text(max_size=12)
scalars = st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False, allow_infinity=False) | words
passes = st.builds(
    Pass,
    sid=st.text(string.ascii_letters, min_size=22, max_size=22),
    origin=st.just(ORIGIN),
    issued=st.floats(NOW - 100, NOW),
    seen=st.floats(NOW - 100, NOW),
    subject=st.builds(Subject, words, st.dictionaries(words, scalars, max_size=3), words),
    proofs=st.lists(st.builds(Proof, words, st.floats(0, NOW), st.lists(words, max_size=2).map(tuple), words), max_size=3).map(
        lambda proofs: {proof.step: proof for proof in proofs}
    ),
    sessions=st.lists(st.builds(Vouched, words, st.none() | st.floats(NOW + 1, NOW + 99), st.booleans()), max_size=3).map(tuple),
)


def verified(token: str) -> dict[str, Any]:
    return verify(TokenKind.UPSTREAM, token, keyring=RING, now=NOW, issuer=ORIGIN, audience="bank")


def held(value: str) -> Pass | NoPass:
    return read_pass(value, VAULT, origin=ORIGIN, now=NOW, max_age=1000, idle=1000)


def changed(text: str, data: st.DataObject) -> str:
    """One edit that really changes the text: a character replaced, put in or taken out."""
    at = data.draw(st.integers(0, len(text) - 1))
    character = data.draw(st.characters(max_codepoint=0x17F).filter(lambda c: c != text[at]))
    return data.draw(
        st.sampled_from([text[:at] + character + text[at + 1 :], text[:at] + character + text[at:], text[:at] + text[at + 1 :], text[:at]])
    )


def test_what_is_tampered_with_below_was_good() -> None:
    assert verified(TOKEN)["sub"] == "alice"
    assert isinstance(held(COOKIE), Pass)


@given(st.data())
def test_any_edit_of_a_token_is_refused(data: st.DataObject) -> None:
    with pytest.raises(TokenInvalid):
        verified(changed(TOKEN, data))


@given(st.data())
def test_any_edit_of_a_pass_is_refused(data: st.DataObject) -> None:
    assert isinstance(held(changed(COOKIE, data)), NoPass)


def test_every_single_character_of_a_token_and_a_pass_counts() -> None:
    for position, character in enumerate(TOKEN):
        other = "A" if character != "A" else "B"
        with pytest.raises(TokenInvalid):
            verified(TOKEN[:position] + other + TOKEN[position + 1 :])
    for position, character in enumerate(COOKIE):
        other = "A" if character != "A" else "B"
        assert isinstance(held(COOKIE[:position] + other + COOKIE[position + 1 :]), NoPass)


@given(
    st.text(max_size=60) | st.binary(max_size=40).map(b64encode) | st.lists(st.binary(max_size=30).map(b64encode), max_size=4).map(".".join)
)
def test_rubbish_is_refused_and_breaks_nothing(text: str) -> None:
    with pytest.raises(TokenInvalid):
        verified(text)
    assert isinstance(held(text), NoPass)


@given(passes)
def test_pass_comes_back_as_it_was(original: Pass) -> None:
    value = sign_pass(original, VAULT, NOW)
    assert value is None or held(value) == original


@given(st.dictionaries(st.text(string.ascii_lowercase, max_size=5).map("x_".__add__), scalars, max_size=4))
def test_claims_come_back_as_they_were(claims: dict[str, Any]) -> None:
    token = sign(TokenKind.UPSTREAM, {**claims, "iss": ORIGIN, "aud": "bank"}, keyring=RING, now=NOW, ttl=60)
    assert {k: v for k, v in verified(token).items() if k.startswith("x_")} == claims


@given(st.binary(max_size=60))
def test_base64url_has_one_spelling(data: bytes) -> None:
    text = b64encode(data)
    assert b64decode(text) == (data or None)


@given(st.text(string.ascii_letters + string.digits + "-_=+/ \n", max_size=20))
def test_whatever_decodes_encodes_to_itself(text: str) -> None:
    data = b64decode(text)
    assert data is None or b64encode(data) == text


@given(st.binary(max_size=80), st.text(max_size=10), st.text(max_size=10))
def test_sealed_value_opens_in_its_own_place_only(plain: bytes, place: str, elsewhere: str) -> None:
    sealed = VAULT.seal("p", plain, place=place)
    assert VAULT.open("p", sealed, place=place) == plain
    if elsewhere != place:
        with pytest.raises(SealBroken):
            VAULT.open("p", sealed, place=elsewhere)


@given(st.binary(max_size=60))
def test_rubbish_is_no_sealed_value(rubbish: bytes) -> None:
    with pytest.raises(SealBroken):
        VAULT.open("p", rubbish, place="x")
