"""`make bench`: the gateway beside nginx, HAProxy, Caddy and a plain aiohttp proxy, in the same run, in rounds that take turns.

python -m tests.bench [--quick] [--only pass gated …]     measure; tables on stdout, tests/output/bench.json
python -m tests.bench --document                          write the last whole run into docs/performance.md, and its picture
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

from tests.bench import report, targets
from tests.bench.figures import goals
from tests.bench.measure import PARTS, Bench, measure
from tests.bench.processes import OTHER_CORE, ROOT

OUTPUT = ROOT / "tests/output/bench.json"
DOCUMENT = ROOT / "docs/performance.md"
PICTURE = ROOT / "docs/images/performance.svg"


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def run(parts: set[str], *, quick: bool) -> dict[str, Any]:
    """Measure. Shape of the result: `parts` has rows by part, `goals` the lines of issue 3, `notes` what could not be measured as meant."""
    began = time.monotonic()
    os.sched_setaffinity(0, {OTHER_CORE})
    with tempfile.TemporaryDirectory(prefix="stepup-bench-") as name, ExitStack() as stack:
        folder = Path(name)
        bench = Bench(folder, 2 if quick else 6, 1, stack, stack.enter_context(targets.application(folder)))
        measure(bench, parts)
    return {
        "quick": quick,
        "rounds": bench.rounds,
        "taken_seconds": round(time.monotonic() - began),
        "others_median_percent": round(100 * median(bench.disturbed or [0])),
        "others_most_percent": round(100 * max(bench.disturbed or [0])),
        "machine": f"{_processor()}, {os.cpu_count()} cores",
        "python": f"Python {platform.python_version()}",
        "versions": {**targets.versions(), **{package: version(package) for package in ("aiohttp", "uvloop", "httptools")}},
        "goals": goals(bench.measured),
        "notes": bench.notes,
        "parts": bench.found,
    }


def document() -> None:
    """Raises ValueError where the last run was not a whole one."""
    made = json.loads(OUTPUT.read_text())
    text = report.documented(DOCUMENT.read_text(), made, str(PICTURE.relative_to(DOCUMENT.parent)))
    PICTURE.write_text(report.picture(made))
    DOCUMENT.write_text(text)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description="Measure speed and memory.")
    parser.add_argument("--quick", action="store_true", help="two rounds in place of six (under two minutes)")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, metavar="PART", help=f"only these of {', '.join(PARTS)}")
    parser.add_argument("--document", action="store_true", help="measure nothing; write the last run into docs/performance.md")
    given = parser.parse_args()
    if given.document:
        document()
        return
    made = run(set(given.only), quick=given.quick)
    OUTPUT.parent.mkdir(exist_ok=True)
    OUTPUT.write_text(json.dumps(made, indent=2, ensure_ascii=False) + "\n")
    print(report.markdown(made))
    print(f"As JSON: {OUTPUT.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
