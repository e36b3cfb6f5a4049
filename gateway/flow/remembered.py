"""What users did before: answers that need not be asked for again, and the records that conditions look at."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from gateway.errors import StoreUnavailable
from gateway.flow.gate import Judged
from gateway.flow.rerun import base_pass
from gateway.flow.step import Keeps, Passed, Remembers, Step
from gateway.policy.decision import Asked, MaxAge
from gateway.policy.facts import RecordUnavailable
from gateway.wire.subject import Proof, Subject


def good_for(max_age: MaxAge, passed: Passed, now: float) -> bool:
    """An answer from before is young enough. What is asked for this very request was not answered before it came."""
    if max_age == "once":
        return False
    return max_age == "session" or passed.at is None or now - passed.at < max_age


class Remembered:
    def __init__(self, steps: Callable[[], Mapping[str, Step]]) -> None:
        self._steps = steps

    async def already(self, asked: Sequence[Asked], subject: Subject, now: float) -> dict[str, Passed] | None:
        """What makes it unnecessary to ask for all of these steps; None where one of them must be asked. May raise StoreUnavailable."""
        if not subject.known:
            return None
        steps, found = self._steps(), dict[str, Passed]()
        asking = [(each, steps.get(each.step)) for each in asked]
        for each, step in asking:
            if each.max_age == "once" or not isinstance(step, Remembers):
                return None
        for each, step in asking:
            passed = await step.already(subject, now) if isinstance(step, Remembers) else None
            if passed is None or not good_for(each.max_age, passed, now):
                return None
            found[each.step] = passed
        return found

    async def records(self, names: frozenset[str], subject: Subject) -> dict[str, Any]:
        """Records by name: None where there is none. Nobody has any. Raises nothing: what cannot be read is a RecordUnavailable."""
        steps = self._steps()
        found: dict[str, Any] = {}
        for name in names:
            step = steps.get(name)
            try:
                found[name] = await step.record(subject) if isinstance(step, Keeps) and subject.known else None
            except StoreUnavailable as error:
                found[name] = RecordUnavailable(str(error))
        return found

    async def record(self, subject: Subject, name: str) -> Any:
        """One of them. Raises StoreUnavailable where it cannot be read."""
        found = (await self.records(frozenset({name}), subject))[name]
        if isinstance(found, RecordUnavailable):
            raise StoreUnavailable(found.reason)
        return found


def proofs_of(already: Mapping[str, Passed], now: float) -> dict[str, Proof]:
    return {name: Proof(name, now if p.at is None else p.at, p.amr, p.edition) for name, p in already.items()}


def with_proofs(judged: Judged, already: Mapping[str, Passed], *, origin: str, sid: str, now: float, idle: float) -> Judged:
    """The same with a pass that holds what was answered before, dated back just so far that it is due to be sent with the next answer.

    sid: the name of a new pass, should one be needed. idle: of passes.
    """
    identified = judged.identified
    base = base_pass(identified, origin=origin, sid=sid, now=now)
    claims = {name: value for p in already.values() for name, value in p.claims.items()}
    subject = replace(base.subject, claims={**base.subject.claims, **claims}) if claims else base.subject
    held = replace(base, seen=min(base.seen, now - idle / 10 - 1), subject=subject, proofs={**base.proofs, **proofs_of(already, now)})
    who = replace(identified.subject, claims={**identified.subject.claims, **claims}) if claims else identified.subject
    return replace(judged, identified=replace(identified, subject=who, holder=held, presented=held))
