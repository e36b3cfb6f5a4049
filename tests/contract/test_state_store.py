"""What every state store must do: each sentence of flow.ports.StateStore, against SQLite and a real Redis. Time is a number of ours."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from gateway.errors import Conflict, KeyMismatch, StoreUnavailable
from gateway.flow.ports import Count, Delete, Entry, Join, Leave, Put, Revocation, StateStore
from gateway.stores.factory import StateBackend, open_state
from gateway.stores.fingerprint import claim_key
from tests.support.redis_server import RedisServer

NOW = 1_795_000_000.25
LATER = NOW + 600.0
UNTIL_EXPIRY = LATER - 0.001


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("redis"), "--save", "") as server:
        yield server


class Backend:
    """One database; `open` gives store objects on it, as if each were another gateway."""

    def __init__(self, url: str, stack: AsyncExitStack) -> None:
        self.url = url
        self._stack = stack

    async def open(self) -> StateBackend:
        store = await open_state(self.url, redis_deadline=5.0, sqlite_deadline=10.0)
        self._stack.push_async_callback(store.close)
        return store


@pytest.fixture(params=["sqlite", pytest.param("redis", marks=pytest.mark.redis)])
async def backend(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Backend]:
    async with AsyncExitStack() as stack:
        if request.param == "sqlite":
            yield Backend(f"sqlite:///{tmp_path}/state.db", stack)
        else:
            server: RedisServer = request.getfixturevalue("redis_server")
            server.command("FLUSHALL")
            yield Backend(server.url, stack)


@pytest.fixture
async def store(backend: Backend) -> StateStore:
    return await backend.open()


# get and put


async def test_nothing_is_there_before_the_first_put(store: StateStore) -> None:
    assert await store.get("transaction", "a", NOW) is None


async def test_a_value_is_read_back_with_version_one_and_each_write_adds_one(store: StateStore) -> None:
    assert await store.put("transaction", "a", b"first", version=0, expires=LATER, now=NOW) == 1
    assert await store.get("transaction", "a", NOW) == Entry(b"first", 1)
    assert await store.put("transaction", "a", b"second", version=1, expires=LATER, now=NOW) == 2
    assert await store.put("transaction", "a", b"", version=2, expires=LATER, now=NOW) == 3
    assert await store.get("transaction", "a", NOW) == Entry(b"", 3)


@pytest.mark.parametrize("version", [0, 1, 3, -1])
async def test_put_over_another_version_is_a_conflict_and_changes_nothing(store: StateStore, version: int) -> None:
    await store.put("transaction", "a", b"first", version=0, expires=LATER, now=NOW)
    await store.put("transaction", "a", b"second", version=1, expires=LATER, now=NOW)
    with pytest.raises(Conflict):
        await store.put("transaction", "a", b"third", version=version, expires=LATER + 1, now=NOW)
    assert await store.get("transaction", "a", NOW) == Entry(b"second", 2)
    assert await store.get("transaction", "a", LATER) is None


@pytest.mark.parametrize("version", [1, -1])
async def test_put_over_a_version_of_nothing_is_a_conflict(store: StateStore, version: int) -> None:
    with pytest.raises(Conflict):
        await store.put("transaction", "a", b"x", version=version, expires=LATER, now=NOW)
    assert await store.get("transaction", "a", NOW) is None


async def test_an_entry_lives_until_its_expiry_and_not_at_it(store: StateStore) -> None:
    await store.put("transaction", "a", b"x", version=0, expires=LATER, now=NOW)
    assert await store.get("transaction", "a", UNTIL_EXPIRY) == Entry(b"x", 1)
    assert await store.get("transaction", "a", LATER) is None


async def test_an_expired_entry_counts_as_none_for_a_put(store: StateStore) -> None:
    await store.put("transaction", "a", b"old", version=0, expires=LATER, now=NOW)
    with pytest.raises(Conflict):
        await store.put("transaction", "a", b"new", version=1, expires=LATER + 600, now=LATER)
    assert await store.put("transaction", "a", b"new", version=0, expires=LATER + 600, now=LATER) == 1
    assert await store.get("transaction", "a", LATER) == Entry(b"new", 1)


async def test_a_put_takes_the_new_expiry_earlier_or_later(store: StateStore) -> None:
    await store.put("transaction", "a", b"x", version=0, expires=LATER, now=NOW)
    await store.put("transaction", "a", b"x", version=1, expires=LATER + 600, now=NOW)
    assert await store.get("transaction", "a", LATER) == Entry(b"x", 2)
    await store.put("transaction", "a", b"x", version=2, expires=NOW + 1, now=NOW)
    assert await store.get("transaction", "a", NOW + 1) is None


async def test_an_expiry_a_thousand_years_away_is_kept(store: StateStore) -> None:
    await store.put("keys", "a", b"x", version=0, expires=NOW + 3.2e10, now=NOW)
    assert await store.get("keys", "a", NOW + 3.1e10) == Entry(b"x", 1)


async def test_fractions_of_a_second_are_kept_exactly(store: StateStore) -> None:
    expires = NOW + 0.1234567
    await store.put("used", "a", b"x", version=0, expires=expires, now=NOW)
    assert await store.get("used", "a", expires) is None
    assert await store.get("used", "a", expires - 2e-6) == Entry(b"x", 1)


async def test_a_mebibyte_of_any_bytes_survives(store: StateStore) -> None:
    value = bytes(range(256)) * 4096
    await store.put("request", "a", value, version=0, expires=LATER, now=NOW)
    assert await store.get("request", "a", NOW) == Entry(value, 1)


async def test_spaces_and_kinds_do_not_share_keys(store: StateStore) -> None:
    await store.put("a", "b:c", b"1", version=0, expires=LATER, now=NOW)
    await store.put("a:b", "c", b"2", version=0, expires=LATER, now=NOW)
    await store.put("a%3Ab", "c", b"3", version=0, expires=LATER, now=NOW)
    await store.count("a", "b:c", by=7, expires=LATER, now=NOW)
    await store.join("a", "b:c", "m", cap=1, expires=LATER, now=NOW)
    assert await store.get("a", "b:c", NOW) == Entry(b"1", 1)
    assert await store.get("a:b", "c", NOW) == Entry(b"2", 1)
    assert await store.get("a%3Ab", "c", NOW) == Entry(b"3", 1)
    assert await store.count("a", "b:c", by=0, expires=LATER, now=NOW) == 7


@pytest.mark.parametrize("key", ["", " ", "\0", "{a}b", "ä/☃", "\udc80", "a\nb", "x" * 4000])
async def test_any_text_is_a_key(store: StateStore, key: str) -> None:
    await store.put("s", key, b"1", version=0, expires=LATER, now=NOW)
    await store.put("s", key + "x", b"2", version=0, expires=LATER, now=NOW)
    assert await store.get("s", key, NOW) == Entry(b"1", 1)
    assert await store.join("s", key, key, cap=1, expires=LATER, now=NOW)
    assert await store.count("s", key, by=1, expires=LATER, now=NOW) == 1


async def test_of_fifty_writers_over_one_version_exactly_one_wins(backend: Backend) -> None:
    stores = [await backend.open() for _ in range(5)]
    await stores[0].put("transaction", "a", b"ready", version=0, expires=LATER, now=NOW)

    async def consume(number: int) -> int | None:
        try:
            await stores[number % 5].put("transaction", "a", b"sent by %d" % number, version=1, expires=LATER, now=NOW)
        except Conflict:
            return None
        return number

    winners = [number for number in await asyncio.gather(*map(consume, range(50))) if number is not None]
    assert len(winners) == 1
    assert await stores[0].get("transaction", "a", NOW) == Entry(b"sent by %d" % winners[0], 2)


async def test_of_fifty_first_writers_exactly_one_wins(store: StateStore) -> None:
    done = await asyncio.gather(
        *(store.put("used", "jti", b"x", version=0, expires=LATER, now=NOW) for _ in range(50)), return_exceptions=True
    )
    assert sorted(type(result).__name__ for result in done) == ["Conflict"] * 49 + ["int"]


# delete


async def test_a_deleted_entry_is_gone_and_deleting_nothing_is_no_mistake(store: StateStore) -> None:
    await store.put("transaction", "a", b"x", version=0, expires=LATER, now=NOW)
    await store.put("transaction", "b", b"y", version=0, expires=LATER, now=NOW)
    await store.delete("transaction", "a")
    await store.delete("transaction", "a")
    assert await store.get("transaction", "a", NOW) is None
    assert await store.get("transaction", "b", NOW) == Entry(b"y", 1)
    assert await store.put("transaction", "a", b"z", version=0, expires=LATER, now=NOW) == 1


# count


async def test_a_counter_starts_at_zero_and_adds_up(store: StateStore) -> None:
    assert await store.count("tries", "alice", by=0, expires=LATER, now=NOW) == 0
    assert await store.count("tries", "alice", by=1, expires=LATER, now=NOW) == 1
    assert await store.count("tries", "alice", by=4, expires=LATER, now=NOW) == 5
    assert await store.count("tries", "alice", by=-2, expires=LATER, now=NOW) == 3
    assert await store.count("tries", "alice", by=0, expires=LATER, now=NOW) == 3


async def test_a_living_counter_keeps_its_own_expiry(store: StateStore) -> None:
    await store.count("tries", "alice", by=1, expires=LATER, now=NOW)
    assert await store.count("tries", "alice", by=1, expires=LATER + 600, now=UNTIL_EXPIRY) == 2
    assert await store.count("tries", "alice", by=0, expires=LATER + 600, now=LATER) == 0


async def test_an_expired_counter_starts_anew_with_the_new_expiry(store: StateStore) -> None:
    await store.count("tries", "alice", by=9, expires=LATER, now=NOW)
    assert await store.count("tries", "alice", by=1, expires=LATER + 600, now=LATER) == 1
    assert await store.count("tries", "alice", by=1, expires=LATER + 9000, now=LATER + 599) == 2
    assert await store.count("tries", "alice", by=0, expires=LATER + 9000, now=LATER + 600) == 0


async def test_reading_a_counter_neither_makes_nor_prolongs_it(store: StateStore) -> None:
    assert await store.count("tries", "alice", by=0, expires=LATER + 600, now=NOW) == 0
    await store.count("tries", "alice", by=1, expires=LATER, now=NOW)
    assert await store.count("tries", "alice", by=0, expires=LATER + 600, now=NOW) == 1
    assert await store.count("tries", "alice", by=0, expires=LATER + 600, now=LATER) == 0


async def test_a_counter_never_falls_below_zero(store: StateStore) -> None:
    assert await store.count("open", "alice", by=-1, expires=LATER, now=NOW) == 0
    await store.count("open", "alice", by=2, expires=LATER, now=NOW)
    assert await store.count("open", "alice", by=-5, expires=LATER, now=NOW) == 0
    assert await store.count("open", "alice", by=1, expires=LATER, now=NOW) == 1


async def test_no_increment_is_lost_under_concurrency(backend: Backend) -> None:
    stores = [await backend.open() for _ in range(4)]
    seen = await asyncio.gather(*(stores[number % 4].count("tries", "alice", by=1, expires=LATER, now=NOW) for number in range(100)))
    assert sorted(seen) == list(range(1, 101))


# join and leave


async def test_a_group_takes_members_up_to_its_cap(store: StateStore) -> None:
    for member in ("a", "b"):
        assert await store.join("open", "browser", member, cap=2, expires=LATER, now=NOW) is True
    assert await store.join("open", "browser", "c", cap=2, expires=LATER, now=NOW) is False
    assert await store.join("open", "other", "c", cap=2, expires=LATER, now=NOW) is True
    assert await store.join("open", "browser", "c", cap=3, expires=LATER, now=NOW) is True


async def test_a_member_that_is_in_stays_in_and_takes_one_place(store: StateStore) -> None:
    assert await store.join("open", "browser", "a", cap=2, expires=LATER, now=NOW)
    assert await store.join("open", "browser", "a", cap=2, expires=LATER, now=NOW)
    assert await store.join("open", "browser", "b", cap=2, expires=LATER, now=NOW)
    assert await store.join("open", "browser", "a", cap=1, expires=LATER, now=NOW), "it is in, whatever the cap is now"


async def test_joining_again_sets_the_expiry_anew(store: StateStore) -> None:
    await store.join("open", "browser", "a", cap=1, expires=LATER, now=NOW)
    await store.join("open", "browser", "a", cap=1, expires=LATER + 600, now=NOW)
    assert not await store.join("open", "browser", "b", cap=1, expires=LATER + 600, now=LATER + 599)
    assert await store.join("open", "browser", "b", cap=1, expires=LATER + 900, now=LATER + 600)


async def test_members_free_their_places_when_they_expire(store: StateStore) -> None:
    await store.join("open", "browser", "a", cap=2, expires=LATER, now=NOW)
    await store.join("open", "browser", "b", cap=2, expires=LATER + 600, now=NOW)
    assert not await store.join("open", "browser", "c", cap=2, expires=LATER + 600, now=UNTIL_EXPIRY)
    assert await store.join("open", "browser", "c", cap=2, expires=LATER + 600, now=LATER)
    assert not await store.join("open", "browser", "a", cap=2, expires=LATER + 600, now=LATER), "it expired, and its place is taken"


async def test_a_member_that_leaves_frees_its_place(store: StateStore) -> None:
    await store.join("open", "browser", "a", cap=1, expires=LATER, now=NOW)
    await store.leave("open", "browser", "nobody")
    await store.leave("open", "nowhere", "a")
    assert not await store.join("open", "browser", "b", cap=1, expires=LATER, now=NOW)
    await store.leave("open", "browser", "a")
    assert await store.join("open", "browser", "b", cap=1, expires=LATER, now=NOW)


async def test_the_cap_holds_under_concurrency(backend: Backend) -> None:
    stores = [await backend.open() for _ in range(4)]
    joined = await asyncio.gather(
        *(stores[number % 4].join("open", "browser", f"m{number}", cap=7, expires=LATER, now=NOW) for number in range(60))
    )
    assert joined.count(True) == 7


# revocations


async def test_writes_together_are_each_what_their_own_method_does(store: StateStore) -> None:
    await store.put("transaction", "old", b"x", version=0, expires=LATER, now=NOW)
    results = await store.together(
        [
            Put("request", "a", b"body", 0, LATER),
            Put("transaction", "a", b"first", 0, LATER),
            Put("transaction", "a", b"second", 1, LATER),
            Delete("transaction", "old"),
            Count("guess", "alice", 2, LATER),
            Count("guess", "alice", -1, LATER),
            Count("guess", "nobody", -1, LATER),
            Join("open", "all", "a", 1, LATER),
            Join("open", "all", "b", 1, LATER),
            Leave("open", "all", "a"),
            Join("open", "all", "c", 1, LATER),
        ],
        NOW,
    )
    assert list(results) == [1, 1, 2, None, 2, 1, 0, True, False, None, True]
    assert await store.get("request", "a", NOW) == Entry(b"body", 1)
    assert await store.get("transaction", "a", NOW) == Entry(b"second", 2)
    assert await store.get("transaction", "old", NOW) is None
    assert await store.count("guess", "alice", by=0, expires=LATER, now=NOW) == 1
    assert await store.join("open", "all", "d", cap=1, expires=LATER, now=NOW) is False
    assert await store.get("transaction", "a", LATER) is None


async def test_a_refused_put_among_others_is_a_result_and_hinders_none_of_them(store: StateStore) -> None:
    await store.put("transaction", "a", b"first", version=0, expires=LATER, now=NOW)
    before, refused, after = await store.together(
        [Count("guess", "x", 1, LATER), Put("transaction", "a", b"lost", 5, LATER), Put("transaction", "b", b"kept", 0, LATER)], NOW
    )
    assert (before, type(refused), after) == (1, Conflict, 1)
    assert await store.get("transaction", "a", NOW) == Entry(b"first", 1)
    assert await store.get("transaction", "b", NOW) == Entry(b"kept", 1)


async def test_of_many_who_write_together_over_one_version_one_wins_and_all_the_rest_is_done(store: StateStore) -> None:
    done = await asyncio.gather(
        *(store.together([Put("transaction", "a", b"x", 0, LATER), Count("guess", "x", 1, LATER)], NOW) for _ in range(30))
    )
    assert sorted(type(put).__name__ for put, _ in done) == ["Conflict"] * 29 + ["int"]
    assert sorted(count for _, count in done) == list(range(1, 31))


async def test_revocations_come_in_the_order_in_which_they_were_made(store: StateStore) -> None:
    assert await store.revocations(0, NOW) == []
    for sid in ("z", "a:b", "m"):
        await store.revoke(sid, until=LATER, now=NOW)
    feed = await store.revocations(0, NOW)
    assert [(entry.sid, entry.until) for entry in feed] == [("z", LATER), ("a:b", LATER), ("m", LATER)]
    cursors = [entry.cursor for entry in feed]
    assert cursors == sorted(set(cursors))
    assert cursors[0] > 0


async def test_only_what_is_after_the_cursor_is_given(store: StateStore) -> None:
    for sid in ("a", "b", "c"):
        await store.revoke(sid, until=LATER, now=NOW)
    first, second, third = await store.revocations(0, NOW)
    assert await store.revocations(first.cursor, NOW) == [second, third]
    assert await store.revocations(third.cursor, NOW) == []
    await store.revoke("d", until=LATER, now=NOW)
    assert [entry.sid for entry in await store.revocations(third.cursor, NOW)] == ["d"]


async def test_a_revocation_is_forgotten_when_its_time_is_over(store: StateStore) -> None:
    await store.revoke("short", until=LATER, now=NOW)
    await store.revoke("long", until=LATER + 600, now=NOW)
    assert [entry.sid for entry in await store.revocations(0, UNTIL_EXPIRY)] == ["short", "long"]
    assert [entry.sid for entry in await store.revocations(0, LATER)] == ["long"]


async def test_cursors_go_on_after_the_feed_has_run_empty_and_when_the_clock_steps_back(store: StateStore) -> None:
    await store.revoke("old", until=LATER, now=NOW)
    (old,) = await store.revocations(0, NOW)
    for number in range(64):  # enough writes for any sweep to take the old one away
        await store.revoke(f"n{number}", until=LATER + 9000, now=LATER + 8000)
    last = (await store.revocations(old.cursor, LATER + 8000))[-1]
    assert last.sid == "n63"
    await store.revoke("after", until=LATER + 9000, now=NOW)
    assert [entry.sid for entry in await store.revocations(last.cursor, LATER + 8000)] == ["after"]


async def test_concurrent_revocations_are_each_seen_exactly_once_by_a_reader_who_follows(backend: Backend) -> None:
    writers = [await backend.open() for _ in range(4)]
    reader = await backend.open()
    seen: list[Revocation] = []

    async def follow() -> None:
        while len(seen) < 60:
            seen.extend(await reader.revocations(seen[-1].cursor if seen else 0, NOW))

    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        group.create_task(follow())
        for number in range(60):
            group.create_task(writers[number % 4].revoke(f"sid{number}", until=LATER, now=NOW))
    assert sorted(entry.sid for entry in seen) == sorted(f"sid{number}" for number in range(60))


# several gateways


async def test_two_gateways_on_one_store_see_each_other(backend: Backend) -> None:
    one, two = await backend.open(), await backend.open()
    await one.put("transaction", "a", b"begun", version=0, expires=LATER, now=NOW)
    assert await two.put("transaction", "a", b"answered", version=1, expires=LATER, now=NOW) == 2
    assert await one.get("transaction", "a", NOW) == Entry(b"answered", 2)
    await two.count("tries", "alice", by=2, expires=LATER, now=NOW)
    assert await one.count("tries", "alice", by=1, expires=LATER, now=NOW) == 3
    await two.join("open", "browser", "x", cap=1, expires=LATER, now=NOW)
    assert not await one.join("open", "browser", "y", cap=1, expires=LATER, now=NOW)
    await one.revoke("sid", until=LATER, now=NOW)
    assert [entry.sid for entry in await two.revocations(0, NOW)] == ["sid"]


async def test_a_caller_whose_clock_is_behind_still_sees_what_is_alive_for_it(backend: Backend) -> None:
    ahead, behind = await backend.open(), await backend.open()
    await behind.put("transaction", "a", b"x", version=0, expires=LATER, now=NOW)
    await behind.join("open", "browser", "a", cap=1, expires=LATER, now=NOW)
    await behind.revoke("sid", until=LATER, now=NOW)
    for number in range(64):
        await ahead.put("transaction", f"b{number}", b"y", version=0, expires=LATER + 600, now=LATER + 30)
        await ahead.revoke(f"b{number}", until=LATER + 600, now=LATER + 30)
    assert await behind.get("transaction", "a", UNTIL_EXPIRY) == Entry(b"x", 1)
    assert not await behind.join("open", "browser", "b", cap=1, expires=LATER + 600, now=UNTIL_EXPIRY)
    assert "sid" in [entry.sid for entry in await behind.revocations(0, UNTIL_EXPIRY)]


PROCESS = textwrap.dedent("""
    import asyncio, os, sys
    from gateway.stores.factory import open_state
    async def main():
        url, job = sys.argv[1:]
        store = await open_state(url, redis_deadline=20, sqlite_deadline=20)
        if job == "count":
            for _ in range(50):
                await store.count("tries", "alice", by=1, expires=9e9, now=1.0)
            await store.close()
            return
        await store.put("transaction", "a", b"ready", version=0, expires=9e9, now=1.0)
        await store.join("open", "browser", "a", cap=1, expires=9e9, now=1.0)
        await store.count("tries", "alice", by=3, expires=9e9, now=1.0)
        await store.revoke("sid", until=9e9, now=1.0)
        print("returned", flush=True)
        await asyncio.sleep(60)
    asyncio.run(main())
