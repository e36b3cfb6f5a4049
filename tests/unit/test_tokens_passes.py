from __future__ import annotations

from dataclasses import replace

import pytest

from gateway.tokens.compact import b64decode, b64encode
from gateway.tokens.keys import Keyring, generate_private_pem, new_keyring, rotate
from gateway.tokens.passes import NoPass, Pass, Vouched, read_pass, session_digest, session_digests, sign_pass
from gateway.tokens.vault import KeyVault
from gateway.wire.subject import Proof, Subject

NOW = 1_800_000_000.5
ORIGIN = "https://bank.example.com"
PEMS = (generate_private_pem("ES256"), generate_private_pem("ES256"))
RING = new_keyring(now=NOW, secret=b"k" * 32, private_pem=PEMS[0], algorithm="ES256")
FULL = Pass(
    sid="s" * 22,
    origin=ORIGIN,
    issued=NOW,
    seen=NOW + 60,
    subject=Subject("älice@example", {"password_expired": None, "vip": True, "level": 3, "name": 'A "B" \udcff'}, "login_form"),
    proofs={"human": Proof("human", NOW + 1, ("pop",)), "code": Proof("code", NOW + 2.125, ("otp", "mfa"))},
    sessions=(Vouched("d" * 22, None, bound=True), Vouched("e" * 22, NOW + 500)),
    grant="g" * 43,
)
BARE = Pass(sid="t" * 22, origin=ORIGIN, issued=NOW, seen=NOW)


def vault(keyring: Keyring = RING) -> KeyVault:
    return KeyVault(keyring, lambda: bytes(12))


def signed(held: Pass = FULL, keyring: Keyring = RING) -> str:
    value = sign_pass(held, vault(keyring), NOW)
    assert value is not None
    return value


def read(value: str, *, keyring: Keyring = RING, origin: str = ORIGIN, now: float = NOW + 60) -> Pass | NoPass:
    return read_pass(value, vault(keyring), origin=origin, now=now, max_age=28_800, idle=3_600)


@pytest.mark.parametrize("held", [FULL, BARE, replace(BARE, subject=Subject("", {"a": None}, "login_form"))])
def test_pass_is_read_as_it_was_signed(held: Pass) -> None:
    assert read(signed(held)) == held


def test_latest_past_sessions_stay_and_older_ones_are_left_out() -> None:
    """They tell which session this one was before; whoever reads them must look at `until`."""
    current = Vouched("c" * 22, None, bound=True)
    past = tuple(Vouched(str(i) * 22, NOW + i) for i in range(5))
    value = sign_pass(replace(FULL, sessions=(*past, current)), vault(), NOW + 60)
    assert value is not None
    held = read(value)
    assert isinstance(held, Pass)
    assert held.sessions == (*past[2:], current)


def test_sessions_that_still_count_are_never_left_out() -> None:
    counting = tuple(Vouched(str(i) * 22, NOW + 60 + i) for i in range(1, 6))
    value = sign_pass(replace(FULL, sessions=counting), vault(), NOW + 60)
    assert value is not None
    assert read(value) == replace(FULL, sessions=counting)


def test_pass_holds_a_life_of_steps_and_sessions_within_two_kib() -> None:
    proofs = {f"step-number-{i}": Proof(f"step-number-{i}", NOW + i, ("otp", "mfa")) for i in range(12)}
    sessions = tuple(Vouched(str(i) * 22, NOW + 99, bound=True) for i in range(8))
    assert len(signed(replace(FULL, proofs=proofs, sessions=sessions))) <= 2048


def test_pass_that_is_too_large_is_not_signed() -> None:
    assert sign_pass(replace(FULL, subject=Subject("x" * 2000)), vault(), NOW) is None


def test_longest_pass_that_is_signed_is_read() -> None:
    sizes = [n for n in range(1000, 2000) if sign_pass(replace(BARE, subject=Subject("x" * n)), vault(), NOW) is not None]
    held = replace(BARE, subject=Subject("x" * max(sizes)))
    assert 2040 < len(signed(held)) <= 2048
    assert read(signed(held)) == held


def test_pass_ends_by_age() -> None:
    fresh = replace(FULL, seen=NOW + 28_799)
    assert read(signed(fresh), now=NOW + 28_799) == fresh
    assert read(signed(fresh), now=NOW + 28_800) is NoPass.OVER


def test_pass_ends_by_idleness() -> None:
    assert read(signed(), now=NOW + 60 + 3_599) == FULL
    assert read(signed(), now=NOW + 60 + 3_600) is NoPass.IDLE


