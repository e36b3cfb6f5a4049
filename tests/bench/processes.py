"""Child processes: started pinned to one core, measured by the kernel's own clock, stopped by whoever started them.

CPU seconds are those of all threads of the process, user and system (CLOCK_PROCESS_CPUTIME_ID of another process). They stay comparable
while other programs run on the same machine; wall-clock rates do not.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Self

ROOT = Path(__file__).parents[2]
READY_WITHIN = 30.0  # seconds


_FREE = sorted(os.sched_getaffinity(0))
PROXY_CORE, OTHER_CORE = _FREE[0], _FREE[-1]
"""The core of the proxy under test, and the one of everything else (the same one where there is only one)."""


class Child:
    """A running process. Use as a context manager; it is stopped by SIGTERM, and killed after five seconds."""

    def __init__(self, name: str, command: list[str], *, core: int, folder: Path, port: int) -> None:
        self.name = name
        self.port = port
        self.log = folder / f"{name}.log"
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(["taskset", "-c", str(core), *command], stdout=log, stderr=log, cwd=ROOT)
        self.pid = self._process.pid  # taskset becomes the command
        self._clock = (~self.pid << 3) | 2  # clock_getcpuclockid(3)

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

    def cpu(self) -> float:
        """CPU seconds used so far."""
        return time.clock_gettime(self._clock)

    def rss(self) -> float:
        """Resident memory in MiB."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0]) / 1024

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


def python(name: str, module: str, *arguments: str, core: int, folder: Path, port: int) -> Child:
    """A Python module as a child."""
    return Child(name, [sys.executable, "-m", module, *arguments], core=core, folder=folder, port=port)
