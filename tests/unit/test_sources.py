"""What no linter looks for."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

GATEWAY = Path(__file__).parents[2] / "gateway"


def _patterns(tree: ast.AST) -> list[str]:
    """The literals given to the functions of `re`."""
    calls = (node for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute))
    firsts = (call.args[0] for call in calls if call.args and isinstance(call.func, ast.Attribute) and _of_re(call.func))
    literals = (first.value for first in firsts if isinstance(first, ast.Constant))
    return [value.decode("latin-1") if isinstance(value, bytes) else value for value in literals if isinstance(value, str | bytes)]


def _of_re(function: ast.Attribute) -> bool:
    return isinstance(function.value, ast.Name) and function.value.id == "re"


def _possessive(pattern: str) -> bool:
    """Holds `*+`, `++`, `?+`, `}+` or `(?>` outside of a character class."""
    inside, escaped, before = False, False, ""
    for position, character in enumerate(pattern):
        if escaped:
            escaped, before = False, "\\"
            continue
        if character == "\\":
            escaped = True
            continue
        if inside:
            inside = character != "]"
        elif character == "[":
            inside = True
        elif (character == "+" and before in ("*", "+", "?", "}")) or pattern.startswith("(?>", position):
            return True
        before = "" if inside else character
    return False


@pytest.mark.parametrize("pattern", ["a++", "[a+]*+", "(?>a)", "a{2}+"])
def test_the_check_itself_finds_them(pattern: str) -> None:
    assert _possessive(pattern)
    assert not _possessive(pattern.replace("++", "+").replace("*+", "*").replace("(?>", "(?:").replace("}+", "}"))


def test_no_pattern_is_possessive_or_atomic() -> None:
    # CPython 3.11.0 to 3.11.4 matches them wrongly: `/admin/.` passed for a plain path on Debian 12's Python.
    found = [f"{file}: {p}" for file in GATEWAY.rglob("*.py") for p in _patterns(ast.parse(file.read_text())) if _possessive(p)]
    assert found == []
