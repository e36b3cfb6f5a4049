"""The measurements. Each part starts what it compares, lets it take turns, and writes rows under its name and figures under its goals.

What counts is requests per CPU second of the proxy's processes, and ratios within a round.
"""

from __future__ import annotations

import asyncio
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

from tests.bench import browser, client, flows, paced, targets, wrk
from tests.bench.figures import Sample, against, calmest, ratio, row, unrest
from tests.bench.processes import CORES, OTHER_CORE, PROXY_CORE, ROOT, Child, others
from tests.support.ports import free_port
from tests.support.redis_server import RedisServer

T = TypeVar("T")

CONNECTIONS = 32
MANY_RULES = 10_000
MANY_CONNECTIONS = 1_000
PASSES = 24
"""Browsers with a pass, of whose cookies the gated requests make use in turn."""
LOAD = 0.7
CALM, EXTRA = 0.05, 4
"""Share of the machine that other programs may use while latencies are measured; rounds more that may be tried to find such."""
OURS, SLOW, STRANGERS = "gateway", "gateway, slow lane", "gateway, every head new"


@dataclass(frozen=True, slots=True)
class Run:
    """Something that can be put under load. size: of every answer's body, None for any."""

    child: Child
    port: int
    requests: Path
    size: int | None = targets.SMALL


@dataclass
class Bench:
    """One run of the program: how many rounds of how many seconds, where its processes live, what it found."""

    folder: Path
    rounds: int
    seconds: int
    stack: ExitStack
    upstream: Child
    found: dict[str, Any] = field(default_factory=dict)
    measured: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    disturbed: list[float] = field(default_factory=list)
    files: int = 0

    def start(self, child: Child) -> Child:
        return self.stack.enter_context(child)

    def gateway(self, name: str, **options: Any) -> Child:
        return self.start(targets.gateway(self.folder, name, upstream=self.upstream.port, **options))

    def run_of(self, child: Child, *, port: int = 0, host: str = "", size: int | None = targets.SMALL, **options: Any) -> Run:
        """A file of requests for this child, which is looked at first. options: those of browser.write."""
        self.files += 1
        port = port or child.port
        file = browser.write(self.folder / f"{self.files}.http", host or f"127.0.0.1:{port}", **options)
        client.look(port, file, size=size)
        return Run(child, port, file, size)

    def load(self, run: Run, *, seconds: int = 0, connections: int = CONNECTIONS, cores: tuple[int, ...] = (OTHER_CORE,)) -> Sample:
        """Put it under full load."""

        def full() -> tuple[int, float, float, float]:
            seen = wrk.run(run.port, run.requests, connections=connections, seconds=seconds or self.seconds, cores=cores)
            if run.size and seen.size < run.size:
                raise RuntimeError(f"{run.child.name} answers with {seen.size:.0f} bytes")
            return seen.requests, seen.requests / seen.per_second, seen.p50_ms, seen.p99_ms

        return self._watched(run, full)

    def pace(self, program: Path, run: Run, rate: float) -> Sample:
        """Put it under the load of so many requests per second."""

        def paced_load() -> tuple[int, float, float, float]:
            seen = paced.run(program, run.port, run.requests, rate=rate, connections=2 * CONNECTIONS, seconds=self.seconds)
            window = self.seconds + paced.WARM_UP
            return round(rate * window), window, seen.p50_ms, seen.p99_ms

        return self._watched(run, paced_load)

    def _watched(self, run: Run, act: Callable[[], tuple[int, float, float, float]]) -> Sample:
        """What act saw (requests, seconds, p50, p99), and what the processes used meanwhile."""
        began, strange, loading, used = time.perf_counter(), others(), self._load_cpu(), run.child.cpu()
        requests, seconds, p50_ms, p99_ms = act()
        cpu, load = run.child.cpu() - used, self._load_cpu() - loading
        share = (others() - strange) / (time.perf_counter() - began) / len(CORES)
        self.disturbed.append(share)
        run.child.trim()
        return Sample(requests=requests, seconds=seconds, cpu=cpu, p50_ms=p50_ms, p99_ms=p99_ms, load=load, others=share)

    def _load_cpu(self) -> float:
        """CPU seconds of the upstream, and of the load generators that have ended."""
        ended = resource.getrusage(resource.RUSAGE_CHILDREN)
        return self.upstream.cpu() + ended.ru_utime + ended.ru_stime

    def in_turn(self, runs: Mapping[str, Callable[[], T]], rounds: int = 0, *, first: int = 0) -> list[dict[str, T]]:
        """Every run once a round, each round beginning with another. first: the number of the first round."""
        names = list(runs)
        return [
            {name: runs[name]() for name in names[number % len(names) :] + names[: number % len(names)]}
            for number in range(first, first + (rounds or self.rounds))
        ]

    def loads(self, runs: Mapping[str, Run]) -> dict[str, list[Sample]]:
        """Full load on each in turn, after a second that is not counted."""
        for run in runs.values():
            self.load(run, seconds=1)
        return by_name(self.in_turn({name: lambda run=run: self.load(run) for name, run in runs.items()}))  # type: ignore[misc]


