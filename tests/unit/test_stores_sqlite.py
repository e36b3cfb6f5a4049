"""What is special about the state store on SQLite: locks, deadlines, faults of the file, who may read it, and what the sweep leaves."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from gateway.errors import StoreTooNew, StoreUnavailable
from gateway.flow.ports import Entry
from gateway.stores.state_sqlite import SqliteState

NOW, LATER = 1_795_000_000.0, 1_795_000_600.0
HUNG = 10.0  # seconds: far above any deadline used here


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "made" / "state.db"


@pytest.fixture
async def store(path: Path) -> AsyncIterator[SqliteState]:
    store = SqliteState(path, deadline=0.3)
    yield store
    await store.close()


def taken(store: SqliteState) -> None:
    """Wait until the thread is at work, with what it has taken or with the first of it."""
    end = time.monotonic() + HUNG
    while not store._thread._taken:
        assert time.monotonic() < end
        time.sleep(0.001)


def modes(folder: Path) -> dict[str, int]:
    return {file.name: file.stat().st_mode & 0o777 for file in (folder, *folder.iterdir())}


def no_database(path: Path) -> None:
    path.parent.mkdir(mode=0o700)
    path.write_bytes(b"this is not a database" * 100)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Another program holds the database."""
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        yield
        other.execute("ROLLBACK")


async def test_folder_and_files_are_for_their_owner_only(store: SqliteState, path: Path) -> None:
    await store.put("s", "a", b"x", version=0, expires=LATER, now=NOW)
    assert modes(path.parent) == {"made": 0o700, "state.db": 0o600, "state.db-wal": 0o600, "state.db-shm": 0o600}
    assert await store.warnings() == []


async def test_a_file_that_others_can_read_is_worth_a_warning(store: SqliteState, path: Path) -> None:
    await store.put("s", "a", b"x", version=0, expires=LATER, now=NOW)
    await asyncio.to_thread(path.chmod, 0o644)
    (warning,) = await store.warnings()
    assert str(path) in warning
    assert "0644" in warning


async def test_writes_are_flushed_to_disk_and_readers_do_not_block(store: SqliteState, path: Path) -> None:
    await store.put("s", "a", b"x", version=0, expires=LATER, now=NOW)
    pragmas = await store._thread.call(
        lambda connection: [connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "synchronous")], write=False
    )
    assert pragmas == ["wal", 2], "2 is FULL"
    with locked(path):
        assert await store.get("s", "a", NOW) == Entry(b"x", 1)


async def test_a_lock_held_by_another_fails_the_call_and_nothing_is_written_later(store: SqliteState, path: Path) -> None:
    await store.put("s", "a", b"x", version=0, expires=LATER, now=NOW)
    began = time.monotonic()
    with locked(path):
        done = await asyncio.gather(
            store.put("s", "a", b"late", version=1, expires=LATER, now=NOW),
            *(store.put("s", f"n{number}", b"late", version=0, expires=LATER, now=NOW) for number in range(10)),
            return_exceptions=True,
        )
    assert [type(result) for result in done] == [StoreUnavailable] * 11
    assert time.monotonic() - began < HUNG
    assert await store.put("s", "b", b"y", version=0, expires=LATER, now=NOW) == 1, "it works again by itself"
    assert await store.get("s", "a", NOW) == Entry(b"x", 1)
    assert [await store.get("s", f"n{number}", NOW) for number in range(10)] == [None] * 10


async def test_a_lock_held_while_the_database_is_opened_fails_the_call_only(store: SqliteState, path: Path) -> None:
    first = SqliteState(path)
    await first.put("s", "a", b"x", version=0, expires=LATER, now=NOW)
    await first.close()
    with locked(path), pytest.raises(StoreUnavailable):
        await store.put("s", "a", b"y", version=1, expires=LATER, now=NOW)
    assert await store.put("s", "a", b"z", version=1, expires=LATER, now=NOW) == 2


