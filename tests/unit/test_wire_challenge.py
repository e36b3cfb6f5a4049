"""WWW-Authenticate by its grammar, and redirects as a browser reads them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.wire.challenge import Challenge, parse_challenges
from gateway.wire.location import origin_of, parse_location
from gateway.wire.target import parse_target

AT = parse_target(b"/app/login?x=1")


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ([], ()),
        ([""], ()),
        (["Negotiate"], (Challenge("negotiate", {}),)),
        (["Negotiate YWJj=="], (Challenge("negotiate", {}, "YWJj=="),)),
        (["Negotiate abc, Basic realm=x"], (Challenge("negotiate", {}, "abc"), Challenge("basic", {"realm": "x"}))),
        (["Negotiate, Basic realm=x"], (Challenge("negotiate", {}), Challenge("basic", {"realm": "x"}))),
        (['Newauth realm="a, b", type=1, title="L \\"x\\"", Basic realm="s"'],
         (Challenge("newauth", {"realm": "a, b", "type": "1", "title": 'L "x"'}), Challenge("basic", {"realm": "s"}))),
        (["Basic realm=x", "DPoP algs=ES256"], (Challenge("basic", {"realm": "x"}), Challenge("dpop", {"algs": "ES256"}))),
        ([", ,Bearer A = b,,c=d ,"], (Challenge("bearer", {"a": "b", "c": "d"}),)),
        (["Bearer"], (Challenge("bearer", {}),)),
        (["Bearer a=b a=c"], None),
        (['Bearer a="x'], None),
        (['Bearer a="x"y'], None),
        (["Bearer a=b, A=c"], None),
        (["="], None),
        (["Bearer a=b\x00"], None),
        (["Bearer a=" + "x" * 20_000], None),
    ],
)  # fmt: skip
def test_challenges(fields: list[str], expected: tuple[Challenge, ...] | None) -> None:
    assert parse_challenges(fields) == expected


@given(st.lists(st.text(alphabet=' ,="\\abcXYZ019\t\x00é', max_size=60), max_size=4))
def test_no_text_breaks_the_reader_and_what_is_read_is_lower_case(fields: list[str]) -> None:
    for challenge in parse_challenges(fields) or ():
        assert challenge.scheme == challenge.scheme.lower() != ""
        assert all(name == name.lower() for name in challenge.parameters)


@pytest.mark.parametrize(
    ("value", "origin", "raw"),
    [
        (b"https://MFA.example.com:443/start?state=a#f", "https://mfa.example.com", b"/start?state=a"),
        (b"/x", "http://o:1", b"/x"),
        (b"y?z", "http://o:1", b"/app/y?z"),
        (b"?z", "http://o:1", b"/app/login?z"),
        (b"//h/p", "http://h", b"/p"),
        (b"\\\\h\\p?q=\\", "http://h", b"/p?q=\\"),
        (b" ht\ntp://h.:80", "http://h", b"/"),
        (b"https://u:p@h/", "https://h", b"/"),
        (b"http://[::1]:8/a", "http://[::1]:8", b"/a"),
        (b"https://h/\xc3\xa4", "https://h", b"/%C3%A4"),
        (b"https://h/a b", "https://h", b"/a%20b"),
    ],
)
def test_locations(value: bytes, origin: str, raw: bytes) -> None:
    found = parse_location(value, origin="http://o:1", target=AT)
    assert found is not None
    assert (found.origin, found.target.raw) == (origin, raw)


@pytest.mark.parametrize("value", [b"javascript:alert(1)", b"mailto:x@y", b"http://h:99999/", b"http://[::1", b"ftp://h/"])
def test_what_leads_nowhere(value: bytes) -> None:
    assert parse_location(value, origin="http://o:1", target=AT) is None


@given(st.binary(max_size=60))
def test_no_location_breaks_the_reader(value: bytes) -> None:
    parse_location(value, origin="http://o:1", target=AT)


@pytest.mark.parametrize(("url", "origin"), [("https://A:443/x", "https://a"), ("javascript:x", None), ("//h", None), ("/x", None)])
def test_origins(url: str, origin: str | None) -> None:
    assert origin_of(url) == origin