""")


def process(backend: Backend, job: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", PROCESS, backend.url, job], stdout=subprocess.PIPE)


async def test_four_processes_lose_no_increment(backend: Backend, store: StateStore) -> None:
    processes = [process(backend, "count") for _ in range(4)]
    try:
        codes = [await asyncio.to_thread(child.wait, 60) for child in processes]
    finally:
        for child in processes:
            child.kill()
            child.communicate()
    assert codes == [0, 0, 0, 0]
    assert await store.count("tries", "alice", by=0, expires=LATER, now=NOW) == 200


async def test_what_has_returned_survives_kill_nine_of_its_process(backend: Backend, store: StateStore) -> None:
    child = process(backend, "write and wait")
    try:
        assert child.stdout is not None
        assert await asyncio.to_thread(child.stdout.readline) == b"returned\n"
        os.kill(child.pid, signal.SIGKILL)
        assert await asyncio.to_thread(child.wait, 30) == -signal.SIGKILL
    finally:
        child.kill()
        child.communicate()
    assert await store.get("transaction", "a", NOW) == Entry(b"ready", 1)
    assert not await store.join("open", "browser", "b", cap=1, expires=LATER, now=NOW)
    assert await store.count("tries", "alice", by=0, expires=LATER, now=NOW) == 3
    assert [entry.sid for entry in await store.revocations(0, NOW)] == ["sid"]


# closing


async def test_a_closed_store_says_so_and_can_be_closed_again(backend: Backend) -> None:
    store = await backend.open()
    await store.put("transaction", "a", b"x", version=0, expires=LATER, now=NOW)
    await store.close()
    await store.close()
    with pytest.raises(StoreUnavailable, match="closed"):
        await store.get("transaction", "a", NOW)


async def test_a_store_that_was_never_used_closes(backend: Backend) -> None:
    await (await backend.open()).close()


async def test_a_caller_that_is_cancelled_leaves_the_store_usable(store: StateStore) -> None:
    await store.put("transaction", "a", b"x" * 100_000, version=0, expires=LATER, now=NOW)
    for turns in range(8):  # cancel at every stage of a call
        task = asyncio.ensure_future(store.get("transaction", "a", NOW))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert await store.count("tries", f"{turns}", by=1, expires=LATER, now=NOW) == 1, "the answer to this call, not to the last one"


# the claim of a key


async def test_the_first_gateway_claims_the_store_and_its_like_may_share_it(store: StateStore) -> None:
    await claim_key(store, ("k1",), NOW)
    await claim_key(store, ("k1",), NOW)
    await claim_key(store, ("k1",), NOW)


async def test_another_key_is_refused_with_what_to_do_half_a_century_later_too(store: StateStore) -> None:
    await claim_key(store, ("k1",), NOW)
    with pytest.raises(
        KeyMismatch, match=r"key k1, which is not in this gateway's key file \(it has k2, k0\).*copy the key file.*another store"
    ):
        await claim_key(store, ("k2", "k0"), NOW + 50 * 365 * 86_400)
    await claim_key(store, ("k1",), NOW)


async def test_after_a_rotation_the_store_moves_to_the_current_key(store: StateStore) -> None:
    await claim_key(store, ("k1",), NOW)
    await claim_key(store, ("k2", "k1"), NOW)
    with pytest.raises(KeyMismatch):
        await claim_key(store, ("k1",), NOW)


async def test_of_two_strangers_who_start_at_once_one_is_refused(backend: Backend) -> None:
    one, two = await backend.open(), await backend.open()
    done = await asyncio.gather(claim_key(one, ("k1",), NOW), claim_key(two, ("k2",), NOW), return_exceptions=True)
    assert sorted(type(result).__name__ for result in done) == ["KeyMismatch", "NoneType"]
