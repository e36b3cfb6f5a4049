"""Auth requests read: one source for each part, and nothing else. Answers: only `Allow` lets a request pass, and it says all."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.wire.forward_auth import (
    COPIED,
    Dialect,
    Integration,
    Premises,
    Refused,
    allow_headers,
    body_sent,
    carried,
    integration_of,
    original_head,
)
from gateway.wire.forwarding import parse_networks
from gateway.wire.head import Headers, RequestHead

ORIGIN = "https://bank.example.com"
PREMISES = Premises((ORIGIN, "http://127.0.0.1:8000"), parse_networks(["10.0.0.0/8"]), b"/.stepup", b"/continue", "stepup_resume", 200)

# How each program asks, for `POST /a/%2e?x=1` at https://bank.example.com from 203.0.113.7.
ASKED: dict[Dialect, tuple[str, bytes, dict[str, str]]] = {
    "nginx": (
        "GET",
        b"/stepup-decision",
        {
            "Host": "decision",
            "X-Original-Method": "POST",
            "X-Original-URI": "/a/%2e?x=1",
            "X-Original-Host": "bank.example.com",
            "X-Original-Proto": "https",
            "X-Original-Address": "203.0.113.7",
        },
    ),
    "traefik": (
        "GET",
        b"/",
        {
            "Host": "127.0.0.1:8091",
            "X-Forwarded-Method": "POST",
            "X-Forwarded-Uri": "/a/%2e?x=1",
            "X-Forwarded-Host": "bank.example.com",
            "X-Forwarded-Proto": "https",
            "X-Forwarded-For": "203.0.113.7",
        },
    ),
    "caddy": (
        "GET",
        b"/decision?x=1",
        {
            "Host": "bank.example.com",
            "X-Forwarded-Method": "POST",
            "X-Forwarded-Uri": "/a/%2e?x=1",
            "X-Forwarded-Host": "bank.example.com",
            "X-Forwarded-Proto": "https",
            "X-Forwarded-For": "203.0.113.7",
        },
    ),
    "envoy": (
        "POST",
        b"/a/%2e?x=1",
        {"Host": "bank.example.com", "X-Forwarded-Proto": "https", "X-Forwarded-For": "203.0.113.7", "X-Envoy-Internal": "true"},
    ),
}
SOURCES = [(dialect, name) for dialect, (_, _, headers) in ASKED.items() for name in headers if name != "X-Envoy-Internal"]
DIALECTS = list(ASKED)


def raw(headers: dict[str, str] | list[tuple[str, str]]) -> Headers:
    pairs = headers.items() if isinstance(headers, dict) else headers
    return tuple((n.encode(), v.encode("latin-1")) for n, v in pairs)


def read(dialect: Dialect, *more: tuple[str, str], method: str | None = None, target: bytes | None = None, **changed: str) -> Any:
    """changed: sources with `_` for `-`, e.g. X_Forwarded_Uri."""
    own, path, headers = ASKED[dialect]
    given = {**headers, **{name.replace("_", "-"): value for name, value in changed.items()}}
    sent = raw([*given.items(), *more])
    return original_head(Integration("edge", dialect), method or own, target or path, sent, "127.0.0.1", PREMISES)


def refusal(found: RequestHead | Refused) -> str:
    assert isinstance(found, Refused), found
    return found.private


# -- the request ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dialect", DIALECTS)
def test_the_original_request_is_found(dialect: Dialect) -> None:
    head = read(dialect, ("Accept", "text/html"), ("Cookie", "a=1"))
    assert isinstance(head, RequestHead)
    assert (head.method, head.target.raw, head.scheme, head.host, head.origin) == (
        "POST",
        b"/a/%2e?x=1",
        "https",
        "bank.example.com",
        ORIGIN,
    )
    assert "/a/" in head.target.readings
    assert (head.client_ip, head.peer) == ("203.0.113.7", "127.0.0.1")
    assert sorted(head.headers) == [(b"Accept", b"text/html"), (b"Cookie", b"a=1"), (b"Host", b"bank.example.com")]


@pytest.mark.parametrize(("dialect", "name"), SOURCES)
def test_a_source_that_is_missing_or_stands_twice_is_refused(dialect: Dialect, name: str) -> None:
    method, path, headers = ASKED[dialect]
    ask = (Integration("edge", dialect), method, path)
    without = {n: v for n, v in headers.items() if n != name}
    assert f"0 {name.lower()} headers" in refusal(original_head(*ask, raw(without), "127.0.0.1", PREMISES))
    for twin in (name, name.lower(), name.replace("-", "_")):
        twice = raw([*headers.items(), (twin, headers[name])])
        if twin != name or "-" in name:
            assert f"2 {name.lower()} headers" in refusal(original_head(*ask, twice, "127.0.0.1", PREMISES)), twin


@pytest.mark.parametrize("dialect", DIALECTS)
def test_what_other_dialects_read_is_not_looked_at(dialect: Dialect) -> None:
    _, _, own = ASKED[dialect]
    foreign = [
        (name, value)
        for name, value in {
            "X-Original-Method": "GET",
            "X-Original-URI": "/free",
            "X-Original-Host": "free.example",
            "X-Original-Proto": "http",
            "X-Original-Address": "10.1.1.1",
            "X-Forwarded-Method": "GET",
            "X-Forwarded-Uri": "/free",
            "X-Forwarded-Host": "free.example",
            "X-Rewrite-URL": "/free",
            "X-Envoy-Original-Path": "/free",
            "X-Real-IP": "10.1.1.1",
            "X-Envoy-External-Address": "10.1.1.1",
        }.items()
        if name not in own
    ]
    head, plain = read(dialect, *foreign), read(dialect)
    told = ("method", "target", "scheme", "host", "origin", "client_ip", "peer")
    assert [getattr(head, name) for name in told] == [getattr(plain, name) for name in told]


@pytest.mark.parametrize("dialect", ["nginx", "traefik", "caddy"])
def test_the_auth_requests_own_method_must_not_contradict(dialect: Dialect) -> None:
    assert isinstance(read(dialect, method="POST"), RequestHead)
    assert "contradicts" in refusal(read(dialect, method="PUT"))


@pytest.mark.parametrize(
    ("target", "why"),
    [
        ("", "empty target"),
        ("http://bank.example.com/a", "not in origin-form"),
        ("*", "not in origin-form"),
        ("/a%00", "control character"),
        ("/a b", "space"),
        ("/" + "a" * 200, "more than 200 bytes"),
        ("/.stepup", "the gateway's own"),
        ("/.stepup/t/su_x", "the gateway's own"),
        ("/continue?state=su_x", "the gateway's own"),
        ("/transfer?stepup_resume=x", "a ticket"),
        ("/transfer?a=1&%73tepup_resume=x", "a ticket"),
    ],
)
def test_targets_that_nobody_may_ask_about_are_refused(target: str, why: str) -> None:
    assert why in refusal(read("nginx", X_Original_URI=target))
    assert why in refusal(read("caddy", X_Forwarded_Uri=target))
    if target:
        assert why in refusal(read("envoy", target=target.encode()))


@pytest.mark.parametrize("target", ["/continue/x", "/continued", "/.stepupper", "/x?y=stepup_resume", "/x?stepup_resumed=1"])
def test_what_only_looks_like_ours_is_the_applications(target: str) -> None:
    assert read("nginx", X_Original_URI=target).target.raw == target.encode()


def test_a_method_that_is_not_served_is_refused() -> None:
    assert "not served" in refusal(read("nginx", X_Original_Method="CONNECT"))
    assert "not served" in refusal(read("nginx", X_Original_Method="get"))


def test_host_and_scheme_must_be_in_public_url() -> None:
    assert "not in public_url" in refusal(read("nginx", X_Original_Host="evil.example"))
    assert "not in public_url" in refusal(read("nginx", X_Original_Proto="http"))
    assert "neither http nor https" in refusal(read("nginx", X_Original_Proto="wss"))
    assert read("nginx", X_Original_Host="BANK.example.com:443").origin == ORIGIN
    assert read("caddy", X_Forwarded_Host="127.0.0.1:8000", X_Forwarded_Proto="http").origin == "http://127.0.0.1:8000"


@pytest.mark.parametrize("address", ["", "unix:", "unknown", "203.0.113.7:80", "bank.example.com"])
def test_an_address_must_be_one(address: str) -> None:
    assert "no address" in refusal(read("nginx", X_Original_Address=address))
    assert "no address" in refusal(read("traefik", X_Forwarded_For=f"203.0.113.9, {address}"))


def test_of_a_list_of_addresses_the_last_is_the_proxys_word() -> None:
    head = read("envoy", X_Forwarded_For="10.9.9.9,203.0.113.7")
    assert head.client_ip == "203.0.113.7", "it is no trusted proxy: what it said of others counts for nothing"
    assert (b"X-Forwarded-For", b"10.9.9.9") in head.headers
    head = read("envoy", X_Forwarded_For="198.51.100.1, 10.0.0.2")
    assert head.client_ip == "198.51.100.1", "a trusted proxy stands in front"
    assert "no address" in refusal(read("nginx", X_Original_Address="198.51.100.1, 10.0.0.2"))


def test_a_trusted_proxy_in_front_says_the_scheme() -> None:
    said = (("X-Forwarded-Proto", "https"), ("X-Forwarded-For", "198.51.100.1"))
    head = read("nginx", *said, X_Original_Proto="http", X_Original_Address="10.0.0.2")
    assert (head.origin, head.client_ip) == (ORIGIN, "198.51.100.1")
    assert "not in public_url" in refusal(read("nginx", *said, X_Original_Proto="http", X_Original_Address="203.0.113.7"))


def test_what_belongs_to_the_auth_request_is_not_the_clients() -> None:
    own = (("Connection", "close"), ("Content-Length", "0"), ("X-Stepup-Forward-Auth", "secret"), ("X-Envoy-Internal", "true"))
    for dialect in DIALECTS:
        names = {n.lower() for n, _ in read(dialect, *own).headers}
        assert not names & {b"connection", b"content-length", b"x-stepup-forward-auth"}, dialect
    assert read("nginx", ("X-Stepup-Token", "spoofed")).has("x-stepup-token"), "rules see what a client sent, as in proxy mode"


def test_only_envoy_shows_a_body_and_only_where_it_says_so() -> None:
    whole = (("X-Envoy-Auth-Partial-Body", "false"), ("Content-Length", "5"))
    assert body_sent("envoy", raw([*whole]))
    assert read("envoy", *whole).get("content-length") == "5"
    assert body_sent("envoy", raw({"X-Envoy-Auth-Partial-Body": "false", "Transfer-Encoding": "chunked"}))
    for value in ("true", "", "no"):
        assert not body_sent("envoy", raw({"X-Envoy-Auth-Partial-Body": value, "Content-Length": "5"}))
    for length in ({}, {"Content-Length": "0"}, {"Content-Length": "00"}):
        assert not body_sent("envoy", raw({"X-Envoy-Auth-Partial-Body": "false", **length})), "a client said it, of a body that stayed away"
    assert not body_sent("envoy", raw([*whole, ("x-envoy-auth-partial-body", "false")])), "it stands twice"
    assert not body_sent("envoy", ())
    assert not any(body_sent(dialect, raw([*whole])) for dialect in DIALECTS if dialect != "envoy")


# -- who asks -------------------------------------------------------------------------------------------------------------

MOUNT = b"/.stepup/forward-auth"
FIRST = Integration("first", "nginx", b"first-secret-of-many", MOUNT)
SECOND = Integration("second", "envoy", b"second-secret-of-many", MOUNT)


@pytest.mark.parametrize(
    ("target", "secrets", "found"),
    [
        (MOUNT, [b"first-secret-of-many"], FIRST),
        (MOUNT + b"?x=1", [b"first-secret-of-many"], FIRST),
        (MOUNT, [b"second-secret-of-many"], SECOND),
        (MOUNT + b"/a", [b"second-secret-of-many"], SECOND),
        (MOUNT + b"/a", [b"first-secret-of-many"], None),
        (MOUNT + b"x", [b"second-secret-of-many"], None),
        (b"/", [b"first-secret-of-many"], None),
        (MOUNT, [], None),
        (MOUNT, [b""], None),
        (MOUNT, [b"first-secret-of-man"], None),
        (MOUNT, [b"FIRST-secret-of-many"], None),
        (MOUNT, [b"first-secret-of-many", b"first-secret-of-many"], None),
        (MOUNT, [b"first-secret-of-many", b"x"], None),
        (MOUNT, [b"first-secret-of-many, first-secret-of-many"], None),
    ],
)
def test_the_proxy_is_known_by_exactly_one_secret(target: bytes, secrets: list[bytes], found: Integration | None) -> None:
    headers = tuple((b"x-stepup-forward-auth", secret) for secret in secrets)
    assert integration_of((FIRST, SECOND), target, headers) is found


# -- the answer -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dialect", DIALECTS)
def test_an_allow_says_everything_that_is_copied(dialect: Dialect) -> None:
    edge = Integration("edge", dialect)
    bare = dict(allow_headers(edge, read(dialect)))
    assert {name: bare[name] for name in COPIED} == dict.fromkeys(COPIED, b"")
    cookies = ("Cookie", "stepup=1; a=\xe9; __Host-stepup-browser=x; SID=forged; sid=look-alike; b=2")
    head = read(dialect, cookies, ("Cookie", "stepup-arrival=1"), ("Cookie", "c=3"))
    said = allow_headers(
        edge, head, token=b"t.o.k", subject="alice", strip=frozenset({"SID"}), session_cookies=frozenset({"SID"}), cookies=(b"stepup=2",)
    )
    fields = dict(said)
    assert (fields[b"X-Stepup-Token"], fields[b"X-Stepup-Subject"]) == (b"t.o.k", b"alice")
    assert fields[b"Cookie"] == b"a=\xe9; b=2; c=3"
    assert fields[b"Set-Cookie"] == b"stepup=2"
    assert len(fields) == len(said)


@pytest.mark.parametrize(
    ("subject", "said"),
    [
        ("alice", b"alice"),
        ("a.b+c@example.com", b"a.b+c@example.com"),
        ("José", b"Jos%C3%A9"),
        (" alice", b"%20alice"),
        ("a%20b", b"a%2520b"),
        ("a\r\nX-Stepup-Token: forged", b"a%0D%0AX-Stepup-Token:%20forged"),
    ],
)
def test_a_subject_is_one_line_and_no_two_are_alike(subject: str, said: bytes) -> None:
    assert dict(allow_headers(Integration("edge", "nginx"), read("nginx"), subject=subject))[b"X-Stepup-Subject"] == said


def test_envoy_removes_what_a_client_may_not_say() -> None:
    spoofed = [("X-Stepup-Other", "1"), ("X-Stepup-Token", "1"), ("X-Forwarded-Host", "evil"), ("Remote-User", "root"), ("Proxy", "x")]
    head = read("envoy", *spoofed, ("Cookie", "stepup=1"), X_Forwarded_For="10.9.9.9,203.0.113.7")
    edge, identity = Integration("edge", "envoy"), frozenset({b"remote-user"})
    told = dict(allow_headers(edge, head, identity=identity))[b"X-Envoy-Auth-Headers-To-Remove"].split(b", ")
    assert told == [b"x-stepup-other", b"x-forwarded-host", b"remote-user", b"proxy", b"cookie"]
    trusted = dict(allow_headers(edge, head, identity=identity, trusted=True))[b"X-Envoy-Auth-Headers-To-Remove"].split(b", ")
    assert trusted == [b"x-stepup-other", b"proxy", b"cookie"]
    assert b"X-Envoy-Auth-Headers-To-Remove" not in dict(allow_headers(edge, read("envoy", ("Cookie", "a=1"))))


@given(
    dialect=st.sampled_from(DIALECTS),
    status=st.integers(100, 599),
    headers=st.lists(
        st.sampled_from([(b"Location", b"/.stepup/t/su_x"), (b"Content-Type", b"application/problem+json"), (b"Set-Cookie", b"a=1")])
    ),
)
def test_nothing_but_an_allow_has_a_status_that_lets_pass(dialect: Dialect, status: int, headers: list[tuple[bytes, bytes]]) -> None:
    found, _, _ = carried(Integration("edge", dialect), status, tuple(headers), b'{"a": 1}', ORIGIN)
    assert 300 <= found <= 599
    if dialect == "nginx":
        assert found in (401, 403, 503), "nginx knows no other"


def test_nginx_finds_in_headers_what_it_cannot_carry() -> None:
    edge = Integration("edge", "nginx")
    way = ((b"Location", b"/.stepup/t/su_x"), (b"Set-Cookie", b"stepup-browser=1"))
    assert carried(edge, 303, way, b"", ORIGIN) == (
        401,
        ((b"Set-Cookie", b"stepup-browser=1"), (b"X-Stepup-Location", b"/.stepup/t/su_x")),
        b"",
    )
    body = json.dumps({"detail": "é\n"}, ensure_ascii=False).encode()
    status, headers, left = carried(edge, 451, ((b"Content-Type", b"application/problem+json"),), body, ORIGIN)
    assert (status, left) == (403, b"")
    told = dict(headers)[b"X-Stepup-Problem"]
    assert told.isascii()
    assert b"\n" not in told
    assert json.loads(told) == {"detail": "é\n"}


def test_traefik_gets_absolute_redirects() -> None:
    """It would resolve others against the address that it asked."""
    way = ((b"Location", b"/.stepup/t/su_x"),)
    assert carried(Integration("edge", "traefik"), 303, way, b"", ORIGIN)[1] == ((b"Location", b"https://bank.example.com/.stepup/t/su_x"),)
    assert carried(Integration("edge", "caddy"), 303, way, b"", ORIGIN)[1] == way
