"""Where things stand in a YAML text: from a place among the values, as in `("rules", 2, "require", 0)`, to line and column.

Looked up in the composed nodes, when somebody asks: most configurations have no mistake and most values are never asked for.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

Loc = tuple[str | int, ...]

MAX_DEPTH: Final = 64

_ESCAPE = re.compile(r"\\(?:x[0-9A-Fa-f]{2}|u[0-9A-Fa-f]{4}|U[0-9A-Fa-f]{8}|.)")


@dataclass(frozen=True, slots=True)
class Mark:
    """A place in a source text; line and column count from 1, columns in characters."""

    line: int
    column: int


@dataclass(frozen=True, slots=True)
class YamlMistake:
    """Something wrong with the YAML itself, or (from `expand`) with one scalar. `loc` is None where no value is to blame."""

    mark: Mark
    loc: Loc | None
    message: str


@dataclass(frozen=True, slots=True)
class Expansion:
    """What stands in a scalar in place of its text. `names`: the `${…}` it came from; `secrets`: what they were replaced by."""

    text: str
    names: tuple[str, ...] = ()
    secrets: tuple[str, ...] = ()
    mistakes: tuple[str, ...] = ()


Expand = Callable[[str], Expansion]


@dataclass(slots=True)
class Document:
    """One composed YAML document. `value` is None where the text is empty."""

    text: str
    root: Node | None
    value: Any = None
    mistakes: list[YamlMistake] = field(default_factory=list)
    expansions: dict[int, Expansion] = field(default_factory=dict)

    def find(self, loc: Loc) -> tuple[Node | None, Loc, ScalarNode | None]:
        """The deepest node on the way to `loc`, the part of `loc` that leads there, and the node's own key.

        Parts that name nothing here (such as the branches of a union) are passed over.
        """
        node, key, taken = self.root, None, []
        for part in loc:
            if isinstance(node, MappingNode):
                found = next(((k, v) for k, v in _pairs(node) if k.value == part), None)
                if found is None:
                    continue
                key, node = found
            elif isinstance(node, SequenceNode) and isinstance(part, int) and part < len(node.value):
                node, key = node.value[part], None
            else:
                continue
            taken.append(part)
        return node, tuple(taken), key

    def mark(self, loc: Loc, *, key: bool = False) -> Mark:
        """The place of a value, or of its key. What is not there has the place of what should hold it."""
        node, _, key_node = self.find(loc)
        if key and key_node is not None:
            node = key_node
        return Mark(1, 1) if node is None else mark_of(node.start_mark)

    def mark_within(self, loc: Loc, offset: int) -> Mark:
        """The place of character `offset` (from 0) of a scalar; the scalar's own where the source does not show it plainly."""
        node, _, _ = self.find(loc)
        own = self.mark(loc)
        if not isinstance(node, ScalarNode) or not 0 <= offset <= len(node.value) or id(node) in self.expansions:
            return own
        source = self.text[node.start_mark.index : node.end_mark.index]
        if node.style == "|":
            return _in_block(node.value, source, offset, own)
        if node.style == ">" or "\n" in source.rstrip():
            return own
        return Mark(own.line, own.column + _in_line(node.style, source, offset))

    def secrets_under(self, loc: Loc) -> tuple[Expansion, ...]:
        """Every expansion in the value at `loc`."""
        if not self.expansions:
            return ()
        node, _, _ = self.find(loc)
        return tuple(self.expansions[id(n)] for n in _walk(node) if id(n) in self.expansions)


def mark_of(mark: Any) -> Mark:
    """The C parser counts from 0."""
    return Mark(mark.line + 1, mark.column + 1)


def is_merge(key: Node) -> bool:
    return isinstance(key, ScalarNode) and key.value == "<<" and key.tag == ""


def _pairs(node: MappingNode, depth: int = 0) -> Iterator[tuple[ScalarNode, Node]]:
    """Keys and values, a mapping's own before merged ones. Of a key given twice the first counts."""
    own = [(k, v) for k, v in node.value if isinstance(k, ScalarNode)]
    yield from ((k, v) for k, v in own if not is_merge(k))
    for key, value in own:
        if is_merge(key) and depth < MAX_DEPTH:
            for source in value.value if isinstance(value, SequenceNode) else [value]:
                if isinstance(source, MappingNode):
                    yield from _pairs(source, depth + 1)


def _children(node: Node | None) -> Iterator[tuple[str | int, Node]]:
    if isinstance(node, SequenceNode):
        yield from enumerate(node.value)
    elif isinstance(node, MappingNode):
        yield from ((k.value if isinstance(k, ScalarNode) else "?", v) for k, v in node.value)


def _walk(node: Node | None) -> Iterator[Node]:
    seen: set[int] = set()
    waiting = [] if node is None else [node]
    while waiting:
        current = waiting.pop()
        if id(current) not in seen:
            seen.add(id(current))
            yield current
            waiting.extend(child for _, child in _children(current))


def path_to(root: Node | None, wanted: Node) -> Loc | None:
    """Where a node is; the first way there, if aliases make several."""
    seen: set[int] = set()
    waiting: list[tuple[Loc, Node]] = [] if root is None else [((), root)]
    while waiting:
        loc, current = waiting.pop()
        if current is wanted:
            return loc
        if id(current) not in seen:
            seen.add(id(current))
            waiting.extend(reversed([((*loc, name), child) for name, child in _children(current)]))
    return None


def _in_line(style: str | None, source: str, offset: int) -> int:
    """How many source characters stand before character `offset` of a scalar on one line."""
    if style == "'":
        return 1 + sum(2 if char == "'" else 1 for char in _unquoted(source)[:offset])
    if style == '"':
        at = 1
        for _ in range(offset):
            escape = _ESCAPE.match(source, at)
            at = escape.end() if escape else at + 1
        return min(at, len(source) - 1)
    return offset


def _unquoted(source: str) -> str:
    return source[1:-1].replace("''", "'")


def _in_block(value: str, source: str, offset: int, own: Mark) -> Mark:
    """A literal block: its lines follow the one with the `|`, indented alike."""
    lines = source.split("\n")
    filled = [line for line in lines[1:] if line.strip()]
    first = value.split("\n")
    shown = next((line for line in first if line.strip()), "")
    if not filled or not filled[0].endswith(shown):
        return own
    indent = len(filled[0]) - len(shown)
    row = value.count("\n", 0, offset)
    column = offset - (value.rfind("\n", 0, offset) + 1)
    return Mark(own.line + 1 + row, indent + column + 1)
