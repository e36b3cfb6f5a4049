"""Child processes: started pinned to cores, measured by the kernel's own clocks, stopped by whoever started them.

CPU seconds are user and system time of all threads of the process, of its descendants, and of those of them that have ended. They stay
comparable while other programs run on the same machine; wall-clock rates do not.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

ROOT = Path(__file__).parents[2]
READY_WITHIN = 60.0  # seconds; 10,000 rules are read first
LOG_BOUND = 64_000_000  # bytes; see Child.trim

CORES = sorted(os.sched_getaffinity(0))
PROXY_CORE, OTHER_CORE = CORES[0], CORES[-1]
"""The core of the proxy under test, and the one of everything else (the same one where there is only one)."""

_TICK = 1 / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Stat:
    """What /proc/PID/stat says of a process. reaped: CPU ticks of its children that have ended and been waited for."""

    parent: int
    reaped: int


def parse_stat(text: str) -> Stat:
    """The fields of proc(5), counted from behind the command's name, which may hold spaces and brackets."""
    fields = text.rpartition(")")[2].split()
    return Stat(parent=int(fields[1]), reaped=int(fields[13]) + int(fields[14]))


def descendants(root: int, parents: Mapping[int, int]) -> tuple[int, ...]:
    """root and all below it, ascending. parents: the parent of each process."""
    found = {root}
    while more := {pid for pid, parent in parents.items() if parent in found and pid not in found}:
        found |= more
    return tuple(sorted(found))


def _stats() -> dict[int, Stat]:
    seen = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                seen[int(entry.name)] = parse_stat((entry / "stat").read_text())
            except (FileNotFoundError, ProcessLookupError):  # it ended while we looked
                continue
    return seen


def _clock(pid: int) -> float:
    try:
        return time.clock_gettime((~pid << 3) | 2)  # clock_getcpuclockid(3): all threads, in nanoseconds rather than ticks
    except OSError:  # it has ended; its parent has its time
        return 0.0


def others() -> float:
    """CPU seconds used so far by everything on this machine that is not this process or below it."""
    stats = _stats()
    own = set(descendants(os.getpid(), {pid: stat.parent for pid, stat in stats.items()}))
    return sum(_clock(pid) + stat.reaped * _TICK for pid, stat in stats.items() if pid not in own)


class Child:
    """A running process and its descendants. Use as a context manager; it is stopped by SIGTERM, and killed after five seconds."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        cores: Iterable[int],
        folder: Path,
        port: int,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self.port = port
        self.log = folder / f"{name}.log"
        pinned = ["taskset", "-c", ",".join(map(str, sorted(set(cores)))), *command]
        with self.log.open("ab") as log:  # appended to, so that it can be cut short
            self._process = subprocess.Popen(pinned, stdout=log, stderr=log, cwd=ROOT, env={**os.environ, **(environment or {})})
        self.pid = self._process.pid  # taskset becomes the command

    def wait_until_ready(self) -> Self:
        """Return when the port takes connections."""
        end = time.monotonic() + READY_WITHIN
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
            except OSError:
                if self._process.poll() is not None or time.monotonic() > end:
                    raise RuntimeError(f"{self.name} did not start:\n{self.log.read_text(errors='replace')[-3000:]}") from None
                time.sleep(0.02)
            else:
                return self

    def pids(self) -> tuple[int, ...]:
        return descendants(self.pid, {pid: stat.parent for pid, stat in _stats().items()})

    def cpu(self) -> float:
        """CPU seconds used so far."""
        stats = _stats()
        pids = descendants(self.pid, {pid: stat.parent for pid, stat in stats.items()})
        return sum(_clock(pid) + stats[pid].reaped * _TICK for pid in pids if pid in stats)

    def resident(self) -> dict[int, float]:
        """Resident memory of each of its processes, in MB (10⁶ bytes)."""
        return {pid: int(Path(f"/proc/{pid}/status").read_text().partition("VmRSS:")[2].split()[0]) * 1024 / 1e6 for pid in self.pids()}

    def rss(self) -> float:
        """Resident memory of its largest process, in MB."""
        return max(self.resident().values())

    def holder(self) -> int:
        """Which of its processes has most files open: the one that holds the connections."""
        return max(self.pids(), key=lambda pid: sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir()))

    def trim(self) -> None:
        """Cut the log where it is long. You must do so between measurements: a line for each request fills a disk."""
        if self.log.stat().st_size > LOG_BOUND:
            os.truncate(self.log, 0)

    def stop(self) -> None:
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def __enter__(self) -> Self:
        try:
            return self.wait_until_ready()
        except BaseException:
            self.stop()
            raise

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()


def python(name: str, module: str, *arguments: str, cores: Iterable[int], folder: Path, port: int) -> Child:
    """A Python module as a child."""
    return Child(name, [sys.executable, "-m", module, *arguments], cores=cores, folder=folder, port=port)
