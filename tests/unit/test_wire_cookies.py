from __future__ import annotations

import time
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.wire.cookies import (
    OWN_COOKIES,
    arrival_cookie,
    browser_cookie,
    format_set_cookie,
    one,
    parse_cookies,
    parse_set_cookie,
    pass_cookie,
    without,
)
from gateway.wire.head import RequestHead
from gateway.wire.target import parse_target

SESSION = frozenset({"JSESSIONID"})
AUTUMN = datetime(2026, 11, 18, 12, 0, 0, tzinfo=UTC).timestamp()


def head(*cookies: bytes) -> RequestHead:
    headers = tuple((b"Cookie", c) for c in cookies)
    return RequestHead("GET", parse_target(b"/"), headers, "http", "a", "http://a", "127.0.0.1", "127.0.0.1")


def pairs(*cookies: bytes) -> tuple[tuple[str, str], ...]:
    return parse_cookies(head(*cookies))


def test_cookies_of_all_headers_are_read_in_order_with_duplicates() -> None:
    assert pairs(b"a=1; b=2;a=3", b"c=;d") == (("a", "1"), ("b", "2"), ("a", "3"), ("c", ""), ("d", ""))


def test_values_are_neither_unquoted_nor_decoded() -> None:
    assert pairs(b'a="x y"; b=%41; c=d=e==') == (("a", '"x y"'), ("b", "%41"), ("c", "d=e=="))


def test_blanks_around_names_and_values_do_not_hide_a_cookie() -> None:
    assert pairs(b" ;\t JSESSIONID \t= s ;") == (("JSESSIONID", "s"),)


@pytest.mark.parametrize(
    "hiding", [b"a=1 JSESSIONID=s", b"a=1,JSESSIONID=s", b"a=1, JSESSIONID = s", b"a\tJSESSIONID=s", b'a="x JSESSIONID=s']
)
def test_cookie_that_a_lax_server_would_see_is_seen(hiding: bytes) -> None:
    assert ("JSESSIONID", "s") in pairs(hiding)
    assert without(hiding, SESSION) is None


def test_one_takes_no_duplicates() -> None:
    assert one(pairs(b"a=1; b=2"), "a") == "1"
    assert one(pairs(b"a=1; a=1"), "a") is None
    assert one(pairs(b"a=1", b"a=2"), "a") is None
    assert one(pairs(b"b=1 a=2; a=2"), "a") is None
    assert one(pairs(b"b=1"), "a") is None


@pytest.mark.parametrize(
    ("value", "left"),
    [
        (b"JSESSIONID=s", None),
        (b"JSESSIONID=s; ", None),
        (b"JSESSIONID=s; a=1", b"a=1"),
        (b"a=1;JSESSIONID=s;  b=\xff\x80", b"a=1;  b=\xff\x80"),
        (b'a=1; "JSESSIONID"=s; b=2', b"a=1; b=2"),
        (b"a=1; JSESSIONID", b"a=1"),
        (b"a=JSESSIONID; xJSESSIONID=1; jsessionid=2 ", b"a=JSESSIONID; xJSESSIONID=1; jsessionid=2 "),
    ],
)
def test_cookie_is_removed_and_the_other_bytes_stay(value: bytes, left: bytes | None) -> None:
    assert without(value, SESSION) == left


@pytest.mark.parametrize("spelling", [b"jsessionid", b"JSessionID", b"%4ASESSIONID", b'"jsessionid"'])
def test_other_spellings_go_where_asked(spelling: bytes) -> None:
    value = b"JSESSIONID=s; " + spelling + b"=t"
    assert without(value, frozenset(), spellings_of=SESSION) == b"JSESSIONID=s"


@given(st.binary(max_size=80))
def test_nothing_of_that_name_is_left(value: bytes) -> None:
    left = without(value.replace(b"x", b"JSESSIONID="), SESSION)
    if left is not None:
        assert all(n != "JSESSIONID" for n, _ in pairs(left))


