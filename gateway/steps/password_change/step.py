"""password_change: a new password, set at the application as the user. The application checks the current one, so passing proves who it is.

No password is in memory, in a reason, or in a store. What is stored is a keyed hash of one form in one transaction, with the application's
cookies sealed: so a form that arrives twice (a double click, a retry after a crash) changes the password once and passes both times,
in that transaction only. Anywhere else the application refuses the old password.
"""

from __future__ import annotations

import json
import math
import unicodedata
from collections.abc import Mapping
from contextlib import suppress
from typing import ClassVar, Literal

from gateway.errors import Conflict
from gateway.flow.step import Context, Field, Outcome, Passed, Refused, Services, View
from gateway.spec.base import Spec
from gateway.steps.forms import raw, text
from gateway.steps.password_change import policy
from gateway.steps.password_change.backend_http import Away, Changed, HttpBackend, NoSession, NotAccepted, Unclear, WrongCurrent
from gateway.steps.password_change.config import LONGEST, PasswordChangeConfig

SPACE = "password-change"
PURPOSE = "password-change"
REMEMBERED = 3600
JUDGED_WINDOW = 900
JUDGED_LIMIT = 50
"""Weak passwords that one subject may have judged in 15 minutes: each can cost half a second of a processor."""
AMR = ("pwd",)
FIELDS = ("current_password", "new_password", "confirm_password")


