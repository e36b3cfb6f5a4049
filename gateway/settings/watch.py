"""Tells which files of a configuration have changed. Folders are watched, not files: editors and Kubernetes replace a file by another.

A change in a folder only makes us look; what counts is whether one of our own files is another one now. So a database or a log in the
same folder causes no reload, and a change that the system does not tell of (network file systems) is seen within `LOOK_EVERY`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import aclosing
from pathlib import Path
from typing import Final

from watchfiles import awatch

DEBOUNCE: Final = 0.5  # longest wait, in seconds, for a series of changes to end
LOOK_EVERY: Final = 5.0

_Fingerprint = tuple[object, ...]


async def changes(files: Callable[[], Iterable[Path]]) -> AsyncGenerator[frozenset[Path], None]:
    """Yields files that were changed, made or removed since they were first seen here or last yielded; never an empty set.

    `files` is asked again after each yield, so that it may follow a reload. A folder among them has changed when a name comes or goes.
    Ends only by cancellation or `aclose()`.
    """
    seen: dict[Path, _Fingerprint] = {path: _fingerprint(path) for path in files()}
    while True:
        wanted = list(files())
        for path in wanted:
            seen.setdefault(path, _fingerprint(path))
        # Changes made while the caller was busy with the last ones.
        if found := _changed(seen, wanted):
            yield found
            continue
        async with aclosing(
            awatch(
                *sorted(_folders(wanted)),
                watch_filter=None,
                debounce=int(DEBOUNCE * 1000),
                rust_timeout=int(LOOK_EVERY * 1000),
                yield_on_timeout=True,
                recursive=False,
                ignore_permission_denied=True,
            )
        ) as events:
            async for _ in events:
                if found := _changed(seen, wanted):
                    break
        if found:
            yield found


def _changed(seen: dict[Path, _Fingerprint], wanted: Iterable[Path]) -> frozenset[Path]:
    """Those that differ from what was seen. What is found now counts as seen."""
    now = {path: _fingerprint(path) for path in wanted}
    found = frozenset(path for path, fingerprint in now.items() if seen[path] != fingerprint)
    seen.update(now)
    return found


def _fingerprint(path: Path) -> _Fingerprint:
    try:
        if path.is_dir():
            return tuple(sorted(entry.name for entry in path.iterdir()))
        status = path.stat()
    except (OSError, ValueError):
        return ()
    return status.st_ino, status.st_size, status.st_mtime_ns


def _folders(files: Iterable[Path]) -> set[Path]:
    """The folders to watch: those that hold the files, or the nearest that exist."""
    found = set()
    for path in files:
        folder = path.absolute() if path.is_dir() else path.absolute().parent
        while not folder.is_dir():
            folder = folder.parent
        found.add(folder)
    return found
