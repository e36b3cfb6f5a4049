"""`make bench`: speed and memory of the gateway beside a plain aiohttp proxy and nginx, in the same run, in rounds that take turns.

What counts is requests per CPU second of the proxy's process, and ratios within a round: both bear other programs on the machine.

    python -m tests.bench [--quick] [--only pass gated rules flows memory bulk]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

from tests.bench import flows, targets
from tests.bench.load import Idle, Load, drive, fetch, get
from tests.bench.processes import OTHER_CORE, PROXY_CORE, ROOT, Child
from tests.support.redis_server import RedisServer

OUTPUT = ROOT / "tests/output/bench.json"
CONNECTIONS = 16
MANY = 10_000
IDLE = 1_000
BULK = 100_000_000


@dataclass
class Bench:
    """One run: how long its parts are, where its processes live, what it found."""

    folder: Path
    rounds: int
    seconds: float
    stack: ExitStack
    upstream: Child
    found: dict[str, Any] = field(default_factory=dict)

    def start(self, child: Child | None) -> Child | None:
        return None if child is None else self.stack.enter_context(child)

    async def load(self, child: Child, target: str = "/account", **options: Any) -> Load:
        return await drive(
            child.port, get(child.port, target, **options), child.cpu, connections=CONNECTIONS, seconds=self.seconds, warm_up=0.15
        )

    async def in_turn(self, runs: Mapping[str, Callable[[], Any]], rounds: int | None = None) -> dict[str, list[Any]]:
        """Every run once a round, each round beginning with another."""
        names = list(runs)
        seen: dict[str, list[Any]] = {name: [] for name in names}
        for number in range(rounds or self.rounds):
            for name in names[number % len(names) :] + names[: number % len(names)]:
                seen[name].append(await runs[name]())
        return seen


def row(loads: list[Load]) -> dict[str, Any]:
    return {
        "per_cpu_second": round(median(one.per_cpu_second for one in loads)),
        "per_second": round(median(one.per_second for one in loads)),
        "p50_ms": round(median(one.latency(0.5) for one in loads), 2),
        "p99_ms": round(median(one.latency(0.99) for one in loads), 2),
        "rounds": [round(one.per_cpu_second) for one in loads],
    }


def ratio(ours: list[Load], theirs: list[Load]) -> float:
    """Median over the rounds of requests per CPU second, ours to theirs."""
    return round(median(a.per_cpu_second / b.per_cpu_second for a, b in zip(ours, theirs, strict=True)), 3)


async def pass_through(bench: Bench, proxies: dict[str, Child]) -> None:
    for child in proxies.values():
        await drive(child.port, get(child.port, "/account"), child.cpu, connections=CONNECTIONS, seconds=0.2)
    seen = await bench.in_turn({name: lambda child=child: bench.load(child) for name, child in proxies.items()})  # type: ignore[misc]
    alone = {
        name: await drive(child.port, get(child.port, "/account"), child.cpu, connections=1, seconds=min(bench.seconds, 1.0))
        for name, child in proxies.items()
    }
    bench.found["pass_through"] = {
        name: {**row(loads), "alone_p50_ms": round(alone[name].latency(0.5), 2), "rss_mib": round(proxies[name].rss(), 1),
               "gateway_ratio": ratio(seen["gateway"], loads)}
        for name, loads in seen.items()
    }  # fmt: skip


async def gated(bench: Bench, child: Child) -> None:
    cookie = "theme=dark; _ga=GA1.1.1234567890.1700000000; consent=a1b2c3; " + await flows.logged_in(child.port)
    seen = await bench.in_turn(
        {
            "nobody, no rule": lambda: bench.load(child),
            "with a pass, no rule": lambda: bench.load(child, cookie=cookie),
            "with a pass, gated": lambda: bench.load(child, "/gated/page", cookie=cookie),
        }
    )
    bench.found["gated"] = {name: {**row(loads), "ratio": ratio(loads, seen["nobody, no rule"])} for name, loads in seen.items()}


async def many_rules(bench: Bench, few: Child) -> None:
    many = bench.start(targets.gateway(bench.folder, "many-rules", upstream=bench.upstream.port, rules=targets.many_rules(MANY)))
    assert many is not None
    seen = await bench.in_turn({"10 rules": lambda: bench.load(few), "10,000 rules": lambda: bench.load(many)})
    bench.found["rules"] = {name: {**row(loads), "ratio": ratio(loads, seen["10 rules"])} for name, loads in seen.items()}
    bench.found["rules"]["10,000 rules"]["rss_mib"] = round(many.rss(), 1)


def decisions(bench: Bench) -> None:
    made = {}
    for count in (10, MANY):
        file = targets.config(bench.folder, f"decide-{count}", port=1, upstream=2, rules=targets.many_rules(count))
        runs = []
        for _ in range(min(bench.rounds, 3)):
            command = ["taskset", "-c", str(PROXY_CORE), sys.executable, "-m", "tests.bench.rules", str(file), "5"]
            runs.append(json.loads(subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout))
        made[f"{count:,} rules"] = {key: median(run[key] for run in runs) for key in runs[0]}
    bench.found["decide"] = made


async def whole_flows(bench: Bench) -> None:
    stores = {"SQLite": bench.start(targets.gateway(bench.folder, "flows-sqlite", upstream=bench.upstream.port))}
    try:
        folder = bench.folder / "redis"
        folder.mkdir()
        redis = bench.stack.enter_context(RedisServer(folder, "--save", "", "--appendonly", "yes"))
        stores["Redis"] = bench.start(targets.gateway(bench.folder, "flows-redis", upstream=bench.upstream.port, state=f"{redis.url}/0"))
    except RuntimeError as missing:
        print(f"without Redis: {missing}")
    runs = {
        f"{store}, {kind}": lambda child=child, flow=flow: flows.run(child.port, flow, child.cpu, visitors=4, seconds=bench.seconds)
        for store, child in stores.items()
        for kind, flow in (("form", flows.by_form), ("JSON", flows.by_json))
    }
    rounds = max(2, bench.rounds - 2)
    await bench.in_turn(runs, rounds=1)
    seen = await bench.in_turn(runs, rounds)
    alone = await bench.in_turn({
        f"{store}, form": lambda child=child: flows.run(child.port, flows.by_form, child.cpu, visitors=1, seconds=bench.seconds / 2)  # type: ignore[misc]
        for store, child in stores.items()
    }, 1)  # fmt: skip
    bench.found["flows"] = {
        name: {
            "per_cpu_second": round(median(one.per_cpu_second for one in rounds_seen)),
            "per_second": round(median(one.flows / one.seconds for one in rounds_seen)),
            "p50_ms": round(median(one.median for one in rounds_seen), 1),
            **({"alone_p50_ms": round(alone[name][0].median, 1)} if name in alone else {}),
        }
        for name, rounds_seen in seen.items()
    }


async def memory(bench: Bench) -> None:
    made = {}
    for name, child in (
        ("gateway", targets.gateway(bench.folder, "idle", upstream=bench.upstream.port)),
        ("aiohttp proxy", targets.peer(bench.folder, upstream=bench.upstream.port)),
    ):
        with child:
            idle = Idle()
            request = get(child.port, "/account")
            await idle.open(child.port, request, 1)
            start = child.rss()
            await idle.open(child.port, request, IDLE)
            held = child.rss()
            idle.close()
        made[name] = {
            "start_mib": round(start, 1),
            "idle_mib": round(held, 1),
            "kib_per_connection": round((held - start) * 1024 / IDLE, 1),
        }
    bench.found["memory"] = made


async def bulk(bench: Bench, proxies: dict[str, Child]) -> None:
    times = 2 if bench.rounds > 3 else 1
    seen = await bench.in_turn({
        name: lambda child=child: fetch(child.port, get(child.port, f"/bytes/{BULK}"), child.cpu, times=times)  # type: ignore[misc]
        for name, child in proxies.items()
    }, min(bench.rounds, 3))  # fmt: skip
    bench.found["bulk"] = {
        name: {
            "mb_per_cpu_second": round(median(one.size / one.cpu for one in loads) / 1e6),
            "mb_per_second": round(median(one.size / one.seconds for one in loads) / 1e6),
            "rss_mib": round(proxies[name].rss(), 1),
            "gateway_ratio": ratio(seen["gateway"], loads),
        }
        for name, loads in seen.items()
    }


PARTS = ("pass", "gated", "rules", "decide", "flows", "memory", "bulk")


async def measure(bench: Bench, parts: set[str]) -> None:
    ours = bench.start(targets.gateway(bench.folder, "gateway", upstream=bench.upstream.port))
    assert ours is not None
    proxies = {"gateway": ours}
    if parts & {"pass", "bulk"}:
        for name, child in (
            ("aiohttp proxy", targets.peer(bench.folder, upstream=bench.upstream.port)),
            ("aiohttp proxy, bare", targets.peer(bench.folder, upstream=bench.upstream.port, bare=True)),
            ("nginx", targets.nginx(bench.folder, upstream=bench.upstream.port)),
        ):
            if (started := bench.start(child)) is not None:
                proxies[name] = started
    if "pass" in parts:
        await pass_through(bench, proxies)
    if "gated" in parts:
        await gated(bench, ours)
    if "bulk" in parts:
        await bulk(bench, proxies)
    if "rules" in parts:
        await many_rules(bench, ours)
    if "flows" in parts:
        await whole_flows(bench)
    if "memory" in parts:
        await memory(bench)
    if "decide" in parts:
        decisions(bench)


TITLES = {
    "pass_through": "Pass-through: GET, 14 header fields and a cookie, 1 kB answer, 16 connections",
    "gated": "A pass, and a gated route with its upstream token",
    "bulk": "One answer of 100 MB",
    "rules": "Ten rules and ten thousand",
    "flows": "Whole step-ups: begin, interstitial, answer, continue, resume (5 requests), 4 browsers at a time",
    "memory": "Resident memory, with 1 and with 1,001 kept connections",
    "decide": "Loading rules, and one decision",
}


def table(found: Mapping[str, Any]) -> str:
    """The figures as Markdown tables."""
    out = []
    for part, title in TITLES.items():
        if part not in found:
            continue
        rows: Mapping[str, Mapping[str, Any]] = found[part]
        columns = [c for c in dict.fromkeys(c for cells in rows.values() for c in cells) if c != "rounds"]
        out += [f"### {title}", "", "| | " + " | ".join(c.replace("_", " ") for c in columns) + " |", "|---" * (len(columns) + 1) + "|"]
        out += [f"| {name} | " + " | ".join(_cell(cells.get(c)) for c in columns) + " |" for name, cells in rows.items()]
        out.append("")
    return "\n".join(out)


def _cell(value: Any) -> str:
    return "–" if value is None else f"{value:,}"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description="Measure speed and memory.")
    parser.add_argument("--quick", action="store_true", help="shorter and fewer rounds (under a minute)")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="only these parts")
    given = parser.parse_args()
    began, load_before = time.monotonic(), os.getloadavg()[0]
    os.sched_setaffinity(0, {OTHER_CORE})
    with tempfile.TemporaryDirectory(prefix="stepup-bench-") as name, ExitStack() as stack:
        folder = Path(name)
        upstream = stack.enter_context(targets.application(folder))
        bench = Bench(folder, 2 if given.quick else 5, 0.5 if given.quick else 1.5, stack, upstream)
        asyncio.run(measure(bench, set(given.only)))
    report = {
        "taken_seconds": round(time.monotonic() - began), "load_average_before": round(load_before, 2), "quick": given.quick,
        "python": platform.python_version(), "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "versions": {package: version(package) for package in ("aiohttp", "h11", "structlog", "cryptography")},
        **bench.found,
    }  # fmt: skip
    OUTPUT.parent.mkdir(exist_ok=True)
    OUTPUT.write_text(json.dumps(report, indent=2) + "\n")
    print(table(bench.found))
    print(f"{report['taken_seconds']} s; load average {report['load_average_before']} at the start. As JSON: {OUTPUT.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
