"""What a process and all below it hold of the machine's memory."""

from __future__ import annotations

from pathlib import Path


def resident(pid: int) -> int:
    """Present resident set in bytes."""
    return _sum(pid, "VmRSS")


def resident_leaf(pid: int) -> int:
    """The same of the one process below it that holds most and has none below it, or of itself: a worker without its supervisor."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return max(resident_leaf(int(child)) for child in children) if children else resident(pid)


def highest(pid: int) -> int:
    """Highest resident set so far in bytes; of several processes the sum of theirs, whenever that was."""
    return _sum(pid, "VmHWM")


def _sum(pid: int, name: str) -> int:
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(fields[name].split()[0]) * 1024 + sum(_sum(int(child), name) for child in children)
