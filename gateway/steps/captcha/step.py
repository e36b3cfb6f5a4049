"""captcha: the browser works for a second, or a person answers a question. Proves that somebody is there, not who.

A solution works once and only in the transaction it was made for. The question is the way without JavaScript; programs can
read it, so it costs `text_wait` of looking at it, and one address gets `text_limit` judged answers an hour.
"""

from __future__ import annotations

import hmac
import ipaddress
import math
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field as Setting

from gateway.errors import Conflict
from gateway.flow.step import Context, Field, Outcome, Passed, Refused, Services, View
from gateway.spec.base import Bool, Duration, Int, Spec, StepSpec
from gateway.steps.captcha import proof, question
from gateway.steps.forms import raw, text

MAX_ANSWER = 200
HOUR = 3600


class CaptchaConfig(StepSpec):
    """Settings of `kind: captcha`."""

    provider: Literal["altcha"] = Setting("altcha", description="Who makes and judges the puzzles; `altcha` asks no third party.")
    cost: Int = Setting(1000, ge=1, le=100_000, description="PBKDF2 iterations of one try. More helps against fast hardware.")
    max_number: Int = Setting(
        2000, ge=1, le=1_000_000, description="Tries at most; half on average. The defaults take about 1 s on a phone."
    )
    ttl: Duration = Setting(300.0, ge=10, le=3600, description="How long a puzzle may be solved.")
    text_question: Bool = Setting(True, description="Offer a question in plain text, the way without JavaScript.")
    text_wait: Duration = Setting(3.0, le=60, description="A question is judged no sooner than this after it was shown.")
    text_limit: Int = Setting(60, ge=1, description="Answers to questions that one address (IPv6: /64) may give within an hour.")

    @property
    def needs_mail(self) -> bool:
        return False


class Captcha:
    """Fields: `altcha` (the proof) or `answer` (to the question). `step.data` is the challenge object itself."""

    kind: ClassVar[str] = "captcha"
    Config: ClassVar[type[Spec]] = CaptchaConfig
    proves_identity: ClassVar[bool] = False
    free_actions: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, config: CaptchaConfig, services: Services) -> None:
        self._config = config
        self._state = services.state
        self._vault = services.vault
        self._entropy = services.entropy

    @classmethod
    def build(cls, _name: str, config: CaptchaConfig, services: Services) -> Captcha:
        return cls(config, services)

    @property
    def needs_subject(self) -> bool:
        return False

    async def begin(self, context: Context) -> View:
        config = self._config
        challenge = proof.challenge(
            self._vault,
            self._entropy,
            place=_place(context),
            cost=config.cost,
            max_number=config.max_number,
            ttl=config.ttl,
            now=context.now,
        )
        fields = [Field("altcha", "hidden", "Proof of work (ALTCHA, API v2, base64 of JSON)", required=False)]
        memory: dict[str, Any] = {}
        if config.text_question:
            memory = self._asked(context)
            fields.append(
                Field(
                    "answer",
                    "text",
                    memory["question"],
                    required=False,
                    autocomplete="off",
                    help="One word or number. Upper and lower case do not matter.",
                )
            )
        return View(
            title="A quick check that you are a person",
            lead="This keeps programs out. It takes a few seconds; then you go on to where you were going.",
            fields=tuple(fields),
            memory=memory,
            data=challenge,
        )

    async def answer(self, context: Context, form: Mapping[str, str]) -> Outcome:
        payload, answer = text(form, "altcha"), text(form, "answer")
        if payload.strip():
            return await self._judge_proof(context, payload.strip())
        if answer.strip() and self._config.text_question:
            return await self._judge_answer(context, answer)
        field = "answer" if self._config.text_question else None
        public = "Let the check finish, or answer the question." if self._config.text_question else "Let the check finish before you go on."
        return Refused("missing", public, "captcha: nothing submitted", context.memory, field, counts=False)

    async def _judge_proof(self, context: Context, payload: str) -> Outcome:
        match proof.verify(self._vault, payload, place=_place(context), now=context.now):
            case proof.Expired():
                public = "The check took too long and has expired. Here is a new one."
                return Refused("expired", public, "altcha challenge expired", context.memory, counts=False)
            case proof.Wrong(private):
                public = "The check did not succeed. Here is a new one; please try again."
                return Refused("invalid", public, private, context.memory)
            case proof.Solved(key, expires):
                if await self._first(f"captcha:{key}", expires, context.now):
                    return Passed(())
                public = "This check was used before. Here is a new one."
                return Refused("used", public, "altcha solution replayed", context.memory)

    async def _judge_answer(self, context: Context, answer: str) -> Outcome:
        memory = self._asked(context)
        early = math.ceil(memory["shown"] + self._config.text_wait - context.now)
        if early > 0:
            wait = _seconds(self._config.text_wait)
            public = f"To keep programs out, an answer counts {wait} after the question was shown. Please send it again."
            return Refused("too_soon", public, f"captcha answer {early} s early", memory, "answer", early, counts=False)
        window = int(context.now // HOUR)
        end = (window + 1) * HOUR
        given = await self._state.count("captcha-text", f"{_network(context.client_ip)} {window}", by=1, expires=end, now=context.now)
        if given > self._config.text_limit:
            public = "Too many questions were answered from your network. Please use the check that runs by itself, or try again later."
            return Refused(
                "throttled", public, f"captcha answer {given} this hour", memory, "answer", math.ceil(end - context.now), counts=False
            )
        # A new question after a wrong answer: one question is never guessed at twice.
        after = {"round": memory["round"] + 1}
        said = raw(f"{_place(context)} {memory['round']} {question.canonical(answer[:MAX_ANSWER])}")
        if not any(hmac.compare_digest(mac.hex(), memory["answer"]) for mac in self._vault.macs("captcha-answer", said)):
            return Refused("invalid", "That was not the answer. Here is another question.", "captcha answer wrong", after, "answer")
        if await self._first(f"captcha-text:{_place(context)}:{memory['round']}", context.now + HOUR, context.now):
            return Passed(())
        return Refused("used", "That question was answered before. Here is another one.", "captcha answer replayed", after, "answer")

    def _asked(self, context: Context) -> dict[str, Any]:
        """The question that is open: the remembered one, else the next. It follows from the transaction, so parallel loads agree."""
        if "question" in context.memory:
            return dict(context.memory)
        number = int(context.memory.get("round", 0))
        place = _place(context)
        asked = question.make(self._vault.mac("captcha-question", f"{place} {number}".encode()))
        answer = self._vault.mac("captcha-answer", f"{place} {number} {asked.answer}".encode()).hex()
        return {"round": number, "question": asked.text, "answer": answer, "shown": context.now}

    async def _first(self, key: str, expires: float, now: float) -> bool:
        try:
            await self._state.put("used", key, b"", version=0, expires=expires, now=now)
        except Conflict:
            return False
        return True


def _place(context: Context) -> str:
    return f"{context.transaction}:{context.step}"


def _network(address: str) -> str:
    """What counts as one address: an IPv6 customer has a /64 to walk through."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return address
    return str(ip) if ip.version == 4 else str(ipaddress.ip_network((int(ip), 64), strict=False))


def _seconds(value: float) -> str:
    whole = math.ceil(value)
    return "1 second" if whole == 1 else f"{whole} seconds"
