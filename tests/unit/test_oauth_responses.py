"""Where a code or a token stands in an address or a page, and what takes its place."""

from __future__ import annotations

import base64
import json
from urllib.parse import parse_qsl, urlsplit

import pytest

from gateway.flow.oauth.page import decoded, in_page, refresh_address
from gateway.flow.oauth.request import read_pushed, read_request
from gateway.flow.oauth.response import Response, error_address, error_fields, in_address, usable
from tests.support.policy import request as head

OWN = "https://idp.example.com"
PAGE = OWN + "/login"
CB = "https://app.example.com/cb"


def token(claims: dict[str, str], parts: int = 3) -> str:
    payload = base64.urlsafe_b64encode(json.dumps(claims).encode()).rstrip(b"=").decode()
    return f"eyJh.{payload}.sig" + ".x" * (parts - 3)


@pytest.mark.parametrize(
    ("address", "response"),
    [
        (CB + "?code=x&state=s&iss=i", Response("query", CB, "s", "i")),
        (CB + "?tenant=1&code=x", Response("query", CB + "?tenant=1", None, None)),
        (CB + "?%63ode=x&state=a+b", Response("query", CB, "a b", None)),
        (CB + "#access_token=x&state=s&token_type=Bearer&expires_in=5", Response("fragment", CB, "s", None)),
        (CB + "?keep=1#id_token=" + token({"iss": "me"}), Response("fragment", CB + "?keep=1", None, "me")),
        (CB + "#/route?code=x", Response("fragment", CB + "#/route", None, None)),
        (CB + "?token=x", Response("query", CB, None, None)),
        (CB + "?response=" + token({"code": "x", "state": "s", "iss": "i"}), Response("query", CB, "s", "i")),
        (CB + "?response=" + token({}, parts=5), Response("query", CB, None, None)),
        ("com.example.app:/cb?code=x", Response("query", "com.example.app:/cb", None, None)),
        ("/app/cb?code=x", Response("query", "/app/cb", None, None)),
        ("//app.example.com/cb?token=x", Response("query", "//app.example.com/cb", None, None)),
        (CB + "?error=login_required&state=s", None),
        (CB + "?code=", None),
        (CB + "?decode=x&code_challenge=y", None),
        (CB + "?response=yes", None),
        (CB + "?response=" + token({"error": "login_required", "state": "s"}), None),
        (OWN + "/reset?token=x", None),
        ("/reset?token=x", None),
        ("/interaction/1", None),
        ("", None),
    ],
)
def test_an_address_with_a_code_or_a_token_is_a_response(address: str, response: Response | None) -> None:
    assert in_address(address, OWN) == response


FORM = f'<form method="post" action="{CB}"><input type="hidden" name="code" value="x"/><input type="hidden" name="state" value="s"/></form>'
LOUD = FORM.replace('"', "'").upper().replace("CODE", "code").replace("STATE", "state")
ANSWER = json.dumps({"response": {"code": "x", "state": 'a"b', "iss": "i"}, "redirect_uri": CB}).replace("<", "\\u003C")


