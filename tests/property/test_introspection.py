"""Whatever is sent to introspection is read or refused, and only the very pair of id and secret is that client."""

from __future__ import annotations

import base64
from urllib.parse import quote, quote_plus

from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import TokenInvalid
from gateway.flow.introspection import _is_secret
from gateway.spec.introspection import IntrospectionClientSpec
from gateway.tokens.inspect import inspect
from gateway.tokens.keys import Keyring, generate_private_pem, new_keyring
from gateway.web.introspect import Credentials, Wrong, credentials
from gateway.wire.head import RequestHead
from gateway.wire.target import parse_target

RING: Keyring = new_keyring(now=0.0, secret=b"k" * 32, private_pem=generate_private_pem("ES256"), algorithm="ES256")
TEXT = st.text(max_size=40)


def head(*authorization: bytes) -> RequestHead:
    fields = tuple((b"Authorization", value) for value in authorization)
    return RequestHead("POST", parse_target(b"/.stepup/introspect"), fields, "http", "h", "http://h", "127.0.0.1", "127.0.0.1")


@given(st.lists(st.binary(max_size=80) | st.binary(max_size=60).map(lambda b: b"Basic " + base64.b64encode(b)), max_size=2), st.data())
def test_no_header_and_no_form_is_a_fault(values: list[bytes], data: st.DataObject) -> None:
    fields = data.draw(st.dictionaries(st.sampled_from(["client_id", "client_secret", "token", "x"]), TEXT))
    found = credentials(head(*values), fields)
    assert isinstance(found, Credentials | Wrong)
    if len(values) > 1 or (values and "client_secret" in fields):
        assert isinstance(found, Wrong)


@given(TEXT, TEXT, st.sampled_from([quote, quote_plus, lambda text: quote(text, safe="")]))
def test_what_was_encoded_as_rfc_6749_says_comes_out_as_it_was(client: str, secret: str, encode: object) -> None:
    assert callable(encode)
    pair = f"{encode(client)}:{encode(secret)}".encode()
    found = credentials(head(b"basic " + base64.b64encode(pair)), {})
    assert found == Credentials(client, secret)


@given(TEXT, st.lists(TEXT, min_size=1, max_size=3))
def test_only_a_secret_of_the_client_is_one(given_secret: str, secrets: list[str]) -> None:
    client = IntrospectionClientSpec(secret=tuple(secrets), audience=("a",))
    assert _is_secret(client, given_secret) is (given_secret in secrets)
    assert not _is_secret(None, given_secret)


@given(st.text(max_size=200) | st.binary(max_size=60).map(lambda b: ".".join([base64.urlsafe_b64encode(b).decode()] * 3)))
def test_no_text_is_a_fault(text: str) -> None:
    try:
        inspect(text, keyring=RING, now=1.0, issuers=["http://h"], audiences=["a"])
    except TokenInvalid:
        return
    raise AssertionError("nobody signed this")
