from __future__ import annotations

import pytest

from gateway.wire.head import RequestHead
from gateway.wire.media import Kind, cross_site, media_type, navigation, prefers_json
from gateway.wire.target import parse_target

CHROME = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8"


def head(method: str = "GET", **headers: str) -> RequestHead:
    sent = tuple((name.replace("_", "-").encode(), value.encode()) for name, value in headers.items())
    return RequestHead(method, parse_target(b"/"), sent, "https", "a.example", "https://a.example", "127.0.0.1", "127.0.0.1")


@pytest.mark.parametrize(
    ("mode", "destination", "kind"),
    [
        ("navigate", "document", "navigation"),
        ("navigate", "iframe", "frame"),
        ("navigate", "frame", "frame"),
        ("navigate", "object", "frame"),
        ("no-cors", "embed", "frame"),
        ("cors", "empty", "script"),
        ("same-origin", "empty", "script"),
        ("no-cors", "empty", "script"),
        ("no-cors", "image", "subresource"),
        ("no-cors", "style", "subresource"),
        ("cors", "font", "subresource"),
        ("no-cors", "script", "subresource"),
        ("same-origin", "serviceworker", "subresource"),
        ("websocket", "empty", "websocket"),
    ],
)
def test_fetch_metadata_says_what_it_is(mode: str, destination: str, kind: Kind) -> None:
    assert navigation(head(sec_fetch_mode=mode, sec_fetch_dest=destination, accept=CHROME)) == kind


def test_fetch_metadata_outranks_accept() -> None:
    assert navigation(head(sec_fetch_mode="cors", sec_fetch_dest="empty", accept="text/html")) == "script"
    assert navigation(head(sec_fetch_mode="navigate", sec_fetch_dest="document", accept="application/json")) == "navigation"


@pytest.mark.parametrize("mode", ["navigate", "cors"])
def test_mode_alone_is_enough(mode: str) -> None:
    assert navigation(head(sec_fetch_mode=mode)) == ("navigation" if mode == "navigate" else "script")


@pytest.mark.parametrize(
    ("headers", "kind"),
    [
        ({"accept": CHROME}, "navigation"),
        ({"accept": "application/json"}, "script"),
        ({"accept": "*/*"}, "script"),
        ({}, "script"),
        ({"accept": "text/html;q=0"}, "script"),
        ({"accept": CHROME, "x_requested_with": "XMLHttpRequest"}, "script"),
        ({"accept": "image/avif,image/webp,*/*;q=0.8"}, "subresource"),
        ({"accept": "text/css,*/*;q=0.1"}, "subresource"),
    ],
)
def test_without_fetch_metadata_older_signs_are_read(headers: dict[str, str], kind: Kind) -> None:
    assert navigation(head(**headers)) == kind


@pytest.mark.parametrize(
    "sign", [{"sec_purpose": "prefetch;prerender"}, {"purpose": "prefetch"}, {"x_moz": "prefetch"}, {"sec_purpose": "prefetch"}]
)
def test_prefetch_opens_nothing(sign: dict[str, str]) -> None:
    assert navigation(head(sec_fetch_mode="navigate", sec_fetch_dest="document", **sign)) == "subresource"


def test_head_opens_nothing() -> None:
    assert navigation(head("HEAD", accept=CHROME)) == "subresource"


def test_true_preflight() -> None:
    assert navigation(head("OPTIONS", origin="https://b.example", access_control_request_method="PUT")) == "preflight"
    assert navigation(head("OPTIONS", origin="https://b.example", access_control_request_method="PUT", content_length="0")) == "preflight"


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"origin": "https://b.example"},
        {"access_control_request_method": "PUT"},
        {"origin": "x", "access_control_request_method": "PUT", "content_length": "5"},
        {"origin": "x", "access_control_request_method": "PUT", "transfer_encoding": "chunked"},
        {"accept": CHROME},
    ],
)
def test_options_that_is_no_preflight_opens_nothing(headers: dict[str, str]) -> None:
    assert navigation(head("OPTIONS", **headers)) == "subresource"


def test_preflight_is_always_options() -> None:
    assert navigation(head("POST", origin="https://b.example", access_control_request_method="PUT")) == "script"


@pytest.mark.parametrize("upgrade", ["websocket", "h2c, WebSocket"])
def test_upgrade_to_websocket(upgrade: str) -> None:
    assert navigation(head(upgrade=upgrade, accept=CHROME)) == "websocket"


@pytest.mark.parametrize(
    ("headers", "foreign"),
    [
        ({"sec_fetch_site": "cross-site", "origin": "https://a.example"}, True),
        ({"sec_fetch_site": "same-site"}, True),
        ({"sec_fetch_site": "same-origin", "origin": "null"}, False),
        ({"sec_fetch_site": "none"}, False),
        ({"sec_fetch_site": "whatever", "origin": "https://b.example"}, True),
        ({"origin": "https://b.example"}, True),
        ({"origin": "http://a.example"}, True),
        ({"origin": "null"}, True),
        ({"origin": "https://a.example"}, False),
        ({}, False),
    ],
)
def test_who_caused_a_request(headers: dict[str, str], foreign: bool) -> None:
    assert cross_site(head("POST", **headers)) is foreign


@pytest.mark.parametrize(
    ("accept", "json"),
    [
        ("application/json", True),
        ("application/problem+json", True),
        ("application/json, text/html;q=0.9", True),
        ("application/json, text/html", True),
        ("text/html, application/json", False),
        ("application/json;q=0.5, text/html", False),
        ("application/json;q=0", False),
        ("application/json;q=no", False),
        ("*/*", False),
        (CHROME, False),
        ("", False),
    ],
)
def test_json_is_preferred(accept: str, json: bool) -> None:
    assert prefers_json(head(accept=accept)) is json


def test_media_type() -> None:
    assert media_type(" Text/HTML ; charset=utf-8") == "text/html"
    assert media_type("") == ""