@pytest.mark.parametrize(
    ("html", "response"),
    [
        (FORM, Response("form_post", CB, "s", None)),
        (LOUD, Response("form_post", "https" + CB[5:].upper(), "S", None)),
        (FORM.replace('name="code"', "name=c&#111;de"), Response("form_post", CB, "s", None)),
        (f'<input type=hidden name=code value=x form=f><form id="f" action="{CB}"></form>', Response("form_post", CB, None, None)),
        (f'<form id=f action="{CB}"></form><textarea name=code form=f>x</textarea>', Response("form_post", CB, None, None)),
        (f'<form action="{CB}"><input name=code value=x></form>', Response("form_post", CB, None, None)),
        ('<form action="/app/cb"><input type=hidden name=code value=x></form>', Response("form_post", OWN + "/app/cb", None, None)),
        (f'<base href="{CB}"><form><input type=hidden name=access_token value=x></form>', Response("form_post", CB, None, None)),
        ("<input type=hidden name=id_token value=x>", Response("unreadable")),
        (f'<form action="{CB}?code=x"><button>Go</button></form>', Response("query", CB, None, None)),
        (f'<meta http-equiv="Refresh" content="0; URL={CB}?code=x&amp;state=s">', Response("query", CB, "s", None)),
        (f'<a href="{CB}?code=x&amp;state=s">on</a>', Response("query", CB, "s", None, leads=False)),
        (f'<iframe src="{CB}#access_token=x"></iframe>', Response("fragment", CB, None, None, leads=False)),
        (f'<form><button formaction="{CB}?code=x">on</button></form>', Response("query", CB, None, None, leads=False)),
        (f'<script>said = {{"text": "{CB}?code=x"}}; location.reload()</script>', Response("query", CB, None, None, leads=False)),
        (f'<script>said = {{"text": "location = \\"{CB}?code=x\\""}}</script>', Response("query", CB, None, None, leads=False)),
        (f'<script>said = {{"text": "location = \\u0022{CB}?code=x\\u0022"}}</script>',
         Response("query", CB, None, None, leads=False)),
        (f'<script>said = ["https://evil.example/?code=1"]; location = "{CB}?code=x"</script>', Response("query", CB, None, None)),
        (f'<script>top . location . assign ( "{CB}?code=x" )</script>', Response("query", CB, None, None)),
        (f'<iframe srcdoc="{FORM.replace(chr(34), "&quot;")}"></iframe>', Response("form_post", CB, "s", None)),
        (f"<!--[if IE]>{FORM}<![endif]-->", Response("form_post", CB, "s", None)),
        (f'<script>location.href = "{CB}?code=x\\u0026state=s"</script>', Response("query", CB, "s", None)),
        (f"<script>window.location.replace('{CB.replace('/', chr(92) + '/')}\\x3fcode=x')</script>", Response("query", CB, None, None)),
        (f'<body onload="location=\'{CB}?code=x\'">', Response("query", CB, None, None)),
        ("<script>go(base + '?code=' + 'x' + \"&code=y\")</script>", Response("unreadable")),
        (f"<script>var d = {ANSWER}; w.postMessage({{type: 'authorization_response'}}, d.redirect_uri)</script>",
         Response("web_message", CB, 'a"b', "i")),
        ("<script>parent.postMessage({response: {code: 'x'}}, 'https://app.example.com')</script>",
         Response("web_message", "https://app.example.com", None, None)),
        ("<script>opener.postMessage({code: 'x'}, target)</script>", Response("unreadable")),
        ("<script>var d = {}; d.state = 'a\\x2Db'; d.code = 'x'; parent.postMessage(d, 'https:\\/\\/app.example.com');</script>",
         Response("web_message", "https://app.example.com", "a-b", None)),
        ('<script>d["id_token"] = "x"; d["state"] = "s"; opener.postMessage(d, "https://app.example.com")</script>',
         Response("web_message", "https://app.example.com", "s", None)),
        ("<script>if (code === 'x' || state == 'y') opener.postMessage(1, 'https://app.example.com')</script>", None),
        ('<form action="/mfa"><input name="code" value=""><input type=hidden name=token value=csrf></form>', None),
        ('<form action="/mfa"><input name="code" inputmode=numeric></form>', None),
        ('<form action="/login"><input name="login"><input name="password" type="password"></form>', None),
        ('<a href="/help?code=1">help</a><script src="/app.js"></script>', None),
        ("<script>const f = {code: 3}; fetch('/x?a=1')</script>", None),
        ("", None),
    ],
)  # fmt: skip
def test_a_page_with_a_response_is_seen_whatever_it_looks_like(html: str, response: Response | None) -> None:
    assert in_page(html, OWN, PAGE) == response


def test_pages_within_pages_end_somewhere() -> None:
    assert in_page("<!-- " * 2000, OWN, PAGE) in (Response("unreadable"), None)


@pytest.mark.parametrize(
    ("data", "kind", "text"),
    [
        (b"a\xc3\xa4", "text/html", "aä"),
        ("ä".encode("utf-16"), "text/html", "ä"),
        ("ä".encode("utf-16-le"), "text/html; charset=UTF-16LE", "ä"),
        (b"\xe4", 'text/html; charset="windows-1252"', "ä"),
        ("表".encode("shift_jis"), "text/html; charset=Shift_JIS", "表"),
        (b"+ADw-form", "text/html; charset=utf-7", None),
        (b"\x1b(B", "text/html; charset=iso-2022-jp", None),
        (b"<meta charset=utf-7>", "text/html", None),
        (b"x", "text/html; charset=nonsense", None),
    ],
)
def test_a_page_in_a_charset_that_is_not_read_here_has_no_text(data: bytes, kind: str, text: str | None) -> None:
    assert decoded(data, kind) == text


@pytest.mark.parametrize("value", ["0; url=/x", "0;URL='/x'", " 5 , /x", "0;/x", '0; url = "/x"'])
def test_where_a_refresh_leads(value: str) -> None:
    assert refresh_address(value) == "/x"


@pytest.mark.parametrize(
    ("response", "address"),
    [
        (Response("query", CB, "s", "i"), CB + "?error=e&error_description=d&state=s&iss=i"),
        (Response("query", CB + "?tenant=1"), CB + "?tenant=1&error=e&error_description=d"),
        (Response("fragment", CB, "a&b"), CB + "#error=e&error_description=d&state=a%26b"),
        (Response("fragment", CB + "#/route"), CB + "#/route?error=e&error_description=d"),
        (Response("query", "app:/cb"), "app:/cb?error=e&error_description=d"),
    ],
)
def test_an_error_stands_where_the_code_would_have_stood(response: Response, address: str) -> None:
    assert error_address(response, error_fields(response, "e", "d")) == address


