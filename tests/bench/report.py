"""From the JSON of a run to what people read: Markdown tables, and the picture. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tests.bench.drawing import Bar, Group, draw
from tests.bench.figures import shown

BEGIN, END = "<!-- one run: begin -->", "<!-- one run: end -->"
"""Between these lines of docs/performance.md stands what `--document` wrote."""

TITLES = {
    "pass": "Pass-through, 1 kB, as many requests as they carry",
    "routes": "What a pass, rules and forward-auth cost",
    "latency": "At 70 % of each proxy's own maximum",
    "bulk": "One answer of 100 MB",
    "workers": "One worker and two",
    "flows": "Whole step-ups: begin, interstitial, answer, continue, resume; 4 browsers at a time",
    "memory": "Resident memory with 1,000 connections",
    "decide": "Loading rules, and one decision",
}
COLUMNS = {
    "per_cpu_second": "per CPU second", "per_second": "per second", "busy": "of its core", "load_busy": "of the load's core",
    "p50_ms": "p50, ms", "p99_ms": "p99, ms",
    "rss_mb": "RSS, MB", "gateway_ratio": "gateway / this", "ratio": "this / ungated", "rate": "requests per second",
    "p99_vs_nginx": "p99 / nginx's", "mb_per_cpu_second": "MB per CPU second", "mb_per_second": "MB per second",
    "per_second_ratio": "per second, / one", "per_cpu_second_ratio": "per CPU second, / one", "alone_p50_ms": "alone, ms",
    "start_mb": "at start, MB", "kept_mb": "kept, MB", "loaded_mb": "all busy, MB", "kib_per_kept": "KiB per kept one",
    "load_seconds": "load, s", "load_cpu_seconds": "load, CPU s", "decide_no_rule_us": "`decide`, no rule, µs",
    "decide_step_up_us": "`decide`, step-up, µs",
}  # fmt: skip


def _table(header: list[str], rows: list[list[str]]) -> list[str]:
    return ["| " + " | ".join(header) + " |", "|" + "---|" * len(header), *("| " + " | ".join(cells) + " |" for cells in rows)]


def _cell(value: Any) -> str:
    return "–" if value is None else f"{value:,}"


def goals_table(report: Mapping[str, Any]) -> list[str]:
    """What was to be reached, line by line."""
    words = {"aim": "yes, the aim", "at least": "yes", "no": "**no**", "not measured": "not measured"}
    bound = {"higher": "", "lower": "≤ "}
    return _table(
        ["what", "measured", "at least", "aim", "reached"],
        [
            [
                goal["what"],
                shown(goal["measured"], goal["unit"]),
                "–" if goal["least"] is None else bound[goal["better"]] + shown(goal["least"], goal["unit"]),
                bound[goal["better"]] + shown(goal["aim"], goal["unit"]),
                words[goal["reached"]],
            ]
            for goal in report["goals"]
        ],
    )


def part_table(rows: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The rows of one part; lists, such as single rounds, are for the JSON only."""
    columns = list(dict.fromkeys(name for cells in rows.values() for name, value in cells.items() if not isinstance(value, list)))
    return _table(
        ["", *(COLUMNS[name] for name in columns)], [[name, *(_cell(cells.get(c)) for c in columns)] for name, cells in rows.items()]
    )


def circumstances(report: Mapping[str, Any]) -> str:
    made = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    return (
        f"{report['machine']}; {report['python']}; {made}. {report['rounds']} rounds, {report['taken_seconds']} s. Other programs used "
        f"{report['others_median_percent']} % of the machine at the median, {report['others_most_percent']} % at most."
    )


def markdown(report: Mapping[str, Any], *, level: int = 2) -> str:
    """All tables of a run."""
    out = [*goals_table(report), "", circumstances(report), ""]
    if report["notes"]:
        out += [*(f"* {note}" for note in report["notes"]), ""]
    for part, title in TITLES.items():
        if part in report["parts"]:
            out += ["#" * level + " " + title, "", *part_table(report["parts"][part]), ""]
    return "\n".join(out)


def documented(document: str, report: Mapping[str, Any], picture: str) -> str:
    """docs/performance.md with this run in the place of the one before. picture: its path from there."""
    before, begin, rest = document.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the document has no {BEGIN} … {END}")
    if report["quick"] or set(report["parts"]) != set(TITLES):
        raise ValueError("a document takes a whole run: `make bench`, without --quick and --only")
    body = f"![{described(report)}]({picture})\n\n{markdown(report, level=3)}"
    return f"{before}{begin}\n\n{body}\n{end}{after}"


def described(report: Mapping[str, Any]) -> str:
    """The picture in words."""
    rows = report["parts"]["pass"]
    return "Requests per CPU second: " + ", ".join(f"{name} {cells['per_cpu_second']:,}" for name, cells in rows.items())


def picture(report: Mapping[str, Any]) -> str:
    """Requests per CPU second, and p99 at 70 % load, as SVG."""
    speed, slow = report["parts"]["pass"], report["parts"].get("latency", {})

    def bars(rows: Mapping[str, Mapping[str, Any]], key: str, unit: str, *, falling: bool) -> list[Bar]:
        order = sorted(rows, key=lambda name: rows[name][key], reverse=falling)
        return [Bar(name, rows[name][key], f"{rows[name][key]:,}{unit}", name.startswith("gateway")) for name in order]

    groups = [Group("Requests per CPU second, 1 kB passed through (more is better)", bars(speed, "per_cpu_second", "", falling=True))]
    if slow:
        groups.append(Group("p99 at 70 % of its own maximum (less is better)", bars(slow, "p99_ms", " ms", falling=False)))
    return draw(groups, described=described(report))
