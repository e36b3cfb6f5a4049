"""One suspended request on its way through its steps. The state machine is the table below; what is not in it cannot happen.

PENDING  steps are open                      READY    all proved; only this resumes
SENDING  committed before the first byte     DONE     the upstream answered, or the pass was reissued
FAILED   cancelled, refused, or given up     EXPIRED  its time was over before it was sent
UNKNOWN  sent, and no answer is known: look in the application before trying again

EXPIRED and (after a crash) UNKNOWN are read off the clock by `settled`; nobody has to write them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Literal

from gateway.policy.decision import Asked, MaxAge
from gateway.wire.subject import NOBODY, Proof, Scalar, Subject


class Status(StrEnum):
    PENDING = "pending"
    READY = "ready"
    SENDING = "sending"
    DONE = "done"
    FAILED = "failed"
    EXPIRED = "expired"
    UNKNOWN = "unknown"


class Event(StrEnum):
    STEP_PASSED = "a step was passed, others are open"
    LAST_PASSED = "the last open step was passed"
    MORE_ASKED = "the rules, run again, ask for one more step"
    REFUSED = "cancelled, denied, or tried too often"
    CONSUMED = "the ticket was used"
    REISSUED = "the pass was reissued; the client repeats the request"
    ANSWERED = "the upstream answered"
    BROKEN_OFF = "the upstream's answer never came"
    TIME_IS_UP = "its time was over"


TRANSITIONS: Mapping[tuple[Status, Event], Status] = {
    (Status.PENDING, Event.STEP_PASSED): Status.PENDING,
    (Status.PENDING, Event.LAST_PASSED): Status.READY,
    (Status.PENDING, Event.MORE_ASKED): Status.PENDING,
    (Status.PENDING, Event.REFUSED): Status.FAILED,
    (Status.PENDING, Event.TIME_IS_UP): Status.EXPIRED,
    (Status.READY, Event.MORE_ASKED): Status.PENDING,
    (Status.READY, Event.REFUSED): Status.FAILED,
    (Status.READY, Event.CONSUMED): Status.SENDING,
    (Status.READY, Event.REISSUED): Status.DONE,
    (Status.READY, Event.TIME_IS_UP): Status.EXPIRED,
    (Status.SENDING, Event.ANSWERED): Status.DONE,
    (Status.SENDING, Event.BROKEN_OFF): Status.UNKNOWN,
    (Status.SENDING, Event.TIME_IS_UP): Status.UNKNOWN,
}

OPEN = frozenset({Status.PENDING, Status.READY})

Kind = Literal["navigation", "script", "grant"]


@dataclass(frozen=True, slots=True)
class Task:
    """One step of a transaction. passed: None while it is open. memory: what the step keeps to itself.

    url: where a rule function sends the browser by itself; then `step` is "@" and the rule's name, which no configured step has.
    counts: it was proved. False: the browser came back from a page of others, and the rules, run again, must say whether that was enough.
    silent: passed without being shown, by an answer given before.
    """

    step: str
    max_age: MaxAge
    rules: tuple[str, ...]
    passed: Proof | None = None
    memory: Mapping[str, Any] = field(default_factory=dict)
    attempts: int = 0
    blocked_until: float = 0.0
    url: str = ""
    counts: bool = True
    silent: bool = False


@dataclass(frozen=True, slots=True)
class Outside:
    """Somebody else's transaction that ours is a part of: where it goes on, and what they call it.

    entry: "begin:NAME" or "intercept:NAME", who signs and for whom is found by it. url: their continue URL; a path where it is the
    upstream's own. next_origins: where that redirects to. state, jti, subject: theirs, given back as they came. told: who it is about
    stands in their token alone, so nobody has to be logged in here, and nothing goes into the pass. proved: what the pass held already and
    counts for them. answered: when our answer was made, 0 before: it is made once, and may be sent again.
    """

    entry: str
    url: str
    state: str
    jti: str
    subject: str
    method: Literal["post", "query"] = "post"
    state_parameter: str = "state"
    token_parameter: str = "token"  # noqa: S105 - a parameter's name
    next_origins: tuple[str, ...] = ()
    told: bool = True
    proved: tuple[Proof, ...] = ()
    answered: float = 0.0


@dataclass(frozen=True, slots=True)
class Grant:
    """A call of a token endpoint that waits to be repeated (see docs/decisions/0050). client: its id, shown to people. protocol: see
    flow.protocol. call: keyed hash of what the repeated call must be equal to. authorization: keyed hash of the client's `Authorization`,
    "" where it sent none. claimed: keyed hash of the cookie of the one browser that may look at it beside the client, "" for none yet.
    """

    client: str
    protocol: str
    call: str
    authorization: str = ""
    claimed: str = ""


@dataclass(frozen=True, slots=True)
class Transaction:
    """`id` is the SHA-256 of the state, base64url; the state itself is known to the browser only.

    binding: keyed hash of what may finish it (the browser cookie or an Authorization value). kind: "navigation" stores
    the request and resumes it; "script" stores no body and only reissues the pass; "grant" belongs to a client without cookies, which
    repeats its call (then `grant` is set). stored: a request is stored.
    awaits_login: a subject is needed first. ticketed: resumes by a one-use ticket (else GET is just repeated). late_subject: the subject
    came after the suspension. session: digest of the app session at the suspension ("" for none); holder: sid of the pass that spoke for
    it, "" for nobody's. page: where the user came from (path), for cancel and replay: off.
    extended: the rules, run again, have added a step once. loop: key of the counter that detects loops. run: what rule functions must find
    again (see flow.functions): whom they ran for, claims for tokens, and at /continue what they came to. outside: it ends at somebody
    else's continue URL, and no request of ours is resumed.
    """

    id: str
    origin: str
    upstream: str
    binding: str
    method: str
    target: bytes
    kind: Kind
    replay: Literal["auto", "confirm", "off"]
    created: float
    expires: float
    address: str
    rules: tuple[str, ...]
    tasks: tuple[Task, ...]
    status: Status = Status.PENDING
    subject: Subject = NOBODY
    awaits_login: bool = False
    late_subject: bool = False
    session: str = ""
    holder: str = ""
    stored: bool = False
    ticketed: bool = False
    page: str = "/"
    extended: bool = False
    loop: str = ""
    claims: Mapping[str, Scalar] = field(default_factory=dict)
    since: float = 0.0
    reason: str = ""
    jti: str = ""
    run: Mapping[str, Any] = field(default_factory=dict)
    outside: Outside | None = None
    grant: Grant | None = None

    @property
    def current(self) -> Task | None:
        """The first open task, or None when all are passed."""
        return next((t for t in self.tasks if t.passed is None), None)

    @property
    def remaining(self) -> tuple[str, ...]:
        return tuple(t.step for t in self.tasks if t.passed is None)

    @property
    def proofs(self) -> dict[str, Proof]:
        """What was proved in this transaction, by step."""
        return {t.step: t.passed for t in self.tasks if t.passed is not None and t.counts}

    @property
    def open(self) -> bool:
        return self.status in OPEN


CONFIRM = "confirm"


def move(transaction: Transaction, event: Event, **changes: Any) -> Transaction:
    """The transaction after an event, with other fields changed along. Raises KeyError for what the table does not know."""
    return replace(transaction, status=TRANSITIONS[(transaction.status, event)], **changes)


def settled(transaction: Transaction, now: float, *, sending_timeout: float) -> Transaction:
    """The transaction as it stands at `now`: over where its time is up, UNKNOWN where a send never came back (a crash)."""
    if transaction.open and now >= transaction.expires:
        return move(transaction, Event.TIME_IS_UP)
    if transaction.status is Status.SENDING and now >= transaction.since + sending_timeout:
        return move(transaction, Event.TIME_IS_UP)
    return transaction


def with_task(transaction: Transaction, task: Task) -> Transaction:
    """The transaction with one task replaced (by its step's name)."""
    return replace(transaction, tasks=tuple(task if t.step == task.step else t for t in transaction.tasks))


def pass_task(
    transaction: Transaction, step: str, *, at: float, amr: tuple[str, ...], edition: str = "", silent: bool = False, counts: bool = True,
    kept: Mapping[str, Any] | None = None,
) -> Transaction:  # fmt: skip
    """Mark a step as done; READY when it was the last one. counts: it is proved. kept: what is remembered of it, for the rules."""
    task = next(t for t in transaction.tasks if t.step == step)
    passed = Proof(step, at, amr, edition)
    done = with_task(transaction, replace(task, passed=passed, memory=kept or {}, counts=counts, silent=silent))
    return move(done, Event.STEP_PASSED if done.current else Event.LAST_PASSED)


def ask_more(transaction: Transaction, asked: tuple[Asked, ...]) -> Transaction | None:
    """Add what the rules, run again, still ask for: once, and never a step that was already asked here. None: refuse."""
    known = {t.step for t in transaction.tasks}
    fresh = tuple(Task(a.step, a.max_age, a.rules, url=a.url) for a in asked if a.step not in known)
    if transaction.extended or len(fresh) != len(asked) or not fresh:
        return None
    tail = tuple(t for t in transaction.tasks if t.step == CONFIRM)
    body = tuple(t for t in transaction.tasks if t.step != CONFIRM)
    return move(replace(transaction, tasks=body + fresh + tail, extended=True), Event.MORE_ASKED)


def reopen(transaction: Transaction, asked: tuple[Asked, ...]) -> Transaction | None:
    """Open the steps again from which the browser came back without what the rules, run again, still want. None: there is no such step.

    Every time counts as an attempt, so that the caller can end it. What a rule function's own page is for is asked once.
    """
    names = {a.step for a in asked}
    back = {t.step for t in transaction.tasks if t.step in names and t.passed is not None and not t.counts and not t.url}
    if not back:
        return None
    tasks = tuple(
        replace(t, passed=None, memory={"round": t.attempts + 1}, attempts=t.attempts + 1, counts=True) if t.step in back else t
        for t in transaction.tasks
    )
    return move(replace(transaction, tasks=tasks), Event.MORE_ASKED)


def delay_after(attempts: int) -> float:
    """Seconds to wait after that many wrong answers: none for three, then 1, 2, 4, … up to 60."""
    return 0.0 if attempts < 3 else float(min(60, 2 ** (attempts - 3)))


def diagram() -> str:
    """The table as a Mermaid state diagram, for docs/architecture.md."""
    lines = ["stateDiagram-v2", "    [*] --> PENDING"]
    lines += [f"    {a.name} --> {b.name}: {event.value}" for (a, event), b in TRANSITIONS.items()]
    ends = [s for s in Status if not any(a is s for a, _ in TRANSITIONS)]
    return "\n".join([*lines, *(f"    {s.name} --> [*]" for s in ends)])
