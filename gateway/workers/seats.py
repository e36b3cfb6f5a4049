"""Who sits where: one seat for each worker and one for the admin listener, whoever has it at present."""

from __future__ import annotations

import signal
from dataclasses import dataclass

from gateway.workers.channel import ParentEnd

LONGEST_PAUSE = 15.0  # seconds between two starts of a worker that ends at once again and again


@dataclass(slots=True)
class Child:
    """A process of ours. seat: its number among the workers; None for the admin listener's."""

    pid: int
    seat: int | None
    counts: str
    channel: ParentEnd
    born: float
    ready: bool = False
    leaving: bool = False


@dataclass(slots=True)
class Seat:
    """Where there is always to be one child. due: when to fork one, by time.monotonic(); None while there is one."""

    index: int | None
    child: Child | None = None
    failures: int = 0
    due: float | None = 0.0

    @property
    def name(self) -> str:
        return "admin" if self.index is None else str(self.index + 1)


def pause(failures: int) -> float:
    """The first restart is at once; who goes on dying waits longer each time."""
    return 0.0 if failures <= 1 else float(min(0.25 * 2 ** (failures - 1), LONGEST_PAUSE))


def how(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"
