from __future__ import annotations

import math
from pathlib import Path

import pytest

from gateway.settings.interpolate import expander
from gateway.settings.places import Expansion, Mark
from gateway.settings.yaml import MAX_ALIASED, parse


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("true", True),
        ("False", False),
        ("no", "no"),
        ("on", "on"),
        ("yes", "yes"),
        ("y", "y"),
        ("2026-11-01", "2026-11-01"),
        ("2026-11-01T10:00:00Z", "2026-11-01T10:00:00Z"),
        ("12:30", "12:30"),
        ("1_000", "1_000"),
        ("0755", "0755"),
        ("0o17", "0o17"),
        ("0x1F", 31),
        ("-12", -12),
        ("0", 0),
        ("1.5", 1.5),
        ("1e3", 1000.0),
        (".5", 0.5),
        ("~", None),
        ("null", None),
        ("", None),
        (".inf", math.inf),
        ("'12'", "12"),
        ('"true"', "true"),
        ("!!str 5", "5"),
        ("5m", "5m"),
        ("9" * 5000, "9" * 5000),
    ],
)
def test_plain_scalars_follow_the_core_schema(text: str, value: object) -> None:
    document = parse(f"a: {text}\n".encode())
    assert document.value == {"a": value}
    assert type(document.value["a"]) is type(value)
    assert document.mistakes == []


def test_keys_are_text() -> None:
    assert parse(b"1: a\ntrue: b\n~: c\n").value == {"1": "a", "true": "b", "~": "c"}


def test_empty_text_is_no_document_and_no_mistake() -> None:
    document = parse(b"# nothing\n")
    assert document.value is None
    assert document.mistakes == []


@pytest.mark.parametrize(
    ("text", "place", "says"),
    [
        (b"a: 1\n\tb: 2", (2, 1), "tab"),
        (b"a: @x", (1, 4), "put text in quotes"),
        (b"a: b: c", (1, 5), "a `:` cannot stand here"),
        (b'a: "x', (1, 6), "unexpected end"),
        (b"a: *x", (1, 4), "undefined alias"),
        (b"a: [1,\nb: 2\n", (3, 1), "from line 1"),
        (b"a: 1\n---\nb: 2\n", (2, 1), "second document"),
        (b"a: &x 1\nb: &x 2\n", (2, 4), "in line 1 already"),
        (b"\xff", (1, 1), "not UTF-8"),
        (b"a: 1\nb: \xc3\xa4\xff", (2, 5), "not UTF-8"),
        (b"a: 1\nb: \x01", (2, 4), "U+0001"),
        (b"[" * 5000, (1, 1), "levels deep"),
    ],
)
def test_text_that_is_no_yaml_has_a_place(text: bytes, place: tuple[int, int], says: str) -> None:
    (mistake,) = parse(text).mistakes
    assert mistake.mark == Mark(*place)
    assert says in mistake.message


def test_a_byte_order_mark_does_not_count_as_a_column() -> None:
    document = parse("\ufeffa: [1, *x]".encode())
    assert document.mistakes[0].mark == Mark(1, 8)


def test_a_key_given_twice_names_both_lines_and_the_first_counts() -> None:
    document = parse(b"a:\n  x: 1\n  y: 2\n  x: 3\n")
    (mistake,) = document.mistakes
    assert (mistake.mark, mistake.loc, mistake.message) == (Mark(4, 3), ("a", "x"), "given twice; first in line 2")
    assert document.value == {"a": {"x": 1, "y": 2}}


def test_a_key_must_be_a_scalar() -> None:
    (mistake,) = parse(b"a:\n  [1, 2]: x\n").mistakes
    assert (mistake.mark, mistake.loc, mistake.message) == (Mark(2, 3), ("a",), "a key must be text")


def test_unknown_tags_are_mistakes() -> None:
    assert [(m.mark, m.message) for m in parse(b"a: !x 5\nb: !!python/name:os.system x\nc: !y [1]\n").mistakes] == [
        (Mark(1, 4), "unknown tag !x"),
        (Mark(2, 4), "unknown tag !!python/name:os.system"),
        (Mark(3, 4), "unknown tag !y"),
    ]


def test_aliases_and_merge_keys_give_shared_values() -> None:
    document = parse(
        b"base: &base {x: 1, y: 2}\nmore: &more {y: 3, z: 4}\none: {<<: *base, y: 9}\ntwo:\n  <<: [*more, *base]\nthree: *base\n"
    )
    assert document.mistakes == []
    assert document.value["one"] == {"x": 1, "y": 9}
    assert document.value["two"] == {"x": 1, "y": 3, "z": 4}
    assert document.value["three"] == {"x": 1, "y": 2}
    assert document.mark(("one", "x")) == Mark(1, 17)
    assert document.mark(("two", "y")) == Mark(2, 17)
    assert document.mark(("three", "y")) == Mark(1, 23)


def test_a_quoted_merge_key_is_a_key() -> None:
    assert parse(b"a: {'<<': 1}").value == {"a": {"<<": 1}}


