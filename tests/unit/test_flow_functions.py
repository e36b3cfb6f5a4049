"""What a transaction keeps of rule functions, and how it is read back."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from gateway.flow import codec
from gateway.flow.functions import KEPT, Fields, Occasion, at_continue, kept, occasion
from gateway.flow.transaction import Task, Transaction, ask_more
from gateway.policy.decision import Asked
from gateway.policy.facts import REDIRECT_CALLBACK, Functions, Ran, ToUrl
from gateway.wire.subject import NOBODY, Proof, Subject

NOW = 1_800_000_000.0
ALICE = Subject("alice", {"a": 1}, "header")
RAN = Functions({"r0": Ran(ToUrl("https://a.example")), "r1": Ran(error="KeyError")}, jti="j", claims={"tier": "gold"})


def transaction(*tasks: Task, **changes: Any) -> Transaction:
    made = Transaction(
        id="i", origin="http://a", upstream="bank", binding="b", method="GET", target=b"/", kind="navigation", replay="auto",
        created=NOW, expires=NOW + 600, address="192.0.2.1", rules=("r0",), tasks=tasks, subject=ALICE, jti="j",
    )  # fmt: skip
    return replace(made, **changes)


def page(**memory: Any) -> Task:
    return Task("@r0", "once", ("r0",), Proof("@r0", NOW), memory, url="https://a.example?b")


def test_url_and_run_are_stored() -> None:
    made = transaction(page(query={"a": "b"}), run=kept(RAN, ALICE, at=NOW))
    assert codec.decode(codec.encode(made)) == made


def test_what_was_stored_before_there_were_functions_can_be_read() -> None:
    older = codec.encode(transaction(Task("code", 300.0, ("r0",)))).replace(b',"url":""', b"").replace(b',"run":{}', b"")
    assert b"url" not in older
    assert codec.decode(older) == transaction(Task("code", 300.0, ("r0",)))


def test_nothing_is_kept_where_none_ran() -> None:
    assert kept(None, ALICE) == {}
    assert at_continue(transaction(), ALICE, NOW) is None


def test_what_ran_at_continue_holds_for_a_while_and_for_the_same_person() -> None:
    made = transaction(run=kept(RAN, ALICE, at=NOW))
    found = at_continue(made, ALICE, NOW + KEPT)
    assert found == Functions({"r0": Ran(), "r1": Ran(error="KeyError")}, REDIRECT_CALLBACK, "j", {"tier": "gold"}, earlier=True)
    assert at_continue(made, ALICE, NOW + KEPT + 1) is None
    assert at_continue(made, ALICE, NOW - 1) is None
    for other in (NOBODY, Subject("bob", {}, "header"), Subject("alice", {}, "jwt")):
        assert at_continue(made, other, NOW) is None
    assert at_continue(transaction(run=kept(RAN, ALICE)), ALICE, NOW) is None  # it ran before the request was suspended


@pytest.mark.parametrize(
    ("tasks", "query", "body"),
    [
        ((), None, None),
        ((page(query={"state": "S"}, body={"a": "1"}),), {"state": "S"}, {"a": "1"}),
        ((page(query={"a": "1", "b": "1"}), page(query={"b": "2"}, body={"c": "3"})), {"a": "1", "b": "2"}, {"c": "3"}),
        ((page(body={"a": "1", "b": "1"}), page(body={"b": "2"})), {}, {"a": "1", "b": "2"}),
        ((page(body=["a"]),), {}, ["a"]),
        ((page(body=None),), {}, {}),
        ((replace(page(body={"a": "1"}), passed=None),), None, None),
    ],
)
def test_the_run_at_continue_gets_what_pages_brought_back(tasks: tuple[Task, ...], query: Any, body: Any) -> None:
    made = transaction(*tasks, run=kept(RAN, ALICE))
    assert occasion(made, ALICE) == Occasion(REDIRECT_CALLBACK, "j", {"tier": "gold"}, query, body)


def test_the_first_run_for_somebody_is_no_callback() -> None:
    assert occasion(transaction(run=kept(RAN, NOBODY)), ALICE) == Occasion("http", "j")
    assert occasion(transaction(), ALICE) == Occasion("http", "j")


def test_a_page_that_is_added_later_keeps_its_url() -> None:
    ready = replace(transaction(Task("code", 300.0, ("r0",), Proof("code", NOW))))
    more = ask_more(ready, (Asked("@r1", "once", ("r1",), "https://b.example"),))
    assert more is not None
    assert more.tasks[1].url == "https://b.example"


def test_fields_are_entries_and_attributes() -> None:
    it = Fields(a=1)
    it.b = 2
    it["c"] = 3
    assert (it["a"], it.b, it.c, dict(it)) == (1, 2, 3, {"a": 1, "b": 2, "c": 3})
    with pytest.raises(AttributeError, match="there is no 'd' here; there are a, b, c"):
        _ = it.d
