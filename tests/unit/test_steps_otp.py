"""otp: codes, addresses, enrolment, and who may have how many mails."""

from __future__ import annotations

import asyncio
import re
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pyotp
import pytest
from pydantic import ValidationError

from gateway.flow.step import Again, Context, Passed, Refused, View
from gateway.steps.otp import Otp, OtpConfig
from gateway.steps.otp.address import NoAddress, address, masked
from gateway.steps.otp.step import cleaned
from gateway.wire.subject import Scalar, Subject
from tests.support.fakes_steps import BrokenMailer, MemoryRecords, World


@pytest.fixture
def world() -> World:
    return World()


def otp(world: World, **config: Any) -> Otp:
    base = {"methods": ["totp", "email"], "email": "{subject.id}@bank.example.com"}
    return Otp.build("code", OtpConfig.model_validate(base | config), world.services)


async def shown(world: World, step: Otp, context: Context) -> tuple[Context, View]:
    view = await step.begin(context)
    return world.later(context, view.memory), view


async def again(world: World, step: Otp, context: Context, **form: str) -> Context:
    outcome = await step.answer(context, form)
    assert isinstance(outcome, Again), outcome
    return world.later(context, outcome.memory)


async def refused(step: Otp, context: Context, **form: str) -> Refused:
    outcome = await step.answer(context, form)
    assert isinstance(outcome, Refused), outcome
    return outcome


def app_of(view: View) -> pyotp.TOTP:
    parsed = pyotp.parse_uri(view.data["enrol"]["uri"])
    assert isinstance(parsed, pyotp.TOTP)
    return parsed


async def enrolled(world: World, step: Otp, subject: str = "alice") -> pyotp.TOTP:
    """Set up an authenticator as a user does who was elevated by another step; then let its code's time step pass."""
    context, _ = await shown(world, step, world.context(f"enrol {world.now}", subject=subject, elevated=True))
    context, view = await shown(world, step, await again(world, step, context, action="use:totp"))
    app = app_of(view)
    assert isinstance(await step.answer(context, {"code": app.at(int(world.now))}), Passed)
    world.now += 90
    return app


# Mail


async def test_a_reload_sends_no_second_mail_and_a_resend_does(world: World) -> None:
    step = otp(world)
    context, view = await shown(world, step, world.context())
    first = world.mailed_code()
    context, _ = await shown(world, step, context)
    assert len(world.mailbox.messages) == 1
    context = await again(world, step, world.later(context, context.memory, view.data["resend_in"]), action="resend")
    context, _ = await shown(world, step, context)
    assert len(world.mailbox.messages) == 2
    assert (await refused(step, context, code=first)).code == "invalid"
    assert isinstance(await step.answer(context, {"code": world.mailed_code()}), Passed)


async def test_resends_wait_longer_and_longer(world: World) -> None:
    step, waits = otp(world), []
    context, view = await shown(world, step, world.context())
    for _ in range(7):
        early = await refused(step, context, action="resend")
        assert (early.code, early.counts, early.retry_after) == ("throttled", False, view.data["resend_in"])
        waits.append(view.data["resend_in"])
        context = await again(world, step, world.later(context, early.memory, view.data["resend_in"]), action="resend")
        context, view = await shown(world, step, context)
    assert waits == [10, 20, 40, 80, 160, 300, 300]
    assert len(world.mailbox.messages) == 8


async def test_two_tabs_that_resend_at_once_send_one_mail(world: World) -> None:
    step = otp(world)
    context, _ = await shown(world, step, world.context())
    context = world.later(context, context.memory, 10)
    outcomes = await asyncio.gather(*(step.answer(context, {"action": "resend"}) for _ in range(5)))
    assert all(isinstance(o, Again) for o in outcomes)
    assert len(world.mailbox.messages) == 2


