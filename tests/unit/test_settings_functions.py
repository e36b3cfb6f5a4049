"""Rule functions in the settings: loaded with them, watched with them, and their mistakes told with them."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.policy.model import Run
from gateway.settings.load import Loaded
from gateway.settings.mistakes import Problems
from tests.support.settings import loaded, mistakes

GOOD = """\
upstreams:
  bank: {url: http://127.0.0.1:8081}
rules:
  - name: one
    match: {path: /a/**}
    python: rules/age.py:check
"""
AT = "gateway.yaml:6:13: rules[0].python: "


def written(folder: Path, text: str, name: str = "rules/age.py") -> Path:
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return path


def function(found: Loaded | Problems, position: int = 0) -> object:
    assert isinstance(found, Loaded), found
    effect = found.ruleset.rules[position].effect
    assert isinstance(effect, Run)
    return found.ruleset.functions[effect.function]


@pytest.mark.parametrize(
    "text",
    [
        "async def check(user, context): ...",
        "def check(user, context): ...",
        "def check(*both): ...",
        "def check(user, context, more=None): ...",
        "check = lambda user, context: None",
        "class Check:\n    def __call__(self, user, context): ...\ncheck = Check()",
        "from __future__ import annotations\nfrom dataclasses import dataclass\n@dataclass\nclass A:\n    b: int\ndef check(u, c): A(1)",
    ],
)
def test_a_function_of_two_arguments_is_one(tmp_path: Path, text: str) -> None:
    path = written(tmp_path, text)
    found = loaded(tmp_path, GOOD)
    assert callable(function(found))
    assert path in found.files


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("def chekc(user, context): ...", 'no function named "check" in rules/age.py; did you mean "chekc"?'),
        ("", 'no function named "check" in rules/age.py'),
        ("check = 5", '"check" in rules/age.py is no function'),
        ("class check: ...", '"check" in rules/age.py is no function'),
        ("def check(user): ...", '"check" in rules/age.py does not take two arguments; write def check(user, context)'),
        ("def check(user, context, more): ...", '"check" in rules/age.py does not take two arguments; write def check(user, context)'),
        ("\ndef check(user, context)\n    ...", "rules/age.py:2:25: expected ':'"),
        ("\n\nimport nothing_of_this_name", "rules/age.py:3: ModuleNotFoundError: No module named 'nothing_of_this_name'"),
        ("def a():\n    raise SystemExit(4)\na()", "rules/age.py:2: SystemExit: 4"),
    ],
)
def test_a_mistake_in_the_file_is_told_where_the_rule_names_it(tmp_path: Path, text: str, said: str) -> None:
    path = written(tmp_path, text)
    assert mistakes(tmp_path, GOOD) == [AT + said]
    found = loaded(tmp_path, GOOD)
    assert path in found.files  # it is watched, so that the mistake can be mended


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    assert mistakes(tmp_path, GOOD) == [AT + "cannot read rules/age.py: No such file or directory"]


@pytest.mark.parametrize("value", ["rules/age.py", "rules/age.py:", ":check", "rules/age.py:not a name"])
def test_what_names_no_function(tmp_path: Path, value: str) -> None:
    written(tmp_path, "def check(user, context): ...")
    said = mistakes(tmp_path, GOOD.replace("rules/age.py:check", f'"{value}"'))
    assert said == [AT + "is no rule function; write path/to/file.py:function"]


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    written(tmp_path, "def check(user, context): ...\ndef few(user): ...")
    text = GOOD + "  - {name: two, python: rules/age.py:few}\n  - {name: three, python: rules/age.py:cehck}\n  - {name: two, allow: true}\n"
    assert [line.partition(": ")[2].partition(":")[0] for line in mistakes(tmp_path, text)] == [
        "rules[1].python",
        "rules[2].python",
        "rules[3].name",
    ]


def test_paths_start_at_the_file_that_names_them(tmp_path: Path) -> None:
    written(tmp_path, "def check(user, context): ...")
    written(tmp_path, "rules:\n  - {name: two, match: {path: /b}, python: other.py:check}\n", "more/10.yaml")
    written(tmp_path, "def check(user, context): 'the other'", "more/other.py")
    found = loaded(tmp_path, GOOD + "rules_dir: more\n")
    assert function(found) is not function(found, 1)


def test_two_rules_may_share_a_file_and_each_load_has_its_own_module(tmp_path: Path) -> None:
    path = written(tmp_path, "seen = []\ndef check(user, context): seen.append(1)\ndef other(user, context): seen.append(2)")
    text = GOOD + "  - {name: two, match: {path: /b}, python: rules/age.py:other}\n"
    first, second = loaded(tmp_path, text), loaded(tmp_path, text)
    check, other, again = (function(first), function(first, 1), function(second))
    assert check.__globals__ is other.__globals__  # type: ignore[attr-defined]
    assert check.__globals__ is not again.__globals__  # type: ignore[attr-defined]
    assert isinstance(first, Loaded)
    assert isinstance(second, Loaded)
    assert first.version == second.version
    # Of the same size, within the same second: only the text tells.
    path.write_text(path.read_text().replace("append(1)", "append(3)"))
    third = loaded(tmp_path, text)
    function(third)(None, None)  # type: ignore[operator]
    assert function(third).__globals__["seen"] == [3]  # type: ignore[attr-defined]
    assert isinstance(third, Loaded)
    assert third.version != first.version


def test_a_rule_that_is_off_is_still_checked(tmp_path: Path) -> None:
    assert mistakes(tmp_path, GOOD + "    enabled: false\n") == [AT + "cannot read rules/age.py: No such file or directory"]


def test_it_excludes_the_other_effects(tmp_path: Path) -> None:
    written(tmp_path, "def check(user, context): ...")
    said = mistakes(tmp_path, GOOD + "    allow: true\n")
    assert said == ["gateway.yaml:4:5: rules[0]: needs exactly one of require, deny, allow and python; it has allow and python"]