def by_name(rounds: Sequence[Mapping[str, T]]) -> dict[str, list[T]]:
    """The same, the rounds within the names."""
    return {name: [one[name] for one in rounds] for name in rounds[0]}


def proxies(bench: Bench, ours: Run) -> dict[str, Run]:
    """All that forward the same thing, started."""
    folder, upstream = bench.folder, bench.upstream.port
    made = {OURS: ours}
    if targets.abilities().fast_lane:
        made[SLOW] = bench.run_of(bench.gateway("slow-lane", lane="slow"))
    peers: dict[str, Callable[[], Child]] = {
        "Caddy": lambda: targets.caddy(folder, upstream=upstream),
        "nginx": lambda: targets.nginx(folder, upstream=upstream),
        "HAProxy": lambda: targets.haproxy(folder, upstream=upstream),
        "aiohttp proxy": lambda: targets.peer(folder, upstream=upstream),
        "aiohttp proxy, bare": lambda: targets.peer(folder, upstream=upstream, bare=True),
    }
    for name, make in peers.items():
        made[name] = bench.run_of(bench.start(make()))
    return made


def pass_through(bench: Bench, runs: dict[str, Run]) -> None:
    runs = {OURS: runs[OURS], STRANGERS: bench.run_of(runs[OURS].child, strangers=True), **runs}
    seen = bench.loads(runs)
    speed = {name: [one.per_cpu_second for one in samples] for name, samples in seen.items()}
    ratios = {name: round(ratio(speed[OURS], speed[name]), 3) for name in speed}
    bench.found["pass"] = {
        name: {**row(samples), "rss_mb": round(runs[name].child.rss(), 1), "gateway_ratio": ratios[name]} for name, samples in seen.items()
    }
    bench.measured |= {"caddy": ratios["Caddy"], "nginx": ratios["nginx"], "aiohttp": ratios["aiohttp proxy"]}
    anew = ", ".join(f"{ratio(speed[STRANGERS], speed[name]):.2f}× {name}" for name in ("Caddy", "nginx", "aiohttp proxy"))
    bench.notes.append(f"pass: where no visitor comes again, so that nothing kept for one helps, the gateway carries {anew}.")


