"""What the records must do: each sentence of flow.ports.Records, on SQLite; migrations, durability and faults."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from gateway.errors import Conflict, StoreTooNew, StoreUnavailable
from gateway.flow.ports import AuditEvent, Entry, Records
from gateway.stores.migrations.upgrade import script
from gateway.stores.records import REVISION, open_records

NOW = 1_795_000_000.5
HUNG = 15.0  # seconds: far above any deadline used here


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "made here" / "records.db"


@pytest.fixture
def url(path: Path) -> str:
    return f"sqlite:///{path}"


@pytest.fixture
async def records(url: str) -> AsyncIterator[Records]:
    records = await open_records(url, 10.0)
    yield records
    await records.close()


def rows(path: Path, query: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(path)) as other:
        return other.execute(query).fetchall()


def no_database(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"this is not a database" * 100)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Another program holds the database."""
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        yield
        other.execute("ROLLBACK")


async def test_a_document_is_read_back_with_its_version(records: Records, path: Path) -> None:
    assert await records.get("totp", "alice", "") is None
    assert await records.put("totp", "alice", "", b"\x00sealed\xff", version=0, now=NOW) == 1
    assert await records.get("totp", "alice", "") == Entry(b"\x00sealed\xff", 1)
    assert await records.put("totp", "alice", "", b"again", version=1, now=NOW + 5) == 2
    assert await records.get("totp", "alice", "") == Entry(b"again", 2)
    assert rows(path, "SELECT created, updated FROM documents") == [(NOW, NOW + 5)]


async def test_kind_owner_and_name_each_tell_documents_apart(records: Records) -> None:
    places = [("a", "b", "c"), ("b", "a", "c"), ("a", "c", "b"), ("a", "b", ""), ("a", "B", "c")]
    for number, place in enumerate(places):
        await records.put(*place, b"%d" % number, version=0, now=NOW)
    assert [await records.get(*place) for place in places] == [Entry(b"%d" % number, 1) for number in range(5)]


@pytest.mark.parametrize("version", [0, 2, -1])
async def test_put_over_another_version_is_a_conflict_and_changes_nothing(records: Records, version: int) -> None:
    await records.put("consent", "alice", "terms", b"yes", version=0, now=NOW)
    with pytest.raises(Conflict):
        await records.put("consent", "alice", "terms", b"no", version=version, now=NOW)
    assert await records.get("consent", "alice", "terms") == Entry(b"yes", 1)


async def test_put_over_a_version_of_nothing_is_a_conflict(records: Records) -> None:
    with pytest.raises(Conflict):
        await records.put("consent", "alice", "terms", b"yes", version=1, now=NOW)
    assert await records.get("consent", "alice", "terms") is None


async def test_of_fifty_writers_exactly_one_wins(records: Records, url: str) -> None:
    other = await open_records(url, 10.0)
    for version in (0, 1):
        done = await asyncio.gather(
            *((records, other)[number % 2].put("totp", "alice", "", b"x", version=version, now=NOW) for number in range(50)),
            return_exceptions=True,
        )
        assert sorted(type(result).__name__ for result in done) == ["Conflict"] * 49 + ["int"]
    await other.close()


async def test_a_deleted_document_is_gone_and_deleting_nothing_is_no_mistake(records: Records) -> None:
    await records.put("totp", "alice", "", b"x", version=0, now=NOW)
    await records.put("totp", "bob", "", b"y", version=0, now=NOW)
    await records.delete("totp", "alice", "")
    await records.delete("totp", "alice", "")
    assert await records.get("totp", "alice", "") is None
    assert await records.get("totp", "bob", "") == Entry(b"y", 1)
    assert await records.put("totp", "alice", "", b"z", version=0, now=NOW) == 1


async def test_the_audit_trail_keeps_every_field_in_order(records: Records, path: Path) -> None:
    await records.audit(AuditEvent(at=NOW, event="started", request_id="r1"))
    full = AuditEvent(
        NOW, "step", "r2", "alice", "transfer", "code", "passed", "192.0.2.1", {"method": "totp", "tries": 2, "ä": [1.5, None]}
    )
    await records.audit(full)
    lines = rows(path, "SELECT at, event, request_id, subject, rule, step, outcome, address, detail FROM audit ORDER BY id")
    assert lines[0] == (NOW, "started", "r1", "", "", "", "", "", "{}")
    assert lines[1][:-1] == (NOW, "step", "r2", "alice", "transfer", "code", "passed", "192.0.2.1")
    assert json.loads(str(lines[1][-1])) == dict(full.detail)


