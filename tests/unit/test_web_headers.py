"""Headers of our pages, and the small functions that hostile text goes through."""

from __future__ import annotations

import json

import pytest

from gateway.web.csp import page_headers, policy
from gateway.web.page import quoted, safe_href, visible
from gateway.web.problem import problem, step_up_required

NONCE = "c29tZS1mcmVzaC1ub25jZQ"


def directives(value: str) -> dict[str, list[str]]:
    return {name: rest for name, *rest in (part.split() for part in value.split(";"))}


def test_a_page_loads_nothing_but_its_own() -> None:
    assert directives(policy(NONCE)) == {
        "default-src": ["'none'"],
        "script-src": ["'self'", f"'nonce-{NONCE}'"],
        "worker-src": ["'self'"],
        "style-src": ["'self'", f"'nonce-{NONCE}'"],
        "img-src": ["'self'", "data:"],
        "connect-src": ["'self'"],
        "form-action": ["'self'"],
        "base-uri": ["'none'"],
        "frame-ancestors": ["'none'"],
    }


def test_a_form_may_lead_to_named_origins_only_and_each_is_named_once_in_its_one_spelling() -> None:
    value = policy(NONCE, next_origins=["https://KYC.example.com:443/", "https://kyc.example.com", "http://[::1]:8080"])
    assert directives(value)["form-action"] == ["'self'", "http://[::1]:8080", "https://kyc.example.com"]


@pytest.mark.parametrize(
    "origin", ["https://a.example; script-src *", "https://*.example", "https://a.example/path", "javascript:alert(1)", "https://a b"]
)
def test_an_origin_that_is_none_is_refused(origin: str) -> None:
    with pytest.raises(ValueError, match="not an origin"):
        policy(NONCE, next_origins=[origin])


@pytest.mark.parametrize("nonce", ["", "short", "aaaaaaaaaaaaaaaa'; script-src *", "aaaaaaaaaaaaaaaa\n", "aaaa aaaa aaaa aaaa"])
def test_a_nonce_that_could_end_its_directive_is_refused(nonce: str) -> None:
    with pytest.raises(ValueError, match="nonce"):
        policy(nonce)


def test_only_the_page_for_frames_can_be_framed_and_only_by_our_own_origin() -> None:
    plain, framed = dict(page_headers(NONCE)), dict(page_headers(NONCE, framed=True))
    assert (plain["X-Frame-Options"], framed["X-Frame-Options"]) == ("DENY", "SAMEORIGIN")
    assert directives(framed["Content-Security-Policy"])["frame-ancestors"] == ["'self'"]


def test_a_page_is_neither_stored_nor_sniffed_nor_named_to_other_sites() -> None:
    headers = dict(page_headers(NONCE))
    assert headers["Cache-Control"] == "no-store"
    assert headers["Referrer-Policy"] == "same-origin"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Cross-Origin-Opener-Policy"] == "same-origin"
    assert "geolocation=()" in headers["Permissions-Policy"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Use a code", '"Use a code"'),
        ('a"b\\c', '"a\'b/c"'),
        ("one\r\nSet-Cookie: x", '"one  Set-Cookie: x"'),
        ("Café – “now”…", "\"Cafe - 'now'...\""),
        ("日本\x00\x7f", '"????"'),
    ],
)
def test_a_header_value_stays_within_its_quotes(text: str, expected: str) -> None:
    assert quoted(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain", "plain"),
        ("a\u202etxt.exe", "a\ufffdtxt.exe"),
        ("nul\x00", "nul\ufffd"),
        ("two\nlines", "two\ufffdlines"),
        ("soft\u00adhyphen", "soft\ufffdhyphen"),
    ],
)
def test_what_cannot_be_seen_is_made_visible(text: str, expected: str) -> None:
    assert visible(text) == expected


def test_preformatted_text_keeps_its_lines() -> None:
    assert visible("two\nlines\r", lines=True) == "two\nlines\ufffd"


def test_long_text_says_how_much_is_missing() -> None:
    assert visible("x" * 250, 200) == "x" * 200 + "… (50 more characters)"


@pytest.mark.parametrize(
    ("href", "expected"),
    [
        ("/transfer?a=b", "/transfer?a=b"),
        ("", ""),
        ("https://bank.example.com/", "https://bank.example.com/"),
        ("mailto:help@example.com", "mailto:help@example.com"),
        ("//evil.example/x", "/.//evil.example/x"),
        ("/\\evil.example/x", "/./\\evil.example/x"),
        ("javascript:alert(1)", "/"),
        ("JavaScript:alert(1)", "/"),
        ("data:text/html,x", "/"),
        (" javascript:alert(1)", "/"),
    ],
)
def test_a_link_leaves_this_origin_only_on_purpose(href: str, expected: str) -> None:
    assert safe_href(href) == expected


def test_a_script_is_told_what_it_must_do_as_the_contract_says() -> None:
    page = step_up_required(
        request_id="r1",
        description="A code is needed",
        steps=["code"],
        acr_values=["urn:code"],
        max_age=300,
        state="su_x",
        step_up_url="https://a.example/.stepup/t/su_x",
        continue_url="https://a.example/continue?state=su_x",
        expires_in=600,
    )
    assert page.status == 401
    assert page.header("www-authenticate") == (
        'Bearer error="insufficient_user_authentication", error_description="A code is needed", acr_values="urn:code", max_age=300'
    )
    assert page.header("content-type") == "application/problem+json"
    assert page.header("cache-control") == "no-store"
    body = json.loads(page.body)
    assert body.pop("type").endswith("step_up_required")
    assert body == {
        "title": "Step-up required",
        "status": 401,
        "error": "interaction_required",
        "error_description": "A code is needed",
        "state": "su_x",
        "step_up_url": "https://a.example/.stepup/t/su_x",
        "continue_url": "https://a.example/continue?state=su_x",
        "steps": ["code"],
        "expires_in": 600,
        "max_age": 300,
        "request_id": "r1",
    }


def test_without_a_transaction_the_401_names_none_and_without_a_bound_no_age() -> None:
    page = step_up_required(request_id="r1", description="x", steps=["code"])
    assert not {"state", "step_up_url", "continue_url", "expires_in", "max_age"} & json.loads(page.body).keys()
    assert page.header("WWW-Authenticate") == 'Bearer error="insufficient_user_authentication", error_description="x"'


def test_an_age_of_none_at_all_is_said_too() -> None:
    assert (step_up_required(request_id="r", description="x", steps=["c"], max_age=0).header("WWW-Authenticate") or "").endswith(
        "max_age=0"
    )


def test_a_problem_carries_its_id_and_says_when_to_come_back() -> None:
    page = problem(429, "throttled", "Wait a little.", "r9", retry_after=30, extra={"state": "su_x"})
    body = json.loads(page.body)
    assert page.header("Retry-After") == "30"
    assert (body["status"], body["request_id"], body["retry_after"], body["error"], body["state"]) == (429, "r9", 30, "throttled", "su_x")
    assert body["title"]
    assert body["detail"] == "Wait a little."


def test_a_problem_may_have_an_oauth_error_code_of_its_own() -> None:
    assert json.loads(problem(400, "bad_token", "x", "r", error="invalid_grant").body)["error"] == "invalid_grant"
