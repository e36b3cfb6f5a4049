"""Runs rule functions for a request: in file order, one user and one context for all, one time limit for all.

Each works on a copy. What it did counts when it has ended well (or refused): a function that fails or is in shadow mode leaves nothing
behind, and one that was given up changes nothing any more.
"""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Sequence
from dataclasses import replace

from gateway.errors import StoreUnavailable
from gateway.flow.functions import Calling, Unauthorized, User
from gateway.flow.ports import Entropy
from gateway.functions.house import House, Raised, TooLong
from gateway.functions.metadata import Kept, Metadata
from gateway.functions.values import Nonsense, Watched, another, claims_of, context_of, jti_of, metadata_of, redirect_of, user_of
from gateway.policy.facts import Functions, Ran
from gateway.policy.model import Rule, Ruleset, Run
from gateway.spec.base import format_duration
from gateway.spec.sections import FunctionsSpec

_LONGEST = 300  # characters of what a function says
_UNSAID = "This request is not allowed."


class Runner:
    """Implements flow.functions.FunctionRunner."""

    def __init__(self, house: House, metadata: Metadata, entropy: Entropy, spec: FunctionsSpec) -> None:
        self._house = house
        self._metadata = metadata
        self._entropy = entropy
        self._spec = spec

    async def run(self, rules: Sequence[Rule], ruleset: Ruleset, calling: Calling) -> Functions:
        """See the protocol."""
        jti = calling.occasion.jti or self._entropy.token()
        subject = calling.identified.subject
        ran: dict[str, Ran] = {}
        # What shadow rules would do, and rules that let pass whatever happens, is worth no refusal.
        lenient = all(rule.shadow or rule.on_error == "allow" for rule in rules)
        try:
            before = await self._metadata.read(subject) if subject.known else Kept()
            holder = calling.identified.holder
            counted = before.with_login(holder.sid if holder is not None else "") if subject.known else before
            user, context, kept = await self._all(rules, ruleset, calling, user_of(calling, counted, jti), counted, ran)
            if kept != before:
                await self._metadata.write(subject, before, kept, calling.now)
        except StoreUnavailable as error:
            if not lenient:
                raise
            ran = {rule.name: Ran(error=f"the records are away: {error}") for rule in rules}
            return Functions(ran, calling.occasion.protocol, jti, dict(calling.occasion.claims))
        return Functions(ran, calling.occasion.protocol, jti_of(user), claims_of(context))

    async def _all(
        self, rules: Sequence[Rule], ruleset: Ruleset, calling: Calling, user: User, kept: Kept, ran: dict[str, Ran]
    ) -> tuple[User, Watched, Kept]:
        """Fills `ran`, and returns what they left."""
        context = context_of(calling, kept)
        clock = asyncio.get_running_loop().time
        ends = clock() + self._spec.timeout
        for rule in rules:
            its_user, its_context = another(user, context)
            outcome = await self._one(rule, ruleset, its_user, its_context, ends - clock())
            after = kept
            if outcome.error is None:
                try:
                    redirect = redirect_of(its_context, ruleset.steps)
                    claims_of(its_context)
                    jti_of(its_user)
                    after = metadata_of(its_user, kept, self._spec.metadata_limit, known=calling.identified.subject.known)
                    if rule is not rules[-1]:
                        another(its_user, its_context)  # for the next one: what cannot be copied is told of the one that left it
                except Exception as error:  # noqa: BLE001 - what it left may be objects that raise whatever they like
                    words = str(error) if isinstance(error, Nonsense) else _untakeable(error)
                    # A refusal stays one, whatever else came with it.
                    outcome = replace(outcome, error=None if outcome.denied is not None else words)
                    redirect, its_user, its_context, after = None, user, context, kept
                outcome = replace(outcome, redirect=redirect)
            ran[rule.name] = replace(outcome, shadow=rule.shadow)
            if rule.shadow:
                continue
            if outcome.error is None:
                user, context, kept = its_user, its_context, after
            if outcome.denied is not None or (outcome.error is not None and rule.on_error in {"deny", "require"}):
                break  # nothing behind it can change that
        return user, context, kept

    async def _one(self, rule: Rule, ruleset: Ruleset, user: User, context: Watched, left: float) -> Ran:
        assert isinstance(rule.effect, Run), "the gate picks them"  # noqa: S101 - tells mypy
        function = ruleset.functions[rule.effect.function]
        limit = format_duration(self._spec.timeout)
        if left <= 0:
            return Ran(error=f"the functions before it took all of the {limit} (functions.timeout)")
        try:
            done = await self._house.call(function, (user, context), left)
        except TooLong as error:
            return Ran(error=f"not done within {limit} for all functions (functions.timeout){f'; {error}' if str(error) else ''}")
        if isinstance(done, Raised):
            return _raised(done.error)
        if done.value is not None:
            return Ran(error=f"it returned a value of type {type(done.value).__name__}; set what is to follow on user and context")
        return Ran()


def _untakeable(error: Exception) -> str:
    words = " ".join(str(error).split())[:_LONGEST]
    return f"what it left on user and context cannot be copied ({type(error).__name__}: {words}); keep it in a variable of the module"


def _raised(error: BaseException) -> Ran:
    if isinstance(error, Unauthorized):
        words = " ".join(str(error).split())[:_LONGEST]
        return Ran(denied=words or _UNSAID)
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({frames[-1].filename.rpartition('/')[2]}:{frames[-1].lineno})" if frames else ""
    words = " ".join(str(error).split())[:_LONGEST]
    return Ran(error=f"{type(error).__name__}: {words}{where}" if words else f"{type(error).__name__}{where}")