def routes(bench: Bench, ours: Run, parts: set[str], forward_auth: int) -> None:
    """What a pass, many rules and forward-auth cost, each against the same ungated route in the same round."""
    runs = {"ungated": ours}
    if "gated" in parts:
        cookies = [asyncio.run(flows.logged_in(ours.port, f"user-{number}")) for number in range(PASSES)]
        runs["ungated, with a pass"] = bench.run_of(ours.child, cookies=cookies)
        runs["gated, with a pass"] = bench.run_of(ours.child, cookies=cookies, path=lambda number: f"/gated/page-{number}")
    if "rules" in parts:
        runs["10,000 rules"] = bench.run_of(bench.gateway("many-rules", rules=targets.many_rules(MANY_RULES)))
    if "forward-auth" in parts:
        if forward_auth:
            runs["forward-auth"] = forward_auth_run(bench, ours, forward_auth)
        else:
            bench.notes.append("forward-auth: this version has no `forward_auth` setting.")
    seen = bench.loads(runs)
    ratios = against(seen, "ungated")
    bench.found["routes"] = {name: {**row(samples), "ratio": ratios[name]} for name, samples in seen.items()}
    for key, name in (("gated", "gated, with a pass"), ("rules", "10,000 rules"), ("forward_auth", "forward-auth")):
        if name in ratios:
            bench.measured[key] = ratios[name]
    if "rules" in parts:
        bench.found["routes"]["10,000 rules"]["rss_mb"] = round(runs["10,000 rules"].child.rss(), 1)


def forward_auth_run(bench: Bench, ours: Run, port: int) -> Run:
    """What nginx's `auth_request` asks: the browser's fields, and the original request in fields of its own."""

    def original(number: int) -> tuple[str, ...]:
        return (
            "X-Original-Method: GET",
            f"X-Original-URI: {browser.page(number)}",
            f"X-Original-Host: 127.0.0.1:{ours.port}",
            "X-Original-Proto: http",
            "X-Original-Address: 192.0.2.1",
        )

    return bench.run_of(
        ours.child, port=port, size=None, path=lambda _: "/.stepup/forward-auth", more=original, host=f"127.0.0.1:{ours.port}"
    )


def latency(bench: Bench, runs: dict[str, Run]) -> None:
    """At 70 % of the most that each was seen to carry, latencies counted from when each request should have left."""
    program = paced.build(bench.folder)
    chosen = {name: runs[name] for name in (OURS, "nginx", "HAProxy", "Caddy")}
    most = by_name(bench.in_turn({name: lambda run=run: bench.load(run) for name, run in chosen.items()}, 2))  # type: ignore[misc]
    rates = {name: LOAD * max(sample.per_second for sample in samples) for name, samples in most.items()}
    turns = {name: lambda name=name, run=run: bench.pace(program, run, rates[name]) for name, run in chosen.items()}
    seen: list[dict[str, Sample]] = []
    while len(seen) < bench.rounds + EXTRA and sum(unrest(one) < CALM for one in seen) < bench.rounds:
        seen += bench.in_turn(turns, 1, first=len(seen))
    calm = calmest(seen, bench.rounds)
    kept, worst = by_name(calm), max(unrest(one) for one in calm)
    theirs = [sample.p99_ms for sample in kept["nginx"]]
    bench.found["latency"] = {
        name: {
            "rate": round(rates[name]),
            "busy": round(median(one.cpu / one.seconds for one in samples), 2),
            "load_busy": round(median(one.load / one.seconds for one in samples), 2),
            "p50_ms": round(median(one.p50_ms for one in samples), 2),
            "p99_ms": round(median(one.p99_ms for one in samples), 2),
            "p99_vs_nginx": round(ratio([one.p99_ms for one in samples], theirs), 2),
            "p99_rounds": [round(one.p99_ms, 2) for one in samples],
        }
        for name, samples in ((name, kept[name]) for name in chosen)
    }
    if worst < CALM:
        bench.measured["p99"] = bench.found["latency"][OURS]["p99_vs_nginx"]
    else:
        bench.notes.append(
            f"latency: other programs used up to {100 * worst:.0f} % of the machine in the calmest {bench.rounds} of {len(seen)} rounds. "
            "The figures say more about them than about the proxies, and do not count."
        )