async def test_an_audit_line_is_written_whatever_text_a_client_sent(records: Records, path: Path) -> None:
    await records.audit(
        AuditEvent(at=NOW, event="login", request_id="r", subject="half \udc80 '; DROP TABLE audit", detail={"name": "\udcff"})
    )
    assert rows(path, "SELECT subject FROM audit") == [("half \\udc80 '; DROP TABLE audit",)]


async def test_folder_and_files_are_for_their_owner_only(records: Records, path: Path) -> None:
    await records.ping()
    assert path.parent.stat().st_mode & 0o777 == 0o700
    modes = {file.name: file.stat().st_mode & 0o777 for file in path.parent.iterdir()}
    assert modes == {"records.db": 0o600, "records.db-wal": 0o600, "records.db-shm": 0o600}


async def test_what_was_written_is_there_after_closing_and_opening_again(url: str) -> None:
    for version in range(3):
        records = await open_records(url, 10.0)
        await records.put("totp", "alice", "", b"x", version=version, now=NOW)
        await records.close()


PROCESS = textwrap.dedent("""
    import asyncio, sys
    from gateway.flow.ports import AuditEvent
    from gateway.stores.records import open_records
    async def main():
        records = await open_records(sys.argv[1], 20.0)
        await records.put("totp", sys.argv[2], "", b"x", version=0, now=1.0)
        await records.audit(AuditEvent(1.0, "started", sys.argv[2]))
        print("returned", flush=True)
        if sys.argv[2] == "stay":
            await asyncio.sleep(60)
        await records.close()
    asyncio.run(main())
""")


