from __future__ import annotations

import pytest

from gateway.errors import BadTarget
from gateway.wire.target import parse_target, query_pairs, with_parameter, without_parameter


@pytest.mark.parametrize("raw", [b"/", b"/a", b"/a/", b"/a.b/c-d_e~f", b"/a?x=/../%2e", b"/a.?"])
def test_plain_target_has_one_reading(raw: bytes) -> None:
    assert len(parse_target(raw).readings) == 1


@pytest.mark.parametrize(
    ("raw", "reading"),
    [
        (b"/public/%2e%2e/admin", "/admin"),
        (b"/public/%252e%252e/admin", "/admin"),
        (b"/public/..%2fadmin", "/admin"),
        (b"/%61dmin", "/admin"),
        (b"/%2561dmin", "/admin"),
        (b"//admin", "/admin"),
        (b"/x//..//admin", "/admin"),
        (b"/x\\..\\admin", "/admin"),
        (b"/x%5c..%5cadmin", "/admin"),
        (b"/admin;jsessionid=1", "/admin"),
        (b"/admin%3bx", "/admin"),
        (b"/public/..;/admin", "/admin"),
        (b"/public/..;a=b/admin", "/admin"),
        (b"/admin;x%2f..%2fpublic", "/admin"),
        (b"/%61dmin;x%2f..%2fpublic", "/admin"),
        (b"/admin#/../public", "/admin"),
        (b"/admin%23/../public", "/admin"),
        (b"/admin%3f/../public", "/admin"),
        (b"/../../admin", "/admin"),
        (b"/./admin/.", "/admin"),
        (b"/admin/.", "/admin/"),
        (b"/admin/x/..", "/admin"),
        (b"//evil.example/admin", "/admin"),
        (b"/\\evil.example/admin", "/admin"),
        (b"/a%2f..%252f..%252fadmin", "/admin"),
        (b"/caf%C3%A9", "/café"),
        (b"/%zz", "/%zz"),
        (b"/x/%zz%2e", "/x/%zz."),
        (b"/%ff", "/\udcff"),
    ],
)
def test_reading_that_some_server_makes_is_found(raw: bytes, reading: str) -> None:
    assert reading in parse_target(raw).readings


def test_reading_as_it_is_comes_first() -> None:
    assert parse_target(b"/a/%2e%2e/b").readings[0] == "/a/%2e%2e/b"


def test_path_and_query_are_split_at_the_first_question_mark() -> None:
    target = parse_target(b"/a%20b?x?y#z")
    assert (target.path, target.query) == (b"/a%20b", b"x?y#z")


def test_no_query_and_an_empty_query_differ() -> None:
    assert parse_target(b"/a").query is None
    assert parse_target(b"/a?").query == b""


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"*",
        b"a",
        b"http://a/b",
        b"a.example:443",
        b"?x",
        b"/a b",
        b"/a\tb",
        b"/a\x00",
        b"/a\x7f",
        b"/\xc3\xa9",
        b"/a\n",
        b"/a?\xff",
        b"/%00",
        b"/%2500",
        b"/%0d%0a",
        b"/%7f",
        b"/%c0%af",
        b"/%25c0%25af",
        b"/%e0%80%af",
        b"/%f0%80%80%af",
        b"/%u002e%u002e",
        b"/%25u002f",
    ],
)
def test_target_without_a_safe_reading_is_refused(raw: bytes) -> None:
    with pytest.raises(BadTarget):
        parse_target(raw)


def test_too_many_readings_are_refused() -> None:
    with pytest.raises(BadTarget, match="64 readings"):
        parse_target(b"//;a\\b#%2e/../x/.;/%252e" * 5)


def test_percent_u_that_is_no_escape_is_a_word() -> None:
    assert "/100%used" in parse_target(b"/100%25used").readings


def test_query_pairs_are_decoded_in_order_with_duplicates() -> None:
    target = parse_target(b"/?a=1&b=%C3%A9+x&a=2&flag&&=v&bad=%FF")
    assert query_pairs(target) == (("a", "1"), ("b", "é x"), ("a", "2"), ("flag", ""), ("", "v"), ("bad", "\ufffd"))


def test_query_value_before_a_fragment_is_seen_both_ways() -> None:
    assert query_pairs(parse_target(b"/?mode=admin#x")) == (("mode", "admin#x"), ("mode", "admin"))


@pytest.mark.parametrize(
    ("raw", "left"),
    [
        (b"/a?t=1", b"/a"),
        (b"/a?t=1&b=2", b"/a?b=2"),
        (b"/a?b=%2f&t=1&c=+", b"/a?b=%2f&c=+"),
        (b"/a?t=1&t=2&%74=3", b"/a"),
        (b"/a?&t=1", b"/a?"),
        (b"/a?tt=1&b=t", b"/a?tt=1&b=t"),
        (b"/a?b&&c", b"/a?b&&c"),
        (b"/a?t=1#f", b"/a#f"),
        (b"/a?b=1#f&t=2&c", b"/a?b=1#f&c"),
        (b"/t=1", b"/t=1"),
    ],
)
def test_parameter_is_removed_and_the_rest_stays_byte_for_byte(raw: bytes, left: bytes) -> None:
    assert without_parameter(raw, "t") == left


@pytest.mark.parametrize(
    ("raw", "full"),
    [(b"/a", b"/a?t=x%2Fy"), (b"/a?", b"/a?&t=x%2Fy"), (b"/a?b=1", b"/a?b=1&t=x%2Fy"), (b"/a#f?g", b"/a?t=x%2Fy#f?g")],
)
def test_parameter_is_appended_before_a_fragment(raw: bytes, full: bytes) -> None:
    assert with_parameter(raw, "t", "x/y") == full
