"""otp: a one-time code by authenticator app or by mail. Proves who somebody is; needs a subject.

Memory: `method` that was chosen, `serial` of the mailed code that counts, `failed` (it could not be sent), `wants` (an authenticator is
to be set up once the mailed code was answered) and `mailed` (it was). No code and no secret is in it.

An authenticator is set up after another proof: an elevated context, or the mailed code of this transaction. `enrol: allow` lets
users in who have none yet; replacing one takes a proof always, else a stolen password would be enough to take it over.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from gateway.errors import Conflict
from gateway.flow.step import Again, Context, Field, Outcome, Passed, Refused, Services, View
from gateway.spec.base import Spec
from gateway.steps.forms import text
from gateway.steps.otp.address import NoAddress, address, masked
from gateway.steps.otp.authenticator import Authenticators, Enrolled, Right, UsedCode, WrongCode, qr, typed
from gateway.steps.otp.config import OtpConfig
from gateway.steps.otp.mailed import Delivery, MailedCodes, Sent, Throttled, Undelivered

MAX_CODE = 64
HOUR = 3600
AMR = ("otp",)
SET_UP = ("use:totp", "Set up an authenticator app")


@dataclass(frozen=True, slots=True)
class Ways:
    """What a subject can do right now. mail: the address or why there is none. can_enrol: at once; may_ask: after the mailed code."""

    enrolled: Enrolled | None
    version: int
    mail: str | NoAddress
    methods: tuple[str, ...]
    can_enrol: bool
    may_ask: bool


class Otp:
    """Field `code`; actions `resend`, `use:email`, `use:totp`, `enrol`. `step.data`: method, to (masked), resend_in, methods."""

    kind: ClassVar[str] = "otp"
    Config: ClassVar[type[Spec]] = OtpConfig
    proves_identity: ClassVar[bool] = True
    free_actions: ClassVar[frozenset[str]] = frozenset({"resend", "use:email", "use:totp", "enrol"})

    def __init__(self, config: OtpConfig, services: Services) -> None:
        self._config = config
        self._state = services.state
        self._apps = Authenticators(config, services.state, services.records, services.vault, services.entropy)
        self._mail = None if services.mailer is None else MailedCodes(config, services.state, services.vault, services.mailer)

    @classmethod
    def build(cls, _name: str, config: OtpConfig, services: Services) -> Otp:
        return cls(config, services)

    @property
    def needs_subject(self) -> bool:
        return True

    # What is shown

    async def begin(self, context: Context) -> View:
        ways = await self._ways(context)
        match self._mode(context, ways):
            case "enrol":
                return await self._view_enrolment(context, ways)
            case "totp":
                return self._view_totp(context, ways)
            case "email":
                return await self._view_email(context, ways)
            case _:
                return self._view_nothing(context, ways)

    async def _view_email(self, context: Context, ways: Ways) -> View:
        sender, to = self._mail, ways.mail
        if sender is None or isinstance(to, NoAddress):
            return self._view_nothing(context, ways)
        memory = {**context.memory, "method": "email"}
        serial = int(memory.get("serial", 0))
        if serial == 0:
            serial = 1
            delivery = await sender.deliver(context, serial, to)
            memory |= {"serial": serial, "failed": not isinstance(delivery, Sent)}
            sent = delivery.at if isinstance(delivery, Sent) else None
            throttled = isinstance(delivery, Throttled)
        else:
            sent = await sender.sent_at(context, serial)
            throttled = False
        resend_in = sender.resend_in(serial, sent, context.now) if sent is not None else 0
        if throttled:
            lead = "Too many codes were sent to you. Please try again later, or use another way."
        elif sent is None and memory.get("failed"):
            lead = "We could not send the mail with your code. Ask for it again in a moment, or use another way."
        elif sent is None or context.now >= sent + self._config.code_ttl:
            lead = "Your code has expired. Ask for a new one."
        else:
            lead = f"We sent a code to {masked(to)}. Type it in here; then you go on to where you were going."
        if memory.get("wants") == "enrol":
            lead += " After that you can set up your authenticator app."
        actions = [("resend", "Send a new code")]
        if ways.enrolled:
            actions.append(("use:totp", "Use the authenticator app"))
            if ways.may_ask and memory.get("wants") != "enrol":
                actions.append(("enrol", "Set up another authenticator app"))
        elif ways.may_ask and memory.get("wants") != "enrol":
            actions.append(SET_UP)
        return View(
            title="Please confirm that it is you",
            lead=lead,
            fields=(self._code_field("Code from the mail", f"{self._config.digits} digits; spaces and dashes do not matter."),),
            memory=memory,
            data={"method": "email", "to": masked(to), "resend_in": resend_in, "methods": list(ways.methods)},
            actions=tuple(actions),
        )

    def _view_totp(self, context: Context, ways: Ways) -> View:
        actions = [("use:email", "Send me a code by mail")] if "email" in ways.methods else []
        if ways.may_ask:
            actions.append(("enrol", "Set up another authenticator app"))
        digits = ways.enrolled.digits if ways.enrolled else self._config.digits
        return View(
            title="Please confirm that it is you",
            lead="Open your authenticator app and type in the code that it shows for this site; then you go on to where you were going.",
            fields=(self._code_field("Code from your authenticator app", f"{digits} digits; spaces and dashes do not matter."),),
            memory={**context.memory, "method": "totp"},
            data={"method": "totp", "methods": list(ways.methods)},
            actions=tuple(actions),
        )

    async def _view_enrolment(self, context: Context, ways: Ways) -> View:
        pending = await self._apps.pending(context)
        uri = self._apps.uri(context, pending)
        actions: list[tuple[str, str]] = []
        if context.memory.get("mailed"):
            actions.append(("use:email", "Go on without it"))
        elif "email" in ways.methods:
            actions.append(("use:email", "Send me a code by mail instead"))
        elif ways.enrolled:
            actions.append(("use:totp", "Use the authenticator app that is set up"))
        return View(
            title="Set up your authenticator app",
            lead="Scan the picture with the app, or type in the key. Then type the code that the app shows; after that you go on.",
            fields=(self._code_field("Code from your authenticator app", f"The {pending.digits} digits that the app shows now."),),
            memory={**context.memory, "method": "enrol"},
            data={"method": "totp", "methods": list(ways.methods), "enrol": {"uri": uri, "key": typed(pending.secret)}},
            page={"qr": qr(uri), "key": typed(pending.secret)},
            actions=tuple(actions),
        )

    def _view_nothing(self, context: Context, ways: Ways) -> View:
        return View(
            title="We cannot send you a code",
            lead=_NOTHING,
            fields=(),
            memory=context.memory,
            data={"method": None, "methods": list(ways.methods)},
        )

    def _code_field(self, label: str, help_text: str) -> Field:
        return Field("code", "text", label, autocomplete="one-time-code", inputmode="numeric", help=help_text)

    # What is answered

    async def answer(self, context: Context, form: Mapping[str, str]) -> Outcome:
        ways = await self._ways(context)
        mode = self._mode(context, ways)
        if mode is None:
            private = f"otp: no way open; {ways.mail.private if isinstance(ways.mail, NoAddress) else 'no mail'}"
            return Refused("no_method", _NOTHING, private, context.memory, counts=False)
        action = text(form, "action")
        if action:
            return await self._act(context, ways, mode, action)
        code = cleaned(text(form, "code"))
        if not code:
            return Refused("missing", "Please type in the code.", "otp: empty code", context.memory, "code", counts=False)
        if mode == "email":
            return await self._answer_mail(context, ways, code)
        enrolled = await self._apps.pending(context) if mode == "enrol" else ways.enrolled
        if enrolled is None or not code.isascii():
            return self._wrong(context, "The code is not right. Please look at the app again.")
        match await self._apps.check(context, enrolled, code):
            case WrongCode():
                public = "The code is not right. Codes change quickly: please type in the one that the app shows now."
                return self._wrong(context, public)
            case UsedCode(retry_after):
                public = "That code was used already. Please wait until the app shows the next one."
                return Refused("used", public, "totp time step used up", context.memory, "code", retry_after, counts=False)
            case Right():
                if mode == "enrol" and not await self._apps.enrol(context, enrolled, ways.version):
                    memory = {**context.memory, "method": "totp"}
                    public = "An authenticator app was set up for you in the meantime. Please use that one."
                    return Refused("enrolled", public, "totp enrolment lost against another", memory, "code", counts=False)
                return Passed(AMR)

    async def _answer_mail(self, context: Context, ways: Ways, code: str) -> Outcome:
        serial = int(context.memory.get("serial", 0))
        sent = await self._mail.sent_at(context, serial) if self._mail else None
        if self._mail is None or sent is None or context.now >= sent + self._config.code_ttl:
            private = "otp mail never sent" if sent is None else f"otp age {context.now - sent:.0f} s > {self._config.code_ttl:.0f} s"
            return Refused("expired", "That code has expired. Ask for a new one.", private, context.memory, "code", counts=False)
        if not self._mail.right(context, serial, code):
            return self._wrong(context, "The code is not right. Only the code from the newest mail counts.")
        if not await self._first(context, f"otp:{serial}"):
            public = "That code was used already. Ask for a new one."
            return Refused("used", public, "otp mail code replayed", context.memory, "code")
        if context.memory.get("wants") == "enrol" and ways.may_ask:
            memory = {**context.memory, "method": "enrol", "mailed": True}
            return Again(memory, "That was right. Now you can set up the authenticator app.")
        return Passed(AMR)

    async def _act(self, context: Context, ways: Ways, mode: str, action: str) -> Outcome:
        memory = context.memory
        if action == "resend" and mode == "email":
            return await self._resend(context, ways)
        if action == "use:email" and memory.get("mailed"):
            if await self._first(context, "otp:without"):
                return Passed(AMR)
            return Refused("used", "That was sent already.", "otp: action replayed", memory, counts=False)
        if action == "use:email" and "email" in ways.methods:
            return await self._use_email(context, ways)
        if action == "use:totp" and ways.enrolled:
            return Again({**memory, "method": "totp", "wants": None})
        if action in {"use:totp", "enrol"} and ways.can_enrol:
            return Again({**memory, "method": "enrol"})
        if action in {"use:totp", "enrol"} and ways.may_ask:
            if mode == "email":
                notice = "First type in the code from the mail; after that you can set up the authenticator app."
                return Again({**memory, "wants": "enrol"}, notice)
            outcome = await self._use_email(context, ways)
            return Again({**outcome.memory, "wants": "enrol"}, outcome.notice) if isinstance(outcome, Again) else outcome
        public = "That is not possible here. Please use one of the ways on this page."
        return Refused("unknown_action", public, "otp: action not open", memory, counts=False)

    async def _use_email(self, context: Context, ways: Ways) -> Again | Refused:
        """Change to mail; the first code is sent now, so that a failure leaves the method that was in use."""
        memory = {**context.memory, "method": "email", "wants": None}
        serial = int(memory.get("serial") or 0)
        if serial and not memory.get("failed"):
            return Again(memory)
        return self._delivered(context, ways, memory, max(1, serial), await self._deliver(context, ways, max(1, serial)))

    async def _resend(self, context: Context, ways: Ways) -> Again | Refused:
        memory = dict(context.memory)
        serial = int(memory.get("serial", 0))
        sent = await self._mail.sent_at(context, serial) if self._mail else None
        if self._mail and sent is not None and (wait := self._mail.resend_in(serial, sent, context.now)):
            public = "A code was sent a moment ago. Please look into your mail, also among the unwanted."
            return Refused("throttled", public, f"otp resend {wait} s early", memory, None, wait, counts=False)
        # A serial that was never sent is tried again; one that was sent is over with the next.
        serial = max(1, serial if memory.get("failed") else serial + 1)
        return self._delivered(context, ways, memory, serial, await self._deliver(context, ways, serial))

    async def _deliver(self, context: Context, ways: Ways, serial: int) -> Delivery:
        if self._mail is None or isinstance(ways.mail, NoAddress):
            return Undelivered("otp: no mail")
        return await self._mail.deliver(context, serial, ways.mail)

    def _delivered(self, context: Context, ways: Ways, memory: dict[str, Any], serial: int, delivery: Delivery) -> Again | Refused:
        match delivery:
            case Sent():
                to = "" if isinstance(ways.mail, NoAddress) else f" to {masked(ways.mail)}"
                return Again({**memory, "serial": serial, "failed": False}, f"We sent a new code{to}.")
            case Throttled(retry_after):
                public = "Too many codes were sent to you. Please try again later, or use another way."
                return Refused("throttled", public, "otp mails per subject used up", context.memory, None, retry_after, counts=False)
            case Undelivered(private):
                public = "We could not send the mail. Please try again in a moment, or use another way."
                return Refused("mail_failed", public, private, context.memory, None, counts=False)

    # What is open

    async def _ways(self, context: Context) -> Ways:
        config = self._config
        mail: str | NoAddress = NoAddress("email is not among the methods")
        if "email" in config.methods and self._mail is not None and config.email is not None and context.subject.known:
            mail = address(config.email, context.subject, config.allowed_domains)
        record = await self._apps.load(context) if "totp" in config.methods and context.subject.known else None
        enrolled = record if isinstance(record, Enrolled) else None
        has_mail = isinstance(mail, str)
        methods = tuple(m for m in config.methods if (has_mail if m == "email" else enrolled is not None))
        proven = context.elevated or bool(context.memory.get("mailed"))
        enrols = "totp" in config.methods and config.enrol != "never" and context.subject.known
        return Ways(
            enrolled=enrolled,
            version=record.version if record else 0,
            mail=mail,
            methods=methods,
            can_enrol=enrols and (proven or (config.enrol == "allow" and record is None)),
            may_ask=enrols and (has_mail or proven or (config.enrol == "allow" and record is None)),
        )

    def _mode(self, context: Context, ways: Ways) -> str | None:
        """Which of "email", "totp", "enrol" is open: the chosen one if it still is, else the first that works."""
        chosen = context.memory.get("method")
        if chosen == "enrol" and ways.can_enrol:
            return "enrol"
        if chosen in ways.methods:
            return str(chosen)
        if ways.methods:
            return ways.methods[0]
        return "enrol" if ways.can_enrol else None

    def _wrong(self, context: Context, public: str) -> Refused:
        return Refused("invalid", public, "otp code wrong", context.memory, "code")

    async def _first(self, context: Context, what: str) -> bool:
        """True for the first to use something up in this transaction."""
        key = f"{what}:{context.transaction}:{context.step}"
        try:
            await self._state.put("used", key, b"", version=0, expires=context.now + HOUR, now=context.now)
        except Conflict:
            return False
        return True


_NOTHING = (
    "There is no way to reach you with a code. Please ask the people who run this site to store a mail address for you, then start again."
)


def cleaned(code: str) -> str:
    """A code as typed or pasted, without spaces and dashes of any kind; digits of any script become plain ones."""
    folded = unicodedata.normalize("NFKC", code[:MAX_CODE])
    kept = (c for c in folded if not (c.isspace() or unicodedata.category(c) in {"Pd", "Cf"} or c == "−"))
    return "".join(str(unicodedata.decimal(c)) if c.isdecimal() else c for c in kept)
