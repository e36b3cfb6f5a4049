"""Group commit: what writes that wait together owe to each other, on a real file. The thread is held by a read until all of them wait."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from gateway.errors import Conflict, StoreUnavailable
from gateway.stores.sqlite_thread import SqliteThread, by_user_version

SCHEMA = """
CREATE TABLE lines (id INTEGER PRIMARY KEY, text TEXT NOT NULL);
CREATE TABLE owners (id INTEGER PRIMARY KEY);
CREATE TABLE owned (owner INTEGER NOT NULL REFERENCES owners DEFERRABLE INITIALLY DEFERRED)
"""
HUNG = 10.0

Work = Callable[[sqlite3.Connection], Any]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "grouped.db"


@pytest.fixture
async def thread(path: Path) -> AsyncIterator[SqliteThread]:
    thread = SqliteThread(path, bring_up=by_user_version(path, SCHEMA, 1), deadline=HUNG)
    await thread.call(lambda _: None, write=True)
    yield thread
    await thread.close()


@asynccontextmanager
async def held(thread: SqliteThread) -> AsyncIterator[None]:
    """What is called within waits, and is taken as one group afterwards."""
    taken, go = threading.Event(), threading.Event()

    def hold(_: sqlite3.Connection) -> None:
        taken.set()
        go.wait(HUNG)

    holding = asyncio.create_task(thread.call(hold, write=False))
    await asyncio.to_thread(taken.wait, HUNG)
    yield
    await asyncio.sleep(0)
    go.set()
    await holding


async def grouped(thread: SqliteThread, *works: Work) -> list[Any]:
    async with held(thread):
        calls = [asyncio.ensure_future(thread.call(work, write=True)) for work in works]
    return await asyncio.gather(*calls, return_exceptions=True)


@contextmanager
def statements(thread: SqliteThread) -> Iterator[list[str]]:
    seen: list[str] = []
    assert thread._connection is not None
    thread._connection.set_trace_callback(seen.append)
    yield seen


def insert(text: str) -> Work:
    return lambda connection: connection.execute("INSERT INTO lines (text) VALUES (?)", (text,)).lastrowid


def refuses(connection: sqlite3.Connection) -> None:
    insert("half done")(connection)
    raise Conflict("somebody was first")


def breaks(connection: sqlite3.Connection) -> None:
    insert("half done")(connection)
    connection.execute("INSERT INTO nowhere VALUES (1)")


def cannot_be_committed(connection: sqlite3.Connection) -> None:
    connection.execute("INSERT INTO owned VALUES (7)")  # SQLite looks for owner 7 at the COMMIT


def stored(path: Path) -> list[str]:
    with closing(sqlite3.connect(path)) as other:
        return [text for (text,) in other.execute("SELECT text FROM lines ORDER BY id")]


async def test_writes_that_wait_together_are_one_transaction_in_the_order_of_their_calls(thread: SqliteThread, path: Path) -> None:
    with statements(thread) as seen:
        assert await grouped(thread, *(insert(f"line {number}") for number in range(40))) == list(range(1, 41))
    assert seen.count("COMMIT") == 1
    assert stored(path) == [f"line {number}" for number in range(40)]


async def test_no_caller_goes_on_before_its_write_is_committed(thread: SqliteThread, path: Path) -> None:
    seen: list[list[str]] = []

    async def write(text: str) -> None:
        await thread.call(insert(text), write=True)
        seen.append(await asyncio.to_thread(stored, path))  # by another connection: what is not committed is not there

    async with held(thread):
        calls = [asyncio.ensure_future(write(text)) for text in "abc"]
    await asyncio.gather(*calls)
    assert [set(found) >= {"a", "b", "c"} for found in seen] == [True] * 3


async def test_a_refusal_undoes_itself_and_nothing_else(thread: SqliteThread, path: Path) -> None:
    with statements(thread) as seen:
        first, second, third = await grouped(thread, insert("before"), refuses, insert("behind"))
    assert (first, type(second), third) == (1, Conflict, 2)
    assert stored(path) == ["before", "behind"]
    assert seen.count("COMMIT") == 1


async def test_a_fault_of_one_is_that_ones_only(thread: SqliteThread, path: Path) -> None:
    done = await grouped(thread, insert("before"), breaks, insert("behind"))
    assert [type(result) for result in done] == [int, StoreUnavailable, int]
    assert "nowhere" in str(done[1])
    assert stored(path) == ["before", "behind"]


async def test_an_error_of_ours_is_that_ones_only_and_comes_out_as_it_is(thread: SqliteThread, path: Path) -> None:
    done = await grouped(thread, insert("before"), lambda _: 1 / 0, insert("behind"))
    assert [type(result) for result in done] == [int, ZeroDivisionError, int]
    assert stored(path) == ["before", "behind"]


async def test_where_the_commit_fails_every_caller_gets_the_fault_and_nothing_is_tried_again(thread: SqliteThread, path: Path) -> None:
    runs: list[str] = []

    def counted(connection: sqlite3.Connection) -> None:
        runs.append("run")
        insert("counted")(connection)

    done = await grouped(thread, counted, refuses, cannot_be_committed, insert("behind"))
    assert [type(result) for result in done] == [StoreUnavailable] * 4, "a refusal too: what it was judged by does not stand"
    assert runs == ["run"]
    assert stored(path) == []
    assert await thread.call(insert("afterwards"), write=True) == 1, "it works again by itself"


async def test_who_gives_up_while_the_group_is_under_way_has_written_nothing_and_the_others_have(thread: SqliteThread, path: Path) -> None:
    reached, go = threading.Event(), threading.Event()

    def slow(connection: sqlite3.Connection) -> None:
        insert("slow")(connection)
        reached.set()
        go.wait(HUNG)

    async with held(thread):
        calls = [asyncio.ensure_future(thread.call(work, write=True)) for work in (insert("first"), insert("given up"), slow)]
    await asyncio.to_thread(reached.wait, HUNG)
    calls[1].cancel()
    await asyncio.gather(calls[1], return_exceptions=True)
    go.set()
    await asyncio.gather(calls[0], calls[2])
    assert stored(path) == ["first", "slow"]


async def test_a_read_among_writes_sees_what_is_committed_only(thread: SqliteThread) -> None:
    def count(connection: sqlite3.Connection) -> int:
        (found,) = connection.execute("SELECT count(*) FROM lines").fetchone()
        return int(found)

    async with held(thread):
        calls: list[Awaitable[Any]] = [
            asyncio.ensure_future(thread.call(insert("a"), write=True)),
            asyncio.ensure_future(thread.call(count, write=False)),
            asyncio.ensure_future(thread.call(cannot_be_committed, write=True)),
        ]
    done = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(result) for result in done] == [StoreUnavailable, int, StoreUnavailable]
    assert done[1] == 0
