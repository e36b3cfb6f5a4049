"""`make profile`: the gateway under full load, and where its time goes: py-spy's samples, most own time first.

    python -m tests.bench.profile [ungated|strangers|slow|pass|gated|rules|forward-auth|bulk|flows]
                                  [--seconds 10] [--top 25] [--native] [--folded FILE]

Own time is that of a line with nothing below it on the stack. What happens inside C (uvloop, httptools, OpenSSL) counts for the Python
line that called it; --native shows the C functions, and costs more. Only the busiest thread of the busiest process is listed. --folded
keeps the stacks for a flame graph. To say what a change bought, compare runs of `make bench`: a profile says where to look.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from tests.bench import browser, client, flows, targets
from tests.bench.measure import MANY_RULES, PASSES, Bench, forward_auth_run
from tests.bench.processes import OTHER_CORE, Child
from tests.support.ports import free_port

RATE = 400  # samples a second
SCENARIOS = ("ungated", "strangers", "slow", "pass", "gated", "rules", "forward-auth", "bulk", "flows")


@dataclass(frozen=True, slots=True)
class Thread:
    """One thread's samples by stack, outermost frame first. number: the kernel's."""

    number: int
    name: str
    stacks: Counter[tuple[str, ...]]


def parse(folded: str) -> list[Thread]:
    """Threads, in the order they first appear in, from py-spy's `raw` format with --threads: `thread (12): NAME;frame;frame COUNT`.

    A thread that waits for a lock may be sampled as well as one that works: they are told apart by their CPU time, not here."""
    found: dict[str, Thread] = {}
    for line in folded.splitlines():
        frames, _, count = line.rpartition(" ")
        label, *stack = frames.split(";")
        number, _, name = label.removeprefix("thread (").partition("): ")
        if stack:
            found.setdefault(label, Thread(int(number), name, Counter())).stacks[tuple(stack)] += int(count)
    return list(found.values())


def function(frame: str) -> str:
    """A frame without its line: `relay (gateway/lanes/relay.py:12)` is in `relay (gateway/lanes/relay.py)`."""
    name, colon, line = frame.rpartition(":")
    return f"{name})" if colon and line.rstrip(")").isdecimal() else frame


def own(stacks: Mapping[tuple[str, ...], int]) -> Counter[str]:
    """Samples by innermost frame."""
    made: Counter[str] = Counter()
    for frames, count in stacks.items():
        made[frames[-1]] += count
    return made


def total(stacks: Mapping[tuple[str, ...], int]) -> Counter[str]:
    """Samples by function anywhere on the stack, each counted once a stack."""
    made: Counter[str] = Counter()
    for frames, count in stacks.items():
        for name in {function(frame) for frame in frames}:
            made[name] += count
    return made


def below(counts: Mapping[str, int], samples: int) -> Counter[str]:
    """Without what is on nearly every stack: the way from `main` to the event loop."""
    return Counter({name: count for name, count in counts.items() if count < 0.98 * samples})


def by_function(lines: Mapping[str, int]) -> Counter[str]:
    made: Counter[str] = Counter()
    for frame, count in lines.items():
        made[function(frame)] += count
    return made


def _listed(title: str, counts: Counter[str], samples: int, top: int) -> Iterable[str]:
    yield f"\n{title}"
    for name, count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:top]:
        yield f"{100 * count / samples:6.1f} %  {name}"


def text(threads: Iterable[Thread], used: Mapping[int, float], top: int) -> str:
    """CPU seconds of each thread, and the lists of the one that used most, in shares of its samples. used: by the thread's number."""
    known = sorted(threads, key=lambda thread: -used.get(thread.number, 0.0))
    stacks = known[0].stacks
    samples, lines = sum(stacks.values()), own(stacks)
    unknown = sum(used.values()) - sum(used.get(thread.number, 0.0) for thread in known)
    return "\n".join([
        "CPU seconds by thread",
        *(f"{used.get(thread.number, 0.0):8.2f}    {thread.name}" for thread in known),
        f"{unknown:8.2f}    others",
        f"\n{known[0].name}: {samples} samples",
        *_listed("own time, by line", lines, samples, top),
        *_listed("own time, by function", by_function(lines), samples, top),
        *_listed("time with all below it, by function", below(total(stacks), samples), samples, top),
    ])  # fmt: skip


