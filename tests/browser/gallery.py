"""Every page in every state, by name: what the unit tests read and Chromium looks at."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from gateway import steps as kinds
from gateway.flow.step import Field, Step, View
from gateway.spec.sections import ThemeSpec
from gateway.steps.captcha import Captcha, CaptchaConfig
from gateway.steps.consent import Consent, ConsentConfig
from gateway.steps.form import Form, FormConfig
from gateway.steps.otp import Otp, OtpConfig
from gateway.steps.password_change import PasswordChange, PasswordChangeConfig
from gateway.steps.redirect import Redirect, RedirectConfig
from gateway.web.page import Page
from gateway.web.pages import ACTIONS, Behalf, Letter, Pages, Proved, Shown, Suspended, Trouble, Way
from gateway.web.static import Static
from gateway.web.texts import TEXTS
from tests.support.fakes_steps import OldApp, World

PREFIX = "/.stepup"
FOLDERS = {kind.kind: Path(kinds.__file__).parent / kind.kind for kind in (Captcha, Consent, Form, Otp, PasswordChange, Redirect)}
ACTION = "/.stepup/t/su_gallery"
SHOWN = Shown(nonce="Z2FsbGVyeS1ub25jZS0wMDAx", request_id="7f3c2a90d1e4")
TRANSFER = Suspended("POST", "/transfer?from=main", "bank.example.com")
GRANT = Suspended("POST", "/oauth/token", "bank.example.com", Behalf("till-app", "alice", ACTIONS["oauth2-password"]))
NOBODYS = Suspended("POST", "/oauth/token", "bank.example.com", Behalf("", "", ACTIONS["oauth2-refresh-token"]))
ISSUERS = Suspended("", "", "login.example.com")

CODE = Field("code", "text", "Code", autocomplete="one-time-code", inputmode="numeric", help="Six digits, valid for 30 seconds.")
VIEW = View(
    title="Confirm the transfer with a code",
    lead="Open your authenticator app and type the code that it shows.",
    fields=(CODE,),
    memory={},
    actions=(("use:email", "Send me a code by mail instead"),),
)
PASSWORDS = View(
    title="Choose a new password",
    lead="Your password has expired. Once it is changed you go on where you left off.",
    fields=(
        Field("current_password", "password", "Current password", autocomplete="current-password"),
        Field("new_password", "password", "New password", autocomplete="new-password", help="At least 12 characters."),
        Field("confirm_password", "password", "New password again", autocomplete="new-password"),
        Field("hint", "text", "A hint for yourself", required=False),
        Field("stay", "checkbox", "Sign out my other devices", required=False),
        Field("challenge", "hidden", "Challenge"),
    ),
    memory={},
)

# A step as small as a step's page can be: what every kind gets from the frame around it.
PLAIN_STEP = '{% extends "step.html" %}\n'


def make_pages(folder: Path, theme: ThemeSpec | None = None, mailbox_url: str | None = None) -> Pages:
    """Pages with the real kinds of steps, and one more, `plain`, in `folder`."""
    (folder / "page.html").write_text(PLAIN_STEP, encoding="utf-8")
    return Pages(theme or ThemeSpec(), static(), {"plain": folder, **FOLDERS}, prefix=PREFIX, mailbox_url=mailbox_url)


def static() -> Static:
    return Static(PREFIX, FOLDERS)


TERMS = Path(__file__).parents[2] / "config/terms.md"
EVERY_FIELD = {
    "title": "How can we reach you?",
    "text": "We call when something is odd, and never to sell you anything.",
    "fields": [
        {"name": "phone", "type": "tel", "label": "Phone", "required": True, "help": "With the country, as in +44 20 7946 0018."},
        {"name": "mail", "type": "email", "label": "Mail address", "autocomplete": "email"},
        {"name": "site", "type": "url", "label": "Web site"},
        {"name": "seats", "type": "number", "label": "People in your team", "min": 1, "max": 500},
        {"name": "born", "type": "date", "label": "Date of birth", "required": True},
        {"name": "country", "type": "select", "label": "Country", "choices": ["France", "Peru", "Zambia"], "required": True},
        {"name": "plan", "type": "radio", "label": "Plan", "choices": ["Small", "Large"], "required": True},
        {"name": "note", "type": "textarea", "label": "Anything else", "help": "Up to 2000 characters."},
        {"name": "news", "type": "checkbox", "label": "Send me news", "help": "Twice a year."},
    ],
}


async def real_steps(pages: Pages) -> Mapping[str, Page]:
    """The steps that come with the gateway, as they really begin; each also refused."""
    world = World()
    enrolment = {"methods": "totp", "enrol": "allow"}
    mailed = {"methods": "email", "email": "{subject.id}@bank.example.com"}
    steps: Mapping[str, tuple[Step, str]] = {
        "captcha": (Captcha.build("human", CaptchaConfig(), world.services), "answer"),
        "otp-enrol": (Otp.build("code", OtpConfig.model_validate(enrolment), world.services), "code"),
        "otp-email": (Otp.build("code", OtpConfig.model_validate(mailed), world.services), "code"),
        "password-change": (
            PasswordChange.build("new", PasswordChangeConfig.model_validate(OldApp.config("http://127.0.0.1:9")), world.services),
            "new_password",
        ),
        "redirect": (
            Redirect.build(
                "kyc",
                RedirectConfig.model_validate({"url": "https://kyc.example.com/verify", "audience": "kyc", "secret": "s" * 32}),
                world.services,
            ),
            "token",
        ),
        "form": (Form.build("profile", FormConfig.model_validate(EVERY_FIELD), world.services), "country"),
    }
    config = ConsentConfig.model_validate({"document": str(TERMS), "version": "2026-11"}).with_document(TERMS.read_bytes())
    assert isinstance(config, ConsentConfig)
    steps = {**steps, "consent": (Consent.build("terms", config, world.services), "accept")}
    shown = {}
    for name, (kind, wrong) in steps.items():
        view = await kind.begin(world.context(name))
        shown[name] = step(pages, view, kind=kind.kind)
        if name == "form":
            several = {f.name: f"Please look at this: {f.label.lower()}." for f in view.fields}
            trouble = Trouble("invalid", several["phone"], "phone", errors=several)
            shown["form-all-wrong"] = step(pages, view, trouble, kind=kind.kind)
        shown[f"{name}-wrong"] = step(pages, view, Trouble("wrong", "That did not fit. Try once more.", wrong), kind=kind.kind)
    return shown


def step(
    pages: Pages, view: View = VIEW, trouble: Trouble | None = None, *, kind: str = "plain", total: int = 2, suspended: Suspended = TRANSFER
) -> Page:
    return pages.step(
        SHOWN,
        kind=kind,
        view=view,
        action=ACTION,
        token="hidden-token",
        suspended=suspended,
        index=1,
        total=total,
        expires_in=571,
        trouble=trouble,
        status=422 if trouble else 200,
    )


def confirm(pages: Pages, body: bytes, content_type: str = "application/x-www-form-urlencoded", suspended: Suspended = TRANSFER) -> Page:
    return pages.confirm(
        SHOWN, action="/continue", token="hidden-token", suspended=suspended, content_type=content_type, body=body, foreign=True
    )


def gallery(pages: Pages) -> Mapping[str, Page]:
    """Name to page. A new kind of message is in here by itself."""
    multipart = (
        b'--B\r\nContent-Disposition: form-data; name="title"\r\n\r\nInvoice\r\n'
        b'--B\r\nContent-Disposition: form-data; name="file"; filename="invoice.pdf"\r\nContent-Type: application/pdf\r\n\r\n'
        + b"x" * 20480
        + b"\r\n--B--\r\n"
    )
    special = {
        "step": step(pages),
        "step-only-one": step(pages, total=1),
        "step-wrong-field": step(pages, trouble=Trouble("wrong_code", "That code is not right. Use the newest one.", "code")),
        "step-wrong-whole": step(pages, trouble=Trouble("backend", "The application did not answer. Try again in a moment.")),
        "step-throttled": step(pages, trouble=Trouble("throttled", "Too many tries.", None, 30)),
        "step-notice": step(pages, View(VIEW.title, VIEW.lead, VIEW.fields, {}, actions=VIEW.actions, notice="A new code is on its way.")),
        "step-grant": step(pages, suspended=GRANT),
        "step-grant-of-nobody": step(pages, suspended=NOBODYS),
        "step-begin": step(pages, suspended=ISSUERS),
        "step-passwords": step(pages, PASSWORDS),
        "step-passwords-wrong": step(
            pages, PASSWORDS, Trouble("weak", "This password is on lists of stolen ones. Choose another.", "new_password")
        ),
        "framed": pages.framed(SHOWN, href=ACTION, suspended=TRANSFER),
        "send": pages.send(SHOWN, "https://kyc.example.com/verify?tenant=bank", [("state", "su_gallery"), ("submit", '"<&>')]),
        "handback": pages.handed_back(
            SHOWN, "https://spa.example.com/cb", [("error", "interaction_required"), ("state", '"<&>')], message=False
        ),
        "confirm-form": confirm(pages, b"to=mallory&amount=250&password=hunter2&note=two%0Alines&empty="),
        "confirm-file": confirm(pages, multipart, "multipart/form-data; boundary=B"),
        "confirm-json": confirm(pages, b'{"to": "bob", "amount": 12, "token": "abc"}', "application/json"),
        "confirm-data": confirm(pages, b"\x00\x01\x02", "application/octet-stream"),
        "pass": pages.proved(
            SHOWN,
            subject="alice",
            proofs=[Proved("Code", "2 minutes ago", "3 minutes"), Proved("Captcha", "1 hour ago")],
            ends="3 hours",
            action="/.stepup/pass/revoke",
            token="hidden-token",
        ),
        "pass-empty": pages.proved(SHOWN, subject="", proofs=[], ends="", action="/.stepup/pass/revoke", token="hidden-token"),
        "mailbox": pages.mailbox(
            SHOWN, [Letter("alice@bank.example.com", "Your code", "Your code is 123456.\n\nIt is valid for 10 minutes.")]
        ),
        "mailbox-empty": pages.mailbox(SHOWN, []),
    }
    messages = {
        f"message-{kind}": pages.message(
            SHOWN,
            kind,
            primary=Way("/login", method="post", fields=(("a", "b"),)) if kind == "cancelled" else None,
            secondary=Way("/account", "Back to the application") if kind in ("expired", "unknown_outcome") else None,
            message="Use the office network." if kind == "denied" else "",
            suspended=TRANSFER if kind in ("expired", "unknown_outcome") else GRANT if kind == "approved" else None,
            retry_after=42 if kind == "throttled" else None,
        )
        for kind in TEXTS
    }
    return {**special, **messages}