async def test_a_code_expires_and_says_so(world: World) -> None:
    step = otp(world)
    context, _ = await shown(world, step, world.context())
    code, context = world.mailed_code(), world.later(context, context.memory, 300)
    late = await refused(step, context, code=code)
    assert (late.code, late.counts) == ("expired", False)
    assert "expired" in (await step.begin(context)).lead
    assert len(world.mailbox.messages) == 1


async def test_a_subject_gets_a_bounded_number_of_mails(world: World) -> None:
    step = otp(world, max_mails=3)
    for transaction in range(5):
        await shown(world, step, world.context(f"t{transaction}", subject=["alice", "ALICE", " alice "][transaction % 2]))
    assert len(world.mailbox.messages) == 3
    context, view = await shown(world, step, world.context("more"))
    assert "Too many" in view.lead
    stopped = await refused(step, context, action="resend")
    assert (stopped.code, stopped.counts) == ("throttled", False)
    assert 0 < (stopped.retry_after or 0) <= 3600
    await shown(world, step, world.context("b", subject="bob"))
    assert world.mailbox.messages[0]["to"] == "bob@bank.example.com"
    await again(world, step, world.later(context, context.memory, stopped.retry_after or 0), action="resend")
    assert world.mailbox.messages[0]["to"] == "alice@bank.example.com"


async def test_the_mail_says_where_what_and_what_if_not(world: World) -> None:
    await shown(world, otp(world), world.context(origin="https://bank123456789.example.com"))
    mail = world.mailbox.messages[0]
    assert mail["to"] == "alice@bank.example.com"
    assert ".example.com" in mail["subject"]
    assert ".example.com" in mail["text"]
    assert "wasn't you" in mail["text"]
    assert "5 minutes" in mail["text"]
    assert len(re.findall(r"\d{6,}", mail["text"])) == 1
    assert not re.search(r"\d{6,}", mail["subject"])


async def test_a_mail_that_fails_leaves_the_page_and_the_other_way(world: World) -> None:
    step = otp(world)
    app = await enrolled(world, step)
    world.mailer = mailer = BrokenMailer(world.mailbox)
    step, before = otp(world), len(world.mailbox.messages)
    context, view = await shown(world, step, world.context())
    assert view.data["method"] == "totp"
    failed = await refused(step, context, action="use:email")
    assert (failed.code, failed.counts) == ("mail_failed", False)
    assert isinstance(await step.answer(world.later(context, failed.memory), {"code": app.at(int(world.now))}), Passed)
    step = otp(world, methods="email")
    context, view = await shown(world, step, world.context("t2"))
    assert "could not send" in view.lead
    assert (await refused(step, context, code="123456")).code == "expired"
    assert (await refused(step, context, action="resend")).code == "mail_failed"
    mailer.down = False
    context = await again(world, step, context, action="resend")
    context, view = await shown(world, step, context)
    assert len(world.mailbox.messages) == before + 1
    assert isinstance(await step.answer(context, {"code": world.mailed_code()}), Passed)


async def test_a_code_from_before_a_key_rotation_still_counts(world: World) -> None:
    step = otp(world)
    context, _ = await shown(world, step, world.context())
    code = world.mailed_code()
    world.vault.rotate(b"second key")
    assert isinstance(await step.answer(context, {"code": code}), Passed)


@pytest.mark.parametrize(
    "typed", ["{0}{1}{2} {3}{4}{5}", "{0}{1}{2}-{3}{4}{5}", " {0} {1} {2} {3} {4} {5} ", "{0}{1}{2}–{3}{4}{5}\u200b\n"]
)
async def test_codes_may_be_pasted_as_they_come(world: World, typed: str) -> None:
    step = otp(world)
    context, _ = await shown(world, step, world.context())
    assert isinstance(await step.answer(context, {"code": typed.format(*world.mailed_code())}), Passed)


def test_digits_of_other_scripts_are_digits() -> None:
    assert cleaned("１２３ ٤٥٦") == "123456"
    assert cleaned("½²") != "2"


# Addresses