def test_merging_what_is_no_mapping_is_a_mistake() -> None:
    (mistake,) = parse(b"a:\n  <<: 5\n").mistakes
    assert (mistake.mark, mistake.message) == (Mark(2, 7), "`<<` takes a mapping or a list of mappings")


def test_aliases_that_multiply_are_stopped() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 30)]
    (mistake,) = parse("\n".join(lines).encode()).mistakes
    assert mistake.message == f"aliases stand for more than {MAX_ALIASED:,} values"


def test_aliases_that_nest_are_stopped() -> None:
    lines = ["a0: &a0 [x]", *(f"a{n}: &a{n} [*a{n - 1}]" for n in range(1, 100))]
    assert any("levels deep" in m.message for m in parse("\n".join(lines).encode()).mistakes)


@pytest.mark.parametrize("text", [b"&a [*a]", b"a: &x {b: [1, *x]}", b"a: &x\n  <<: *x\n"])
def test_an_alias_within_itself_is_a_mistake(text: bytes) -> None:
    assert parse(text).mistakes[0].message == "an alias stands for a value that holds the alias itself"


TEXT = b"""\
rules:
  - name: one
    require: [a, b]
  - name: two
    require: c
    match: {path: /x}
"""


@pytest.mark.parametrize(
    ("loc", "place"),
    [
        ((), (1, 1)),
        (("rules",), (2, 3)),
        (("rules", 0), (2, 5)),
        (("rules", 0, "require", 1), (3, 18)),
        (("rules", 1, "require", 0), (5, 14)),  # a scalar that stands for a list of one
        (("rules", 1, "match", "path"), (6, 19)),
        (("rules", 1, "max_age"), (4, 5)),  # not there: what should hold it
        (("rules", 7, "name"), (2, 3)),
    ],
)
def test_every_value_has_a_place(loc: tuple[str | int, ...], place: tuple[int, int]) -> None:
    assert parse(TEXT).mark(loc) == Mark(*place)


def test_a_key_has_a_place_of_its_own() -> None:
    assert parse(TEXT).mark(("rules", 1, "match", "path"), key=True) == Mark(6, 13)


@pytest.mark.parametrize(
    ("source", "offset", "place"),
    [
        ("when: abc def", 4, (1, 11)),
        ("when: 'it''s so'", 5, (1, 14)),
        (r'when: "a\tb\u00e4c"', 4, (1, 18)),
        ('when: "ab"', 2, (1, 10)),
        ("when: |\n    ab\n      cd\n", 5, (3, 7)),
        ("when: |-\n  ab\n\n  cd", 5, (4, 4)),
        ("when: >\n  ab\n  cd\n", 4, (1, 7)),
        ("when: ab\n  cd\n", 4, (1, 7)),
        ("when: ab", 99, (1, 7)),
    ],
)
def test_a_character_of_a_scalar_has_a_place_where_the_source_shows_it(source: str, offset: int, place: tuple[int, int]) -> None:
    assert parse(source.encode()).mark_within(("when",), offset) == Mark(*place)


def test_variables_and_files_are_replaced_in_values_only(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("top: secret\n")
    files: list[Path] = []
    expand = expander({"A": "x: [1]", "N": "5"}, tmp_path, files)
    document = parse(b'${A}: ${N}\nb: "<${A}|${file:secret}>"\nc: $${A} $A\nd: ${A}${N}\n', expand)
    assert document.mistakes == []
    assert document.value == {"${A}": "5", "b": "<x: [1]|top: secret>", "c": "${A} $A", "d": "x: [1]5"}
    assert files == [tmp_path / "secret"]


def test_what_came_in_is_not_replaced_again(tmp_path: Path) -> None:
    assert parse(b"a: ${A}", expander({"A": "${B}", "B": "no"}, tmp_path, [])).value == {"a": "${B}"}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("${NOPE}", "environment variable NOPE is not set"),
        ("a ${file:none} b", "cannot read none: No such file or directory"),
        ("${file:}", "`${file:…}` names no file"),
        ("${file:binary}", "binary is not UTF-8 text"),
        ("${file:big}", "big is larger than 64 KiB"),
        ("${A-b}", "`${A-b}` names neither a variable nor a file; write ${NAME}, ${file:PATH}, or $${ where it means itself"),
        ("${", "`${` has no `}` behind it; write `$${` where it means itself"),
    ],
)
def test_what_cannot_be_replaced_is_a_mistake_at_its_place(tmp_path: Path, value: str, message: str) -> None:
    (tmp_path / "binary").write_bytes(b"\xff")
    (tmp_path / "big").write_bytes(b"x" * 65_537)
    (mistake,) = parse(f'x: 1\na:\n  b: ["{value}"]\n'.encode(), expander({}, tmp_path, [])).mistakes
    assert (mistake.mark, mistake.loc, mistake.message) == (Mark(3, 7), ("a", "b", 0), message)


def test_a_scalar_with_two_places_is_replaced_once() -> None:
    asked: list[str] = []

    def expand(text: str) -> Expansion:
        asked.append(text)
        return Expansion("v", ("X",), ("v",))

    assert parse(b"a: &a ${X}\nb: *a\n", expand).value == {"a": "v", "b": "v"}
    assert asked == ["${X}"]
