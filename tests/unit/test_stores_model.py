"""Both state stores against one model in plain dicts: any sequence of calls, on a clock that only moves forward, gives the same answers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterator
from pathlib import Path
from typing import ClassVar, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from gateway.errors import Conflict
from gateway.flow.ports import Entry
from gateway.stores.factory import StateBackend, open_state
from tests.support.redis_server import RedisServer

T = TypeVar("T")

KEYS = st.sampled_from(["a", "b"])
LIVES = st.sampled_from([0.0, 1.0, 5.5, 1000.0])


class StoreAgainstModel(RuleBasedStateMachine):
    """The model holds (value, version, expires), (count, expires), members' expiries, and the feed as a list."""

    url: ClassVar[str]
    loop: ClassVar[asyncio.AbstractEventLoop]
    store: ClassVar[StateBackend]
    runs: ClassVar[int] = 0

    @initialize()
    def begin(self) -> None:
        type(self).runs += 1
        self.space = f"run{type(self).runs}"  # a fresh namespace; the feed, which has none, is read from where it stands
        self.now = 1_795_000_000.0 + 10_000.0 * type(self).runs
        self.entries: dict[str, tuple[bytes, int, float]] = {}
        self.counters: dict[str, tuple[int, float]] = {}
        self.members: dict[str, float] = {}
        self.feed: list[tuple[str, float]] = []
        known = self.do(self.store.revocations(0, self.now))
        self.cursor = known[-1].cursor if known else 0

    def do(self, call: Awaitable[T]) -> T:
        return self.loop.run_until_complete(call)

    @rule(by=st.sampled_from([0.5, 1.0, 7.0, 2000.0]))
    def time_passes(self, by: float) -> None:
        self.now += by

    @rule(key=KEYS, value=st.binary(max_size=8), version=st.integers(0, 3), life=LIVES)
    def put(self, key: str, value: bytes, version: int, life: float) -> None:
        _, there, expires = self.entries.get(key, (b"", 0, 0.0))
        there = there if expires > self.now else 0
        call = self.store.put(self.space, key, value, version=version, expires=self.now + life, now=self.now)
        if there == version:
            assert self.do(call) == version + 1
            self.entries[key] = (value, version + 1, self.now + life)
        else:
            with pytest.raises(Conflict):
                self.do(call)

    @rule(key=KEYS)
    def delete(self, key: str) -> None:
        self.do(self.store.delete(self.space, key))
        self.entries.pop(key, None)

    @rule(key=KEYS, by=st.integers(-3, 3), life=LIVES)
    def count(self, key: str, by: int, life: float) -> None:
        value, expires = self.counters.get(key, (0, 0.0))
        live = expires > self.now
        value = max(0, (value if live else 0) + by)
        assert self.do(self.store.count(self.space, key, by=by, expires=self.now + life, now=self.now)) == value
        if live or value:
            self.counters[key] = (value, expires if live else self.now + life)

    @rule(member=st.sampled_from(["m", "n", "o", "p"]), cap=st.integers(0, 3), life=LIVES)
    def join(self, member: str, cap: int, life: float) -> None:
        live = {name for name, expires in self.members.items() if expires > self.now}
        fits = member in live or len(live) < cap
        assert self.do(self.store.join(self.space, "g", member, cap=cap, expires=self.now + life, now=self.now)) is fits
        if fits:
            self.members[member] = self.now + life

    @rule(member=st.sampled_from(["m", "n", "o", "p"]))
    def leave(self, member: str) -> None:
        self.do(self.store.leave(self.space, "g", member))
        self.members.pop(member, None)

    @rule(sid=st.sampled_from(["x", "y:z", "#"]), life=LIVES)
    def revoke(self, sid: str, life: float) -> None:
        self.do(self.store.revoke(sid, until=self.now + life, now=self.now))
        self.feed.append((sid, self.now + life))

    @invariant()
    def reads_agree(self) -> None:
        for key in ("a", "b"):
            value, version, expires = self.entries.get(key, (b"", 0, 0.0))
            assert self.do(self.store.get(self.space, key, self.now)) == (Entry(value, version) if expires > self.now else None)
        feed = self.do(self.store.revocations(self.cursor, self.now))
        assert [(entry.sid, entry.until) for entry in feed] == [line for line in self.feed if line[1] > self.now]


@pytest.fixture(params=["sqlite", pytest.param("redis", marks=pytest.mark.redis)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/state.db"
    else:
        with RedisServer(tmp_path, "--save", "") as server:
            yield server.url


def test_any_sequence_of_calls_answers_as_the_model_does(url: str) -> None:
    with asyncio.Runner() as runner:
        store = runner.run(open_state(url, redis_deadline=5.0, sqlite_deadline=10.0))
        machine = type("Machine", (StoreAgainstModel,), {"loop": runner.get_loop(), "store": store})
        bounds = settings(max_examples=25, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck), database=None)
        try:
            run_state_machine_as_test(machine, settings=bounds)
        finally:
            runner.run(store.close())
