from __future__ import annotations

import pytest

from gateway.wire.headers import client_ip, client_scheme, is_trusted, parse_networks

TRUSTED = parse_networks(["10.0.0.0/8", "192.0.2.1", "fd00::/8"])
SPOOF = "203.0.113.66"


def forwarded_for(*values: str) -> tuple[tuple[bytes, bytes], ...]:
    return tuple((b"X-Forwarded-For", v.encode()) for v in values)


def test_nobody_is_believed_by_default() -> None:
    assert client_ip("198.51.100.7", forwarded_for(SPOOF), ()) == "198.51.100.7"


def test_stranger_is_not_believed() -> None:
    assert client_ip("198.51.100.7", forwarded_for(SPOOF), TRUSTED) == "198.51.100.7"


@pytest.mark.parametrize(
    ("values", "client"),
    [
        (["198.51.100.7"], "198.51.100.7"),
        ([f"{SPOOF}, 198.51.100.7"], "198.51.100.7"),
        ([SPOOF, "198.51.100.7, 10.0.0.2"], "198.51.100.7"),
        (["198.51.100.7:5555"], "198.51.100.7"),
        (["[2001:db8::7]:5555"], "2001:db8::7"),
        (["2001:DB8:0::7"], "2001:db8::7"),
        (["::ffff:198.51.100.7"], "198.51.100.7"),
        (["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
        ([f"{SPOOF}, unknown, 10.0.0.2"], "10.0.0.2"),
        ([f"{SPOOF}, unknown"], "10.0.0.1"),
        ([""], "10.0.0.1"),
        (["10.0.0.2, ::ffff:10.0.0.4"], "10.0.0.2"),
    ],
)
def test_client_is_the_nearest_address_that_is_no_trusted_proxy(values: list[str], client: str) -> None:
    assert client_ip("10.0.0.1", forwarded_for(*values), TRUSTED) == client


@pytest.mark.parametrize(
    ("value", "client"),
    [
        ("for=198.51.100.7;proto=https", "198.51.100.7"),
        ('by=x;For="[2001:db8::7]:99"', "2001:db8::7"),
        (f"for={SPOOF}, for=198.51.100.7, for=10.0.0.2", "198.51.100.7"),
        (f'for="{SPOOF}, for=198.51.100.7', "198.51.100.7"),
        ("proto=https", "10.0.0.1"),
        ("for=_hidden", "10.0.0.1"),
    ],
)
def test_forwarded_is_read_where_there_is_no_x_forwarded_for(value: str, client: str) -> None:
    assert client_ip("10.0.0.1", ((b"Forwarded", value.encode()),), TRUSTED) == client


def test_forwarded_of_a_client_does_not_outrank_x_forwarded_for_of_a_proxy() -> None:
    headers = ((b"Forwarded", f"for={SPOOF}".encode()), *forwarded_for("198.51.100.7"))
    assert client_ip("10.0.0.1", headers, TRUSTED) == "198.51.100.7"


def test_underscore_spelling_is_no_forwarding_header() -> None:
    assert client_ip("10.0.0.1", ((b"X_Forwarded_For", SPOOF.encode()),), TRUSTED) == "10.0.0.1"


@pytest.mark.parametrize(
    ("address", "trusted"),
    [("10.1.2.3", True), ("::ffff:10.1.2.3", True), ("fd00::1", True), ("192.0.2.2", False), ("", False), ("x", False)],
)
def test_trusted_addresses(address: str, trusted: bool) -> None:
    assert is_trusted(address, TRUSTED) is trusted


@pytest.mark.parametrize(
    ("headers", "scheme"),
    [
        (((b"X-Forwarded-Proto", b"https"),), "https"),
        (((b"X-Forwarded-Proto", b"http, HTTPS"),), "https"),
        (((b"X-Forwarded-Proto", b"https, http"),), "http"),
        (((b"X-Forwarded-Proto", b"gopher"),), "http"),
        (((b"Forwarded", b"for=a;proto=http, for=b;proto=https"),), "https"),
        (((b"Forwarded", b"for=a"),), "http"),
        ((), "http"),
    ],
)
def test_scheme_is_what_the_nearest_trusted_proxy_says(headers: tuple[tuple[bytes, bytes], ...], scheme: str) -> None:
    assert client_scheme(headers, "http", trusted=True) == scheme


def test_scheme_of_a_stranger_is_the_listeners() -> None:
    assert client_scheme(((b"X-Forwarded-Proto", b"https"),), "http", trusted=False) == "http"