def to(template: str, subject: str = "alice", allowed: tuple[str, ...] = (), **claims: Scalar) -> str | NoAddress:
    return address(template, Subject(subject, claims), allowed)


NO_LOCAL_PARTS = (
    *("a,b", "a b", "a@evil.example", "a\nb", "a\r\nBcc: x", "a<b>", '"a"', "a;b", "a:b", "(a)", ".a", "a.", "a..b", "", " "),
    *("a%evil.example", "evil!a", "ä", "a\x00", "x" * 65, "a\u202eb", "a\\b", "a[1]"),
)
NO_ADDRESSES = (
    *("a@b@c.example", "a@", "@b.example", "a@-b.example", "a@b..example", "a@[192.0.2.1]", "a@192.0.2.1", "a@b.example,c@d.example"),
    *("a@b.example\n", "a@b ex", "a <a@b.example>", "a@" + "b" * 64 + ".example", "a@" + "b." * 127 + "example"),
)


@pytest.mark.parametrize("name", NO_LOCAL_PARTS)
def test_a_name_that_is_no_local_part_has_no_address(name: str) -> None:
    assert isinstance(to("{subject.id}@bank.example.com", name), NoAddress)


@pytest.mark.parametrize("mail", NO_ADDRESSES)
def test_a_claim_that_is_no_address_has_none(mail: str) -> None:
    assert isinstance(to("{subject.claims.mail}", mail=mail), NoAddress)


def test_addresses_come_out_in_one_spelling() -> None:
    assert to("{subject.id}@Bank.Example.com", "Alice.O'Neil+x") == "Alice.O'Neil+x@bank.example.com"
    assert to("{subject.claims.mail}", mail="a@bücher.example") == "a@xn--bcher-kva.example"
    assert to("{subject.id}@{subject.claims.domain}", domain="sub.example.com") == "alice@sub.example.com"
    assert to("u{subject.claims.number}@example.com", number=7) == "u7@example.com"


def test_only_allowed_domains_get_mail() -> None:
    assert to("{subject.claims.mail}", allowed=("bank.example.com",), mail="a@Bank.example.COM") == "a@bank.example.com"
    for mail in ("a@evil.example", "a@xbank.example.com", "a@bank.example.com.evil.example", "a@sub.bank.example.com"):
        assert isinstance(to("{subject.claims.mail}", allowed=("bank.example.com",), mail=mail), NoAddress)


@pytest.mark.parametrize("claim", [None, True, "", 1.5])
def test_a_claim_that_is_not_known_has_no_address(claim: Scalar) -> None:
    assert isinstance(to("{subject.claims.mail}@example.com", mail=claim), NoAddress)


def test_masks_show_the_owner_enough() -> None:
    assert masked("alice@bank.example.com") == "a•••e@bank.example.com"
    assert masked("al@bank.example.com") == "a•••@bank.example.com"


async def test_without_an_address_the_page_says_whom_to_ask(world: World) -> None:
    step = otp(world, methods="email")
    context, view = await shown(world, step, world.context(subject="a,b"))
    assert (view.fields, view.actions, world.mailbox.messages) == ((), (), ())
    stuck = await refused(step, context, code="123456")
    assert (stuck.code, stuck.counts) == ("no_method", False)
    assert "ask the people" in stuck.public


# Authenticator


async def test_a_fresh_user_gets_mail_and_may_set_up_an_authenticator_after_it(world: World) -> None:
    step = otp(world)
    context, view = await shown(world, step, world.context())
    assert (view.data["method"], view.data["methods"], view.data["to"]) == ("email", ["email"], "a•••e@bank.example.com")
    assert ("use:totp", "Set up an authenticator app") in view.actions
    context = await again(world, step, context, action="use:totp")
    context, view = await shown(world, step, context)
    assert view.data["method"] == "email"
    assert "enrol" not in view.data
    context = await again(world, step, context, code=world.mailed_code())
    context, view = await shown(world, step, context)
    app = app_of(view)
    assert "<svg" in view.page["qr"]
    assert view.data["enrol"]["key"].replace(" ", "") == app.secret
    assert isinstance(await step.answer(context, {"code": app.at(int(world.now))}), Passed)
    world.now += 30
    context, view = await shown(world, step, world.context("t2", subject="ALICE "))
    assert (view.data["method"], view.data["methods"]) == ("totp", ["totp", "email"])
    assert len(world.mailbox.messages) == 1
    assert isinstance(await step.answer(context, {"code": app.at(int(world.now))}), Passed)


