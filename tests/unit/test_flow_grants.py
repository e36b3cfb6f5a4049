"""Calls of token endpoints: read as the upstream reads them, or not at all; and what is remembered of what was issued."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.flow.grant_call import STEPUP_TOKEN, Bad, Call, _without_member, read_call
from gateway.flow.issued import GRACE, Issued, Passed
from gateway.policy.body import parse_body
from gateway.spec.oauth import OAuthSpec
from gateway.stores.state_sqlite import SqliteState
from gateway.wire.subject import Proof, Subject
from tests.support.fakes_steps import MemoryVault
from tests.support.policy import request

OAUTH = OAuthSpec(token="/oauth/token", resource_owner="/oauth/ro")
FORM = "application/x-www-form-urlencoded"
JSON = "application/json"
NOW = 1_800_000_000.0
ALICE = Subject("alice", {}, "oauth:idp")
PROOFS = {"code": Proof("code", NOW, ("otp",))}


def call(body: bytes, kind: str = FORM, *, path: str = "/oauth/token", headers: tuple[tuple[str, str], ...] = ()) -> Call | Bad:
    head = request(path, "POST", (("Content-Type", kind), *headers))
    return read_call(head, OAUTH, body, parse_body(kind, body, 65_536))


def good(body: bytes, kind: str = FORM, **more: Any) -> Call:
    found = call(body, kind, **more)
    assert isinstance(found, Call), found
    return found


def test_form_and_json_of_one_call_are_the_same_call() -> None:
    fields = {"grant_type": "password", "client_id": "spa", "username": "alice", "password": "x y", "scope": "openid"}
    form, document = good(urlencode(fields).encode()), good(json.dumps(fields).encode(), JSON)
    assert (form.protocol, form.user, form.client, form.by_credentials) == ("oauth2-password", "alice", "spa", True)
    assert form.same == document.same
    assert good(urlencode({**fields, "password": "other", "client_secret": "s"}).encode()).same == form.same
    assert good(urlencode({**fields, "scope": "admin"}).encode()).same != form.same
    assert b"x y" not in form.same


def test_the_client_is_named_by_the_body_or_by_basic() -> None:
    header = (("Authorization", "Basic " + base64.b64encode(b"w%2Bb:secret").decode()),)
    assert good(b"grant_type=client_credentials", headers=header).client == "w+b"
    assert good(b"grant_type=client_credentials&client_id=w%2Bb", headers=header).client == "w+b"
    assert isinstance(call(b"grant_type=client_credentials&client_id=x", headers=header), Bad)
    assert good(b"grant_type=client_credentials&client_id=x", headers=(("Authorization", "DPoP abc"),)).client == "x"


def test_other_calls_need_no_user_name() -> None:
    found = good(b"grant_type=refresh_token&refresh_token=abc&username=whoever")
    assert (found.user, found.secret, found.by_credentials) == ("", "abc", False)
    assert good(b"grant_type=urn:example:of-our-own").protocol == "oauth2-extension-grant"


def test_several_resources_are_no_mistake() -> None:
    found = good(b"grant_type=client_credentials&resource=a&resource=b&audience=c&audience=d")
    assert b'["a", "b"]' in found.same


TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=12)
PIECE = st.sampled_from([b"", b"a=1", b"x=%7E~+", b"refresh_token=%61bc", b"=", b"b", b"stepup_tokens=1"])


@given(st.lists(PIECE, max_size=6, unique=True), st.integers(0, 6))
def test_taking_the_token_out_of_a_form_leaves_every_other_byte(pieces: list[bytes], at: int) -> None:
    without = b"&".join([*pieces, b"grant_type=refresh_token"])
    full = [*pieces, b"grant_type=refresh_token"]
    full.insert(at, b"stepup_token=eyJ")
    found = good(b"&".join(full))
    assert found.token == "eyJ"
    assert found.body == without
    assert found.same == good(without).same


@given(
    st.dictionaries(
        TEXT.filter(lambda name: name.isascii() and name.islower() and name != "code"), TEXT | st.integers() | st.lists(TEXT), max_size=5
    ),
    st.integers(0, 5),
    st.sampled_from([None, 2]),
)
def test_taking_the_token_out_of_json_leaves_the_rest(fields: dict[str, Any], at: int, indent: int | None) -> None:
    safe = {"grant_type": "refresh_token"} | {"m" + name: value for name, value in fields.items()}
    items = list(safe.items())
    items.insert(at, ("stepup_token", 'e"}, {'))
    raw = json.dumps(dict(items), indent=indent, ensure_ascii=False).encode()
    found = good(raw, JSON)
    assert found.token == 'e"}, {'
    assert json.loads(found.body) == safe


def test_json_without_the_token_is_byte_for_byte_what_it_was() -> None:
    for raw, left in [
        (b'{"stepup_token": "t", "a":1 }', b'{"a":1 }'),
        (b'{ "a":1 ,"stepup_token" : "t" }', b'{ "a":1  }'),
        (b'{"a": [1, {"stepup_token": 2}], "stepup_token":"t","b":"\\u00e9"}', b'{"a": [1, {"stepup_token": 2}],"b":"\\u00e9"}'),
        (b'{"stepup_token":"t"}', b"{}"),
        (b'{"st\\u0065pup_token":"t","a":1}', b'{"a":1}'),
    ]:
        assert _without_member(raw, STEPUP_TOKEN) == left


# -- what is remembered ---------------------------------------------------------------------------------------------


@pytest.fixture
async def issued(tmp_path: Path) -> AsyncIterator[Issued]:
    state = SqliteState(tmp_path / "state.db")
    yield Issued(state, MemoryVault())
    await state.close()


async def test_an_entry_moves_on_at_rotation_and_the_old_one_ends_soon(issued: Issued) -> None:
    passed = Passed(ALICE, PROOFS, "spa")
    assert await issued.issued("idp", "one", passed, before=None, ttl=1000, most=5, now=NOW)
    one = await issued.find("refresh", "idp", "one", "spa", NOW)
    assert one is not None
    assert one.passed == passed
    assert await issued.issued("idp", "two", passed, before=one, ttl=1000, most=5, now=NOW)
    two = await issued.find("refresh", "idp", "two", "spa", NOW + 999)
    assert two is not None
    assert two.passed == passed
    assert await issued.find("refresh", "idp", "one", "spa", NOW + GRACE - 1) is not None
    assert await issued.find("refresh", "idp", "one", "spa", NOW + GRACE) is None
    assert await issued.find("refresh", "idp", "two", "spa", NOW + 1000) is None


async def test_it_is_this_clients_at_this_upstream_only(issued: Issued) -> None:
    await issued.issued("idp", "one", Passed(ALICE, PROOFS, "spa"), before=None, ttl=1000, most=5, now=NOW)
    assert await issued.find("refresh", "idp", "one", "other", NOW) is None
    assert await issued.find("refresh", "bank", "one", "spa", NOW) is None
    assert await issued.find("code", "idp", "one", "spa", NOW) is None
    assert await issued.find("refresh", "idp", "", "spa", NOW) is None


async def test_the_same_token_given_out_again_means_what_was_passed_last(issued: Issued) -> None:
    await issued.issued("idp", "one", Passed(ALICE, PROOFS, "spa"), before=None, ttl=1000, most=5, now=NOW)
    await issued.issued("idp", "one", Passed(ALICE, {}, "spa"), before=None, ttl=1000, most=5, now=NOW)
    found = await issued.find("refresh", "idp", "one", "spa", NOW)
    assert found is not None
    assert found.passed.proofs == {}


async def test_a_rotation_takes_its_predecessors_place_among_the_bound(issued: Issued) -> None:
    passed = Passed(ALICE, {}, "spa")
    assert await issued.issued("idp", "t0", passed, before=None, ttl=1000, most=1, now=NOW)
    for n in range(3):
        before = await issued.find("refresh", "idp", f"t{n}", "spa", NOW)
        assert await issued.issued("idp", f"t{n + 1}", passed, before=before, ttl=1000, most=1, now=NOW)
    assert not await issued.issued("idp", "more", passed, before=None, ttl=1000, most=1, now=NOW)


async def test_a_code_is_known_for_ten_minutes(issued: Issued) -> None:
    await issued.remember_code("idp", "c", ALICE, PROOFS, now=NOW)
    found = await issued.find("code", "idp", "c", "anybody", NOW + 599)
    assert found is not None
    assert found.passed == Passed(ALICE, PROOFS, "")
    assert await issued.find("code", "idp", "c", "anybody", NOW + 600) is None
    await issued.forget(found)
    assert await issued.find("code", "idp", "c", "anybody", NOW) is None


async def test_a_pass_that_was_taken_back_leaves_its_tokens_nothing_but_their_subject(issued: Issued) -> None:
    await issued.remember_code("idp", "c", ALICE, PROOFS, client="spa", sid="s1", now=NOW)
    await issued.issued("idp", "one", Passed(ALICE, PROOFS, "spa", "s1"), before=None, ttl=1000, most=5, now=NOW)
    await issued.issued("idp", "two", Passed(ALICE, PROOFS, "spa", "s2"), before=None, ttl=1000, most=5, now=NOW)
    await issued.void("s1", ttl=1000, now=NOW)
    await issued.void("s1", ttl=1000, now=NOW)
    for kind, token, proofs in (("code", "c", {}), ("refresh", "one", {}), ("refresh", "two", PROOFS)):
        found = await issued.find(kind, "idp", token, "spa", NOW)  # type: ignore[arg-type]
        assert found is not None
        assert (found.passed.subject, found.passed.proofs) == (ALICE, proofs)


async def test_which_version_was_accepted_is_kept(issued: Issued) -> None:
    proofs = {"terms": Proof("terms", NOW, ("user",), "2")}
    await issued.issued("idp", "one", Passed(ALICE, proofs, "spa"), before=None, ttl=1000, most=5, now=NOW)
    found = await issued.find("refresh", "idp", "one", "spa", NOW)
    assert found is not None
    assert found.passed.proofs == proofs
