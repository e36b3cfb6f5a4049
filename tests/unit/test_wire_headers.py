from __future__ import annotations

import pytest

from gateway.wire.head import Headers, RequestHead
from gateway.wire.headers import METHODS, Rewrite, effective_methods, request_for_upstream, response_for_client
from gateway.wire.target import parse_target

HOST = (b"Host", b"bank.example.com")
OURS = {b"via", b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host", b"forwarded"}


def head(
    *headers: tuple[bytes, bytes], method: str = "GET", target: bytes = b"/", peer: str = "192.0.2.9", client: str | None = None
) -> RequestHead:
    return RequestHead(
        method=method,
        target=parse_target(target),
        headers=(HOST, *headers),
        scheme="https",
        host="bank.example.com",
        origin="https://bank.example.com",
        client_ip=client or peer,
        peer=peer,
    )


def sent(request: RequestHead, *, trusted: bool = False, **options: object) -> Headers:
    return request_for_upstream(request, host=b"bank.example.com", trusted=trusted, **options)  # type: ignore[arg-type]


def theirs(headers: Headers) -> Headers:
    """Without what the gateway adds to every request, and without Host."""
    return tuple((n, v) for n, v in headers if n.lower() not in OURS and n.lower() != b"host")


def values(headers: Headers, name: bytes) -> list[bytes]:
    return [v for n, v in headers if n.lower() == name.lower()]


# -- requests -------------------------------------------------------------------------------------------------------


def test_order_spelling_and_duplicates_of_other_headers_stay() -> None:
    given = ((b"aCCept", b"*/*"), (b"X-A", b"1"), (b"x-a", b" 2 "), (b"X-A", b"3"), (b"Content-Length", b"5"))
    assert theirs(sent(head(*given))) == given


@pytest.mark.parametrize(
    "name", [b"Connection", b"keep-alive", b"Proxy-Connection", b"Proxy-Authorization", b"TE", b"Trailer", b"Transfer-Encoding", b"UPGRADE"]
)
def test_hop_by_hop_header_is_dropped(name: bytes) -> None:
    assert theirs(sent(head((name, b"x"), (b"A", b"b")))) == ((b"A", b"b"),)


def test_headers_that_connection_names_are_dropped_in_any_spelling() -> None:
    given = head(
        (b"Connection", b"close, X-Private"), (b"connection", b"x_other"), (b"x-private", b"1"), (b"X-Other", b"2"), (b"X-Kept", b"3")
    )
    assert theirs(sent(given)) == ((b"X-Kept", b"3"),)


@pytest.mark.parametrize("name", [b"Authorization", b"Cookie", b"Content-Length", b"Content-Type"])
def test_connection_cannot_remove_what_is_end_to_end(name: bytes) -> None:
    assert values(sent(head((b"Connection", name), (name, b"7"))), name) == [b"7"]


def test_connection_cannot_remove_host_or_what_the_gateway_adds() -> None:
    added = ((b"X-Stepup-Token", b"eyJ"),)
    out = sent(head((b"Connection", b"Host, X-Stepup-Token, X-Forwarded-For, Via")), added=added)
    assert values(out, b"host") == [b"bank.example.com"]
    assert values(out, b"x-stepup-token") == [b"eyJ"]
    assert values(out, b"x-forwarded-for") == [b"192.0.2.9"]
    assert values(out, b"via") == [b"1.1 stepup"]


@pytest.mark.parametrize(
    "name",
    [
        b"Forwarded",
        b"X-Forwarded-For",
        b"x_forwarded_for",
        b"X-FORWARDED_PROTO",
        b"X-Forwarded-Prefix",
        b"X-Forwarded-User",
        b"X-Real-IP",
        b"X_Real_IP",
        b"X-Original-URL",
        b"X-Original-URI",
        b"X-Rewrite-URL",
        b"True-Client-IP",
        b"CF-Connecting-IP",
        b"X-Cluster-Client-IP",
        b"X-Client-IP",
        b"Client-IP",
        b"X-Host",
        b"X-Stepup-Token",
        b"x_stepup_token",
        b"Remote-User",
        b"REMOTE_USER",
        b"Proxy",
        b"Content_Length",
    ],
)
def test_client_cannot_speak_for_a_proxy_or_for_the_gateway(name: bytes) -> None:
    out = sent(head((name, b"spoofed")), identity=frozenset({b"remote-user"}))
    assert b"spoofed" not in b"\n".join(v for _, v in out)


@pytest.mark.parametrize("name", [b"X-Stepup-Token", b"X_StepUp_Anything", b"Proxy"])
def test_trusted_proxy_cannot_speak_for_the_gateway_either(name: bytes) -> None:
    assert b"spoofed" not in [v for _, v in sent(head((name, b"spoofed")), trusted=True)]


def test_trusted_proxy_keeps_its_identity_and_forwarding_headers() -> None:
    given = ((b"Remote-User", b"alice"), (b"X-Real-IP", b"198.51.100.1"), (b"X-Forwarded-Prefix", b"/app"))
    assert theirs(sent(head(*given), trusted=True, identity=frozenset({b"remote-user"}))) == given


def test_method_override_stays_for_the_upstream() -> None:
    given = ((b"X-HTTP-Method-Override", b"DELETE"),)
    assert theirs(sent(head(*given))) == given


def test_forwarding_headers_tell_what_the_gateway_saw() -> None:
    out = sent(head())
    assert values(out, b"x-forwarded-for") == [b"192.0.2.9"]
    assert values(out, b"x-forwarded-proto") == [b"https"]
    assert values(out, b"x-forwarded-host") == [b"bank.example.com"]
    assert values(out, b"forwarded") == [b"for=192.0.2.9;host=bank.example.com;proto=https"]


def test_ipv6_addresses_and_ports_are_quoted_in_forwarded() -> None:
    request = RequestHead("GET", parse_target(b"/"), (HOST,), "http", "localhost", "http://localhost:8080", "2001:db8::1", "2001:db8::1")
    out = sent(request)
    assert values(out, b"forwarded") == [b'for="[2001:db8::1]";host="localhost:8080";proto=http']
    assert values(out, b"x-forwarded-for") == [b"2001:db8::1"]


def test_chain_of_a_trusted_proxy_is_continued() -> None:
    request = head(
        (b"X-Forwarded-For", b"198.51.100.1"), (b"X-Forwarded-For", b"10.0.0.1"), (b"Forwarded", b"for=198.51.100.1"), client="198.51.100.1"
    )
    out = sent(request, trusted=True)
    assert values(out, b"x-forwarded-for") == [b"198.51.100.1, 10.0.0.1, 192.0.2.9"]
    assert values(out, b"forwarded") == [b"for=198.51.100.1, for=192.0.2.9;host=bank.example.com;proto=https"]


def test_chain_told_in_one_header_is_told_in_both() -> None:
    out = sent(head((b"X-Forwarded-For", b"2001:db8::7"), client="2001:db8::7"), trusted=True)
    assert values(out, b"forwarded") == [b'for="[2001:db8::7]", for=192.0.2.9;host=bank.example.com;proto=https']


def test_via_is_continued() -> None:
    assert values(sent(head((b"Via", b"1.1 edge"))), b"via") == [b"1.1 edge", b"1.1 stepup"]


def test_host_is_replaced_in_its_place() -> None:
    request = head((b"A", b"b"))
    out = request_for_upstream(request, host=b"127.0.0.1:8081", trusted=False)
    assert out[0] == (b"Host", b"127.0.0.1:8081")
    assert len(values(out, b"host")) == 1


def test_host_is_added_where_there_is_none() -> None:
    request = RequestHead("GET", parse_target(b"/"), (), "http", "a", "http://a", "127.0.0.1", "127.0.0.1")
    assert sent(request)[0] == (b"Host", b"bank.example.com")


def test_own_and_unknown_session_cookies_are_stripped_and_the_rest_stays() -> None:
    request = head(
        (b"Cookie", b'a=1;  __Host-stepup=x; JSESSIONID=s; b="2"'), (b"cookie", b"stepup=y"), (b"Cookie", b"stepup-browser=z; c=3")
    )
    out = sent(request, drop_cookies=frozenset({"JSESSIONID"}))
    assert values(out, b"cookie") == [b'a=1; b="2"', b"c=3"]


def test_lookalikes_of_session_cookies_are_stripped_and_vouched_ones_stay() -> None:
    request = head((b"Cookie", b"JSESSIONID=s; jsessionid=t; %4ASESSIONID=u; a=1"))
    assert values(sent(request, session_cookies=frozenset({"JSESSIONID"})), b"cookie") == [b"JSESSIONID=s; a=1"]


# -- answers --------------------------------------------------------------------------------------------------------


def answered(*headers: tuple[bytes, bytes], gated: bool = False, rewrite: Rewrite | None = None) -> Headers:
    return response_for_client(headers, gated=gated, rewrite=rewrite)


def test_answer_keeps_several_set_cookies_in_order() -> None:
    given = ((b"Set-Cookie", b"a=1"), (b"X", b"y"), (b"set-cookie", b"b=2"))
    assert answered(*given) == given


def test_answer_loses_hop_by_hop_headers_but_never_a_cookie() -> None:
    given = ((b"Connection", b"X-Hop, Set-Cookie"), (b"X-Hop", b"1"), (b"Set-Cookie", b"a=1"), (b"Transfer-Encoding", b"chunked"))
    assert answered(*given) == ((b"Set-Cookie", b"a=1"),)


@pytest.mark.parametrize(
    "value",
    [
        b"stepup=x",
        b"__Host-stepup=x; Secure; Path=/",
        b" stepup =x",
        b"\tstepup-browser\t=x",
        b'"stepup"=x',
        b"=stepup=x",
        b"stepup",
        b" = __Host-stepup=x",
        b"__Host-stepup-browser=; Max-Age=0",
    ],
)
def test_upstream_cannot_set_a_cookie_of_ours(value: bytes) -> None:
    assert answered((b"Set-Cookie", value)) == ()


@pytest.mark.parametrize("value", [b"stepups=x", b"Stepup=x", b"a=stepup", b"x; stepup=1"])
def test_upstream_sets_other_cookies(value: bytes) -> None:
    assert answered((b"Set-Cookie", value)) == ((b"Set-Cookie", value),)


@pytest.mark.parametrize(
    "lax",
    [
        (),
        ((b"Cache-Control", b"public, max-age=600"),),
        ((b"Cache-Control", b"private"),),
        ((b"Cache-Control", b"no-cache"),),
        ((b"Cache-Control", b'private="x", no-cache'),),
        ((b"Cache-Control", b"private, no-cache, public"),),
        ((b"cache-control", b"max-age=5"), (b"Cache-Control", b"s-maxage=9")),
    ],
)
def test_gated_answer_is_private_and_revalidated(lax: Headers) -> None:
    assert values(answered(*lax, gated=True), b"cache-control") == [b"private, no-cache"]


@pytest.mark.parametrize(
    "strict",
    [
        ((b"Cache-Control", b"no-store"),),
        ((b"Cache-Control", b"Private, No-Cache"),),
        ((b"Cache-Control", b"private"), (b"Cache-Control", b"no-cache")),
    ],
)
def test_gated_answer_that_is_strict_enough_stays(strict: Headers) -> None:
    assert answered(*strict, gated=True) == strict


def test_gated_answer_tells_no_shared_cache_otherwise() -> None:
    given = (
        (b"CDN-Cache-Control", b"max-age=9"),
        (b"Surrogate-Control", b"max-age=9"),
        (b"X-Accel-Expires", b"9"),
        (b"Cache-Control", b"no-store"),
    )
    assert answered(*given, gated=True) == ((b"Cache-Control", b"no-store"),)
    assert answered(*given) == given


REWRITE = Rewrite(origins=frozenset({"http://127.0.0.1:8081", "https://app.internal"}), public="https://bank.example.com")


@pytest.mark.parametrize(
    ("location", "rewritten"),
    [
        (b"http://127.0.0.1:8081/a?b#c", b"https://bank.example.com/a?b#c"),
        (b"HTTP://127.0.0.1:8081", b"https://bank.example.com"),
        (b"https://APP.internal:443/%2e%2E/", b"https://bank.example.com/%2e%2E/"),
        (b"//127.0.0.1:8081/a", b"https://bank.example.com/a"),
        (b"/a", b"/a"),
        (b"http://127.0.0.1:8081.evil.example/", b"http://127.0.0.1:8081.evil.example/"),
        (b"http://127.0.0.1:8081@evil.example/", b"http://127.0.0.1:8081@evil.example/"),
        (b"https://127.0.0.1:8081/", b"https://127.0.0.1:8081/"),
        (b"https://elsewhere.example/?u=http://127.0.0.1:8081/", b"https://elsewhere.example/?u=http://127.0.0.1:8081/"),
    ],
)
def test_location_at_the_upstream_moves_to_the_public_origin(location: bytes, rewritten: bytes) -> None:
    assert answered((b"Location", location), rewrite=REWRITE) == ((b"Location", rewritten),)


def test_location_stays_unless_configured() -> None:
    given = ((b"Location", b"http://127.0.0.1:8081/"),)
    assert answered(*given, rewrite=Rewrite(public="https://bank.example.com")) == given


@pytest.mark.parametrize(
    ("domain", "value", "changed"),
    [
        ("bank.example.com", b"a=1; Domain=app.internal; Path=/", b"a=1; Domain=bank.example.com; Path=/"),
        ("", b"a=1; domain=.app.internal; HttpOnly", b"a=1; HttpOnly"),
        ("bank.example.com", b"a=Domain=x; Path=/", b"a=Domain=x; Path=/"),
    ],
)
def test_cookie_domain_is_replaced_or_removed(domain: str, value: bytes, changed: bytes) -> None:
    assert answered((b"Set-Cookie", value), rewrite=Rewrite(cookie_domain=domain)) == ((b"Set-Cookie", changed),)


# -- methods --------------------------------------------------------------------------------------------------------


def test_head_counts_as_get() -> None:
    assert effective_methods(head(method="HEAD")) == {"HEAD", "GET"}


@pytest.mark.parametrize("name", [b"X-HTTP-Method-Override", b"x_http_method_override", b"X-HTTP-Method", b"X-Method-Override"])
def test_override_header_counts_as_the_method(name: bytes) -> None:
    assert effective_methods(head((name, b" delete "), method="POST")) == {"POST", "DELETE"}


@pytest.mark.parametrize("target", [b"/?_method=put", b"/?a=1&%5fm%65thod=PUT", b"/?x&_method=put"])
def test_override_parameter_counts_as_the_method(target: bytes) -> None:
    assert effective_methods(head(method="POST", target=target)) == {"POST", "PUT"}


def test_every_override_counts() -> None:
    given = head((b"X-HTTP-Method-Override", b"PUT, head"), (b"X-HTTP-Method", b"PATCH"), method="POST", target=b"/?_method=a&_method=b")
    assert effective_methods(given, "delete") == {"POST", "PUT", "HEAD", "GET", "PATCH", "A", "B", "DELETE"}


def test_methods_are_those_that_the_slow_lanes_parser_accepts() -> None:
    import asyncio

    from aiohttp import web
    from aiohttp.http_exceptions import BadHttpMessage
    from aiohttp.http_parser import HttpRequestParser

    loop = asyncio.new_event_loop()
    protocol = web.RequestHandler(web.Server(_never, loop=loop), loop=loop)  # type: ignore[arg-type]

    def accepts(method: str) -> bool:
        try:
            HttpRequestParser(protocol, loop, 2**16).feed_data(f"{method} / HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        except BadHttpMessage:
            return False
        return True

    try:
        assert {m for m in METHODS if not accepts(m)} == set()
        assert not any(accepts(m) for m in ("FOO", "get", "UPDATE", "LABEL"))
    finally:
        loop.close()


async def _never(request: object) -> None:
    raise AssertionError