@pytest.mark.parametrize("hostile", [b" " * 16000, b"a " * 8000, b"a=" * 8000, b"a" * 16000 + b" ", b"a=1" + b" b" + b" " * 15000 + b"c"])
def test_hostile_cookies_are_read_in_linear_time(hostile: bytes) -> None:
    start = time.process_time()
    pairs(hostile)
    assert time.process_time() - start < 0.5


def test_names_by_scheme() -> None:
    assert (pass_cookie(True), pass_cookie(False)) == ("__Host-stepup", "stepup")
    assert (browser_cookie(True), browser_cookie(False)) == ("__Host-stepup-browser", "stepup-browser")
    assert (arrival_cookie(True), arrival_cookie(False)) == ("__Host-stepup-arrival", "stepup-arrival")
    assert {name(secure) for name in (pass_cookie, browser_cookie, arrival_cookie) for secure in (True, False)} == OWN_COOKIES


def test_set_cookie_is_read_as_a_browser_does() -> None:
    cookie = parse_set_cookie(b' JSESSIONID = "a=b" ; Path=/app; domain=.Bank.example; HttpOnly; secure; Max-Age=60; max-age=90')
    assert (cookie.name, cookie.value) == ("JSESSIONID", '"a=b"')
    assert (cookie.path, cookie.domain, cookie.max_age, cookie.secure, cookie.http_only) == ("/app", "bank.example", 90, True, True)


def test_set_cookie_without_a_name() -> None:
    assert (parse_set_cookie(b"abc").name, parse_set_cookie(b"abc").value) == ("", "abc")
    assert (parse_set_cookie(b"=a=b").name, parse_set_cookie(b"=a=b").value) == ("", "a=b")


@pytest.mark.parametrize(
    ("value", "expired"),
    [
        (b"a=1", False),
        (b"a=1; Max-Age=0", True),
        (b"a=1; Max-Age=-5", True),
        (b"a=1; Max-Age=5", False),
        (b"a=1; Max-Age=soon", False),
        (b"a=1; Max-Age=" + b"9" * 5000, False),
        (b"a=1; Expires=Thu, 01 Jan 1970 00:00:00 GMT", True),
        (b"a=1; Expires=Thu, 01-Jan-1970 00:00:01 GMT", True),
        (b"a=1; Expires=Wed, 18 Nov 2026 12:00:00 GMT", True),
        (b"a=1; Expires=Wed, 18 Nov 2026 12:00:01 GMT", False),
        (b"a=1; Expires=Wednesday, 18-Nov-26 11:59:59 GMT", True),
        (b"a=1; expires=Wed Nov 18 12:00:01 2026", False),
        (b"a=1; Expires=Thu, 01 Jan 1970 00:00:00 GMT; Max-Age=60", False),
        (b"a=1; Expires=Wed, 18 Nov 2099 12:00:01 GMT; Max-Age=0", True),
        (b"a=1; Expires=never", False),
        (b"a=1; Expires=Wed, 31 Feb 2020 12:00:01 GMT", False),
        (b"a=1; Expires=0", False),
    ],
)
def test_deleting_cookie_is_recognised(value: bytes, expired: bool) -> None:
    assert parse_set_cookie(value).expired(AUTUMN) is expired


@given(st.binary(max_size=80))
def test_any_set_cookie_is_readable(value: bytes) -> None:
    parse_set_cookie(b"a=1; " + value).expired(AUTUMN)


def test_own_cookie_is_written_with_its_guards() -> None:
    value = format_set_cookie("__Host-stepup", "v", max_age=3600, secure=True)
    assert value == b"__Host-stepup=v; Path=/; Max-Age=3600; Secure; HttpOnly; SameSite=Lax"
    assert format_set_cookie("stepup", "", max_age=0, secure=False) == b"stepup=; Path=/; Max-Age=0; HttpOnly; SameSite=Lax"
    assert b"Max-Age" not in format_set_cookie("stepup", "v", secure=False)


@pytest.mark.parametrize("value", ["a;b", "a b", "a\r\nX: y", 'a"', "a,b", "ä", "a\\b"])
def test_value_that_would_inject_is_refused(value: str) -> None:
    with pytest.raises(ValueError, match="cookie-octets"):
        format_set_cookie("a", value, secure=False)
