"""The key file: made once, whole, for its owner only. And the system's randomness."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.errors import Conflict, KeyFileFault
from gateway.stores import keyfile
from gateway.stores.entropy import SystemEntropy


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "var" / "secret.key"


def test_no_file_reads_as_none(path: Path) -> None:
    assert keyfile.read(path) is None


def test_the_first_text_is_written_for_its_owner_only_and_the_second_gets_it(path: Path) -> None:
    umask = os.umask(0)
    try:
        assert keyfile.write_new(path, "erster Schlüssel\n") == "erster Schlüssel\n"
    finally:
        os.umask(umask)
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert keyfile.write_new(path, "second\n") == "erster Schlüssel\n"
    assert keyfile.read(path) == "erster Schlüssel\n"


def test_replace_swaps_the_whole_text_and_leaves_nothing_else(path: Path) -> None:
    keyfile.write_new(path, "long old text")
    keyfile.replace(path, "new", was="long old text")
    assert keyfile.read(path) == "new"
    assert path.stat().st_mode & 0o777 == 0o600
    assert sorted(file.name for file in path.parent.iterdir()) == ["secret.key", "secret.key.lock"]


def test_of_two_rotations_from_one_text_the_second_is_refused(path: Path) -> None:
    keyfile.write_new(path, "one")
    keyfile.replace(path, "one, two", was="one")
    with pytest.raises(Conflict):
        keyfile.replace(path, "one, three", was="one")
    assert keyfile.read(path) == "one, two"


def test_what_a_crash_left_half_written_is_not_read_and_does_not_hinder(path: Path) -> None:
    keyfile.write_new(path, "old")
    path.with_name("secret.key.new").write_text("ha")
    assert keyfile.read(path) == "old"
    keyfile.replace(path, "new", was="old")
    assert keyfile.read(path) == "new"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o660, 0o644])
def test_a_file_that_others_can_read_or_write_is_refused_with_the_remedy(path: Path, mode: int) -> None:
    keyfile.write_new(path, "secret text")
    path.chmod(mode)
    attempts: list[Callable[[], object]] = [
        lambda: keyfile.read(path),
        lambda: keyfile.write_new(path, "x"),
        lambda: keyfile.replace(path, "x", was="secret text"),
    ]
    for attempt in attempts:
        with pytest.raises(KeyFileFault, match=f"mode {mode:04o}.*chmod 600 {re.escape(str(path))}") as caught:
            attempt()
        assert "secret text" not in str(caught.value)
    path.chmod(0o600)
    assert keyfile.read(path) == "secret text"


def test_a_link_is_followed_and_stays_a_link(path: Path, tmp_path: Path) -> None:
    keyfile.write_new(path, "old")
    link = tmp_path / "link.key"
    link.symlink_to(path)
    keyfile.replace(link, "new", was="old")
    assert link.is_symlink()
    assert keyfile.read(path) == keyfile.read(link) == "new"


def test_what_is_no_key_file_is_said_so(path: Path) -> None:
    path.mkdir(parents=True)
    with pytest.raises(KeyFileFault, match="directory"):
        keyfile.read(path)
    path.rmdir()
    os.mkfifo(path, 0o600)
    with pytest.raises(KeyFileFault, match="pipe"):
        keyfile.read(path)
    path.unlink()
    path.write_bytes(b"\xff\xfe")
    path.chmod(0o600)
    with pytest.raises(KeyFileFault, match="UTF-8"):
        keyfile.read(path)
    path.write_bytes(b"a" * (1 << 20) + b"a")
    with pytest.raises(KeyFileFault, match="1 MiB"):
        keyfile.read(path)


def test_a_folder_in_the_way_is_a_clear_fault(path: Path) -> None:
    path.parent.write_text("a file where the folder should be")
    with pytest.raises(KeyFileFault, match="cannot be"):
        keyfile.write_new(path, "x")


def test_processes_that_start_at_once_agree_on_one_key(path: Path) -> None:
    code = (
        "import sys, pathlib; from gateway.stores import keyfile; print(keyfile.write_new(pathlib.Path(sys.argv[1]), sys.argv[2] * 1000))"
    )
    children = [
        subprocess.Popen([sys.executable, "-c", code, str(path), f"{number}"], stdout=subprocess.PIPE, text=True) for number in range(6)
    ]
    texts = {child.communicate(timeout=60)[0].strip() for child in children}
    assert [child.returncode for child in children] == [0] * 6
    assert texts == {keyfile.read(path)}


def test_tokens_are_256_bits_and_differ() -> None:
    entropy = SystemEntropy()
    tokens = {entropy.token() for _ in range(100)}
    assert len(tokens) == 100
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{43}", token) for token in tokens)


def test_digits_are_uniform_and_keep_leading_zeros() -> None:
    drawn = SystemEntropy().digits(20_000)
    assert re.fullmatch(r"[0-9]{20000}", drawn)
    # Each digit is expected 2,000 times with a deviation of 42: seven of those either way is one false alarm in 10^11 runs.
    assert all(1_700 < drawn.count(digit) < 2_300 for digit in "0123456789")
    assert SystemEntropy().digits(0) == ""


def test_bytes_have_the_length_asked_for() -> None:
    entropy = SystemEntropy()
    assert [len(entropy.bytes(count)) for count in (0, 1, 32)] == [0, 1, 32]
    assert entropy.bytes(32) != entropy.bytes(32)
