"""A transaction's way through its steps: show the open one, take an answer, move on.

Every answer is looked at once and takes effect only if its write is the first against the version it was read at. So guesses sent in
parallel are no more guesses than one: the others learn nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from math import ceil
from typing import Any, assert_never

from gateway.errors import Conflict
from gateway.flow.away import OWN, Arrival, OwnRedirect, Whereabouts, anew_key
from gateway.flow.guessing import Guessing
from gateway.flow.ports import Write
from gateway.flow.remembered import good_for
from gateway.flow.repository import Found, Transactions
from gateway.flow.step import Again, Away, Context, Declined, Failed, Passed, Refused, Remembers, Step, View, Waiting
from gateway.flow.transaction import CONFIRM, Event, Status, Task, Transaction, delay_after, move, pass_task, with_task
from gateway.tokens.passes import Pass


@dataclass(frozen=True, slots=True)
class Problem:
    """What was wrong with an answer, as pages and JSON show it. action: what was asked for instead of an answer, and has to wait. errors:
    by field, where several can be told at once."""

    code: str
    message: str
    field: str | None = None
    retry_after: int | None = None
    action: str | None = None
    errors: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Look:
    """Who looks: what a step may know of the request (see flow.step.Context). state: the transaction's own, which no step learns."""

    now: float
    client_ip: str
    origin: str
    cookies: tuple[tuple[str, str], ...]
    holder: Pass | None
    state: str = ""


@dataclass(frozen=True, slots=True)
class Showing:
    """The open step. error: why it is (still) shown, None at first sight. private: the reason for the log."""

    transaction: Transaction
    task: Task
    view: View | None
    error: Problem | None = None
    private: str = ""


@dataclass(frozen=True, slots=True)
class Held:
    """Not looked at: too many answers, or too soon."""

    transaction: Transaction
    retry_after: int
    by: str


@dataclass(frozen=True, slots=True)
class Moved:
    """The transaction stands elsewhere now: another step, READY, or ended. outcome: "passed", "cancelled", "declined", "failed" or "" for
    none of them.

    passed: the outcome of the step that was just passed. private: the reason for the log. to: where saying no leads, "" for a page of ours.
    """

    transaction: Transaction
    outcome: str = ""
    passed: Passed | None = None
    private: str = ""
    to: str = ""


Progressed = Showing | Held | Moved


