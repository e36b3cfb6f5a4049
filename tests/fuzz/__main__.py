"""`make fuzz`: every target for its part of FUZZ_SECONDS (30), as many at once as there are cores. A find is a file; running it repeats it.

    python -m tests.fuzz                   all of them
    python -m tests.fuzz lanes_requests    one of them, until it is stopped
    python -m tests.fuzz yaml FILE…        these inputs, once

Corpus and finds are kept in tests/output/fuzz. With atheris the search follows coverage; without it, it only changes bytes of the seeds.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import os
import random
import re
import subprocess
import sys
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.fuzz.targets import Target

FOLDER = Path(__file__).parents[1] / "output" / "fuzz"
LONGEST = 4096  # bytes of an input
STARTING = 60.0  # seconds that a target may take on top of its time: imports, and the last input


def _atheris() -> Any:
    with contextlib.suppress(ImportError):
        return importlib.import_module("atheris")
    return None


def _load(atheris: Any) -> Any:
    if atheris is None:
        return importlib.import_module("tests.fuzz.targets")
    with atheris.instrument_imports(include=["gateway"]):
        return importlib.import_module("tests.fuzz.targets")


def one(name: str, files: list[str], seconds: int) -> int:
    """Run a target in this process, for so many seconds (0: until it is stopped). The exit code."""
    atheris = _atheris() if not files else None
    targets = _load(atheris)
    run = targets.TARGETS[name]
    if files:
        for file in files:
            run(Path(file).read_bytes())
            print(f"{file}: nothing")
        return 0
    corpus = FOLDER / name
    corpus.mkdir(parents=True, exist_ok=True)
    for seed in targets.SEEDS[name]:
        (corpus / hashlib.sha256(seed).hexdigest()[:16]).write_bytes(seed)
    if atheris is None:
        return _blindly(name, run, corpus, seconds)
    options = [
        f"-max_total_time={seconds}",
        f"-max_len={LONGEST}",
        f"-artifact_prefix={FOLDER}/{name}-",
        "-timeout=20",
        "-print_final_stats=1",
    ]
    atheris.Setup([sys.argv[0], *options, str(corpus)], run)
    atheris.Fuzz()
    return 0


def _blindly(name: str, run: Target, corpus: Path, seconds: int) -> int:
    known = [path.read_bytes() for path in sorted(corpus.iterdir())]
    dice = random.Random(0)
    end = time.monotonic() + seconds if seconds else float("inf")
    count = 0
    while time.monotonic() < end:
        data = _changed(dice, known)
        count += 1
        try:
            run(data)
        except Exception:  # noqa: BLE001 -- that is the find
            found = FOLDER / f"{name}-crash-{hashlib.sha256(data).hexdigest()[:16]}"
            found.write_bytes(data)
            traceback.print_exc()
            print(f"Test unit written to {found}", file=sys.stderr)
            return 77
    print(f"stat::number_of_executed_units: {count}", file=sys.stderr)
    return 0


def _changed(dice: random.Random, known: list[bytes]) -> bytes:
    data = bytearray(dice.choice(known))
    for _ in range(dice.randint(1, 6)):
        at = dice.randint(0, len(data))
        match dice.randint(0, 3):
            case 0:
                data[at:at] = dice.randbytes(dice.randint(1, 3))
            case 1:
                del data[at : at + dice.randint(1, 8)]
            case 2:
                other = dice.choice(known)
                data[at:] = other[dice.randint(0, len(other)) :]
            case _:
                data[at : at + 1] = dice.randbytes(1)
    return bytes(data[:LONGEST])


def all_of_them(seconds: int) -> int:
    """Each in a process of its own; a line for each. The exit code is 1 when one of them found something."""
    names = list(importlib.import_module("tests.fuzz.targets").TARGETS)
    FOLDER.mkdir(parents=True, exist_ok=True)
    cores = len(os.sched_getaffinity(0))
    share = max(1, seconds * cores // len(names))
    kind = "atheris" if _atheris() is not None else "no atheris: without coverage"
    print(f"fuzz: {len(names)} targets, {share} s each, {cores} at a time, {kind}")
    with ThreadPoolExecutor(cores) as pool:
        return max(pool.map(lambda name: _supervised(name, share), names))


def _supervised(name: str, seconds: int) -> int:
    command = [sys.executable, "-m", "tests.fuzz", name]
    environ = {**os.environ, "FUZZ_SHARE": str(seconds)}
    try:
        done = subprocess.run(command, env=environ, capture_output=True, text=True, errors="replace", timeout=seconds + STARTING)
        said, code = done.stdout + done.stderr, done.returncode
    except subprocess.TimeoutExpired as late:
        said, code = (late.stderr or b"").decode(errors="replace"), -1
    ran = re.search(r"number_of_executed_units: *([0-9]+)", said)
    count = ran[1] if ran else "?"
    if code == 0:
        print(f"fuzz: {name}: {count} inputs, nothing found")
        return 0
    traced = max(said.find("Uncaught Python exception"), said.find("Traceback (most recent"))  # atheris goes on with statistics behind it
    shown = said[traced : traced + 4000] if traced >= 0 else said[-4000:]
    print(f"fuzz: {name}: FOUND something ({'it hangs' if code == -1 else f'exit code {code}'})\n{shown}")
    for file in re.findall(r"Test unit written to (\S+)", said):
        print(f"fuzz: to repeat it: .venv/bin/python -m tests.fuzz {name} {os.path.relpath(file)}")
    return 1


def main() -> int:
    if len(sys.argv) > 1:
        return one(sys.argv[1], sys.argv[2:], int(os.environ.get("FUZZ_SHARE", "0")))
    return all_of_them(int(os.environ.get("FUZZ_SECONDS", "30")))


if __name__ == "__main__":
    sys.exit(main())