async def test_who_has_answered_the_mail_may_go_on_without_an_authenticator(world: World) -> None:
    step = otp(world)
    context, _ = await shown(world, step, world.context())
    context = await again(world, step, context, action="use:totp")
    context = await again(world, step, context, code=world.mailed_code())
    context, view = await shown(world, step, context)
    assert ("use:email", "Go on without it") in view.actions
    assert isinstance(await step.answer(context, {"action": "use:email"}), Passed)
    assert (await refused(step, context, action="use:email")).code == "used"


async def test_an_authenticator_takes_another_proof(world: World) -> None:
    step = otp(world, methods="totp")
    context, view = await shown(world, step, world.context())
    assert view.fields == ()
    for action in ("use:totp", "enrol"):
        assert (await refused(step, context, action=action)).code == "no_method"
    forged = world.later(context, {"method": "enrol"})
    assert "enrol" not in (await step.begin(forged)).data
    assert (await step.begin(world.context("t2", elevated=True))).data["enrol"]["uri"].startswith("otpauth://totp/")


async def test_never_means_never(world: World) -> None:
    step = otp(world, enrol="never")
    context, view = await shown(world, step, world.context(elevated=True))
    assert [action for action, _ in view.actions] == ["resend"]
    for action in ("use:totp", "enrol"):
        assert (await refused(step, context, action=action)).code == "unknown_action"


async def test_a_free_enrolment_replaces_nothing(world: World) -> None:
    step = otp(world, methods="totp", enrol="allow")
    context, view = await shown(world, step, world.context())
    app = app_of(view)
    assert isinstance(await step.answer(context, {"code": app.at(int(world.now))}), Passed)
    world.now += 90
    context, view = await shown(world, step, world.context("t2"))
    assert "enrol" not in view.data
    assert (await refused(step, context, action="enrol")).code == "unknown_action"
    assert (await refused(step, world.later(context, {"method": "enrol"}), code="000000")).code == "invalid"
    assert isinstance(await step.answer(world.context("t2"), {"code": app.at(int(world.now))}), Passed)


async def test_a_lost_phone_is_replaced_after_the_mailed_code(world: World) -> None:
    step = otp(world)
    old = await enrolled(world, step)
    context, _ = await shown(world, step, world.context())
    context = await again(world, step, context, action="enrol")
    context, view = await shown(world, step, context)
    assert view.data["method"] == "email"
    context = await again(world, step, context, code=world.mailed_code())
    context, view = await shown(world, step, context)
    new = app_of(view)
    assert isinstance(await step.answer(context, {"code": new.at(int(world.now))}), Passed)
    world.now += 90
    context, _ = await shown(world, step, world.context("t2"))
    assert (await refused(step, context, code=old.at(int(world.now)))).code == "invalid"
    assert isinstance(await step.answer(context, {"code": new.at(int(world.now))}), Passed)


async def test_of_two_enrolments_at_once_the_first_counts(world: World) -> None:
    step = otp(world, methods="totp", enrol="allow")
    looks = [await shown(world, step, world.context(transaction)) for transaction in ("t1", "t2")]
    apps = [app_of(view) for _, view in looks]
    codes = [apps[0].at(int(world.now)), apps[1].at(int(world.now) - 30)]
    outcomes = await asyncio.gather(*(step.answer(context, {"code": code}) for (context, _), code in zip(looks, codes, strict=True)))
    (lost,) = (o for o in outcomes if isinstance(o, Refused))
    assert (lost.code, lost.counts) == ("enrolled", False)
    winner = apps[next(i for i, o in enumerate(outcomes) if isinstance(o, Passed))]
    world.now += 60
    context, view = await shown(world, step, world.later(looks[0][0], lost.memory))
    assert "enrol" not in view.data
    assert isinstance(await step.answer(context, {"code": winner.at(int(world.now))}), Passed)