class PasswordChange:
    """Fields `current_password`, `new_password`, `confirm_password`. `step.data`: the policy."""

    kind: ClassVar[str] = "password_change"
    Config: ClassVar[type[Spec]] = PasswordChangeConfig
    proves_identity: ClassVar[bool] = True
    free_actions: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, config: PasswordChangeConfig, services: Services) -> None:
        self._config = config
        self._state = services.state
        self._vault = services.vault
        self._backend = HttpBackend(config.backend.http)
        if config.policy.min_score:
            policy.load()

    @classmethod
    def build(cls, _name: str, config: PasswordChangeConfig, services: Services) -> PasswordChange:
        return cls(config, services)

    @property
    def needs_subject(self) -> bool:
        return True

    async def begin(self, context: Context) -> View:
        rules = self._config.policy
        after = "log in with the new one" if self._config.then == "authorize_again" else "go on to where you were going"
        wanted = f"At least {rules.min_length} characters, hard to guess, and not holding your user name."
        return View(
            title="Please choose a new password",
            lead=f"Your password has to be changed before you can go on. After that you {after}.",
            fields=(
                Field("current_password", "password", "Current password", autocomplete="current-password"),
                Field("new_password", "password", "New password", autocomplete="new-password", help=wanted),
                Field("confirm_password", "password", "New password again", autocomplete="new-password"),
            ),
            memory=context.memory,
            data={"policy": {"min_length": rules.min_length, "max_length": rules.max_length, "min_score": rules.min_score}},
            page={"names": list(_names(context))},
        )

    async def answer(self, context: Context, form: Mapping[str, str]) -> Outcome:
        current, new, confirm = (text(form, name) for name in FIELDS)
        for name, value in zip(FIELDS, (current, new, confirm), strict=True):
            if not value:
                return self._refuse(context, "missing", "Please fill in this field.", f"{name} is empty", name)
            if len(value) > LONGEST or any(unicodedata.category(c) in {"Cc", "Cs"} for c in value):
                public = "This is too long, or holds characters that no password field takes."
                return self._refuse(context, "unreadable", public, f"{name} too long or with control characters", name)
        key = self._vault.mac(PURPOSE, raw(f"{context.transaction}\0{context.step}\0{current}\0{new}\0{confirm}")).hex()
        if (done := await self._done(context, key)) is not None:
            return done
        unfit = policy.cheap(self._config.policy, current, new, confirm, _names(context))
        if unfit is None:
            if (busy := await self._judged_too_often(context)) is not None:
                return busy
            unfit = await policy.strong(self._config.policy, new, [current, *_names(context)])
        if unfit is not None:
            return self._refuse(context, unfit.code, unfit.public, unfit.private, unfit.field)
        return await self._change(context, key, current, new)

    async def _change(self, context: Context, key: str, current: str, new: str) -> Outcome:
        """Exactly one of several equal forms that arrive at once reaches the application."""
        http = self._config.backend.http
        try:
            version = await self._state.put(SPACE, key, b"", version=0, expires=context.now + 3 * http.timeout, now=context.now)
        except Conflict:
            done = await self._done(context, key)
            return self._running(context) if done is None else done
        result = await self._backend.change(context.cookies, current, new)
        if isinstance(result, Changed):
            cookies = json.dumps([c.decode("latin-1") for c in result.set_cookies]).encode()
            sealed = self._vault.seal(PURPOSE, cookies, place=f"{SPACE}/{key}")
            with suppress(Conflict):  # the bound of the first entry has passed and the same form came again; the change stands
                await self._state.put(SPACE, key, sealed, version=version, expires=context.now + REMEMBERED, now=context.now)
            return self._passed(result.set_cookies)
        await self._state.delete(SPACE, key)
        match result:
            case WrongCurrent():
                public = "The current password is not right."
                return Refused("wrong_password", public, "application: current password wrong", context.memory, FIELDS[0])
            case NotAccepted(private):
                public = "The application did not accept this. Please check your current password, or choose another new one."
                return Refused("not_accepted", public, private, context.memory, FIELDS[0])
            case NoSession(private):
                public = "The application does not know that you are logged in. Please cancel, log in again, and come back."
                return self._refuse(context, "no_session", public, private)
            case Away(private):
                public = "The application cannot be reached at the moment; your password was not changed. Please try again shortly."
                return self._refuse(context, "backend_away", public, private, retry_after=10)
            case Unclear(private):
                public = (
                    "The application did not answer, so your password may have been changed or not. "
                    "Please cancel, and log in with the new one; if that fails, with the old one."
                )
                return self._refuse(context, "unclear", public, private, retry_after=10)

    async def _done(self, context: Context, key: str) -> Outcome | None:
        """What became of the very same form in this transaction: passed, still running, or None."""
        entry = await self._state.get(SPACE, key, context.now)
        if entry is None:
            return None
        if not entry.value:
            return self._running(context)
        cookies = json.loads(self._vault.open(PURPOSE, entry.value, place=f"{SPACE}/{key}"))
        return self._passed(tuple(c.encode("latin-1") for c in cookies))

    async def _judged_too_often(self, context: Context) -> Refused | None:
        window = int(context.now // JUDGED_WINDOW)
        end = (window + 1) * JUDGED_WINDOW
        owner = self._vault.mac(PURPOSE, raw(context.subject.counter)).hex()
        judged = await self._state.count("password-judged", f"{owner} {window}", by=1, expires=end, now=context.now)
        if judged <= JUDGED_LIMIT:
            return None
        public = "That were many tries. Please wait a few minutes."
        return self._refuse(context, "throttled", public, f"{judged} passwords judged", retry_after=math.ceil(end - context.now))

    def _passed(self, set_cookies: tuple[bytes, ...]) -> Passed:
        then: Literal["continue", "authorize_again"] = self._config.then
        return Passed(AMR, dict(self._config.claims), set_cookies, then)

    def _running(self, context: Context) -> Refused:
        public = "Your password is being changed. One moment, then send it again."
        return self._refuse(context, "running", public, "same form in flight", retry_after=2)

    def _refuse(
        self, context: Context, code: str, public: str, private: str, field: str | None = None, retry_after: int | None = None
    ) -> Refused:
        """What is no guess at the current password: it counts against nobody."""
        return Refused(code, public, private, context.memory, field, retry_after, counts=False)


def _names(context: Context) -> tuple[str, ...]:
    """What the user is called: the id, and its part before the @."""
    name = context.subject.id.strip()
    local = name.partition("@")[0]
    return (name,) if local == name else (name, local)