def process(url: str, name: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", PROCESS, url, name], stdout=subprocess.PIPE)


async def test_processes_that_start_at_once_on_no_database_all_succeed(url: str, path: Path) -> None:
    children = [process(url, f"p{number}") for number in range(4)]
    outputs = [await asyncio.to_thread(child.communicate, None, 60) for child in children]
    assert [output for output, _ in outputs] == [b"returned\n"] * 4
    assert [child.returncode for child in children] == [0] * 4
    assert rows(path, "SELECT owner FROM documents ORDER BY owner") == [("p0",), ("p1",), ("p2",), ("p3",)]
    assert rows(path, "SELECT count(*) FROM alembic_version") == [(1,)]


async def test_what_has_returned_survives_kill_nine(url: str, path: Path) -> None:
    child = process(url, "stay")
    try:
        assert child.stdout is not None
        assert await asyncio.to_thread(child.stdout.readline) == b"returned\n"
        os.kill(child.pid, signal.SIGKILL)
        assert await asyncio.to_thread(child.wait, 30) == -signal.SIGKILL
    finally:
        child.kill()
        child.communicate()
    records = await open_records(url, 10.0)
    assert await records.get("totp", "stay", "") == Entry(b"x", 1)
    assert rows(path, "SELECT request_id FROM audit") == [("stay",)]
    await records.close()


async def test_a_database_of_a_newer_gateway_is_refused_unchanged(url: str, path: Path) -> None:
    await (await open_records(url, 10.0)).close()
    with closing(sqlite3.connect(path)) as other, other:
        other.execute("UPDATE alembic_version SET version_num = '0999'")
    with pytest.raises(StoreTooNew, match=r"newer gateway \(revision 0999"):
        await open_records(url, 10.0)
    assert rows(path, "SELECT version_num FROM alembic_version") == [("0999",)]


async def test_a_migration_that_fails_leaves_the_database_as_it_was(url: str, path: Path) -> None:
    path.parent.mkdir()
    with closing(sqlite3.connect(path)) as other, other:
        other.execute("CREATE TABLE audit (somebody_elses TEXT)")
    with pytest.raises(StoreUnavailable, match="audit"):
        await open_records(url, 10.0)
    assert rows(path, "SELECT name FROM sqlite_master WHERE type = 'table'") == [("audit",)]


async def test_a_lock_held_by_another_fails_every_call_in_time_and_nothing_is_written_later(url: str, path: Path) -> None:
    records = await open_records(url, 0.4)
    began = time.monotonic()
    with locked(path):
        done = await asyncio.gather(
            *(records.put("totp", f"u{number}", "", b"x", version=0, now=NOW) for number in range(5)), return_exceptions=True
        )
    assert [type(result) for result in done] == [StoreUnavailable] * 5
    assert time.monotonic() - began < HUNG
    assert await records.put("totp", "alice", "", b"x", version=0, now=NOW) == 1, "it works again by itself"
    assert rows(path, "SELECT owner FROM documents") == [("alice",)]
    await records.close()


async def test_a_caller_that_is_cancelled_leaves_the_records_usable(records: Records) -> None:
    for turns in range(12):  # cancel at every stage of a call
        task = asyncio.ensure_future(records.get("totp", "alice", ""))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert await records.put("totp", f"{turns}", "", b"x", version=0, now=NOW) == 1


async def test_a_fault_says_where_and_never_what_was_to_be_written(url: str, path: Path) -> None:
    records = await open_records(url, 10.0)
    with closing(sqlite3.connect(path)) as other, other:
        other.execute("DROP TABLE documents")
    with pytest.raises(StoreUnavailable) as caught:
        await records.put("totp", "alice", "", b"hunter2", version=0, now=NOW)
    assert "records.db" in str(caught.value)
    assert "hunter2" not in str(caught.value)
    with pytest.raises(StoreUnavailable):
        await records.ping()
    await records.close()


async def test_a_file_that_is_no_database_is_reported(url: str, path: Path) -> None:
    no_database(path)
    with pytest.raises(StoreUnavailable, match="not a database"):
        await open_records(url, 10.0)


async def test_a_bad_url_is_explained(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="did you mean"):
        await open_records(f"sqlit:///{tmp_path}/a.db", 1.0)


async def test_writes_are_flushed_to_disk(url: str) -> None:
    records = await open_records(url, 10.0)
    names = ("journal_mode", "synchronous", "foreign_keys")
    pragmas = await records._thread.call(
        lambda connection: [connection.execute(f"PRAGMA {name}").fetchone()[0] for name in names], write=False
    )
    assert pragmas == ["wal", 2, 1], "2 is FULL"
    await records.close()


SCHEMA = "SELECT type, name, tbl_name FROM sqlite_master WHERE sql IS NOT NULL ORDER BY name"


def columns(path: Path) -> dict[str, list[tuple[object, ...]]]:
    tables = ("alembic_version", "documents", "audit")
    return {table: rows(path, f"SELECT name, type, \"notnull\", dflt_value, pk FROM pragma_table_info('{table}')") for table in tables}


def indexes(path: Path) -> list[tuple[object, ...]]:
    return rows(
        path, "SELECT m.name, i.seqno, i.name FROM sqlite_master m, pragma_index_info(m.name) i WHERE m.type = 'index' ORDER BY 1, 2"
    )


async def test_a_new_database_is_what_the_migrations_make_of_an_old_one(tmp_path: Path) -> None:
    """The newest format is written down twice: as it is, and as the way to it."""
    old, new = tmp_path / "old.db", tmp_path / "new.db"
    with closing(sqlite3.connect(old)) as first, first:  # not empty, and at no revision: every step is due
        first.execute("CREATE TABLE somebody_elses (a)")
    for path in (old, new):
        records = await open_records(f"sqlite:///{path}", 10.0)
        await records.put("totp", "alice", "", b"x", version=0, now=NOW)
        await records.audit(AuditEvent(at=NOW, event="started", request_id="r"))
        await records.close()
    with closing(sqlite3.connect(old)) as first, first:
        first.execute("DROP TABLE somebody_elses")
    assert columns(old) == columns(new)
    assert indexes(old) == indexes(new)
    assert rows(old, SCHEMA) == rows(new, SCHEMA)
    for query in ("SELECT * FROM documents", "SELECT * FROM audit", "SELECT * FROM alembic_version"):
        assert rows(old, query) == rows(new, query)


def test_the_revision_that_needs_no_migration_is_the_newest() -> None:
    assert script().get_current_head() == REVISION


async def test_what_migrates_is_loaded_only_where_something_is_due(url: str) -> None:
    program = "import asyncio, sys; from gateway.stores.records import open_records\n"
    program += "async def main(): await (await open_records(sys.argv[1], 10.0)).close()\n"
    program += "asyncio.run(main()); print(sorted({'alembic', 'sqlalchemy'} & set(sys.modules)))"
    for _ in ("made", "opened again"):
        done = await asyncio.to_thread(subprocess.run, [sys.executable, "-c", program, url], capture_output=True, check=True, timeout=60)
        assert done.stdout == b"[]\n"
