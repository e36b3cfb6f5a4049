from __future__ import annotations

import pytest

from gateway.policy.body import MAX_DEPTH, parse_body
from gateway.policy.facts import Body, BodyUnavailable

FORM = "application/x-www-form-urlencoded"
LIMIT = 65_536


def multipart(*parts: tuple[str, str]) -> bytes:
    return b"".join(f"--B\r\n{head}\r\n\r\n{content}\r\n".encode() for head, content in parts) + b"--B--\r\n"


def test_a_form_becomes_names_and_values() -> None:
    body = parse_body(FORM, b"to=a+b%26c&amount=5&amount=6&empty=&bare&%C3%A9=%FF", LIMIT)
    assert body == Body(form={"to": "a b&c", "amount": ["5", "6"], "empty": "", "bare": "", "é": "\ufffd"})


@pytest.mark.parametrize(
    "field", [b"_method=delete", b"_METHOD=DELETE", b"x-http-method-override=Delete", b"_method=DELETE&_method=delete"]
)
def test_a_form_names_the_method_it_stands_for(field: bytes) -> None:
    body = parse_body(FORM, field, LIMIT)
    assert isinstance(body, Body)
    assert body.override == "DELETE"


def test_a_multipart_form_has_its_text_fields_and_no_files() -> None:
    raw = multipart(
        ('Content-Disposition: form-data; name="amount"', "5"),
        ('Content-Disposition: form-data; name="photo"; filename="a.png"\r\nContent-Type: image/png', "\x00\r\n--C"),
        ('content-disposition: form-data; name="_method"', "put"),
    )
    assert parse_body("multipart/form-data; boundary=B", raw, LIMIT) == Body(form={"amount": "5", "_method": "put"}, override="PUT")


@pytest.mark.parametrize("kind", ["application/json", "application/json; charset=utf-8", "application/vnd.api+json", "Application/JSON"])
def test_json(kind: str) -> None:
    assert parse_body(kind, b'{"a": [1, 2.5, null, true, "\\u00e9"]}', LIMIT) == Body(json={"a": [1, 2.5, None, True, "é"]})


def test_integers_beyond_64_bits_are_doubles() -> None:
    body = parse_body("application/json", b"[9223372036854775807, 9223372036854775808, 123456789012345678901234567890]", LIMIT)
    assert isinstance(body, Body)
    assert [type(each) for each in body.json] == [int, float, float]


@pytest.mark.parametrize(("kind", "raw"), [(FORM, b""), (None, b""), ("text/plain", b"a=b"), ("application/octet-stream", b"\x00")])
def test_no_body_and_other_types_have_neither_form_nor_json(kind: str | None, raw: bytes) -> None:
    assert parse_body(kind, raw, LIMIT) == Body()


@pytest.mark.parametrize(
    ("kind", "raw"),
    [
        (None, b"a=b"),
        (FORM, b"_method=PUT&_method=GET"),
        (FORM + "; charset=utf-16", b"a=b"),
        (FORM + "; charset=ibm037", b"a=b"),
        (FORM + "; charset=utf-8; charset=utf-7", b"a=b"),
        ("application/json", b'{"a":1,"a":2}'),
        ("application/json", b"{"),
        ("application/json", b"NaN"),
        ("application/json", b"1e999"),
        ("application/json", b'"\\ud800"'),
        ("application/json", b"\xef\xbb\xbf{}"),
        ("application/json", b'"\xff"'),
        ("application/json; charset=utf-16", b"{}"),
    ],
)
def test_what_can_be_read_in_two_ways_is_unavailable(kind: str | None, raw: bytes) -> None:
    assert isinstance(parse_body(kind, raw, LIMIT), BodyUnavailable)


def test_a_body_over_the_limit_is_unavailable() -> None:
    assert isinstance(parse_body(FORM, b"a" * 10, 10), Body)
    assert isinstance(parse_body(FORM, b"a" * 11, 10), BodyUnavailable)


@pytest.mark.parametrize(
    ("kind", "raw"),
    [
        ("multipart/form-data", multipart(('Content-Disposition: form-data; name="a"', "1"))),
        ("multipart/form-data; boundary=B; boundary=C", multipart(('Content-Disposition: form-data; name="a"', "1"))),
        ("multipart/form-data; boundary=B", b"preamble\r\n" + multipart(('Content-Disposition: form-data; name="a"', "1"))),
        ("multipart/form-data; boundary=B", multipart(('Content-Disposition: form-data; name="a"', "1"))[:-4]),
        ("multipart/form-data; boundary=B", multipart(('Content-Disposition: form-data; name="a"', "1")).replace(b"\r\n", b"\n")),
        ("multipart/form-data; boundary=B", multipart(('Content-Disposition: form-data; name="a"; name="b"', "1"))),
        ("multipart/form-data; boundary=B", multipart(("Content-Disposition: form-data; name*=utf-8''a", "1"))),
        ("multipart/form-data; boundary=B", multipart(("Content-Disposition: form-data; name=\"a\"; filename*=utf-8''x", "1"))),
        ("multipart/form-data; boundary=B", multipart(('Content-Disposition: form-data; name="a\\"b"', "1"))),
        (
            "multipart/form-data; boundary=B",
            multipart(('Content-Disposition: form-data; name="a"\r\nContent-Transfer-Encoding: base64', "MQ==")),
        ),
        (
            "multipart/form-data; boundary=B",
            multipart(('Content-Disposition: form-data; name="a"\r\nContent-Type: text/plain; charset=utf-16', "1")),
        ),
        (
            "multipart/form-data; boundary=B",
            multipart(('Content-Disposition: form-data; name="a"\r\nContent-Disposition: form-data; name="b"', "1")),
        ),
        ("multipart/form-data; boundary=B", multipart(('Content-Disposition: attachment; name="a"', "1"))),
        ("multipart/form-data; boundary=B", multipart(("X: y", "1"))),
    ],
)
def test_multipart_that_parsers_disagree_about_is_unavailable(kind: str, raw: bytes) -> None:
    assert isinstance(parse_body(kind, raw, LIMIT), BodyUnavailable)


def test_nesting_is_bounded() -> None:
    def nested(depth: int) -> bytes:
        return b"[" * depth + b"]" * depth

    assert isinstance(parse_body("application/json", nested(MAX_DEPTH), LIMIT), Body)
    assert isinstance(parse_body("application/json", nested(MAX_DEPTH + 1), LIMIT), BodyUnavailable)
    assert isinstance(parse_body("application/json", nested(30_000), LIMIT), BodyUnavailable)


def test_a_reason_never_repeats_the_body() -> None:
    found = parse_body("application/json", b'{"password": hunter2}', LIMIT)
    assert isinstance(found, BodyUnavailable)
    assert "hunter2" not in found.reason
