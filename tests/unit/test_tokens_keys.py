from __future__ import annotations

import base64
import hashlib
import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from jwt import PyJWK

from gateway.errors import KeyFileFault, SealBroken
from gateway.tokens.keys import Algorithm, Keyring, generate_private_pem, jwks, new_keyring, rotate
from gateway.tokens.vault import KeyVault

NOW = 1_800_000_000.0
DAY = 86_400.0
KEEP = 2 * DAY
PEMS = tuple(generate_private_pem("ES256") for _ in range(4))
RSA_PEM = generate_private_pem("RS256")


def secret(number: int) -> bytes:
    return hashlib.sha256(str(number).encode()).digest()


def ring() -> Keyring:
    return new_keyring(now=NOW, secret=secret(0), private_pem=PEMS[0], algorithm="ES256")


def turned(keyring: Keyring, number: int, now: float) -> Keyring:
    return rotate(keyring, now=now, secret=secret(number), private_pem=PEMS[number], algorithm="ES256", keep=KEEP)


class Nonces:
    """12 bytes that differ at each call."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> bytes:
        self.count += 1
        return self.count.to_bytes(12, "big")


def vault(keyring: Keyring) -> KeyVault:
    return KeyVault(keyring, Nonces())


# -- the key file ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("algorithm", "pem"), [("ES256", PEMS[0]), ("RS256", RSA_PEM)])
def test_key_file_is_read_as_it_was_written(algorithm: Algorithm, pem: str) -> None:
    keyring = new_keyring(now=NOW, secret=secret(0), private_pem=pem, algorithm=algorithm)
    keyring = turned(keyring, 1, NOW + 1)
    assert Keyring.from_text(keyring.to_text()) == keyring


def test_newest_key_is_first_whatever_the_order_in_the_file() -> None:
    keyring = turned(ring(), 1, NOW + 1)
    document = json.loads(keyring.to_text())
    document["secrets"].reverse()
    document["signing"].reverse()
    assert Keyring.from_text(json.dumps(document)) == keyring


def test_keys_do_not_show_in_their_repr() -> None:
    shown = repr(ring())
    assert "PRIVATE" not in shown
    assert repr(secret(0)) not in shown
    assert ring().secrets[0].id in shown


def damaged(place: str, value: Any) -> str:
    document = json.loads(ring().to_text())
    part: Any = document
    *path, last = [int(p) if p.isdigit() else p for p in place.split(".")]
    for step in path:
        part = part[step]
    if value is None:
        del part[last]
    else:
        part[last] = value
    return json.dumps(document)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no JSON"),
        ("[" * 100_000, "no JSON"),
        ("[]", "version"),
        ('{"version": 2}', "version"),
        (damaged("secrets", []), "secrets"),
        (damaged("signing", {}), "signing"),
        (damaged("secrets.0", 7), r"secrets\[0\]"),
        (damaged("secrets.0.id", "00000000"), r"secrets\[0\]"),
        (damaged("secrets.0.secret", "AAAA"), r"secrets\[0\]"),
        (damaged("secrets.0.secret", 7), r"secrets\[0\]"),
        (damaged("secrets.0.created", "today"), r"secrets\[0\]"),
        (damaged("secrets.0.verifies", "no"), r"secrets\[0\]"),
        (damaged("signing.0.kid", None), "kid"),
        (damaged("signing.0.kid", "a b"), "kid"),
        (damaged("signing.0.kid", 5), "kid"),
        (damaged("signing.0.alg", "HS256"), "alg"),
        (damaged("signing.0.alg", "RS256"), "RSA"),
        (damaged("signing.0.private_key", "nothing"), "PEM"),
        (damaged("signing.0.private_key", 5), r"signing\[0\]"),
        (damaged("signing.0.created", True), "created"),
    ],
)
def test_damaged_key_file_says_where(text: str, says: str) -> None:
    with pytest.raises(KeyFileFault, match=says):
        Keyring.from_text(text)


def test_key_that_stands_twice_is_refused() -> None:
    document = json.loads(ring().to_text())
    document["signing"] *= 2
    with pytest.raises(KeyFileFault, match="twice"):
        Keyring.from_text(json.dumps(document))


def test_key_of_another_algorithm_or_size_is_refused() -> None:
    from cryptography.hazmat.primitives import serialization

    other = ec.generate_private_key(ec.SECP384R1())
    pem = other.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()).decode()
    for bad, algorithm in ((pem, "ES256"), (RSA_PEM, "ES256"), (PEMS[0], "RS256"), ("x", "ES256")):
        with pytest.raises(ValueError, match=r"P-256|RSA|PEM"):
            new_keyring(now=NOW, secret=secret(0), private_pem=bad, algorithm=algorithm)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="32 bytes"):
        new_keyring(now=NOW, secret=b"short", private_pem=PEMS[0], algorithm="ES256")


# -- rotation -------------------------------------------------------------------------------------------------------


def test_rotation_puts_the_new_keys_first_and_keeps_the_old() -> None:
    keyring = turned(ring(), 1, NOW + 30 * DAY)
    assert [k.pem for k in keyring.signing] == [PEMS[1], PEMS[0]]
    assert [s.value for s in keyring.secrets] == [secret(1), secret(0)]
    assert all(s.verifies for s in keyring.secrets)


def test_key_is_kept_by_when_it_was_superseded_not_by_its_age() -> None:
    """A key that signed for a month until now must verify what it signed a minute ago."""
    keyring = turned(turned(ring(), 1, NOW + 30 * DAY), 2, NOW + 31 * DAY)
    assert [k.pem for k in keyring.signing] == [PEMS[2], PEMS[1], PEMS[0]]


def test_signing_key_superseded_too_long_ago_is_dropped() -> None:
    keyring = turned(turned(ring(), 1, NOW + DAY), 2, NOW + DAY + KEEP + 1)
    assert [k.pem for k in keyring.signing] == [PEMS[2], PEMS[1]]


def test_secret_superseded_too_long_ago_stops_verifying_but_opens() -> None:
    first = ring()
    sealed = vault(first).seal("record", b"totp", place="p")
    keyring = Keyring.from_text(turned(turned(first, 1, NOW + DAY), 2, NOW + DAY + KEEP + 1).to_text())
    assert [s.verifies for s in keyring.secrets] == [True, True, False]
    assert vault(first).mac("pass", b"x") not in vault(keyring).macs("pass", b"x")
    assert vault(keyring).open("record", sealed, place="p") == b"totp"


def test_rotation_with_a_clock_that_went_back_still_signs_with_the_new_key() -> None:
    keyring = turned(ring(), 1, NOW - DAY)
    assert Keyring.from_text(keyring.to_text()).signing[0].pem == PEMS[1]


def test_rotation_to_a_known_key_is_refused() -> None:
    with pytest.raises(ValueError, match="already"):
        rotate(ring(), now=NOW, secret=secret(0), private_pem=PEMS[1], algorithm="ES256", keep=KEEP)
    with pytest.raises(ValueError, match="already"):
        rotate(ring(), now=NOW, secret=secret(1), private_pem=PEMS[0], algorithm="ES256", keep=KEEP)


def test_rotation_may_change_the_algorithm() -> None:
    keyring = rotate(ring(), now=NOW, secret=secret(1), private_pem=RSA_PEM, algorithm="RS256", keep=KEEP)
    assert [k["alg"] for k in jwks(keyring)["keys"]] == ["RS256", "ES256"]


def test_fingerprints_start_with_the_current_key_and_tell_nothing() -> None:
    keyring = turned(ring(), 1, NOW)
    assert keyring.fingerprints()[1:] == ring().fingerprints()
    assert len(set(keyring.fingerprints())) == 2
    for print_, value in zip(keyring.fingerprints(), (secret(1), secret(0)), strict=True):
        assert len(print_) == 16
        assert print_ not in value.hex()
        assert print_ not in hashlib.sha256(value).hexdigest()


# -- what is published ----------------------------------------------------------------------------------------------


def test_jwks_holds_public_members_only() -> None:
    keyring = rotate(ring(), now=NOW, secret=secret(1), private_pem=RSA_PEM, algorithm="RS256", keep=KEEP)
    rsa_key, ec_key = jwks(keyring)["keys"]
    assert set(rsa_key) == {"kty", "n", "e", "use", "alg", "kid"}
    assert set(ec_key) == {"kty", "crv", "x", "y", "use", "alg", "kid"}
    assert {rsa_key["use"], ec_key["use"]} == {"sig"}
    assert json.dumps(jwks(keyring))


@pytest.mark.parametrize(("pem", "members"), [(PEMS[0], ["crv", "kty", "x", "y"]), (RSA_PEM, ["e", "kty", "n"])])
def test_kid_is_the_rfc_7638_thumbprint(pem: str, members: list[str]) -> None:
    algorithm: Algorithm = "ES256" if "crv" in members else "RS256"
    (key,) = jwks(new_keyring(now=NOW, secret=secret(0), private_pem=pem, algorithm=algorithm))["keys"]
    text = "{" + ",".join(f'"{m}":"{key[m]}"' for m in members) + "}"
    assert key["kid"] == base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).decode().rstrip("=")
    assert PyJWK(key).key_id == key["kid"]


# -- the vault ------------------------------------------------------------------------------------------------------


def test_sealed_value_opens_in_its_place_for_its_purpose() -> None:
    box = vault(ring())
    assert box.open("request", box.seal("request", b"body", place="t/1"), place="t/1") == b"body"
    assert box.open("request", box.seal("request", b"", place=""), place="") == b""


def test_sealed_value_opens_nowhere_else() -> None:
    box = vault(ring())
    sealed = box.seal("request", b"body", place="t/1")
    for purpose, place in (("request", "t/2"), ("record", "t/1"), ("request", "")):
        with pytest.raises(SealBroken):
            box.open(purpose, sealed, place=place)


def test_any_changed_bit_of_a_sealed_value_breaks_the_seal() -> None:
    box = vault(ring())
    sealed = box.seal("request", b"body", place="t/1")
    for position in range(len(sealed)):
        for bit in (1, 128):
            broken = bytearray(sealed)
            broken[position] ^= bit
            with pytest.raises(SealBroken):
                box.open("request", bytes(broken), place="t/1")


def test_truncated_sealed_value_breaks_the_seal() -> None:
    box = vault(ring())
    sealed = box.seal("request", b"body", place="t/1")
    for length in range(len(sealed)):
        with pytest.raises(SealBroken):
            box.open("request", sealed[:length], place="t/1")


def test_sealed_values_do_not_show_what_is_equal() -> None:
    box = vault(ring())
    assert box.seal("a", b"same", place="p") != box.seal("a", b"same", place="p")


def test_value_of_an_unknown_key_says_so() -> None:
    other = new_keyring(now=NOW, secret=secret(9), private_pem=PEMS[1], algorithm="ES256")
    with pytest.raises(SealBroken, match="not in the key file"):
        vault(ring()).open("a", vault(other).seal("a", b"x", place="p"), place="p")


def test_vault_adopts_a_rotated_keyring() -> None:
    box = vault(ring())
    sealed, old = box.seal("a", b"x", place="p"), box.mac("a", b"x")
    box.adopt(turned(ring(), 1, NOW))
    assert box.open("a", sealed, place="p") == b"x"
    assert box.mac("a", b"x") != old
    assert box.macs("a", b"x") == (box.mac("a", b"x"), old)
    with pytest.raises(SealBroken):
        vault(ring()).open("a", box.seal("a", b"x", place="p"), place="p")


def test_macs_differ_by_purpose_and_from_sealing_keys() -> None:
    box = vault(ring())
    assert len(box.mac("a", b"x")) == 32
    assert box.mac("a", b"x") != box.mac("b", b"x")
    assert box.mac("a", b"x") == vault(ring()).mac("a", b"x")
