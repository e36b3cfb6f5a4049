"""The key file as text. It appears whole or not at all, with mode 0600, and processes that start at once agree on one content.

What the text means is not known here (see tokens). Writers hold a lock on `<file>.lock`, write a sibling file, flush it to disk and rename
it over the old one; readers need no lock. A symbolic link is followed, so that the file behind it is the one replaced.
"""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from gateway.errors import Conflict, KeyFileFault

_LARGEST = 1 << 20


def read(path: Path) -> str | None:
    """The file's text, or None when there is no file. Raises KeyFileFault when it cannot be read, or others than its owner could."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # O_NONBLOCK: a pipe of that name must not hang the start
    except FileNotFoundError:
        return None
    except OSError as error:
        raise KeyFileFault(f"{path}: the key file cannot be read: {error.strerror}") from error
    found = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(found):
        os.close(descriptor)
        raise KeyFileFault(f"{path}: the key file is a directory, pipe or device")
    with os.fdopen(descriptor, "rb") as file:
        mode = found & 0o777
        if mode & 0o077:
            raise KeyFileFault(
                f"{path}: the key file has mode {mode:04o}, so other users of this host can read or change it; run `chmod 600 {path}`, "
                "and if it was ever exposed, replace the keys with `gateway keys rotate`"
            )
        try:
            raw = file.read(_LARGEST + 1)
            if len(raw) > _LARGEST:
                raise KeyFileFault(f"{path}: this is no key file (larger than 1 MiB)")
            return raw.decode("utf-8")
        except UnicodeDecodeError as error:
            raise KeyFileFault(f"{path}: this is no key file (not UTF-8 text)") from error
        except OSError as error:
            raise KeyFileFault(f"{path}: the key file cannot be read: {error.strerror}") from error


def write_new(path: Path, text: str) -> str:
    """Write `text` if there is no file yet. Returns the text that is there afterwards: ours, or the winner's. Raises KeyFileFault."""
    with _locked(path) as target:
        there = read(target)
        if there is None:
            _write(target, text)
            return text
        return there


def replace(path: Path, text: str, *, was: str) -> None:
    """Replace the whole content, atomically, if it still is `was`.

    Raises Conflict when another process changed the file since it was read (two rotations at once would lose a key), and KeyFileFault.
    """
    with _locked(path) as target:
        if read(target) != was:
            raise Conflict(f"{path}: the key file was changed by another process; read it again")
        _write(target, text)


@contextmanager
def _locked(path: Path) -> Iterator[Path]:
    """Hold the writers' lock; gives the path behind any symbolic link."""
    target = path.resolve()
    try:
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(target.with_name(target.name + ".lock"), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield target
        finally:
            os.close(descriptor)  # and with it the lock
    except OSError as error:
        raise KeyFileFault(f"{path}: the key file cannot be written: {error.strerror}") from error


def _write(target: Path, text: str) -> None:
    """Under the lock: one fixed name for the sibling file, so that what a crash left behind is not left for ever."""
    fresh = target.with_name(target.name + ".new")
    with suppress(FileNotFoundError):
        fresh.unlink()
    descriptor = os.open(fresh, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(text.encode("utf-8"))
        file.flush()
        os.fsync(descriptor)
    fresh.replace(target)
    folder = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)  # the rename itself must survive a power loss: what was sealed with the key does
    finally:
        os.close(folder)