@pytest.mark.parametrize(("offset", "counts"), [(-60, False), (-30, True), (0, True), (30, True), (60, False)])
async def test_clocks_may_differ_by_one_step(world: World, offset: int, counts: bool) -> None:
    step = otp(world)
    app = await enrolled(world, step)
    world.now += 120
    context, _ = await shown(world, step, world.context())
    assert isinstance(await step.answer(context, {"code": app.at(int(world.now) + offset)}), Passed) is counts


async def test_a_used_code_is_refused_in_its_window_in_every_spelling_and_transaction(world: World) -> None:
    step = otp(world)
    app = await enrolled(world, step)
    code = app.at(int(world.now))
    looks = [
        (await shown(world, step, world.context(f"t{i}", subject=name)))[0]
        for i, name in enumerate(["alice", "Alice", " ALICE", "ａｌｉｃｅ"])
    ]
    outcomes = await asyncio.gather(*(step.answer(context, {"code": code}) for context in looks * 5))
    assert sum(isinstance(o, Passed) for o in outcomes) == 1
    for _ in range(2):
        used = await refused(step, world.context("t9", memory={"method": "totp"}), code=code)
        assert used.code == "used"
        assert 0 < (used.retry_after or 0) <= 30
        world.now += 30


async def test_the_secret_is_sealed_for_its_owner(world: World) -> None:
    step = otp(world)
    app = await enrolled(world, step, "alice")
    assert isinstance(world.records, MemoryRecords)
    ((kind, owner, name), entry) = next(iter(world.records.entries.items()))
    assert (kind, owner) == ("totp", "alice")
    assert app.secret.encode() not in entry.value
    world.records.entries[kind, "mallory", name] = entry  # a record moved to another owner opens for nobody
    context, view = await shown(world, step, world.context("m", subject="mallory"))
    assert view.data["methods"] == ["email"]
    assert (await refused(step, world.later(context, {"method": "totp"}), code=app.at(int(world.now)))).code in {"expired", "invalid"}


async def test_the_qr_code_names_site_and_user(world: World) -> None:
    view = await otp(world, issuer="Bank: Example").begin(world.context(subject="al:ice@x", elevated=True, memory={"method": "enrol"}))
    uri = urlsplit(view.data["enrol"]["uri"])
    assert unquote(uri.path) == "/Bank  Example:al ice@x"
    query = parse_qs(uri.query)
    assert query["issuer"] == ["Bank  Example"]
    assert len(query["secret"][0]) == 32
    assert re.fullmatch(r"([A-Z2-7]{4} ){7}[A-Z2-7]{4}", view.data["enrol"]["key"])


def test_settings_without_sense_are_mistakes() -> None:
    mistakes: tuple[dict[str, Any], ...] = (
        {"methods": ["email"]},
        {"methods": []},
        {"methods": "sms"},
        {"methods": ["totp", "totp"]},
        {"methods": "email", "email": "all@bank.example.com"},
        {"methods": "email", "email": "{subject.name}@bank.example.com"},
        {"methods": "email", "email": "{subject.id}@{host}"},
        {"methods": "totp", "allowed_domains": ["*.example.com"]},
        {"methods": "totp", "digits": 4},
        {"methods": "totp", "enrol": "always"},
    )
    for wrong in mistakes:
        with pytest.raises(ValidationError):
            OtpConfig.model_validate(wrong)
    assert not OtpConfig.model_validate({"methods": "totp"}).needs_mail
    assert OtpConfig.model_validate({"email": "{subject.claims.mail}"}).needs_mail
