from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from gateway.settings.watch import changes

Next = Callable[[], Awaitable[frozenset[Path]]]


@asynccontextmanager
async def watching(*files: Path) -> AsyncIterator[Next]:
    """A watcher that has seen the files as they are."""
    begun = asyncio.Event()

    def asked() -> tuple[Path, ...]:
        begun.set()
        return files

    found: asyncio.Queue[frozenset[Path]] = asyncio.Queue()

    async def follow() -> None:
        async for changed in changes(asked):
            found.put_nowait(changed)

    task = asyncio.create_task(follow())
    await begun.wait()
    try:
        yield lambda: asyncio.wait_for(found.get(), 20)
    finally:
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_a_file_that_is_written_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "gateway.yaml"
    path.write_text("a")
    async with watching(path) as following:
        path.write_text("ab")
        assert await following() == {path}
        path.write_text("abc")
        assert await following() == {path}


async def test_a_file_that_is_replaced_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "gateway.yaml"
    path.write_text("a")
    async with watching(path) as following:
        (tmp_path / "new").write_text("b")
        (tmp_path / "new").replace(path)
        assert await following() == {path}


async def test_a_link_that_leads_elsewhere_is_reported(tmp_path: Path) -> None:
    """As Kubernetes updates a ConfigMap: the file is a link into a folder, and the folder's name is a link that is swapped."""
    for version in ("1", "2"):
        (tmp_path / version).mkdir()
        (tmp_path / version / "gateway.yaml").write_text(version)
    (tmp_path / "data").symlink_to("1")
    path = tmp_path / "gateway.yaml"
    path.symlink_to("data/gateway.yaml")
    async with watching(path) as following:
        (tmp_path / "next").symlink_to("2")
        (tmp_path / "next").replace(tmp_path / "data")
        assert await following() == {path}


async def test_a_file_that_comes_or_goes_in_a_folder_is_reported(tmp_path: Path) -> None:
    folder = tmp_path / "rules.d"
    folder.mkdir()
    async with watching(folder) as following:
        (folder / "a.yaml").write_text("a")
        assert await following() == {folder}
        (folder / "a.yaml").unlink()
        assert await following() == {folder}


async def test_other_files_in_the_folder_are_none_of_ours(tmp_path: Path) -> None:
    path = tmp_path / "gateway.yaml"
    path.write_text("a")
    async with watching(path) as following:
        (tmp_path / "state.db").write_text("x")
        os.utime(tmp_path / "state.db")
        path.write_text("ab")
        assert await following() == {path}


async def test_a_folder_that_does_not_exist_yet(tmp_path: Path) -> None:
    path = tmp_path / "conf" / "gateway.yaml"
    async with watching(path) as following:
        path.parent.mkdir()
        path.write_text("a")
        assert await following() == {path}


async def test_a_change_while_the_last_one_is_dealt_with_is_not_lost(tmp_path: Path) -> None:
    path, other = tmp_path / "a.yaml", tmp_path / "b.yaml"
    path.write_text("a")
    other.write_text("b")
    watcher = changes(lambda: (path, other))
    first = asyncio.ensure_future(anext(watcher))
    await asyncio.sleep(0)
    path.write_text("ab")
    assert await asyncio.wait_for(first, 20) == {path}
    other.write_text("bc")  # nobody is watching now
    assert await asyncio.wait_for(anext(watcher), 20) == {other}
    await watcher.aclose()