def bulk(bench: Bench, runs: dict[str, Run]) -> None:
    def fetch(run: Run) -> tuple[int, float, float]:
        return client.fetch(run.port, browser.get(f"127.0.0.1:{run.port}", "/bulk"), run.child.cpu, times=3)

    for run in runs.values():
        fetch(run)
    seen = by_name(bench.in_turn({name: lambda run=run: fetch(run) for name, run in runs.items()}))  # type: ignore[misc]
    speed = {name: [size / cpu / 1e6 for size, _, cpu in fetched] for name, fetched in seen.items()}
    bench.found["bulk"] = {
        name: {
            "mb_per_cpu_second": round(median(speed[name])),
            "mb_per_second": round(median(size / seconds for size, seconds, _ in fetched) / 1e6),
            "rss_mb": round(runs[name].child.rss(), 1),
            "gateway_ratio": round(ratio(speed[OURS], speed[name]), 3),
        }
        for name, fetched in seen.items()
    }
    bench.measured["bulk"] = bench.found["bulk"]["nginx"]["gateway_ratio"]


def workers(bench: Bench) -> None:
    """One worker and two, on two cores. With no third core, load and upstream share them, so the wall clock cannot show a doubling; what
    can be seen is what a request costs in CPU time when two workers serve at once, and that is what the figure is made of."""
    if not targets.abilities().workers:
        bench.notes.append("workers: this version has no `gateway run --workers`.")
        return
    both, rest = tuple(CORES[:2]), tuple(CORES[2:] or CORES)
    upstream = bench.start(targets.application(bench.folder, "upstream-of-workers", rest))
    runs = {}
    for count in (1, 2):
        child = bench.start(targets.gateway(bench.folder, f"workers-{count}", upstream=upstream.port, workers=count, cores=both))
        runs[f"{count} worker{'s' * (count > 1)}"] = bench.run_of(child)
    for run in runs.values():
        bench.load(run, seconds=1, connections=2 * CONNECTIONS, cores=rest)
    seen = by_name(bench.in_turn({
        name: lambda run=run: bench.load(run, connections=2 * CONNECTIONS, cores=rest) for name, run in runs.items()  # type: ignore[misc]
    }))  # fmt: skip
    cost, rate = against(seen, "1 worker"), [one.per_second for one in seen["1 worker"]]
    bench.found["workers"] = {
        name: {
            **row(samples),
            "rss_mb": round(runs[name].child.rss(), 1),
            "per_second_ratio": round(ratio([one.per_second for one in samples], rate), 2),
            "per_cpu_second_ratio": cost[name],
        }
        for name, samples in seen.items()
    }
    two = bench.found["workers"]["2 workers"]
    if len(CORES) > 3:
        bench.measured["workers"] = two["per_second_ratio"]
    else:
        bench.measured["workers"] = round(2 * two["per_cpu_second_ratio"], 2)
        bench.notes.append(
            f"workers: with {len(CORES)} cores, load and upstream take their share of the workers' cores. By the wall clock two carried "
            f"{two['per_second_ratio']} times as much as one; the figure is twice their requests per CPU second over those of one, which "
            "is what cores of their own would give."
        )


def memory(bench: Bench) -> None:
    """Resident memory of the process that serves: alone, with connections that were used once, and after as many were busy at once."""
    made, apart, upstream = {}, bench.folder / "memory", bench.upstream.port
    apart.mkdir()
    held_by: dict[str, Callable[[], Child]] = {
        OURS: lambda: targets.gateway(apart, "gateway", upstream=upstream),
        "nginx": lambda: targets.nginx(apart, upstream=upstream),
        "aiohttp proxy": lambda: targets.peer(apart, upstream=upstream),
    }
    for name, make in held_by.items():
        with make() as child:
            run = bench.run_of(child)
            start = child.resident()
            held = client.hold(child.port, (browser.get(f"127.0.0.1:{child.port}", browser.page(n)) for n in range(MANY_CONNECTIONS)))
            server = child.holder()
            kept = child.resident()[server]
            for connection in held:
                connection.close()
            bench.load(run, connections=MANY_CONNECTIONS)
            made[name] = {"start_mb": round(start[server], 1), "kept_mb": round(kept, 1), "loaded_mb": round(child.resident()[server], 1),
                          "kib_per_kept": round((kept - start[server]) * 1e6 / 1024 / MANY_CONNECTIONS, 1)}  # fmt: skip
    bench.found["memory"] = made
    bench.measured["memory"] = max(made[OURS]["kept_mb"], made[OURS]["loaded_mb"])


