"""wrk: a closed loop. So many connections, each with one request under way, for a whole number of seconds.

Its latencies are those of a proxy kept as busy as it can be; the ones at a given rate are paced.py's.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

SCRIPT = Path(__file__).with_name("wrk.lua")
_TIME = {"us": 1e-3, "ms": 1.0, "s": 1e3, "m": 6e4, "h": 3.6e6}  # in milliseconds
_SIZE = {"B": 1.0, "KB": 2.0**10, "MB": 2.0**20, "GB": 2.0**30, "TB": 2.0**40}
_PERCENTILE = re.compile(r"^\s+(50|99)%\s+([0-9.]+)(us|ms|s|m|h)$", re.MULTILINE)
_TOTAL = re.compile(r"^\s+([0-9]+) requests in [0-9.]+(?:us|ms|s|m|h), ([0-9.]+)(B|KB|MB|GB|TB) read$", re.MULTILINE)
_RATE = re.compile(r"^Requests/sec:\s+([0-9.]+)$", re.MULTILINE)
_TROUBLE = re.compile(r"^\s+((?:Socket errors|Non-2xx or 3xx responses): .*)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Printed:
    """What wrk said. size: bytes of an answer, on average."""

    requests: int
    per_second: float
    size: float
    p50_ms: float
    p99_ms: float


def parse(text: str) -> Printed:
    """The output of `wrk --latency`. Raises ValueError where it had an error, or is not what wrk prints."""
    if trouble := _TROUBLE.findall(text):
        raise ValueError("; ".join(trouble))
    total, rate = _TOTAL.search(text), _RATE.search(text)
    latency = {percent: float(value) * _TIME[unit] for percent, value, unit in _PERCENTILE.findall(text)}
    if total is None or rate is None or set(latency) != {"50", "99"} or total[1] == "0":
        raise ValueError(f"not what wrk prints: {text[-1000:]!r}")
    requests = int(total[1])
    return Printed(
        requests=requests,
        per_second=float(rate[1]),
        size=float(total[2]) * _SIZE[total[3]] / requests,
        p50_ms=latency["50"],
        p99_ms=latency["99"],
    )


def run(port: int, requests: Path, *, connections: int, seconds: int, cores: Iterable[int]) -> Printed:
    """Raises RuntimeError when any answer was an error, or smaller than the answers are: a redirect, for one, which wrk lets pass."""
    command = [
        "taskset", "-c", ",".join(map(str, sorted(set(cores)))),
        "wrk", "--latency", "--timeout", "30s", "-t1", f"-c{connections}", f"-d{seconds}s", "-s", str(SCRIPT),
        f"http://127.0.0.1:{port}/", "--", str(requests),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=seconds + 30)
    try:
        return parse(done.stdout)
    except ValueError as wrong:
        raise RuntimeError(f"wrk on port {port}: {wrong}{done.stderr}") from None
