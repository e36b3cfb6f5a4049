"""One-time tokens of others: the first use counts, whoever comes at the same moment."""

from __future__ import annotations

import asyncio

from gateway.flow.replay import first_use, replay_key, was_used
from tests.support.fakes_steps import MemoryState


async def test_the_first_use_counts_and_no_other() -> None:
    state = MemoryState()
    assert not await was_used(state, "kyc", "j1", 1.0)
    assert await first_use(state, "kyc", "j1", expires=10.0, now=1.0)
    assert await was_used(state, "kyc", "j1", 1.0)
    assert not await first_use(state, "kyc", "j1", expires=10.0, now=2.0)
    assert await first_use(state, "other", "j1", expires=10.0, now=2.0)
    assert await first_use(state, "kyc", "j1", expires=20.0, now=10.0)


async def test_of_many_at_once_one_is_first() -> None:
    state = MemoryState()
    first = await asyncio.gather(*(first_use(state, "kyc", "j1", expires=10.0, now=1.0) for _ in range(10)))
    assert sum(first) == 1


def test_issuer_and_jti_do_not_run_together() -> None:
    assert replay_key("ab", "c") != replay_key("a", "bc")
    assert replay_key("1:a", "b") != replay_key("1", ":ab")
    assert len(replay_key("x" * 10_000, "\udcff")) == 43