class Progress:
    """All methods may raise StoreUnavailable."""

    def __init__(self, transactions: Transactions, guessing: Guessing, steps: Callable[[], Mapping[str, Step]]) -> None:
        self._transactions = transactions
        self._guessing = guessing
        self._steps = steps

    def kind(self, name: str) -> str:
        """The kind of a step: the name of its folder; "confirm" for the page that shows what will be sent."""
        return CONFIRM if name == CONFIRM else OwnRedirect.kind if name.startswith(OWN) else self._steps()[name].kind

    def knows(self, transaction: Transaction) -> bool:
        """Every open step is still configured (a reload may have taken one away)."""
        return all(t.step == CONFIRM or t.url or t.step in self._steps() for t in transaction.tasks if t.passed is None)

    async def skip(self, found: Found, now: float) -> tuple[Found, tuple[str, ...]]:
        """Pass what needs not be asked, because this subject answered it before: the transaction from there on, and the steps passed so.
        To be called before `show`; afterwards it may be READY."""
        skipped: list[str] = []
        while (task := found.transaction.current) is not None and found.transaction.status is Status.PENDING:
            step = self._steps().get(task.step)
            if not isinstance(step, Remembers) or task.max_age == "once" or not found.transaction.subject.known:
                break
            passed = await step.already(found.transaction.subject, now)
            if passed is None or not good_for(task.max_age, passed, now):
                break
            claims = {**found.transaction.claims, **passed.claims}
            at = now if passed.at is None else passed.at
            moved = pass_task(
                replace(found.transaction, claims=claims), task.step, at=at, amr=passed.amr, edition=passed.edition, silent=True
            )
            try:
                found = Found(moved, await self._transactions.save(moved, found.version, now))
            except Conflict:
                again = await self._transactions.load(found.transaction.id, now)
                if again is None:
                    break
                found = again
            else:
                skipped.append(task.step)
        return found, tuple(skipped)

    async def show(self, found: Found, look: Look) -> Showing:
        """The open step of a PENDING transaction. A step's new memory is stored."""
        transaction, task = found.transaction, _open_task(found)
        if task.step == CONFIRM:
            return Showing(transaction, task, None)
        view = await self._step(task).begin(self._context(transaction, task, look))
        pointer = self._pointer(transaction, task, view, look)
        if view.away and view.away.begins_anew:
            key = anew_key(transaction.binding, task.step)
            await self._transactions.remember("anew", key, look.state, expires=transaction.expires, now=look.now)
        if dict(view.memory) == dict(task.memory):
            if view.away and pointer and await self._transactions.whereabouts(view.away.state, look.now) is None:
                await self._transactions.also(pointer, look.now)
            return Showing(transaction, task, view)
        changed = with_task(transaction, replace(task, memory=view.memory))
        try:
            await self._transactions.save(changed, found.version, look.now, along=pointer)
        except Conflict:
            # Another tab was first: what it began is what counts.
            again = await self._transactions.load(transaction.id, look.now)
            if again is not None and again.transaction.current is not None and again.transaction.status is Status.PENDING:
                return await self.show(again, look)
        return Showing(changed, task, view)

    def _pointer(self, transaction: Transaction, task: Task, view: View, look: Look) -> Sequence[Write]:
        """What brings the browser back from a page of others; written before it goes there."""
        if view.away is None or not view.away.state:
            return ()
        where = Whereabouts(transaction.id, task.step, look.state)
        return (self._transactions.outside(view.away.state, where, transaction, look.now),)

    async def arrive(self, found: Found, arrival: Arrival, look: Look) -> Progressed:
        """Take what a page of others sent back, as the answer to the open step. What came along is kept for the rules."""
        return await self.answer(found, arrival.form, look, kept=arrival.kept)

    async def foresee(self, found: Found, arrival: Arrival, look: Look) -> Refused | None:
        """Why an arrival cannot count, whoever brings it; None where it may. Nothing is used up, counted or written."""
        transaction, task = found.transaction, _open_task(found)
        judge = getattr(self._step(task), "judge", None)
        judged = await judge(self._context(transaction, task, look), arrival.form) if judge is not None else None
        return judged if isinstance(judged, Refused) else None

    async def cancel(self, found: Found, now: float) -> Moved:
        """Throw the stored request away, whatever else is done to it at the same time. A transaction that has ended already stays as it
        is."""
        while True:
            ended = move(found.transaction, Event.REFUSED, reason="cancelled")
            try:
                await self._transactions.save(ended, found.version, now)
            except Conflict:  # somebody has moved it on: as far as its steps go
                again = await self._transactions.load(found.transaction.id, now)
                if again is None or not again.transaction.open:
                    return Moved(again.transaction if again is not None else move(found.transaction, Event.TIME_IS_UP))
                found = again
            else:
                return Moved(ended, "cancelled", private="cancelled by the user")

    async def confirm(self, found: Found, now: float) -> Moved:
        """The user has seen what will be sent, and wants it sent."""
        try:
            ready = pass_task(found.transaction, CONFIRM, at=now, amr=("user",))
            await self._transactions.save(ready, found.version, now, along=self._transactions.answered(ready, now))
        except Conflict:
            return Moved(await self._reload(found.transaction, now))
        return Moved(ready, "passed")

    async def answer(self, found: Found, form: Mapping[str, str], look: Look, *, kept: Mapping[str, Any] | None = None) -> Progressed:
        """Take an answer to the open step of a PENDING transaction. kept: what its task remembers once it is passed."""
        transaction, task = found.transaction, _open_task(found)
        now = look.now
        step = self._step(task)
        guess = form.get("action", "") not in step.free_actions
        if guess and now < task.blocked_until:
            return Held(transaction, ceil(task.blocked_until - now), "transaction")
        throttled = await self._guessing.begin(task.step, transaction.subject, look.client_ip, now) if guess else None
        if throttled is not None:
            return Held(transaction, throttled.retry_after, throttled.by)
        outcome = await step.answer(self._context(transaction, task, look), form)
        along = list(self._transactions.answered(transaction, now))
        if guess and not (isinstance(outcome, Refused) and outcome.counts):
            along += self._guessing.given_back(task.step, transaction.subject, look.client_ip, now)
        if along and not isinstance(outcome, Passed):
            await self._transactions.also(along, now)
        try:
            match outcome:
                case Passed():
                    return await self._passed(found, task, outcome, now, along, kept)
                case Refused():
                    return await self._refused(found, task, outcome, look, form.get("action") or None)
                case Again():
                    changed = with_task(transaction, replace(task, memory=outcome.memory))
                    version = await self._transactions.save(changed, found.version, now)
                    shown = await self.show(Found(changed, version), look)
                    notice = outcome.notice
                    return replace(shown, view=replace(shown.view, notice=notice)) if shown.view and notice else shown
                case Failed():
                    failed = move(transaction, Event.REFUSED, reason=outcome.public)
                    await self._transactions.save(failed, found.version, now)
                    return Moved(failed, "failed", private=outcome.private)
                case Declined():
                    ended = move(transaction, Event.REFUSED, reason="declined")
                    await self._transactions.save(ended, found.version, now)
                    return Moved(ended, "declined", private=outcome.private, to=outcome.to)
                case _:
                    assert_never(outcome)
        except Conflict:
            return await self._overtaken(transaction, task, look)

    async def _passed(
        self, found: Found, task: Task, outcome: Passed, now: float, along: Sequence[Write], kept: Mapping[str, Any] | None
    ) -> Moved:
        if kept is None and self.kind(task.step) == OwnRedirect.kind:
            kept = Arrival("").kept  # it was given by a script; what the suspended request holds is still no answer of a page
        transaction = replace(found.transaction, claims={**found.transaction.claims, **outcome.claims})
        if outcome.then == "authorize_again" and not (transaction.outside is not None and transaction.outside.told):
            # The session that asked is over; what was suspended in it is over too.
            ended = move(transaction, Event.REFUSED, reason="authorize_again")
            await self._transactions.save(ended, found.version, now, along=along)
            return Moved(ended, "passed", outcome)
        at = now if outcome.at is None else outcome.at
        moved = pass_task(transaction, task.step, at=at, amr=outcome.amr, edition=outcome.edition, counts=outcome.counts, kept=kept)
        await self._transactions.save(moved, found.version, now, along=along)
        return Moved(moved, "passed", outcome, outcome.private)

    async def _refused(self, found: Found, task: Task, outcome: Refused, look: Look, action: str | None) -> Progressed:
        transaction = found.transaction
        if outcome.code == "used" and dict(outcome.memory) == dict(task.memory):
            # A double click: the first of two equal answers is on its way. A write here would overtake it, and lose what it has used up.
            now = await self._overtaken(transaction, task, look)
            problem = Problem(outcome.code, outcome.public, outcome.field, outcome.retry_after)
            return replace(now, error=problem, private=outcome.private) if isinstance(now, Showing) else now
        attempts = task.attempts + (1 if outcome.counts else 0)
        if attempts >= self._transactions.spec.max_attempts:
            failed = move(with_task(transaction, replace(task, attempts=attempts)), Event.REFUSED, reason="too many wrong answers")
            await self._transactions.save(failed, found.version, look.now)
            return Moved(failed, "failed", private=f"{attempts} wrong answers; last: {outcome.private}")
        wait = delay_after(attempts) if outcome.counts else 0.0
        changed_task = replace(
            task, attempts=attempts, memory=outcome.memory, blocked_until=look.now + wait if wait else task.blocked_until
        )
        changed = with_task(transaction, changed_task)
        version = await self._transactions.save(changed, found.version, look.now)
        shown = await self.show(Found(changed, version), look)
        retry = max(filter(None, (outcome.retry_after, ceil(wait))), default=None)
        problem = Problem(outcome.code, outcome.public, outcome.field, retry, action, outcome.errors)
        return replace(shown, error=problem, private=outcome.private)

    async def _overtaken(self, transaction: Transaction, task: Task, look: Look) -> Progressed:
        """Another answer was first. This one took no effect, right or wrong."""
        again = await self._transactions.load(transaction.id, look.now)
        if again is None:
            return Moved(move(transaction, Event.TIME_IS_UP))
        current = again.transaction.current
        if again.transaction.status is not Status.PENDING or current is None or current.step != task.step:
            return Moved(again.transaction)
        shown = await self.show(again, look)
        return replace(
            shown, error=Problem("overtaken", "Another answer arrived at the same time. Please send yours again."), private="overtaken"
        )

    async def _reload(self, transaction: Transaction, now: float) -> Transaction:
        again = await self._transactions.load(transaction.id, now)
        return again.transaction if again is not None else move(transaction, Event.TIME_IS_UP)

    def _step(self, task: Task) -> Step:
        return OwnRedirect(task.url, self._transactions.new_state) if task.url else self._steps()[task.step]

    def _context(self, transaction: Transaction, task: Task, look: Look) -> Context:
        steps = self._steps()
        # What the pass holds is a proof for hours; to set up a new authenticator it must be no older than a transaction can be.
        recent = {p.step for p in look.holder.proofs.values() if look.now - p.at <= self._transactions.spec.ttl} if look.holder else set()
        proved = {*transaction.proofs, *recent} - {task.step}
        return Context(
            transaction=transaction.id,
            step=task.step,
            subject=transaction.subject,
            memory=task.memory,
            now=look.now,
            client_ip=look.client_ip,
            origin=transaction.origin,
            cookies=look.cookies,
            elevated=any(name in steps and steps[name].proves_identity for name in proved),
            request=Waiting(transaction.method, transaction.target.decode("latin-1"), transaction.page),
        )


def _open_task(found: Found) -> Task:
    task = found.transaction.current
    if task is None:
        raise ValueError("a transaction without an open step has nothing to show or to answer")
    return task


def describe(view: View) -> dict[str, Any]:
    """A view's public half as JSON: title, lead, fields and data (design.md part 5). notice: only where there is one."""
    fields = [{key: value for key, value in asdict(f).items() if value is not None} for f in view.fields]
    return {
        "title": view.title,
        "lead": view.lead,
        "fields": fields,
        "data": {**view.data, **(_away(view.away) if view.away else {})},
        "actions": [{"action": a, "label": label} for a, label in view.actions],
        **({"notice": view.notice} if view.notice else {}),
    }


def _away(away: Away) -> dict[str, Any]:
    """Where a client that shows no pages opens the step: with "post", by a form with these fields."""
    return {"url": away.url, "method": away.method, "fields": dict(away.fields)}


__all__ = ["Held", "Look", "Moved", "Problem", "Progress", "Progressed", "Showing", "describe"]
