"""From samples to figures: medians, ratios within a round, what was to be reached. Pure.

A ratio compares two runs of the same round, and the figure is the median of the rounds' ratios: what slows the whole machine for a while
slows both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class Sample:
    """One run. cpu: seconds of the proxy's processes; load: of load generator and upstream together; others: share of the machine that
    programs which have nothing to do with it used."""

    requests: int
    seconds: float
    cpu: float
    p50_ms: float
    p99_ms: float
    load: float = 0.0
    others: float = 0.0

    @property
    def per_second(self) -> float:
        return self.requests / self.seconds

    @property
    def per_cpu_second(self) -> float:
        return self.requests / self.cpu


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """The median over the rounds of ours / theirs. Raises ValueError where their rounds are not the same number."""
    return median(a / b for a, b in zip(ours, theirs, strict=True))


def unrest(one: Mapping[str, Sample]) -> float:
    """The most that other programs used in any run of a round."""
    return max(sample.others for sample in one.values())


def calmest(rounds: Sequence[Mapping[str, Sample]], keep: int) -> list[Mapping[str, Sample]]:
    """The `keep` rounds in which other programs used least, in their order. What was measured has no say in it."""
    order = sorted(range(len(rounds)), key=lambda n: unrest(rounds[n]))
    return [rounds[n] for n in sorted(order[:keep])]


def row(samples: Sequence[Sample]) -> dict[str, Any]:
    """A line of a table: medians, and requests per CPU second of each round."""
    return {
        "per_cpu_second": round(median(one.per_cpu_second for one in samples)),
        "per_second": round(median(one.per_second for one in samples)),
        "busy": round(median(one.cpu / one.seconds for one in samples), 2),
        "load_busy": round(median(one.load / one.seconds for one in samples), 2),
        "p50_ms": round(median(one.p50_ms for one in samples), 2),
        "p99_ms": round(median(one.p99_ms for one in samples), 2),
        "rounds": [round(one.per_cpu_second) for one in samples],
    }


def against(seen: Mapping[str, Sequence[Sample]], base: str) -> dict[str, float]:
    """Each run's requests per CPU second as a multiple of those of `base`."""
    theirs = [one.per_cpu_second for one in seen[base]]
    return {name: round(ratio([one.per_cpu_second for one in samples], theirs), 3) for name, samples in seen.items()}


@dataclass(frozen=True, slots=True)
class Goal:
    """What issue 3 asks for. better: which way is good."""

    key: str
    what: str
    least: float | None
    aim: float
    unit: str
    better: Literal["higher", "lower"] = "higher"


GOALS = (
    Goal("caddy", "ungated route, 1 kB response, vs Caddy `reverse_proxy`", 2.5, 4, "×"),
    Goal("nginx", "the same vs nginx `proxy_pass`", 0.40, 0.7, "×"),
    Goal("aiohttp", "the same vs a plain aiohttp proxy", 6, 10, "×"),
    Goal("gated", "gated route with a valid pass, upstream token added, vs our ungated", 0.85, 0.95, "×"),
    Goal("rules", "10,000 rules vs 10 rules", 0.9, 1.0, "×"),
    Goal("forward_auth", "forward-auth answers vs our ungated proxying", 1.3, 2, "×"),
    Goal("p99", "p99 at 70 % load vs nginx's", 4, 2, "×", "lower"),
    Goal("bulk", "100 MB response, bytes per CPU second, vs nginx", 0.3, 0.8, "×"),
    Goal("workers", "two workers vs one (upstream not the limit)", None, 1.9, "×"),
    Goal("memory", "RSS of one worker at 1,000 connections", 120, 60, "MB", "lower"),
    Goal("flows_sqlite", "full step-up flows per CPU second, SQLite", 100, 300, ""),
    Goal("flows_redis", "full step-up flows per CPU second, Redis", 100, 300, ""),
)
"""The table of issue 3, part 4. All but the last five lines compare requests per CPU second."""


def reached(goal: Goal, measured: float | None) -> str:
    """What a measured figure is called: `aim`, `at least`, `no`, or `not measured`."""
    if measured is None:
        return "not measured"

    def good(bound: float) -> bool:
        return measured >= bound if goal.better == "higher" else measured <= bound

    if good(goal.aim):
        return "aim"
    return "at least" if goal.least is not None and good(goal.least) else "no"


def shown(value: float | None, unit: str) -> str:
    """A figure as a cell: three significant digits at most behind the point, none where there is nothing behind it."""
    if value is None:
        return "–"
    text = f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return f"{text}{unit}" if unit in {"", "×"} else f"{text} {unit}"


def goals(measured: Mapping[str, float]) -> list[dict[str, Any]]:
    """A line for each goal, as JSON has it."""
    return [
        {
            "key": goal.key, "what": goal.what, "measured": measured.get(goal.key), "least": goal.least, "aim": goal.aim,
            "unit": goal.unit, "better": goal.better, "reached": reached(goal, measured.get(goal.key)),
        }
        for goal in GOALS
    ]  # fmt: skip