@pytest.mark.parametrize(
    ("uri", "can"),
    [(CB, True), ("app:/cb", True), ("/cb", True), ("javascript:alert(1)", False), ("JaVaScript:x", False), ("data:x", False),
     ("", False), ("cb", False), (CB + "\r\nSet-Cookie: x", False), (CB + " x", False)],
)  # fmt: skip
def test_what_a_browser_would_run_is_no_redirect_uri(uri: str, can: bool) -> None:
    assert usable(uri) is can


def test_all_parameters_of_a_request_are_seen_wherever_they_stand() -> None:
    signed = token({"prompt": "none login", "scope": "pay", "max_age": "5"})
    asked = read_request(head(f"/auth?client_id=app&request={signed}"), (("state", "f"),), {})
    assert asked.readable
    assert asked.silent
    assert (asked.values("scope"), asked.values("state")) == ({"pay"}, {"f"})
    assert dict(parse_qsl(urlsplit(asked.target.decode()).query))["state"] == "f"
    assert ("scope", "pay") in parse_qsl((asked.heads(head("/"))[0].target.query or b"").decode())


def test_what_stands_in_a_request_object_and_beside_it_is_read_in_either_way() -> None:
    def seen(query: str) -> list[list[tuple[str, str]]]:
        heads = read_request(head(f"/auth?{query}"), (), {}).heads(head("/"))
        return [parse_qsl((each.target.query or b"").decode()) for each in heads]

    signed = token({"client_id": "app", "scope": "pay"})
    assert seen(f"client_id=app&scope=read&request={signed}") == [
        [("request", signed), ("client_id", "app"), ("scope", "pay")],
        [("client_id", "app"), ("scope", "read"), ("request", signed)],
    ]
    assert seen(f"client_id=app&request={signed}") == [[("request", signed), ("client_id", "app"), ("scope", "pay")]]
    assert seen("client_id=app&client_id=app") == [[("client_id", "app")]]


@pytest.mark.parametrize(
    ("query", "readable"),
    [
        ("client_id=app&scope=a&scope=b", False), ("client_id=app&client_id=app", True), ("resource=a&resource=b", True),
        ("client_id=app&%63lient_id=b", False), ("x=1&x=2", True),
    ],
)  # fmt: skip
def test_a_parameter_with_two_values_hides_which_of_them_counts(query: str, readable: bool) -> None:
    asked = read_request(head(f"/auth?{query}"), (), {})
    assert asked.readable is readable
    assert [n for n, _ in parse_qsl((asked.heads(head("/"))[0].target.query or b"").decode())].count("client_id") < 2 or not readable


def test_a_pushed_request_is_known_by_its_name_and_any_other_is_not() -> None:
    pushed = read_pushed((("prompt", "none"), ("redirect_uri", CB)))
    asked = read_request(head("/auth?client_id=app&request_uri=urn:x"), (), {"urn:x": pushed})
    assert (asked.silent, asked.readable, asked.pushed) == (True, True, True)
    assert not read_request(head("/auth?request_uri=https://app.example.com/r"), (), {}).readable


@pytest.mark.parametrize("target", ["/auth?request=a.b.c.d.e", "/auth?request=nonsense", "/auth?request=a.!.c"])
def test_a_request_object_that_cannot_be_read_hides_something(target: str) -> None:
    assert not read_request(head(target), (), {}).readable
    assert not read_request(head("/auth"), None, {}).readable


def test_an_answer_fits_the_request_with_its_redirect_uri_and_state() -> None:
    asked = read_request(head(f"/auth?redirect_uri={CB}&state=s"), (), {})
    assert asked.fits(CB, "s")
    assert asked.fits(CB, None)
    assert not asked.fits(CB, "t")
    assert not asked.fits("https://evil.example.com/cb", "s")
    assert read_request(head("/auth"), (), {}).fits(CB, "s")


@pytest.mark.parametrize(
    ("query", "again"),
    [
        ("prompt=login&state=s", "state=s"), ("a=b&prompt=select_account%20login", "a=b"), ("prompt=create&state=s", "state=s"),
        ("prompt=login+consent&state=s", "prompt=consent&state=s"), ("%70rompt=login&a=%2f", "a=%2f"),
        ("prompt=none&prompt", "prompt=none&prompt"), ("login=prompt&Prompt=login", "login=prompt&Prompt=login"),
    ],
)  # fmt: skip
def test_what_the_user_has_followed_is_not_asked_again(query: str, again: str) -> None:
    assert read_request(head(f"/auth?{query}"), (), {}).answered.target.decode() == f"/auth?{again}"