async def test_a_call_waits_for_a_lock_but_not_if_its_caller_went_away_in_the_queue(path: Path) -> None:
    store = SqliteState(path, deadline=HUNG)
    await store.get("s", "a", NOW)
    with locked(path):
        first = asyncio.create_task(store.count("s", "first", by=1, expires=LATER, now=NOW))
        second = asyncio.create_task(store.count("s", "second", by=1, expires=LATER, now=NOW))
        await asyncio.to_thread(taken, store)  # the first is under way, the second waits behind it or in its group
        second.cancel()
        await asyncio.gather(second, return_exceptions=True)
    assert await first == 1
    assert await store.count("s", "second", by=0, expires=LATER, now=NOW) == 0
    await store.close()


async def test_the_queue_is_bounded(path: Path) -> None:
    store = SqliteState(path, deadline=1.0)
    await store.get("s", "a", NOW)
    with locked(path):
        done = await asyncio.gather(*(store.count("s", "c", by=1, expires=LATER, now=NOW) for _ in range(1100)), return_exceptions=True)
    assert {type(result) for result in done} == {StoreUnavailable}
    assert sum("waiting already" in str(result) for result in done) >= 1100 - 1024 - 1
    assert await store.count("s", "c", by=1, expires=LATER, now=NOW) == 1
    await store.close()


async def test_closing_fails_what_waits_and_lets_the_rest_end(path: Path) -> None:
    store = SqliteState(path, deadline=0.3)
    await store.get("s", "a", NOW)
    with locked(path):
        waiting = [asyncio.create_task(store.count("s", "c", by=1, expires=LATER, now=NOW)) for _ in range(3)]
        await asyncio.sleep(0)
        await store.close()
        done = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(result) for result in done] == [StoreUnavailable] * 3
    assert not list(path.parent.glob("*-wal")), "the last connection was closed properly"


async def test_a_file_that_is_no_database_is_reported_and_recovered_from(store: SqliteState, path: Path) -> None:
    no_database(path)
    with pytest.raises(StoreUnavailable, match="not a database"):
        await store.get("s", "a", NOW)
    await asyncio.to_thread(path.unlink)
    assert await store.put("s", "a", b"x", version=0, expires=LATER, now=NOW) == 1


async def test_a_folder_that_cannot_be_made_is_reported_and_recovered_from(store: SqliteState, path: Path) -> None:
    path.parent.write_text("in the way")
    with pytest.raises(StoreUnavailable):
        await store.get("s", "a", NOW)
    path.parent.unlink()
    assert await store.put("s", "a", b"x", version=0, expires=LATER, now=NOW) == 1


async def test_a_database_that_was_moved_away_is_left_and_found_again(store: SqliteState, path: Path) -> None:
    await store.put("s", "a", b"x", version=0, expires=LATER, now=NOW)
    path.parent.rename(path.parent.with_name("away"))
    assert await store.get("s", "a", NOW) is None
    await store.put("s", "new", b"y", version=0, expires=LATER, now=NOW)
    path.parent.rename(path.parent.with_name("other"))
    path.parent.with_name("away").rename(path.parent)
    assert await store.get("s", "a", NOW) == Entry(b"x", 1)
    assert await store.get("s", "new", NOW) is None


async def test_a_database_of_a_newer_gateway_is_refused_unchanged(store: SqliteState, path: Path) -> None:
    path.parent.mkdir(mode=0o700)
    with closing(sqlite3.connect(path)) as other:
        other.execute("PRAGMA user_version = 7")
    with pytest.raises(StoreTooNew, match="newer gateway"):
        await store.get("s", "a", NOW)
    with closing(sqlite3.connect(path)) as other:
        assert other.execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,)


async def test_writes_sweep_away_what_has_long_expired(store: SqliteState, path: Path) -> None:
    for number in range(50):
        await store.put("s", f"old{number}", b"x", version=0, expires=LATER, now=NOW)
        await store.count("s", f"old{number}", by=1, expires=LATER, now=NOW)
        await store.join("s", "g", f"old{number}", cap=99, expires=LATER, now=NOW)
        await store.revoke(f"old{number}", until=LATER, now=NOW)
    for number in range(64):
        await store.put("s", f"new{number}", b"x", version=0, expires=LATER + 9000, now=LATER + 3600)
    with closing(sqlite3.connect(path)) as other:
        left = {
            table: other.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
            for table in ("entries", "counters", "members", "revocations")
        }
    assert left == {"entries": 64, "counters": 0, "members": 0, "revocations": 0}
