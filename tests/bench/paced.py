"""paced.c: requests at a fixed rate, latencies counted from when each should have left. wrk cannot hold a rate, and Debian has no wrk2.

It is C because it shares a core with the upstream: a generator that takes 100 µs for a request measures itself.
"""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.bench.processes import OTHER_CORE

SOURCE = Path(__file__).with_name("paced.c")
WARM_UP = 0.3  # seconds at the same rate, before those that count


@dataclass(frozen=True, slots=True)
class Paced:
    """What one run at `rate` requests per second saw. unanswered: of the requests, even after five seconds more; most_waiting: those that
    were due and found no free connection, at worst."""

    rate: float
    requests: int
    unanswered: int
    most_waiting: int
    p50_ms: float
    p99_ms: float
    max_ms: float


def build(folder: Path) -> Path:
    """Compile it into folder; the program."""
    program = folder / "paced"
    subprocess.run(["cc", "-O2", "-Wall", "-Werror", "-o", str(program), str(SOURCE)], check=True)
    return program


def parse(rate: float, text: str) -> Paced:
    """What it printed."""
    said = json.loads(text)
    return Paced(
        rate=rate,
        requests=said["requests"],
        unanswered=said["unanswered"],
        most_waiting=said["most_waiting"],
        p50_ms=said["p50_us"] / 1000,
        p99_ms=said["p99_us"] / 1000,
        max_ms=said["max_us"] / 1000,
    )


def run(program: Path, port: int, requests: Path, *, rate: float, connections: int, seconds: float) -> Paced:
    command = ["taskset", "-c", str(OTHER_CORE), str(program), str(port), f"{rate:.1f}", str(seconds), str(connections), str(requests)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=seconds + 30)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr}")
    return parse(rate, done.stdout)