def thread_times(pid: int) -> dict[int, float]:
    """CPU seconds of each thread so far (proc(5): the first number of schedstat, in nanoseconds)."""
    return {int(task.name): int((task / "schedstat").read_text().split()[0]) / 1e9 for task in Path(f"/proc/{pid}/task").iterdir()}


def loaded(bench: Bench, scenario: str) -> tuple[Child, Callable[[], object]]:
    """The gateway of the scenario, and what keeps it busy for bench.seconds."""
    if (lacking := {"slow": "fast_lane", "forward-auth": "forward_auth"}.get(scenario)) and not getattr(targets.abilities(), lacking):
        raise SystemExit(f"{scenario}: this version has no such setting")
    port = free_port() if scenario == "forward-auth" else 0
    rules = targets.many_rules(MANY_RULES) if scenario == "rules" else None
    child = bench.gateway("profiled", lane="slow" if scenario == "slow" else "auto", forward_auth=port, rules=rules)
    if scenario == "flows":
        return child, lambda: asyncio.run(flows.run(child.port, flows.by_form, child.cpu, visitors=4, seconds=bench.seconds))
    if scenario == "bulk":
        request = browser.get(f"127.0.0.1:{child.port}", "/bulk")
        return child, lambda: fetch_for(child, request, bench.seconds)
    if scenario == "forward-auth":
        run = forward_auth_run(bench, bench.run_of(child), port)
    elif scenario in {"pass", "gated"}:
        cookies = [asyncio.run(flows.logged_in(child.port, f"user-{number}")) for number in range(PASSES)]
        run = bench.run_of(child, cookies=cookies, path=browser.page if scenario == "pass" else lambda number: f"/gated/page-{number}")
    else:
        run = bench.run_of(child, strangers=scenario == "strangers")
    bench.load(run, seconds=1)
    return child, lambda: bench.load(run)


def fetch_for(child: Child, request: bytes, seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        client.fetch(child.port, request, child.cpu, times=1)


def spied(child: Child, act: Callable[[], object], file: Path, *, seconds: int, native: bool) -> tuple[list[Thread], dict[int, float]]:
    """What the busiest process of the child does while act runs, and the CPU seconds of its threads."""
    program = shutil.which("py-spy", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if program is None:
        raise SystemExit("py-spy is not installed; `make profile` installs it (or: tools/setup.sh bench)")
    pid = max(child.pids(), key=lambda one: sum(thread_times(one).values()))
    options = ["--format", "raw", "--threads", "--rate", str(RATE), "--duration", str(seconds), *(["--native"] if native else [])]
    command = ["taskset", "-c", str(OTHER_CORE), program, "record", *options, "--pid", str(pid), "--output", str(file)]
    before = thread_times(pid)
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as spy:
        act()
        after = thread_times(pid)
        _, said = spy.communicate(timeout=seconds + 30)
    if spy.returncode != 0:
        raise SystemExit(f"py-spy: {said}\n(it needs root, or kernel.yama.ptrace_scope=0)")
    return parse(file.read_text()), {number: seconds - before.get(number, 0.0) for number, seconds in after.items()}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.profile", description="Where the gateway spends its time under load.")
    parser.add_argument("scenario", nargs="?", choices=SCENARIOS, default="ungated")
    parser.add_argument("--seconds", type=int, default=10)
    parser.add_argument("--top", type=int, default=25, help="lines of each list")
    parser.add_argument("--native", action="store_true", help="with the C functions of extension modules")
    parser.add_argument("--folded", type=Path, help="keep the stacks in this file, for a flame graph")
    given = parser.parse_args()
    os.sched_setaffinity(0, {OTHER_CORE})
    with tempfile.TemporaryDirectory(prefix="stepup-profile-") as name, ExitStack() as stack:
        folder = Path(name)
        bench = Bench(folder, 1, given.seconds, stack, stack.enter_context(targets.application(folder)))
        child, act = loaded(bench, given.scenario)
        file = given.folded or folder / "folded"
        threads, used = spied(child, act, file, seconds=given.seconds, native=given.native)
        print(text(threads, used, given.top))


if __name__ == "__main__":
    main()
