"""Every page as HTML: what it always has, and what hostile values cannot do to it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from html.parser import HTMLParser
from pathlib import Path

import pytest

from gateway.flow.step import Field, View
from gateway.spec.sections import ThemeSpec
from gateway.web.page import Page
from gateway.web.pages import TOKEN_FIELD, Letter, Pages, Shown, Suspended, Trouble, Way
from gateway.web.static import HERE, LASTING, Static
from gateway.web.texts import TEXTS, wait_text
from tests.browser.gallery import ACTION, CODE, FOLDERS, PREFIX, SHOWN, TRANSFER, VIEW, confirm, gallery, make_pages, real_steps, step

EVIL = "\"'><script>alert(1)</script>&{{7*7}}"


class Document(HTMLParser):
    """Elements with their attributes, in order, and all text."""

    def __init__(self, page: Page) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page.body.decode("utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str, **attributes: str | None) -> list[dict[str, str | None]]:
        return [a for t, a in self.elements if t == tag and all(a.get(k) == v for k, v in attributes.items())]


@pytest.fixture
def pages(tmp_path: Path) -> Pages:
    return make_pages(tmp_path)


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, tuple[Page, Document]]:
    pages = make_pages(tmp_path_factory.mktemp("step"), mailbox_url="http://127.0.0.1:8090/dev/mailbox")
    return {name: (page, Document(page)) for name, page in gallery(pages).items()}


def test_every_page_has_one_heading_a_language_a_title_and_its_landmarks(shown: Mapping[str, tuple[Page, Document]]) -> None:
    for name, (_, document) in shown.items():
        for tag in ("h1", "title", "main", "header", "footer"):
            assert len(document.all(tag)) == 1, (name, tag)
        assert document.all("html") == [{"lang": "en"}], name


def test_every_page_offers_a_way_on(shown: Mapping[str, tuple[Page, Document]]) -> None:
    for name, (_, document) in shown.items():
        assert document.all("button", type="submit") or [a for a in document.all("a") if "button" in (a.get("class") or "")], name


def test_every_message_shows_the_id_that_is_in_the_log(shown: Mapping[str, tuple[Page, Document]]) -> None:
    for kind in TEXTS:
        assert SHOWN.request_id in shown[f"message-{kind}"][1].text, kind


def test_every_message_has_its_own_status_and_waits_are_headers_too(shown: Mapping[str, tuple[Page, Document]]) -> None:
    for kind, text in TEXTS.items():
        page = shown[f"message-{kind}"][0]
        assert page.status == text.status
        assert (page.header("Retry-After") is not None) == (text.status in {429, 503}), kind
        assert not re.search(r"\{(message|wait)\}", shown[f"message-{kind}"][1].text)


def test_no_page_has_inline_script_or_style_and_all_scripts_carry_the_nonce(shown: Mapping[str, tuple[Page, Document]]) -> None:
    for name, (page, document) in shown.items():
        for tag, attributes in document.elements:
            assert "style" not in attributes, (name, tag)
            assert not [a for a in attributes if a.startswith("on")], (name, tag)
            if tag in ("script", "style"):
                assert attributes["nonce"] == SHOWN.nonce
        assert all(a["src"] for a in document.all("script")), name
        assert f"'nonce-{SHOWN.nonce}'" in (page.header("Content-Security-Policy") or "")


def test_no_page_loads_from_anywhere_else(shown: Mapping[str, tuple[Page, Document]]) -> None:
    for name, (_, document) in shown.items():
        sources = [a.get("src") or "" for _, a in document.elements if "src" in a] + [a.get("href") or "" for a in document.all("link")]
        assert all(s.startswith((f"{PREFIX}/static/", "data:")) for s in sources), name


def test_every_form_carries_the_hidden_token(shown: Mapping[str, tuple[Page, Document]]) -> None:
    for name, (_, document) in shown.items():
        if not name.startswith("message-") and name not in ("send", "handback"):  # goes to a page of others
            assert len(document.all("input", name=TOKEN_FIELD, value="hidden-token")) == len(document.all("form")), name


async def test_every_first_page_is_under_30_kb_in_all(pages: Pages) -> None:
    frame = sum(len(file.read_bytes()) for file in HERE.iterdir() if file.name not in LASTING)
    for name, page in (await real_steps(pages)).items():
        scripts = sum(
            len(asset.read_bytes())
            for key, folder in FOLDERS.items()
            if name.replace("-", "_").startswith(key)
            for asset in folder.glob("*.js")
        )
        assert frame + len(page.body) + scripts < 30_000, name


def test_a_long_question_is_not_said_twice(pages: Pages) -> None:
    question = "Which of these words comes first in the alphabet: mirror, river or bridge?"
    view = View("T", "L", (Field("answer", "text", question), CODE), {})
    document = Document(step(pages, view, Trouble("wrong", "Try once more.", "answer")))
    assert document.text.count(question) == 1
    assert "Please check one thing: your answer" in document.text


def test_the_demo_says_where_its_mail_is_and_nothing_else_does(pages: Pages, tmp_path: Path) -> None:
    demo = make_pages(tmp_path, mailbox_url="http://127.0.0.1:8090/dev/mailbox")
    assert Document(step(demo)).all("a", href="http://127.0.0.1:8090/dev/mailbox")
    assert b"mailbox" not in step(pages).body


def test_a_step_says_why_how_far_and_for_what(pages: Pages) -> None:
    document = Document(step(pages))
    assert VIEW.title in document.text
    assert "Step 1 of 2" in document.text
    assert document.all("progress", max="2", value="1")
    assert "POST /transfer at bank.example.com" in " ".join(document.text.split())
    assert "from=main" not in document.text
    assert "10 minutes" in document.text


def test_a_single_step_counts_nothing(pages: Pages) -> None:
    assert not Document(step(pages, total=1)).all("progress")


def test_cancel_is_a_form_of_its_own_that_validates_nothing_else(pages: Pages) -> None:
    document = Document(step(pages))
    assert [a["action"] for a in document.all("form", method="post")] == [ACTION, ACTION]
    assert len(document.all("button", name="action", value="cancel")) == 1
    assert "formnovalidate" in document.all("button", value="use:email")[0]


def test_the_first_field_has_the_focus_and_codes_can_be_filled_in(pages: Pages) -> None:
    (field,) = Document(step(pages)).all("input", name="code")
    assert "autofocus" in field
    assert "required" in field
    assert "aria-invalid" not in field
    assert (field["autocomplete"], field["inputmode"], field["aria-describedby"]) == ("one-time-code", "numeric", "f-code-help")
    assert "maxlength" not in field  # it would cut a pasted "123 456"


def test_an_error_stands_at_its_field_which_has_the_focus(pages: Pages) -> None:
    view = View("T", "L", (Field("first", "text", "First"), CODE), {})
    page = step(pages, view, Trouble("wrong", "That is wrong.", "code"))
    document = Document(page)
    (first,), (code,) = document.all("input", name="first"), document.all("input", name="code")
    assert (code["aria-invalid"], code["aria-describedby"]) == ("true", "f-code-help f-code-error")
    assert "autofocus" in code
    assert "autofocus" not in first
    assert document.all("p", role="alert", id="f-code-error")
    assert document.all("a", href="#f-code")
    assert document.text.strip().startswith("Error: T")
    assert page.status == 422


def test_an_error_of_the_whole_form_has_the_focus_itself(pages: Pages) -> None:
    for trouble in (Trouble("x", "It broke."), Trouble("x", "It broke.", "no-such-field")):
        document = Document(step(pages, trouble=trouble))
        (alert,) = document.all("div", role="alert")
        assert "autofocus" in alert
        assert len([a for _, a in document.elements if "autofocus" in a]) == 1
        assert "It broke." in document.text


def test_a_pause_is_said_and_sent_as_a_header(pages: Pages) -> None:
    page = step(pages, trouble=Trouble("throttled", "Too many tries.", None, 30))
    assert page.header("Retry-After") == "30"
    assert "You can try again in 30 seconds." in Document(page).text


def test_a_password_is_never_written_into_a_page(pages: Pages, tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text(
        '{% extends "step.html" %}{% block form %}{{ field(view.fields[0], error, "hunter2") }}{% endblock %}'
    )
    fresh = Pages(ThemeSpec(), Static(PREFIX, {}), {"plain": tmp_path}, prefix=PREFIX)
    assert b"hunter2" not in step(fresh, View("T", "L", (Field("p", "password", "P"),), {})).body
    assert b"hunter2" in step(fresh, View("T", "L", (Field("p", "text", "P"),), {})).body


HOSTILE: Mapping[str, Callable[[Pages], Page]] = {
    "target": lambda p: step(p, suspended=Suspended(EVIL, f"/{EVIL}", EVIL)),
    "view": lambda p: step(p, View(EVIL, EVIL, (Field("a", "text", EVIL, help=EVIL),), {}, actions=((EVIL, EVIL),), notice=EVIL)),
    "error": lambda p: step(p, trouble=Trouble(EVIL, EVIL, "code")),
    "whole error": lambda p: step(p, trouble=Trouble(EVIL, EVIL)),
    "confirm form": lambda p: confirm(p, b"%22%3E%3Cscript%3Ealert(1)%3C/script%3E=%3Cscript%3Ealert(1)%3C/script%3E"),
    "confirm json": lambda p: confirm(p, b'{"<script>alert(1)</script>": "<script>alert(1)</script>"}', "application/json"),
    "confirm type": lambda p: confirm(p, b"x", EVIL),
    "confirm target": lambda p: confirm(p, b"", suspended=Suspended("POST", f"/?{EVIL}", EVIL)),
    "message": lambda p: p.message(SHOWN, "denied", message=EVIL, suspended=Suspended(EVIL, EVIL, EVIL)),
    "ways": lambda p: p.message(SHOWN, "expired", primary=Way(EVIL, EVIL, "post", ((EVIL, EVIL),)), secondary=Way(f"/{EVIL}", EVIL)),
    "id": lambda p: p.message(Shown(SHOWN.nonce, EVIL), "expired"),
    "send": lambda p: p.send(SHOWN, f"https://kyc.example.com/{EVIL}", [(EVIL, EVIL)]),
    "framed": lambda p: p.framed(SHOWN, href=EVIL, suspended=Suspended(EVIL, EVIL, EVIL)),
    "mailbox": lambda p: p.mailbox(SHOWN, [Letter(EVIL, EVIL, EVIL)]),
    "pass": lambda p: p.proved(SHOWN, subject=EVIL, proofs=[], ends=EVIL, action=EVIL, token=EVIL),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_text_stays_text(pages: Pages, case: str) -> None:
    page = HOSTILE[case](pages)
    assert b"<script>alert" not in page.body
    assert b"alert(1)" in page.body or case == "framed"
    assert b">49<" not in page.body
    document = Document(page)
    assert all((a["src"] or "").startswith(f"{PREFIX}/static/") for a in document.all("script"))


def test_a_rules_message_with_braces_is_shown_as_it_is(pages: Pages) -> None:
    assert "{0} {wait} {message.__class__}" in Document(pages.message(SHOWN, "denied", message="{0} {wait} {message.__class__}")).text


def test_a_target_that_looks_like_another_host_links_to_our_own(pages: Pages) -> None:
    document = Document(pages.message(SHOWN, "expired", primary=Way("//evil.example/transfer")))
    assert document.all("a", href="/.//evil.example/transfer")
    assert not document.all("a", href="//evil.example/transfer")


def test_a_denial_has_its_rules_status_and_words(pages: Pages) -> None:
    page = pages.message(SHOWN, "denied", message="Use the office network.", status=451)
    assert page.status == 451
    assert "Use the office network." in Document(page).text


def test_a_way_can_be_a_form(pages: Pages) -> None:
    document = Document(pages.message(SHOWN, "cancelled", primary=Way("/login", "Sign in", "post", (("next", "/a"),))))
    assert document.all("form", method="post", action="/login")
    assert document.all("input", type="hidden", name="next", value="/a")


def test_the_page_for_frames_has_one_link_that_opens_at_the_top(pages: Pages) -> None:
    page = pages.framed(SHOWN, href=ACTION, suspended=TRANSFER)
    document = Document(page)
    assert document.all("main")
    assert document.all("a", target="_top", href=ACTION)
    assert not document.all("form")
    assert "frame-ancestors 'self'" in (page.header("Content-Security-Policy") or "")


def test_a_form_to_a_page_of_others_has_its_fields_a_button_and_a_policy_that_names_its_origin(pages: Pages) -> None:
    page = pages.send(SHOWN, "https://KYC.example.com:443/verify?tenant=bank", [("state", "su_x"), ("submit", EVIL)])
    document = Document(page)
    (form,) = document.all("form")
    assert (form["method"], form["action"]) == ("post", "https://KYC.example.com:443/verify?tenant=bank")
    assert [(a["name"], a["value"]) for a in document.all("input")] == [("state", "su_x"), ("submit", EVIL)]
    assert len(document.all("button", type="submit")) == 1
    assert "form-action 'self' https://kyc.example.com;" in (page.header("Content-Security-Policy") or "")


URLS = ["javascript:alert(1)", "data:text/html,x", "here", "//evil.example/", "/\\\\evil.example/", "https:///x", ""]


@pytest.mark.parametrize("url", URLS)
def test_a_form_goes_to_http_or_a_path_of_ours_only(pages: Pages, url: str) -> None:
    with pytest.raises(ValueError, match="http"):
        pages.send(SHOWN, url, [])


def test_confirm_shows_what_is_sent_and_offers_both(pages: Pages) -> None:
    document = Document(confirm(pages, b"to=mallory&amount=250&password=hunter2"))
    assert re.search(r"to\s*mallory\s*amount\s*250\s*password\s*•+ \(hidden\)", document.text)
    assert "/transfer?from=main" in document.text
    assert [a["value"] for a in document.all("button", name="action")] == ["send", "cancel"]


def test_the_mailbox_needs_no_asset(pages: Pages) -> None:
    document = Document(pages.mailbox(SHOWN, [Letter("a@example.com", "Code", "123456")]))
    assert not document.all("link", rel="stylesheet")
    assert not document.all("script")
    assert "123456" in document.text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "1 second"),
        (1, "1 second"),
        (30, "30 seconds"),
        (60, "1 minute"),
        (61, "2 minutes"),
        (571, "10 minutes"),
        (3600, "1 hour"),
        (7201, "3 hours"),
    ],
)
def test_waits_are_said_in_words_and_never_too_short(seconds: int, text: str) -> None:
    assert wait_text(seconds) == text
