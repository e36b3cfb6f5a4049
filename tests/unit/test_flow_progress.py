"""A transaction's way through its steps, and what stands around it: caps, tickets, seals, guesses. On a real store, in parallel."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest

from gateway.errors import Conflict, StoreUnavailable
from gateway.flow.browser import browser_for, known_browser
from gateway.flow.codec import StoredRequest
from gateway.flow.guessing import Guessing, counted_as
from gateway.flow.places import came_from, local
from gateway.flow.progress import Held, Look, Moved, Progress, Showing
from gateway.flow.repository import Found, TooMany, Transactions, transaction_id
from gateway.flow.step import Again, Context, Declined, Failed, Outcome, Passed, Refused, View
from gateway.flow.transaction import Event, Status, move
from gateway.spec.base import Spec
from gateway.spec.sections import GuessingSpec, TransactionsSpec
from gateway.stores.state_sqlite import SqliteState
from gateway.tokens.passes import Pass
from gateway.wire.subject import Proof, Subject
from tests.support.fakes_steps import MemoryVault, SeededEntropy
from tests.support.policy import request
from tests.unit.test_flow_machine import transaction

NOW = 1_800_000_000.0
ALICE = Subject("alice", {}, "login_form")


class Plain:
    """Says yes to "yes"; other answers say themselves what they are. `seen` counts answers that were looked at."""

    kind: ClassVar[str] = "plain"
    Config: ClassVar[type[Spec]] = Spec
    free_actions: ClassVar[frozenset[str]] = frozenset({"resend"})
    needs_subject = True

    def __init__(self, *, proves_identity: bool = False) -> None:
        self.seen = 0
        self.contexts: list[Context] = []
        self.proves = proves_identity

    @property
    def proves_identity(self) -> bool:
        return self.proves

    async def begin(self, context: Context) -> View:
        self.contexts.append(context)
        return View("t", "l", (), context.memory)

    async def answer(self, context: Context, form: Mapping[str, str]) -> Outcome:
        self.seen += 1
        await asyncio.sleep(0)
        match form.get("say"):
            case "yes":
                return Passed(("otp",), {"checked": True})
            case "over":
                return Failed("It is over.", "over")
            case "again":
                return Again({"n": self.seen}, "Sent again.")
            case "empty":
                return Refused("missing", "Nothing there.", "empty", context.memory, counts=False)
            case _:
                return Refused("wrong", "That is wrong.", "wrong", {"n": self.seen}, "say")


class Desk:
    def __init__(self, state: SqliteState, **spec: Any) -> None:
        self.state = state
        self.vault = MemoryVault()
        self.spec = TransactionsSpec(**spec)
        self.transactions = Transactions(state, self.vault, SeededEntropy(), self.spec)
        self.guessing = Guessing(state, GuessingSpec(per_subject=20, per_address=30, foreign_per_address=3))
        self.steps: dict[str, Any] = {"code": Plain(proves_identity=True), "human": Plain()}
        self.progress = Progress(self.transactions, self.guessing, lambda: self.steps)

    async def opened(self, state: str = "su_1", *steps: str, **changes: Any) -> Found:
        made = transaction(*(steps or ("code",)), **{"id": transaction_id(state), "subject": ALICE, **changes})
        assert await self.transactions.open(made, None, NOW) is None
        return await self.load(state)

    async def load(self, state: str = "su_1", now: float = NOW) -> Found:
        found = await self.transactions.load(transaction_id(state), now)
        assert found is not None
        return found


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    state = SqliteState(tmp_path / "state.db")
    yield Desk(state)
    await state.close()


def look(now: float = NOW, address: str = "192.0.2.7", holder: Pass | None = None) -> Look:
    return Look(now, address, "https://bank.example", (), holder)


async def test_the_right_answer_moves_on_and_its_results_are_kept(desk: Desk) -> None:
    moved = await desk.progress.answer(await desk.opened("su_1", "human", "code"), {"say": "yes"}, look())
    assert isinstance(moved, Moved)
    assert (moved.outcome, moved.transaction.remaining) == ("passed", ("code",))
    last = await desk.progress.answer(await desk.load(), {"say": "yes"}, look())
    assert isinstance(last, Moved)
    ready = (await desk.load()).transaction
    assert (ready.status, dict(ready.claims), set(ready.proofs)) == (Status.READY, {"checked": True}, {"human", "code"})


async def test_of_answers_in_parallel_one_takes_effect_and_the_others_learn_nothing(desk: Desk) -> None:
    found = await desk.opened()
    wrong = await asyncio.gather(*(desk.progress.answer(found, {"say": "no"}, look()) for _ in range(10)))
    told = [w.error.code for w in wrong if isinstance(w, Showing) and w.error]
    assert sorted(told) == ["overtaken"] * 9 + ["wrong"]
    assert (await desk.load()).transaction.tasks[0].attempts == 1


async def test_answers_in_parallel_are_bounded_by_subject_before_they_are_looked_at(desk: Desk) -> None:
    found = [await desk.opened(f"su_{i}") for i in range(19)]
    many = [f for f in found for _ in range(3)]
    results = await asyncio.gather(*(desk.progress.answer(f, {"say": "no"}, look()) for f in many))
    assert desk.steps["code"].seen == 20
    held = [r for r in results if isinstance(r, Held)]
    assert (len(held), {h.by for h in held}) == (37, {"subject"})
    other_spelling = await desk.opened("su_x", subject=Subject(" \uff21LICE ", {}, "login_form"))
    assert isinstance(await desk.progress.answer(other_spelling, {"say": "yes"}, look()), Held)


async def test_after_the_third_wrong_answer_one_waits_and_after_the_tenth_it_is_over(desk: Desk) -> None:
    await desk.opened()
    now = NOW
    waits = []
    for _ in range(9):
        shown = await desk.progress.answer(await desk.load(now=now), {"say": "no"}, look(now))
        assert isinstance(shown, Showing)
        assert shown.error is not None
        waits.append(shown.error.retry_after or 0)
        if waits[-1]:
            soon = await desk.progress.answer(await desk.load(now=now), {"say": "yes"}, look(now + waits[-1] - 0.5))
            assert isinstance(soon, Held), "not even the right answer counts before"
        now += waits[-1]
    assert waits == [0, 0, 1, 2, 4, 8, 16, 32, 60]
    last = await desk.progress.answer(await desk.load(now=now), {"say": "no"}, look(now))
    assert isinstance(last, Moved)
    assert (last.outcome, last.transaction.status) == ("failed", Status.FAILED)
    assert desk.steps["code"].seen == 10


async def test_a_new_code_can_be_asked_for_while_guesses_are_held_back(desk: Desk) -> None:
    await desk.opened()
    for _ in range(3):
        await desk.progress.answer(await desk.load(), {"say": "no"}, look())
    assert isinstance(await desk.progress.answer(await desk.load(), {"say": "yes"}, look()), Held)
    resent = await desk.progress.answer(await desk.load(), {"say": "again", "action": "resend"}, look())
    assert isinstance(resent, Showing)
    assert resent.error is None
    assert isinstance(await desk.progress.answer(await desk.load(), {"say": "yes"}, look()), Held), "the pause goes on"
    assert isinstance(await desk.progress.answer(await desk.load(), {"say": "yes", "action": "other"}, look()), Held)


async def test_what_is_no_guess_counts_nowhere(desk: Desk) -> None:
    await desk.opened()
    for say in ("empty", "again") * 30:
        shown = await desk.progress.answer(await desk.load(), {"say": say}, look())
        assert isinstance(shown, Showing)
    assert isinstance(await desk.progress.answer(await desk.load(), {"say": "yes"}, look()), Moved)


async def test_a_step_that_is_over_ends_the_transaction(desk: Desk) -> None:
    over = await desk.progress.answer(await desk.opened(), {"say": "over"}, look())
    assert isinstance(over, Moved)
    assert (over.outcome, (await desk.load()).transaction.reason) == ("failed", "It is over.")


async def test_what_is_cancelled_is_cancelled_though_a_step_was_passed_meanwhile(desk: Desk) -> None:
    found = await desk.opened("su_1", "human", "code")
    await desk.progress.answer(found, {"say": "yes"}, look())
    moved = await desk.progress.cancel(found, NOW)
    assert (moved.outcome, moved.transaction.status) == ("cancelled", Status.FAILED)
    assert (await desk.load()).transaction.reason == "cancelled"
    assert (await desk.progress.cancel(found, NOW)).outcome == ""


async def test_cancelling_and_proving_at_once_comes_to_a_cancel(desk: Desk) -> None:
    found = await desk.opened()
    await asyncio.gather(desk.progress.cancel(found, NOW), desk.progress.answer(found, {"say": "yes"}, look()))
    assert (await desk.load()).transaction.status is Status.FAILED


@pytest.mark.parametrize(
    ("age", "step", "elevated"), [(0.0, "code", True), (600.0, "code", True), (601.0, "code", False), (0.0, "human", False)]
)
async def test_only_a_fresh_proof_of_identity_lets_an_authenticator_be_set_up(desk: Desk, age: float, step: str, elevated: bool) -> None:
    desk.steps["setup"] = Plain(proves_identity=True)
    holder = Pass("sid", "https://bank.example", NOW, NOW, ALICE, {step: Proof(step, NOW - age)})
    await desk.progress.show(await desk.opened("su_1", "setup"), look(holder=holder))
    assert desk.steps["setup"].contexts[-1].elevated is elevated


async def test_a_step_does_not_vouch_for_itself(desk: Desk) -> None:
    holder = Pass("sid", "https://bank.example", NOW, NOW, ALICE, {"code": Proof("code", NOW)})
    await desk.progress.show(await desk.opened(), look(holder=holder))
    assert desk.steps["code"].contexts[-1].elevated is False


# -- guessing -----------------------------------------------------------------------------------------------------------


async def test_a_throttled_address_uses_up_nobodys_tries(desk: Desk) -> None:
    for i in range(30):
        assert await desk.guessing.begin("code", Subject(f"user{i}", {}, "s"), "192.0.2.7", NOW) is None
    for _ in range(25):
        throttled = await desk.guessing.begin("code", ALICE, "192.0.2.7", NOW)
        assert throttled is not None
        assert throttled.by == "address"
    assert await desk.guessing.begin("code", ALICE, "192.0.2.8", NOW) is None


@pytest.mark.parametrize(
    ("address", "counted"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8::1", "2001:db8::/64"),
        ("2001:db8:0:0:ffff::1", "2001:db8::/64"),
        ("2001:db8:0:1::1", "2001:db8:0:1::/64"),
        ("unknown", "unknown"),
    ],
)
def test_an_ipv6_customer_is_one_address(address: str, counted: str) -> None:
    assert counted_as(address) == counted


async def test_foreign_states_are_counted_for_the_network(desk: Desk) -> None:
    seen = [await desk.guessing.foreign(f"2001:db8::{i}", NOW) for i in range(5)]
    assert [s is None for s in seen] == [True] * 3 + [False] * 2
    assert await desk.guessing.foreign("2001:db8::9", NOW + 901) is None


async def test_a_proof_lets_five_logins_through_and_a_new_one_five_more(desk: Desk) -> None:
    first, second = [Proof("human", NOW)], [Proof("human", NOW + 1)]
    assert [await desk.guessing.login("sid", first, NOW) for _ in range(7)] == [True] * 5 + [False] * 2
    assert await desk.guessing.login("sid", second, NOW)
    assert await desk.guessing.login("other", first, NOW)


@pytest.mark.parametrize("say", ["yes", "no"])
async def test_an_answer_lets_the_count_of_askings_start_anew(desk: Desk, say: str) -> None:
    limit = desk.spec.loop_limit
    assert [await desk.transactions.asked_again("l", NOW) for _ in range(limit + 1)] == [False] * limit + [True]
    await desk.progress.answer(await desk.opened("su_1", loop="l"), {"say": say}, look())
    assert [await desk.transactions.asked_again("l", NOW) for _ in range(limit + 1)] == [False] * limit + [True]


# -- the store ----------------------------------------------------------------------------------------------------------


async def test_one_write_of_many_against_one_version_counts(desk: Desk) -> None:
    found = await desk.opened()
    sending = move(replace(found.transaction, status=Status.READY), Event.CONSUMED, since=NOW)
    results = await asyncio.gather(*(desk.transactions.save(sending, found.version, NOW) for _ in range(20)), return_exceptions=True)
    assert sum(isinstance(r, int) for r in results) == 1
    assert sum(isinstance(r, Conflict) for r in results) == 19


async def test_the_caps_are_of_the_browser_the_network_and_all(tmp_path: Path) -> None:
    state = SqliteState(tmp_path / "state.db")
    desk = Desk(state, max_per_browser=2, max_per_address=3, max_total=4)

    async def open_one(name: str, binding: str, address: str) -> str:
        made = transaction("code", id=name, binding=binding, address=address)
        found = await desk.transactions.open(made, None, NOW)
        return found.of if isinstance(found, TooMany) else "opened"

    assert [await open_one(f"a{i}", "b1", "2001:db8::1") for i in range(3)] == ["opened", "opened", "browser"]
    assert [await open_one(f"b{i}", f"x{i}", f"2001:db8::{i}") for i in range(2)] == ["opened", "address"]
    assert [await open_one(f"c{i}", f"y{i}", "192.0.2.1") for i in range(2)] == ["opened", "total"]
    found = await desk.transactions.load("a0", NOW)
    assert found is not None
    await desk.transactions.save(move(found.transaction, Event.REFUSED), found.version, NOW)
    assert await open_one("d", "b1", "2001:db8::1") == "opened"
    await state.close()


async def test_what_has_ended_keeps_its_name_and_loses_its_content(desk: Desk) -> None:
    stored = StoredRequest("POST", b"/x", (), b"secret", "https", "bank.example", "192.0.2.7", "127.0.0.1")
    made = transaction("code", id="i")
    await desk.transactions.open(made, stored, NOW)
    assert await desk.transactions.request("i", NOW) == stored
    await desk.transactions.save(move(made, Event.REFUSED), 1, NOW)
    assert await desk.transactions.request("i", NOW) is None
    assert (await desk.transactions.load("i", NOW)) is not None


async def test_an_entry_that_was_moved_or_sealed_elsewhere_opens_nothing(desk: Desk) -> None:
    await desk.opened("su_1")
    entry = await desk.state.get("transaction", transaction_id("su_1"), NOW)
    assert entry is not None
    await desk.state.put("transaction", transaction_id("su_2"), entry.value, version=0, expires=NOW + 9, now=NOW)
    with pytest.raises(StoreUnavailable):
        await desk.transactions.load(transaction_id("su_2"), NOW)


def test_a_ticket_is_of_one_transaction_and_cannot_be_made_up(desk: Desk) -> None:
    id_ = transaction_id("su_1")
    ticket = desk.transactions.ticket(id_)
    assert desk.transactions.read_ticket(ticket) == id_
    other = desk.transactions.ticket(transaction_id("su_2"))
    for forged in (ticket[:-22] + other[-22:], ticket[:-1], ticket + "A", "", "rt_", ticket.lower(), ticket[:-1] + "é", "rt_" + "A" * 65):
        assert desk.transactions.read_ticket(forged) is None
    desk.vault.rotate(b"second")
    assert desk.transactions.read_ticket(ticket) == id_


def test_a_form_token_is_of_one_transaction_and_one_browser(desk: Desk) -> None:
    token = desk.transactions.form_token("i", "b")
    assert desk.transactions.form_token_ok(token, "i", "b")
    assert not any(
        desk.transactions.form_token_ok(t, i, b) for t, i, b in ((token, "j", "b"), (token, "i", "c"), ("", "i", "b"), ("é", "i", "b"))
    )


async def test_what_was_remembered_is_given_once_where_it_shall_be(desk: Desk) -> None:
    await desk.transactions.remember("waiting", "k", "su_1", expires=NOW + 10, now=NOW)
    await desk.transactions.remember("waiting", "k", "su_2", expires=NOW + 10, now=NOW)
    assert await desk.transactions.recall("waiting", "k", NOW) == "su_2"
    assert await desk.transactions.recall("waiting", "k", NOW, once=True) == "su_2"
    assert await desk.transactions.recall("waiting", "k", NOW) is None


# -- browsers and places ------------------------------------------------------------------------------------------------


SECRET, OTHER = "A" * 43, "B" * 43


@pytest.mark.parametrize(
    ("cookie", "known"),
    [
        (f"__Host-stepup-browser={SECRET}", (f"cookie:{SECRET}",)),
        (f"stepup-browser={SECRET}", ()),
        (f"__Host-stepup-browser={SECRET}; __Host-stepup-browser={OTHER}", ()),
        (f"__Host-stepup-browser={SECRET}; __Host-stepup-browser={SECRET}", ()),
        (f"__Host-stepup-browser={SECRET[:-1]}", ()),
        (f"__Host-stepup-browser={SECRET}A", ()),
        (f'__Host-stepup-browser="{SECRET}"', ()),
        ("", ()),
    ],
)
def test_under_https_one_prefixed_cookie_of_full_length_counts(cookie: str, known: tuple[str, ...]) -> None:
    assert known_browser(request("/", headers=[("Cookie", cookie)])) == known


def test_a_navigation_gets_a_cookie_and_a_script_may_be_bound_by_its_authorization() -> None:
    head = request("/", headers=[("Authorization", "Bearer x")])
    assert browser_for(head, SECRET, script=True).set_cookie is None
    person = browser_for(head, SECRET, script=False)
    assert person.secret == f"cookie:{SECRET}"
    assert person.set_cookie == f"__Host-stepup-browser={SECRET}; Path=/; Secure; HttpOnly; SameSite=Lax".encode()
    assert browser_for(request("/"), SECRET, script=True).set_cookie is not None


@pytest.mark.parametrize(
    ("referer", "page"),
    [
        ("https://bank.example.com/a/b?c=d", "/a/b?c=d"),
        ("https://BANK.example.com/a", "/a"),
        ("https://bank.example.com", "/"),
        ("http://bank.example.com/a", "/"),
        ("https://bank.example.com.evil.example/a", "/"),
        ("https://bank.example.com@evil.example/a", "/"),
        ("https://bank.example.com//evil.example", "/"),
        ("https://bank.example.com/\\evil.example", "/"),
        ("https://bank.example.com/\t/evil.example", "/"),
        ("https://bank.example.com/a b", "/"),
        ("https://bank.example.com/.stepup/t/su_x", "/"),
        ("https://bank.example.com/.stepup", "/"),
        ("https://bank.example.com/continue?state=x", "/"),
        ("https://bank.example.com/a?stepup_resume=x", "/"),
        ("https://[::", "/"),
        ("https://bank\u2100.example/", "/"),
        ("", "/"),
    ],
)
def test_where_somebody_came_from_is_a_path_of_the_application_or_the_start_page(referer: str, page: str) -> None:
    raw = referer.encode("utf-8").decode("latin-1")
    assert came_from(request("/", headers=[("Referer", raw)]), "/.stepup", "/continue") == page


def test_two_referers_are_none() -> None:
    head = request("/", headers=[("Referer", "https://bank.example.com/a")] * 2)
    assert came_from(head, "/.stepup", "/continue") == "/"


@pytest.mark.parametrize("path", ["", "a", "//a", "/\\a", "/a\n", "/é", "/a b", "/continue", "/.stepup/pass"])
def test_what_is_no_plain_path_of_the_application_is_the_start_page(path: str) -> None:
    assert local(path, "/.stepup", "/continue") == "/"


class Once(Plain):
    """Remembers when it was passed, by subject."""

    def __init__(self) -> None:
        super().__init__()
        self.given: dict[str, Passed] = {}

    async def already(self, subject: Subject, now: float) -> Passed | None:
        return self.given.get(subject.id)


async def test_what_was_answered_before_is_passed_without_being_shown(desk: Desk) -> None:
    once = desk.steps["once"] = Once()
    once.given["alice"] = Passed((), {"phone": "1"}, at=NOW - 1000, edition="e")
    found = await desk.opened("su_1", "once", "code")
    found, skipped = await desk.progress.skip(found, NOW)
    assert skipped == ("once",)
    assert found == await desk.load()
    kept = found.transaction
    assert (kept.remaining, dict(kept.claims)) == (("code",), {"phone": "1"})
    assert kept.proofs["once"] == Proof("once", NOW - 1000, (), "e")
    assert [t.silent for t in kept.tasks] == [True, False]
    assert once.contexts == []


async def test_the_last_one_makes_it_ready(desk: Desk) -> None:
    once = desk.steps["once"] = Once()
    once.given["alice"] = Passed(())
    found, skipped = await desk.progress.skip(await desk.opened("su_1", "once"), NOW)
    assert (found.transaction.status, skipped) == (Status.READY, ("once",))
    assert found.transaction.proofs["once"].at == NOW


@pytest.mark.parametrize(("max_age", "passes"), [("session", True), (300.0, True), (299.0, False), ("once", False)])
async def test_it_must_be_as_young_as_the_rule_wants_it(desk: Desk, max_age: Any, passes: bool) -> None:
    once = desk.steps["once"] = Once()
    once.given["alice"] = Passed((), at=NOW - 299.5)
    made = await desk.opened("su_1", "once")
    tasks = tuple(replace(t, max_age=max_age) for t in made.transaction.tasks)
    version = await desk.transactions.save(replace(made.transaction, tasks=tasks), made.version, NOW)
    _, skipped = await desk.progress.skip(Found(replace(made.transaction, tasks=tasks), version), NOW)
    assert bool(skipped) is passes


async def test_nobody_and_those_who_never_answered_are_asked(desk: Desk) -> None:
    once = desk.steps["once"] = Once()
    once.given[""] = once.given["bob"] = Passed(())
    for state, subject in (("su_1", ALICE), ("su_2", Subject())):
        found = await desk.opened(state, "once", subject=subject)
        assert await desk.progress.skip(found, NOW) == (found, ())


async def test_of_two_tabs_that_skip_at_once_both_go_on(desk: Desk) -> None:
    once = desk.steps["once"] = Once()
    once.given["alice"] = Passed(())
    found = await desk.opened("su_1", "once", "code")
    results = await asyncio.gather(*(desk.progress.skip(found, NOW) for _ in range(5)))
    assert {r.transaction.remaining for r, _ in results} == {("code",)}
    assert sorted(skipped for _, skipped in results) == [(), (), (), (), ("once",)]


async def test_who_says_no_ends_it_and_the_request_is_thrown_away(desk: Desk) -> None:
    class No(Plain):
        async def answer(self, context: Context, form: Mapping[str, str]) -> Outcome:
            return Declined("no", "/goodbye")

    desk.steps["code"] = No()
    moved = await desk.progress.answer(await desk.opened(), {"say": "no"}, look())
    assert isinstance(moved, Moved)
    assert (moved.outcome, moved.to, moved.private) == ("declined", "/goodbye", "no")
    ended = (await desk.load()).transaction
    assert (ended.status, ended.reason) == (Status.FAILED, "declined")
