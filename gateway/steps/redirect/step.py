"""redirect: the browser goes to a page of others with a signed token, and comes back with a signed answer (design.md part 6).

What the two tokens have in common is their `jti` and the user: an answer counts for the one token it answers, once. Nothing that the page
says of itself decides how it is verified: the key, its algorithm and its name come from the settings.
"""

from __future__ import annotations

import hmac
import math
from collections.abc import Mapping
from typing import Any, ClassVar
from urllib.parse import urlsplit

from gateway.errors import TokenInvalid
from gateway.flow.away import appended
from gateway.flow.replay import first_use, was_used
from gateway.flow.step import Away, Context, Field, Outcome, Passed, Refused, Services, View
from gateway.spec.base import Spec
from gateway.steps.forms import text
from gateway.steps.redirect.config import RedirectConfig
from gateway.steps.redirect.sources import claims
from gateway.tokens.compact import b64encode
from gateway.tokens.foreign import Key, SharedSecret, key_named, read_foreign, sign_shared
from gateway.tokens.signer import TokenKind, sign
from gateway.wire.subject import Scalar

USED_FOR = 86_400.0  # seconds; longer than any transaction waits
MOST_OF_A_RESULT = 512  # characters


class Redirect:
    """Fields: `token`, the page's answer. `step.data` says where the browser goes."""

    kind: ClassVar[str] = "redirect"
    Config: ClassVar[type[Spec]] = RedirectConfig
    free_actions: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, config: RedirectConfig, services: Services) -> None:
        self._config = config
        self._state = services.state
        self._vault = services.vault
        self._keyring = services.keyring
        self._record = services.record
        self._secret = SharedSecret(config.secret.encode("utf-8", "surrogatepass")) if config.secret is not None else None
        self._published = services.published(config.jwks_url) if config.jwks_url is not None and services.published else None
        self._parameters = tuple(dict.fromkeys((config.answer_parameter, "session_token", "token")))

    @classmethod
    def build(cls, _name: str, config: RedirectConfig, services: Services) -> Redirect:
        return cls(config, services)

    @property
    def needs_subject(self) -> bool:
        return self._config.subject == "required"

    @property
    def proves_identity(self) -> bool:
        return bool(self._config.amr)

    async def begin(self, context: Context) -> View:
        host = urlsplit(self._config.url).netloc
        fields = (Field("token", "hidden", "The page's answer, a signed token", required=self._config.answer == "required"),)
        if self.needs_subject and not context.subject.known:
            lead = "This goes on at another page, which must know who you are. Sign in first."
            return View("Sign in first", lead, fields, dict(context.memory), page={"host": host})
        memory = await self._opened(context)
        return View(
            title=f"Continue at {host}",
            lead="This part is done at another page. You come back here afterwards.",
            fields=fields,
            memory=memory,
            page={"host": host},
            away=await self._away(context, memory),
        )

    async def answer(self, context: Context, form: Mapping[str, str]) -> Outcome:
        checked = await self.judge(context, form)
        if isinstance(checked, Refused):
            return checked
        jti = str(context.memory["jti"])
        if not await first_use(self._state, self._config.audience, jti, expires=context.now + USED_FOR, now=context.now):
            return Refused("used", "This answer was used before.", "jti was used", context.memory, counts=False)
        config = self._config
        return Passed(config.amr, checked, then=config.then, counts=config.counts)

    async def judge(self, context: Context, form: Mapping[str, str]) -> Refused | dict[str, Scalar]:
        """What an answer comes to, and nothing is used up by it: its results, or why it is none. Raises StoreUnavailable where the page's
        keys cannot be had."""
        state, jti = context.memory.get("state"), context.memory.get("jti")
        if not isinstance(state, str) or not isinstance(jti, str) or (self.needs_subject and not context.subject.known):
            return Refused("missing", "This is done at another page; go there first.", "not begun", context.memory, counts=False)
        if self._config.answer == "none":
            if not hmac.compare_digest(text(form, "state").encode("utf-8", "replace"), state.encode()):
                return Refused("missing", "This is done at another page; go there first.", "no state came", context.memory, counts=False)
            return {}
        token = next((t for name in self._parameters if (t := text(form, name).strip())), "")
        if not token:
            words = f"The page's answer is missing: it comes in the parameter `{self._config.answer_parameter}`."
            return Refused("missing", words, "no answer came along", context.memory, counts=False)
        try:
            found = await self._read(context, token, state=state, jti=jti)
            return {name: _scalar(found.get(claim), claim) for name, claim in self._config.results.items()}
        except TokenInvalid as error:
            words = "The page's answer does not fit what it was asked. Go there once more."
            return Refused("bad_token", words, f"answer of {self._config.audience}: {error}", context.memory)

    async def _read(self, context: Context, token: str, *, state: str, jti: str) -> dict[str, Any]:
        if not token.isascii():
            raise TokenInvalid("not ASCII")
        key: Key | None = self._secret
        if key is None:
            kid = key_named(token)
            key = await self._published.key(kid, context.now) if self._published is not None else None
            if key is None:
                raise TokenInvalid("kid is not among the page's keys")
        found = read_foreign(token, key, now=context.now, issuer=self._config.audience, audience=context.origin)
        for name, expected in (("sub", context.subject.id), ("jti", jti), ("state", state)):
            if not isinstance(found.get(name), str) or found[name] != expected:
                raise TokenInvalid(f"{name} is missing or another one")
        return found

    async def _opened(self, context: Context) -> dict[str, Any]:
        """The state and the `jti` that go to the page. They follow from the transaction, so parallel loads agree; a new pair where this one
        was used and came to nothing (a crash)."""
        memory = dict(context.memory)
        number = int(memory.get("round", 0))
        while True:
            if not isinstance(memory.get("state"), str) or memory.get("round") != number:
                place = f"{context.transaction}:{context.step}:{number}"
                state = "su_" + b64encode(self._vault.mac("outside-state", place.encode()))
                memory = {"round": number, "state": state, "jti": b64encode(self._vault.mac("outside-jti", place.encode())[:16])}
            if not await was_used(self._state, self._config.audience, memory["jti"], context.now):
                return memory
            number += 1

    async def _away(self, context: Context, memory: Mapping[str, Any]) -> Away:
        config = self._config
        payload = {
            **await claims(config.claims, context, self._record),
            "iss": context.origin,
            "aud": config.audience,
            "sub": context.subject.id,
            "jti": memory["jti"],
        }
        pairs = (("state", str(memory["state"])), (config.token_parameter, self._signed(payload, context.now)))
        anew = config.then == "authorize_again"
        if config.send == "form_post":
            return Away(config.url, pairs, "post", str(memory["state"]), anew)
        return Away(appended(config.url, pairs), state=str(memory["state"]), begins_anew=anew)

    def _signed(self, payload: Mapping[str, Any], now: float) -> str:
        if self._secret is not None:
            return sign_shared(payload, self._secret, now=now, ttl=self._config.lifetime)
        assert self._keyring is not None  # noqa: S101 - the composition root gives it
        return sign(TokenKind.PAGE, payload, keyring=self._keyring(), now=now, ttl=self._config.lifetime)


def _scalar(value: Any, claim: str) -> Scalar:
    """A claim of the answer as a result. Raises TokenInvalid for what is none."""
    match value:
        case None | bool():
            return value
        case str() if len(value) <= MOST_OF_A_RESULT:
            return value
        case int() if abs(value) < 2**53:
            return value
        case float() if math.isfinite(value):
            return value
        case _:
            raise TokenInvalid(f"the claim {claim!r} is no short scalar")