def test_pass_from_the_future_is_refused() -> None:
    assert read(signed(replace(BARE, issued=NOW + 64, seen=NOW + 64))) == replace(BARE, issued=NOW + 64, seen=NOW + 64)
    assert read(signed(replace(BARE, issued=NOW + 999, seen=NOW))) is NoPass.EARLY
    assert read(signed(replace(BARE, seen=NOW + 999))) is NoPass.EARLY


@pytest.mark.parametrize("origin", ["http://bank.example.com", "https://bank.example.com:8443", "https://evil.example"])
def test_pass_counts_at_its_origin_only(origin: str) -> None:
    assert read(signed(), origin=origin) is NoPass.FOREIGN


def test_pass_of_another_key_is_refused() -> None:
    other = new_keyring(now=NOW, secret=b"o" * 32, private_pem=PEMS[1], algorithm="ES256")
    assert read(signed(), keyring=other) is NoPass.FORGED


def test_pass_from_before_a_rotation_is_read_until_the_secret_stops_verifying() -> None:
    rotated = rotate(RING, now=NOW, secret=b"l" * 32, private_pem=PEMS[1], algorithm="ES256", keep=3600)
    assert read(signed(), keyring=rotated) == FULL
    assert read(signed(keyring=rotated)) is NoPass.FORGED
    dropped = rotate(rotated, now=NOW + 3601, secret=b"m" * 32, private_pem=generate_private_pem("ES256"), algorithm="ES256", keep=3600)
    assert read(signed(), keyring=dropped) is NoPass.FORGED


def test_other_spellings_are_refused() -> None:
    value = signed()
    payload, mac = value.split(".")
    for other in (
        "",
        ".",
        value + "=",
        payload + "=." + mac,
        payload,
        payload + ".",
        "." + mac,
        value + ".",
        " " + value,
        value + "\n",
        f'"{value}"',
        "é.é",
    ):
        assert read(other) is NoPass.MALFORMED


def test_value_that_we_mac_for_another_purpose_is_no_pass() -> None:
    payload = signed().split(".", maxsplit=1)[0]
    assert read(f"{payload}.{b64encode(vault().mac('browser', payload.encode()))}") is NoPass.FORGED


@pytest.mark.parametrize(
    "document", [b"{}", b"[]", b"[2]", b"[1]", b"[1,2,3,4,5,6,7,8,9]", b"null", b"\xff", b"[" * 900, b'[1,"s","o",1,1,["x"],[],[],""]']
)
def test_document_of_another_version_is_no_pass(document: bytes) -> None:
    payload = b64encode(document)
    assert read(f"{payload}.{b64encode(vault().mac('pass', payload.encode()))}") is NoPass.MALFORMED


def test_session_digest_depends_on_every_part_and_on_the_key() -> None:
    ours = session_digest(vault(), "bank", "JSESSIONID", "v")
    assert len(ours) == 22
    assert (b64decode(ours) or b"")[15:] != b""
    others = [
        session_digest(vault(), "shop", "JSESSIONID", "v"),
        session_digest(vault(), "bank", "SESSIONID", "v"),
        session_digest(vault(), "bank", "JSESSIONID", "w"),
        session_digest(vault(), "bank", "JSESSIONI", "Dv"),
        session_digest(
            vault(rotate(RING, now=NOW, secret=b"l" * 32, private_pem=PEMS[1], algorithm="ES256", keep=9)), "bank", "JSESSIONID", "v"
        ),
    ]
    assert len({ours, *others}) == 6


def test_session_digest_from_before_a_rotation_is_found() -> None:
    rotated = vault(rotate(RING, now=NOW, secret=b"l" * 32, private_pem=PEMS[1], algorithm="ES256", keep=9))
    digests = session_digests(rotated, "bank", "JSESSIONID", "v")
    assert digests == (session_digest(rotated, "bank", "JSESSIONID", "v"), session_digest(vault(), "bank", "JSESSIONID", "v"))


def test_reasons_read_as_words() -> None:
    assert f"pass refused: {NoPass.OVER}" == "pass refused: older than passes.max_age"


def test_grant_is_bound_into_the_signed_pass() -> None:
    granted = BARE.with_grant("t" * 43)
    assert BARE.grant == ""
    assert read(signed(granted)) == granted


def test_a_proof_keeps_its_edition() -> None:
    held = replace(FULL, proofs={"terms": Proof("terms", NOW - 1e7, (), "a4ayc_80"), "code": Proof("code", NOW + 1, ("otp",))})
    assert read(signed(held)) == held
