"""In a process of its own: how long rules take to load, and how long `decide` takes. Prints JSON.

python -m tests.bench.rules FILE ROUNDS
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

from gateway.app import REGISTRY
from gateway.policy.decide import decide
from gateway.policy.decision import Allow, StepUp
from gateway.policy.facts import Facts
from gateway.settings.load import Loaded, load
from gateway.wire.head import RequestHead
from gateway.wire.target import parse_target
from tests.bench.browser import cookie, fields


def head(target: str, method: str = "GET") -> RequestHead:
    lines = ("Host: bank.example.com", *fields(), f"Cookie: {cookie()}")
    split = tuple((name.encode(), value.strip().encode()) for name, _, value in (line.partition(":") for line in lines))
    return RequestHead(
        method=method,
        target=parse_target(target.encode()),
        headers=split,
        scheme="https",
        host="bank.example.com",
        origin="https://bank.example.com",
        client_ip="192.0.2.1",
        peer="192.0.2.1",
    )


def microseconds(act: Callable[[], object], rounds: int) -> float:
    """CPU time of one call: the median over `rounds` of 2,000 calls each."""
    took = []
    for _ in range(rounds):
        began = time.process_time()
        for _ in range(2000):
            act()
        took.append((time.process_time() - began) / 2000 * 1e6)
    return round(median(took), 2)


def main(file: Path, rounds: int) -> None:
    wall, cpu = time.perf_counter(), time.process_time()
    loaded = load(file, environ=os.environ, kinds=REGISTRY)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    assert isinstance(loaded, Loaded), str(loaded)
    ruleset, facts = loaded.ruleset, Facts()
    other, gated = head("/account?tab=ledger"), head("/gated/page")
    assert isinstance(decide(other, facts, ruleset, 0.0), Allow)
    assert isinstance(decide(gated, facts, ruleset, 0.0), StepUp)
    print(json.dumps({
        "rules": len(ruleset.rules), "load_seconds": round(wall, 3), "load_cpu_seconds": round(cpu, 3),
        "decide_no_rule_us": microseconds(lambda: decide(other, facts, ruleset, 0.0), rounds),
        "decide_step_up_us": microseconds(lambda: decide(gated, facts, ruleset, 0.0), rounds),
    }))  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("file", type=Path)
    parser.add_argument("rounds", type=int)
    given = parser.parse_args()
    main(given.file, given.rounds)
