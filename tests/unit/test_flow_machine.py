"""The state machine of a transaction: the table, the clock, and every way through it that Hypothesis finds. Also as bytes and back."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from gateway.flow import codec
from gateway.flow.codec import StoredRequest
from gateway.flow.transaction import (
    CONFIRM,
    OPEN,
    TRANSITIONS,
    Event,
    Status,
    Task,
    Transaction,
    ask_more,
    delay_after,
    diagram,
    move,
    pass_task,
    settled,
    with_task,
)
from gateway.policy.decision import Asked
from gateway.wire.subject import Proof, Subject

BEGIN = 1_800_000_000.0
TTL, SENDING = 600.0, 120.0
ENDED = frozenset(Status) - OPEN - {Status.SENDING}
STEPS = ("human", "code", "terms", "profile")


def transaction(*steps: str, **changes: object) -> Transaction:
    made = Transaction(
        id="id", origin="https://bank.example", upstream="bank", binding="b", method="POST", target=b"/x", kind="navigation", replay="auto",
        created=BEGIN, expires=BEGIN + TTL, address="192.0.2.7", rules=("r",), tasks=tuple(Task(s, "session", ("r",)) for s in steps),
    )  # fmt: skip
    return replace(made, **changes)  # type: ignore[arg-type]  # fields by name


def test_what_has_ended_has_no_way_out() -> None:
    assert {status for status, _ in TRANSITIONS} == OPEN | {Status.SENDING}
    assert {Status.DONE, Status.FAILED, Status.EXPIRED, Status.UNKNOWN} == ENDED


def test_only_ready_is_ever_sent_and_only_sending_is_ever_answered() -> None:
    assert [a for (a, event) in TRANSITIONS if event in (Event.CONSUMED, Event.REISSUED)] == [Status.READY] * 2
    assert [a for (a, event) in TRANSITIONS if event in (Event.ANSWERED, Event.BROKEN_OFF)] == [Status.SENDING] * 2
    assert [b for (a, _), b in TRANSITIONS.items() if a is Status.SENDING and b in OPEN] == []


def test_the_diagram_has_every_transition_and_every_end() -> None:
    drawn = diagram()
    assert drawn.count("-->") == len(TRANSITIONS) + 1 + len(ENDED)
    assert all(f"{status.name} --> [*]" in drawn for status in ENDED)


@pytest.mark.parametrize("status", sorted(ENDED))
def test_nothing_moves_what_has_ended(status: Status) -> None:
    over = transaction(status=status)
    for event in Event:
        with pytest.raises(KeyError):
            move(over, event)
    assert settled(over, BEGIN + 10 * TTL, sending_timeout=SENDING) == over


def test_the_clock_ends_what_is_open_and_leaves_the_outcome_of_a_crash_unknown() -> None:
    pending = transaction("code")
    assert settled(pending, BEGIN + TTL - 0.001, sending_timeout=SENDING) is pending
    assert settled(pending, BEGIN + TTL, sending_timeout=SENDING).status is Status.EXPIRED
    sending = transaction(status=Status.SENDING, since=BEGIN + TTL - 1)
    assert settled(sending, BEGIN + TTL + 100, sending_timeout=SENDING) is sending, "its own time counts from the sending on"
    assert settled(sending, BEGIN + TTL - 1 + SENDING, sending_timeout=SENDING).status is Status.UNKNOWN


def test_more_is_asked_once_before_the_last_look_and_never_the_same_again() -> None:
    ready = pass_task(pass_task(transaction("human", CONFIRM), "human", at=1, amr=()), CONFIRM, at=2, amr=())
    assert ready.status is Status.READY
    more = ask_more(ready, (Asked("code", "session", ("r",)),))
    assert more is not None
    assert (more.status, more.remaining, more.tasks[-1].step) == (Status.PENDING, ("code",), CONFIRM)
    again = pass_task(more, "code", at=3, amr=("otp",))
    assert ask_more(again, (Asked("terms", "session", ("r",)),)) is None
    assert ask_more(ready, (Asked("human", "session", ("r",)),)) is None
    assert ask_more(ready, (Asked("code", "session", ("r",)), Asked("human", "session", ("r",)))) is None
    assert ask_more(ready, ()) is None


def test_waits_begin_after_the_third_wrong_answer_and_grow_to_a_minute() -> None:
    assert [delay_after(n) for n in range(12)] == [0, 0, 0, 1, 2, 4, 8, 16, 32, 60, 60, 60]


class Machine(RuleBasedStateMachine):
    """Whatever happens in whatever order. `sent` counts how often a request went out."""

    now: float
    t: Transaction

    @initialize(steps=st.lists(st.sampled_from(STEPS), unique=True, min_size=1, max_size=3), confirm=st.booleans())
    def begin(self, steps: list[str], confirm: bool) -> None:
        self.now = BEGIN
        self.t = transaction(*steps, *((CONFIRM,) if confirm else ()))
        self.sent = 0
        self.extended = 0
        self.history = [self.t.status]

    def become(self, after: Transaction) -> None:
        if after.status is not self.t.status:
            self.history.append(after.status)
        self.t = after

    @rule(seconds=st.sampled_from([0.0, 1.0, 59.0, 119.0, 300.0, 601.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.become(settled(self.t, self.now, sending_timeout=SENDING))

    @precondition(lambda self: self.t.status is Status.PENDING)
    @rule(amr=st.sampled_from([(), ("otp",)]))
    def prove(self, amr: tuple[str, ...]) -> None:
        step = self.t.current
        assert step is not None
        self.become(pass_task(self.t, step.step, at=self.now, amr=amr))

    @precondition(lambda self: self.t.status is Status.PENDING)
    @rule(attempts=st.integers(1, 9))
    def fail(self, attempts: int) -> None:
        step = self.t.current
        assert step is not None
        self.become(with_task(self.t, replace(step, attempts=attempts, blocked_until=self.now + delay_after(attempts), memory={"a": [1]})))

    @precondition(lambda self: self.t.status is Status.READY)
    @rule(steps=st.lists(st.sampled_from(STEPS), unique=True, max_size=3))
    def ask(self, steps: list[str]) -> None:
        more = ask_more(self.t, tuple(Asked(s, 300.0, ("more",)) for s in steps))
        known = {task.step for task in self.t.tasks}
        assert (more is None) == (self.extended > 0 or not steps or not known.isdisjoint(steps))
        if more is not None:
            self.extended += 1
            self.become(more)

    @rule(event=st.sampled_from(Event))
    def happen(self, event: Event) -> None:
        """Anything at all. What the functions above stand for is left to them."""
        if event in (Event.STEP_PASSED, Event.LAST_PASSED, Event.MORE_ASKED):
            return
        if (self.t.status, event) not in TRANSITIONS:
            with pytest.raises(KeyError):
                move(self.t, event)
            return
        self.sent += event is Event.CONSUMED
        self.become(move(self.t, event, since=self.now))

    @invariant()
    def holds(self) -> None:
        t = self.t
        assert self.sent <= 1
        assert self.extended <= 1
        assert (t.status is Status.READY) <= (t.current is None)
        assert (t.status is Status.PENDING) <= (t.current is not None)
        assert (t.status is Status.SENDING) <= (self.sent == 1 and t.current is None)
        assert (t.status in (Status.SENDING, Status.UNKNOWN)) == (self.sent == 1 and t.status is not Status.DONE)
        assert all(status not in ENDED for status in self.history[:-1])
        names = [task.step for task in t.tasks]
        assert len(names) == len(set(names))
        assert CONFIRM not in names[:-1]
        assert set(t.remaining).isdisjoint(t.proofs)
        assert settled(settled(t, self.now, sending_timeout=SENDING), self.now, sending_timeout=SENDING) == settled(
            t, self.now, sending_timeout=SENDING
        )

    @invariant()
    def survives_the_store(self) -> None:
        assert codec.decode(codec.encode(self.t)) == self.t


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)


texts = st.text(max_size=20)
scalars = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | texts
header = st.tuples(st.binary(max_size=20), st.binary(max_size=20))


@given(
    st.builds(
        StoredRequest,
        method=st.sampled_from(["POST", "M-SEARCH"]),
        target=st.binary(max_size=40),
        headers=st.lists(header).map(tuple),
        body=st.binary(max_size=200),
        scheme=st.sampled_from(["http", "https"]),
        host=texts,
        client_ip=texts,
        peer=texts,
    )
)
def test_a_stored_request_comes_back_byte_for_byte(request: StoredRequest) -> None:
    assert codec.decode_request(codec.encode_request(request)) == request


@given(
    target=st.binary(max_size=40), subject=st.builds(Subject, texts, st.dictionaries(texts, scalars), texts), page=texts,
    claims=st.dictionaries(texts, scalars), memory=st.dictionaries(texts, scalars | st.lists(scalars)), status=st.sampled_from(Status),
    at=st.floats(0, 4e9), amr=st.lists(texts).map(tuple), flags=st.tuples(*[st.booleans()] * 5),
)  # fmt: skip
def test_a_transaction_comes_back_as_it_was(
    target: bytes, subject: Subject, page: str, claims: dict[str, object], memory: dict[str, object], status: Status, at: float,
    amr: tuple[str, ...], flags: tuple[bool, ...],
) -> None:  # fmt: skip
    tasks = (Task("code", 300.0, ("a", "b"), Proof("code", at, amr)), Task("human", "once", (), None, memory, 3, at))
    made = transaction(
        target=target, subject=subject, page=page, claims=claims, tasks=tasks, status=status, since=at, session="s", holder="h", loop="l",
        reason=page, jti="j", awaits_login=flags[0], late_subject=flags[1], stored=flags[2], ticketed=flags[3], extended=flags[4],
    )  # fmt: skip
    assert codec.decode(codec.encode(made)) == made
