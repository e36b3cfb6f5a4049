"""What is pure in the measurements: reading what programs print, figures, the picture. No test here measures anything."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

from tests.bench import browser, drawing, figures, paced, processes, profile, report, wrk
from tests.bench.drawing import Bar, Group
from tests.bench.figures import Sample

WRK = """Running 2s test @ http://127.0.0.1:8080/
  1 threads and 32 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency   395.17us  102.11us   6.05ms   88.29%
    Req/Sec    50.04k     2.11k   53.97k    75.00%
  Latency Distribution
     50%  380.00us
     75%    0.41ms
     90%    0.50ms
     99%    1.25s
  2048 requests in 2.00s, 4.00MB read
Requests/sec:   1024.00
Transfer/sec:      2.00MB
"""


def sample(requests: int = 100, cpu: float = 1.0, others: float = 0.0, **more: float) -> Sample:
    return Sample(requests=requests, seconds=2.0, cpu=cpu, p50_ms=more.get("p50", 1.0), p99_ms=more.get("p99", 2.0), others=others)


def test_what_wrk_prints_is_read_in_one_unit() -> None:
    said = wrk.parse(WRK)
    assert (said.requests, said.per_second) == (2048, 1024.0)
    assert said.size == 2048.0  # 4 MiB / 2048
    assert said.p50_ms == pytest.approx(0.38)
    assert said.p99_ms == pytest.approx(1250)


@pytest.mark.parametrize(
    "line", ["  Non-2xx or 3xx responses: 12", "  Socket errors: connect 0, read 3, write 0, timeout 0"], ids=["status", "socket"]
)
def test_a_run_of_wrk_with_errors_is_no_measurement(line: str) -> None:
    with pytest.raises(ValueError, match=line.split(maxsplit=1)[0]):
        wrk.parse(WRK.replace("Requests/sec", f"{line}\nRequests/sec"))


def test_wrk_without_requests_or_percentiles_is_refused() -> None:
    with pytest.raises(ValueError, match="not what wrk prints"):
        wrk.parse(WRK.replace("2048 requests", "0 requests"))
    with pytest.raises(ValueError, match="not what wrk prints"):
        wrk.parse(WRK.replace("     99%    1.25s\n", ""))


def test_what_paced_prints_is_read_in_milliseconds() -> None:
    said = '{"requests": 3, "unanswered": 1, "most_waiting": 2, "p50_us": 250.0, "p90_us": 300.0, "p99_us": 1500.0, "max_us": 2000.0}'
    seen = paced.parse(10.0, said)
    assert seen == paced.Paced(rate=10.0, requests=3, unanswered=1, most_waiting=2, p50_ms=0.25, p99_ms=1.5, max_ms=2.0)


def test_cpu_time_of_ended_children_is_read_behind_a_name_with_brackets() -> None:
    #       pid  name          state ppid pgrp session tty tpgid flags minflt cminflt majflt cmajflt utime stime cutime cstime …
    line = "812 (a b) (nginx)) S     7    812  812     0   -1    4194  1      2       3      4       500   60    30     4      20 0 1"
    assert processes.parse_stat(line) == processes.Stat(parent=7, reaped=34)


def test_descendants_are_found_at_any_depth_and_nobody_elses() -> None:
    parents = {2: 1, 5: 2, 9: 5, 3: 1, 4: 3}
    assert processes.descendants(2, parents) == (2, 5, 9)
    assert processes.descendants(4, parents) == (4,)


def heads(file: Path) -> list[tuple[bytes, bytes]]:
    """Request line and header fields of each request in the file."""
    texts = file.read_bytes().split(b"\r\n\r\n")[:-1]
    return [(line, rest) for line, _, rest in (text.partition(b"\r\n") for text in texts)]


def test_visitors_come_again_but_no_request_does(tmp_path: Path) -> None:
    sent = heads(browser.write(tmp_path / "requests", "127.0.0.1:1", cookies=["pass=1", "pass=2"]))
    assert len(sent) == len(set(sent)) == 8000
    assert len({line for line, _ in sent}) == 401
    assert len({fields for _, fields in sent}) == 307
    assert {fields.count(b"\r\n") for _, fields in sent} == {14}  # 14 fields, and the cookie
    assert {fields.count(b"pass=") for _, fields in sent} == {1}


def test_strangers_never_come_again(tmp_path: Path) -> None:
    sent = heads(browser.write(tmp_path / "requests", "127.0.0.1:1", strangers=True))
    assert len({fields for _, fields in sent}) == 8000


def test_a_ratio_is_taken_within_rounds_and_its_median_counts() -> None:
    # 1/2, 6/2, 4/4: the medians of the columns (4 and 2) would say 2
    assert figures.ratio([1, 6, 4], [2, 2, 4]) == 1.0
    with pytest.raises(ValueError, match="argument"):
        figures.ratio([1, 2], [1])


def test_requests_per_cpu_second_are_compared_not_those_per_second() -> None:
    seen = {"ours": [sample(100, cpu=2.0), sample(90, cpu=1.5)], "theirs": [sample(100, cpu=1.0), sample(80, cpu=1.0)]}
    # 50/100 and 60/80
    assert figures.against(seen, "theirs") == {"ours": 0.625, "theirs": 1.0}


def test_a_row_has_the_medians() -> None:
    made = figures.row([sample(100, cpu=1.0, p99=3.0), sample(300, cpu=2.0, p99=9.0), sample(200, cpu=1.0, p99=4.0)])
    assert made == {
        "per_cpu_second": 150,
        "per_second": 100,
        "busy": 0.5,
        "load_busy": 0.0,
        "p50_ms": 1.0,
        "p99_ms": 4.0,
        "rounds": [100, 150, 200],
    }


def test_disturbed_rounds_go_whatever_they_measured() -> None:
    rounds = [{"a": sample(n, others=share), "b": sample(n, others=0.0)} for n, share in ((1, 0.3), (2, 0.0), (3, 0.5), (4, 0.1))]
    assert [one["a"].requests for one in figures.calmest(rounds, 2)] == [2, 4]


GOALS = {goal.key: goal for goal in figures.GOALS}


@pytest.mark.parametrize(
    ("key", "measured", "called"),
    [
        ("caddy", 4.0, "aim"),
        ("caddy", 3.99, "at least"),
        ("caddy", 2.49, "no"),
        ("p99", 2.0, "aim"),
        ("p99", 4.0, "at least"),
        ("p99", 4.01, "no"),
        ("memory", 60.0, "aim"),
        ("memory", 121.0, "no"),
        ("workers", 1.89, "no"),
        ("workers", 1.9, "aim"),
        ("bulk", None, "not measured"),
    ],
)
def test_what_a_figure_reaches(key: str, measured: float | None, called: str) -> None:
    assert figures.reached(GOALS[key], measured) == called


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [(None, "×", "–"), (0.4, "×", "0.4×"), (1.0, "×", "1×"), (0.854, "×", "0.85×"), (12.34, "×", "12.3×"), (169.8, "MB", "170 MB"),
     (12345, "", "12,345"), (100, "", "100")],
)  # fmt: skip
def test_figures_as_cells(value: float | None, unit: str, text: str) -> None:
    assert figures.shown(value, unit) == text


def test_bars_are_as_long_as_their_values_from_zero() -> None:
    picture = drawing.draw(
        [Group("Speed", [Bar("a & b", 200, "200"), Bar("ours", 50, "50", ours=True), Bar("c", 0, "0")])], described="<x>"
    )
    root = ET.fromstring(picture)
    svg = "{http://www.w3.org/2000/svg}"
    bars = [rect for rect in root.iter(f"{svg}rect") if rect.get("class") != "paper"]
    # 760 wide, less 2 × 16 around, 170 for names, 90 for figures: 468
    assert [(rect.get("class"), rect.get("width")) for rect in bars] == [("bar", "468"), ("ours", "117"), ("bar", "2")]
    assert [text.text for text in root.iter(f"{svg}text")] == ["Speed", "a & b", "200", "ours", "50", "c", "0"]
    assert root.findtext(f"{svg}title") == "<x>"
    assert "prefers-color-scheme: dark" in picture


def test_a_picture_is_as_tall_as_its_groups() -> None:
    one = Group("", [Bar("a", 1, "1")])
    assert drawing.height([one]) == 16 + 24 + 26 + 16
    assert drawing.height([one, one]) == 16 + (24 + 26) + 18 + (24 + 26) + 16


def made(**changes: object) -> dict[str, Any]:
    row = {"per_cpu_second": 1000, "p99_ms": 0.5, "rounds": [1, 2]}
    return {
        "quick": False, "rounds": 5, "taken_seconds": 200, "machine": "M", "python": "P",
         "others_median_percent": 1, "others_most_percent": 2,
        "versions": {"nginx": "1"}, "goals": figures.goals({"caddy": 3.0, "memory": 50.0}), "notes": ["workers: a word."],
        "parts": {part: {"gateway": row, "nginx": row} for part in report.TITLES}, **changes,
    }  # fmt: skip


def test_the_table_of_goals_names_each_with_its_bounds() -> None:
    lines = report.goals_table(made())
    assert lines[2] == "| ungated route, 1 kB response, vs Caddy `reverse_proxy` | 3× | 2.5× | 4× | yes |"
    assert "| RSS of one worker at 1,000 connections | 50 MB | ≤ 120 MB | ≤ 60 MB | yes, the aim |" in lines
    assert "| two workers vs one (upstream not the limit) | – | – | 1.9× | not measured |" in lines
    assert len(lines) == 2 + 12


def test_a_part_is_a_table_without_its_single_rounds() -> None:
    rows: dict[str, dict[str, Any]] = {
        "gateway": {"per_cpu_second": 1234, "rounds": [1]},
        "nginx": {"per_cpu_second": 5, "rss_mb": None, "rounds": [2]},
    }
    assert report.part_table(rows) == [
        "|  | per CPU second | RSS, MB |",
        "|---|---|---|",
        "| gateway | 1,234 | – |",
        "| nginx | 5 | – |",
    ]


def test_a_run_goes_between_the_markers_and_only_there() -> None:
    before, after = "# Performance\n", "\n## What costs\n"
    text = report.documented(f"{before}{report.BEGIN}\nold\n{report.END}{after}", made(), "images/p.svg")
    assert text.startswith(f"{before}{report.BEGIN}\n\n![")
    assert text.endswith(f"\n{report.END}{after}")
    assert "(images/p.svg)" in text
    assert "old" not in text
    assert report.documented(text, made(), "images/p.svg") == text


def test_a_document_takes_whole_runs_only() -> None:
    place = f"{report.BEGIN}{report.END}"
    for wrong in (made(quick=True), made(parts={"pass": {}})):
        with pytest.raises(ValueError, match="a whole run"):
            report.documented(place, wrong, "p.svg")
    with pytest.raises(ValueError, match="the document has no"):
        report.documented("# Performance", made(), "p.svg")


def test_the_picture_shows_the_fastest_first_and_the_gateway_in_its_colour() -> None:
    rows = {"gateway": {"per_cpu_second": 5}, "nginx": {"per_cpu_second": 20}}
    root = ET.fromstring(report.picture(made(parts={"pass": rows})))
    svg = "{http://www.w3.org/2000/svg}"
    assert [rect.get("class") for rect in root.iter(f"{svg}rect")] == ["paper", "bar", "ours"]
    assert root.findtext(f"{svg}title") == "Requests per CPU second: gateway 5, nginx 20"


FOLDED = """thread (7): MainThread;main (a.py:1);relay (b.py:7);parse (c.py:3) 6
thread (7): MainThread;main (a.py:1);relay (b.py:9) 3
thread (9): store (x);wait (d.py:1) 10
thread (7): MainThread;main (a.py:1);relay (b.py:7);relay (b.py:7) 1
thread (9): store (x) 2
"""


def test_samples_are_read_by_thread() -> None:
    main, store = profile.parse(FOLDED)
    assert (main.number, main.name, main.stacks.total()) == (7, "MainThread", 10)
    assert (store.number, store.name, store.stacks) == (9, "store (x)", {("wait (d.py:1)",): 10})


def test_own_time_is_that_of_the_innermost_line() -> None:
    stacks = profile.parse(FOLDED)[0].stacks
    assert profile.own(stacks) == {"parse (c.py:3)": 6, "relay (b.py:9)": 3, "relay (b.py:7)": 1}
    assert profile.by_function(profile.own(stacks)) == {"parse (c.py)": 6, "relay (b.py)": 4}


def test_a_function_that_calls_itself_counts_once() -> None:
    assert profile.total(profile.parse(FOLDED)[0].stacks) == {"main (a.py)": 10, "relay (b.py)": 10, "parse (c.py)": 6}


def test_the_thread_that_used_most_is_listed_however_often_another_was_sampled_waiting() -> None:
    lines = profile.text(profile.parse(FOLDED), {7: 4.0, 9: 0.25, 11: 0.5}, top=1).splitlines()
    assert lines[:5] == ["CPU seconds by thread", "    4.00    MainThread", "    0.25    store (x)", "    0.50    others", ""]
    assert "MainThread: 10 samples" in lines
    assert lines[-7:] == [
        "  60.0 %  parse (c.py:3)", "", "own time, by function", "  60.0 %  parse (c.py)",
        "", "time with all below it, by function", "  60.0 %  parse (c.py)",
    ]  # fmt: skip
