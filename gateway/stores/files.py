"""Where database files come from. What a store makes is for its owner only: folders 0700, files 0600."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


def prepare(path: Path) -> None:
    """Make the folder and an empty file where they are missing (SQLite gives -wal and -shm the mode of the database). Raises OSError."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))


def identity(path: Path) -> tuple[int, int] | None:
    """Device and inode of a file; None when there is none. Tells a file that was moved away under an open connection. Raises OSError."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino
