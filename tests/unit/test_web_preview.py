"""What a stored request looks like to the person who is asked to confirm it."""

from __future__ import annotations

import json

import pytest

from gateway.web.preview import MASK, MAX_FIELDS, Item, Preview, is_secret, preview, size

FORM = "application/x-www-form-urlencoded"


def test_fields_stand_in_order_each_time_they_occur() -> None:
    assert preview(FORM, b"to=bob&amount=1&amount=2&note=").items == (
        Item("to", "bob"),
        Item("amount", "1"),
        Item("amount", "2"),
        Item("note", ""),
    )


def test_a_charset_parameter_does_not_hide_a_form() -> None:
    assert preview(f"{FORM.upper()}; charset=utf-8", b"a=%C3%A9").items == (Item("a", "é"),)


@pytest.mark.parametrize(
    "name",
    [
        "password",
        "Password",
        "new_password",
        "newPassword",
        "user[password]",
        "pin",
        "csrf_token",
        "csrfmiddlewaretoken",
        "apiKey",
        "secret1",
        "otp",
        "CVC",
    ],
)
def test_what_is_secret_by_its_name_is_hidden(name: str) -> None:
    assert is_secret(name)


@pytest.mark.parametrize("name", ["to", "amount", "shipping", "compass", "topping", "spinner", "bypassed", "note"])
def test_a_name_that_only_contains_such_a_word_is_not(name: str) -> None:
    assert not is_secret(name)


def test_a_secret_value_is_nowhere_in_the_preview() -> None:
    for shown in (
        preview(FORM, b"password=hunter2"),
        preview("application/json", b'{"a": [{"password": "hunter2"}], "token": "hunter2"}'),
        preview("multipart/form-data; boundary=B", b'--B\r\nContent-Disposition: form-data; name="pin"\r\n\r\nhunter2\r\n--B--'),
    ):
        assert "hunter2" not in repr(shown)
        assert MASK in repr(shown)


def test_a_secret_object_is_looked_into_rather_than_shown() -> None:
    assert json.loads(preview("application/json", b'{"token": {"password": "x", "kind": "y"}}').text) == {
        "token": {"password": MASK, "kind": "y"}
    }


def test_files_are_shown_by_name_and_size() -> None:
    body = (
        b'--B\r\nContent-Disposition: form-data; name="title"\r\n\r\nInvoice\r\n'
        b'--B\r\nContent-Disposition: form-data; name="file"; filename="a \\"b\\".pdf"\r\nContent-Type: application/pdf\r\n\r\n'
        + b"\r\n--no" * 1000
        + b'\r\n--B\r\nContent-Disposition: form-data; name="none"; filename=""\r\n\r\n\r\n--B--\r\n'
    )
    assert preview('multipart/form-data; boundary="B"', body).items == (
        Item("title", "Invoice"),
        Item("file", 'a "b".pdf (6 KiB)', file=True),
        Item("none", "no file chosen", file=True),
    )


@pytest.mark.parametrize(
    "body",
    [
        b"no boundary in here",
        b'--B\r\nContent-Disposition: form-data; name="a"\r\n\r\nx\r\n',  # never closed
        b"--B\r\nContent-Type: text/plain\r\n\r\nx\r\n--B--",  # no name
        b'--B\r\nContent-Disposition: form-data; name="a"\r\n--B--',  # no end of the head
        b'preamble\r\n--B\r\nContent-Disposition: form-data; name="a"\r\n\r\nx\r\n--B--',
    ],
)
def test_what_cannot_be_read_for_certain_is_not_guessed_at(body: bytes) -> None:
    shown = preview("multipart/form-data; boundary=B", body)
    assert shown.items == ()
    assert "cannot be shown" in shown.note


def test_json_is_laid_out() -> None:
    assert preview("application/vnd.api+json", b'{"to":"bob","n":[1]}').text == '{\n  "to": "bob",\n  "n": [\n    1\n  ]\n}'


@pytest.mark.parametrize("body", [b"{", b"[" * 100_000, b"\xff\xfe"])
def test_json_that_is_none_is_said_to_be_data(body: bytes) -> None:
    assert "cannot be shown" in preview("application/json", body).note


def test_too_many_fields_are_counted() -> None:
    shown = preview(FORM, b"&".join(b"a=1" for _ in range(MAX_FIELDS + 7)))
    assert len(shown.items) == MAX_FIELDS
    assert shown.note == "7 more fields are not shown here."


def test_a_long_value_says_how_much_is_missing() -> None:
    assert preview(FORM, b"a=" + b"x" * 1000).items[0].value.endswith("… (400 more characters)")


def test_text_is_shown_and_data_is_measured() -> None:
    assert preview("text/plain", b"hello\nyou").text == "hello\nyou"
    assert preview("", b"\x00" * 2048).note == "2 KiB of data that cannot be shown here (of no named type)."
    assert preview("image/png", b"") == Preview()


@pytest.mark.parametrize(("count", "text"), [(0, "0 bytes"), (1, "1 byte"), (1023, "1023 bytes"), (20480, "20 KiB"), (3 << 19, "1.5 MiB")])
def test_sizes_are_in_words(count: int, text: str) -> None:
    assert size(count) == text
