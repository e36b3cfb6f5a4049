"""The gate answers what rule functions need: the body where there is one, and nothing because of a pass that may have been revoked."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest

from gateway.errors import StoreUnavailable
from gateway.flow.functions import Calling, Occasion
from gateway.flow.gate import Gate
from gateway.flow.identity import Identified, Identity
from gateway.flow.remembered import Remembered
from gateway.policy.decision import Allow, Deny, Shadow, StepUp
from gateway.policy.facts import REDIRECT_CALLBACK, Body, Functions, Ran, ToSteps
from gateway.policy.model import Rule, Ruleset
from gateway.spec.sections import PassSpec
from gateway.tokens.passes import Pass
from gateway.wire.subject import Proof, Subject
from tests.support.functions import PlainVault
from tests.support.policy import NOW, form_post, request, ruleset

ALICE = Subject("alice", {}, "login_form")
HOLDER = Pass("sid", "https://bank.example.com", NOW - 60, NOW - 1, ALICE)
AS_ALICE = Identified(ALICE, HOLDER, HOLDER)
RUN = {"python": "f.py:f", "match": {"path": "/x"}}
BODY = Body(form={"a": "1"})


class Feed:
    """Implements flow.gate.Revocations."""

    def __init__(self, age: float) -> None:
        self._age = age

    def revoked(self, sid: str) -> bool:
        return False

    def age(self, now: float) -> float:
        return self._age


class Recorder:
    """Implements flow.functions.FunctionRunner: every function does the same."""

    def __init__(self, ran: Ran) -> None:
        self.ran = ran
        self.called: list[tuple[list[str], Calling]] = []

    async def run(self, rules: Sequence[Rule], ruleset: Ruleset, calling: Calling) -> Functions:
        self.called.append(([rule.name for rule in rules], calling))
        return Functions({rule.name: self.ran for rule in rules}, calling.occasion.protocol, "j", {})


def gate(rules: Sequence[Mapping[str, Any]], runner: Recorder, *, age: float = 0.0) -> Gate:
    compiled = ruleset(*rules)
    return Gate(
        ruleset=lambda: compiled, identity=lambda: Identity({}, (), ()), vault=PlainVault(), revocations=Feed(age), spec=PassSpec(),
        records=Remembered(dict), functions=runner,
    )  # fmt: skip


def reading(read: list[int]) -> Callable[[], Any]:
    async def body() -> Body:
        read.append(1)
        return BODY

    return body


async def test_all_that_were_hit_run_once_and_together() -> None:
    runner = Recorder(Ran(ToSteps(("human",))))
    judged = await gate([RUN, {**RUN, "match": {"path": "/y"}}, RUN], runner).judge(request("/x"), NOW, reading([]), identified=AS_ALICE)
    assert isinstance(judged.decision, StepUp)
    assert [names for names, _ in runner.called] == [["r0", "r2"]]


@pytest.mark.parametrize(("head", "times"), [(request("/x"), 0), (form_post("/x"), 1), (form_post("/x", length=0), 0)])
async def test_the_body_is_read_where_there_is_one(head: Any, times: int) -> None:
    runner, read = Recorder(Ran()), list[int]()
    await gate([RUN], runner).judge(head, NOW, reading(read), identified=AS_ALICE)
    [(_, calling)] = runner.called
    assert (len(read), calling.body) == (times, BODY if times else None)


async def test_a_run_that_holds_already_is_not_repeated() -> None:
    runner = Recorder(Ran())
    earlier = Functions({"r0": Ran(denied="No.")})
    judged = await gate([RUN], runner).judge(request("/x"), NOW, reading([]), identified=AS_ALICE, functions=earlier)
    assert isinstance(judged.decision, Deny)
    assert runner.called == []


async def test_the_occasion_and_what_was_proved_are_told() -> None:
    runner = Recorder(Ran(ToSteps(("code",))))
    granted = {"human": Proof("human", NOW)}
    occasion = Occasion(REDIRECT_CALLBACK, "its-own")
    judged = await gate([RUN], runner).judge(
        request("/x"), NOW, reading([]), identified=AS_ALICE, granted=granted, protocol=REDIRECT_CALLBACK, occasion=occasion
    )
    [(_, calling)] = runner.called
    assert (calling.occasion, calling.granted, calling.upstream) == (occasion, granted, "bank")
    assert judged.decision == Allow(("r0",), ("human",), by_pass=True, relied_on_pass=True)


async def test_nothing_runs_because_of_a_pass_that_may_have_been_revoked() -> None:
    runner = Recorder(Ran())
    with pytest.raises(StoreUnavailable):
        await gate([RUN], runner, age=6).judge(request("/x"), NOW, reading([]), identified=AS_ALICE)
    with pytest.raises(StoreUnavailable):
        await gate([RUN, {**RUN, "on_error": "allow"}], runner, age=6).judge(request("/x"), NOW, reading([]), identified=AS_ALICE)
    assert runner.called == []
    await gate([RUN], runner, age=6).judge(request("/x"), NOW, reading([]), identified=Identified(ALICE))
    assert len(runner.called) == 1


@pytest.mark.parametrize("more", [{"mode": "shadow"}, {"on_error": "allow"}])
async def test_one_that_lets_pass_without_a_store_refuses_nobody_then(more: Mapping[str, Any]) -> None:
    runner = Recorder(Ran())
    judged = await gate([{**RUN, **more}], runner, age=6).judge(request("/x"), NOW, reading([]), identified=AS_ALICE)
    assert isinstance(judged.decision, Allow)
    assert judged.decision.shadow == ((Shadow("r0", "fail (the revocation feed is older than 5 s)"),) if "mode" in more else ())
    assert runner.called == []