def whole_flows(bench: Bench) -> None:
    stores = {"SQLite": bench.gateway("flows-sqlite")}
    (bench.folder / "redis").mkdir()
    redis = bench.stack.enter_context(RedisServer(bench.folder / "redis", "--save", "", "--appendonly", "yes"))
    stores["Redis"] = bench.gateway("flows-redis", state=f"{redis.url}/0")

    def run(child: Child, flow: Any, visitors: int = 4) -> flows.Flows:
        return asyncio.run(flows.run(child.port, flow, child.cpu, visitors=visitors, seconds=bench.seconds))

    runs = {
        f"{store}, by {kind}": lambda child=child, flow=flow: run(child, flow)
        for store, child in stores.items()
        for kind, flow in (("form", flows.by_form), ("JSON", flows.by_json))
    }
    bench.in_turn(runs, 1)
    seen = by_name(bench.in_turn(runs, max(2, bench.rounds - 2)))
    alone = {f"{store}, by form": run(child, flows.by_form, 1).median for store, child in stores.items()}
    bench.found["flows"] = {
        name: {
            "per_cpu_second": round(median(one.per_cpu_second for one in samples)),
            "per_second": round(median(one.flows / one.seconds for one in samples)),
            "p50_ms": round(median(one.median for one in samples), 1),
            "alone_p50_ms": round(alone[name], 1) if name in alone else None,
        }
        for name, samples in seen.items()
    }
    bench.measured["flows_sqlite"] = bench.found["flows"]["SQLite, by form"]["per_cpu_second"]
    bench.measured["flows_redis"] = bench.found["flows"]["Redis, by form"]["per_cpu_second"]


def decisions(bench: Bench) -> None:
    made = {}
    for count in (10, MANY_RULES):
        file = targets.config(bench.folder, f"decide-{count}", port=1, upstream=2, rules=targets.many_rules(count))
        runs = []
        for _ in range(min(bench.rounds - 1, 3)):
            command = ["taskset", "-c", str(PROXY_CORE), sys.executable, "-m", "tests.bench.rules", str(file), "5"]
            runs.append(json.loads(subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout))
        made[f"{count:,} rules"] = {key: round(median(run[key] for run in runs), 3) for key in runs[0] if key != "rules"}
    bench.found["decide"] = made


ROUTES = {"gated", "rules", "forward-auth"}
PARTS = ("pass", "gated", "rules", "forward-auth", "latency", "bulk", "workers", "memory", "flows", "decide")


def measure(bench: Bench, parts: set[str]) -> None:
    """All parts asked for. What the machine lacks for one of them raises RuntimeError, with what to install."""
    if parts & {"pass", "latency", "bulk", *ROUTES}:
        forward_auth = free_port() if targets.abilities().forward_auth else 0
        ours = bench.run_of(bench.gateway("gateway", forward_auth=forward_auth))
        if parts & {"pass", "latency", "bulk"}:
            runs = proxies(bench, ours)
            for part, act in (("pass", pass_through), ("latency", latency), ("bulk", bulk)):
                if part in parts:
                    act(bench, runs)
        if parts & ROUTES:
            routes(bench, ours, parts, forward_auth)
    for part, alone in (("workers", workers), ("memory", memory), ("flows", whole_flows), ("decide", decisions)):
        if part in parts:
            alone(bench)
