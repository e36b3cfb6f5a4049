"""YAML 1.2 (core schema) as plain Python values, with the place of every value in the source.

Only `true` and `false` are booleans; `no`, `on`, dates, `12:30`, `0755` are text. Keys are always text. A key given twice is a mistake, and
so are several documents, unknown tags and aliases that grow without bound. Places are looked up in the composed nodes, when somebody asks.
"""

from __future__ import annotations

import re
from typing import Any, Final

import yaml
from yaml.nodes import Node, ScalarNode, SequenceNode

from gateway.settings.places import MAX_DEPTH, Document, Expand, Mark, YamlMistake, is_merge, mark_of, path_to

MAX_ALIASED: Final = 200_000  # values that aliases may add, counted each time they are used

_TAG = "tag:yaml.org,2002:"
_STR = _TAG + "str"
_CORE = {_TAG + name for name in ("str", "int", "float", "bool", "null", "map", "seq")}
_NULL = {"", "~", "null", "Null", "NULL"}
_BOOL = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_INT = re.compile(r"[-+]?(?:0|[1-9][0-9]{0,39})|0x[0-9a-fA-F]{1,32}")
_FLOAT = re.compile(
    r"[-+]?(?:\.[0-9]+|[0-9]+\.[0-9]*|(?:0|[1-9][0-9]*)(?=[eE]))(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
)
_SPECIAL = frozenset("0123456789+-.~nNtTfF")
_UNPRINTABLE = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


class _TooDeep(Exception):
    """Out of the C parser at once; never seen outside."""


class _Composer(yaml.CSafeLoader):
    """Composes nodes without resolving them. Plain scalars have the tag ""; what is quoted has the tag of text."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.depth = 0

    def resolve(self, kind: type[Node], _value: object, implicit: tuple[bool, bool]) -> str:
        return "" if kind is not ScalarNode or implicit[0] else _STR

    def descend_resolver(self, _parent: Node, _index: object) -> None:
        # The C composer recurses on the C stack without a bound of its own.
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise _TooDeep

    def ascend_resolver(self) -> None:
        self.depth -= 1


def parse(data: bytes, expand: Expand | None = None) -> Document:
    """Read one document. Mistakes are in the answer; after one of syntax its `root` and `value` are None.

    `expand` is asked once for every scalar value (never a key) that holds "${".
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = data[: error.start].decode("utf-8-sig", "replace")
        return Document("", None, mistakes=[YamlMistake(_end_of(before), None, "is not UTF-8 text")])
    if bad := _UNPRINTABLE.search(text):
        message = f"not valid YAML: character U+{ord(bad[0]):04X} is not allowed"
        return Document(text, None, mistakes=[YamlMistake(_end_of(text[: bad.start()]), None, message)])
    parser = _Composer(text)
    try:
        root = parser.get_single_node()
    except _TooDeep:
        return Document(text, None, mistakes=[YamlMistake(Mark(1, 1), None, f"nested more than {MAX_DEPTH} levels deep")])
    except yaml.MarkedYAMLError as error:
        return Document(text, None, mistakes=[_syntax(error)])
    except yaml.YAMLError as error:
        return Document(text, None, mistakes=[YamlMistake(Mark(1, 1), None, f"not valid YAML: {error}")])
    finally:
        parser.dispose()
    document = Document(text, root)
    if root is not None:
        builder = _Builder(document, expand)
        document.value = builder.build(root)[0]
    return document


def _syntax(error: yaml.MarkedYAMLError) -> YamlMistake:
    mark: Any = error.problem_mark or error.context_mark
    problem = error.problem or "cannot be read"
    if problem == "but found another document":
        problem = "a second document begins here; a file holds one"
    elif problem == "second occurrence" and error.context_mark is not None:
        problem = f"an anchor of this name stands in line {error.context_mark.line + 1} already"
    elif problem == "found character that cannot start any token":
        problem = "no value can start with this character (a tab, @, ` or %); put text in quotes"
    elif problem == "mapping values are not allowed in this context":
        problem = "a `:` cannot stand here; check the indentation, or put text with `: ` in it in quotes"
    elif error.context and error.context_mark is not None and error.context_mark.line != mark.line:
        problem = f"{problem} ({error.context} from line {error.context_mark.line + 1})"
    return YamlMistake(mark_of(mark), None, f"not valid YAML: {problem}")


def _end_of(text: str) -> Mark:
    return Mark(text.count("\n") + 1, len(text) - (text.rfind("\n") + 1) + 1)


class _Builder:
    """Values out of nodes. An aliased node gives one shared value; its size counts each time, so that growth is bounded."""

    def __init__(self, document: Document, expand: Expand | None) -> None:
        self._document = document
        self._expand = expand
        self._built: dict[int, tuple[Any, int, int]] = {}
        self._open: set[int] = set()
        self._aliased = 0

    def build(self, node: Node) -> tuple[Any, int, int]:
        """Value, size and depth."""
        if isinstance(node, ScalarNode):
            return self._scalar(node), 1, 1
        done = self._built.get(id(node))
        if done is not None:
            fits = self._aliased <= MAX_ALIASED
            self._aliased += done[1]
            if self._aliased <= MAX_ALIASED:
                return done
            if fits:
                self._mistake(node, f"aliases stand for more than {MAX_ALIASED:,} values")
            return None, 1, 1
        if id(node) in self._open:
            self._mistake(node, "an alias stands for a value that holds the alias itself")
            return None, 1, 1
        if node.tag and node.tag not in _CORE:
            self._mistake(node, f"unknown tag {_shown_tag(node.tag)}")
        self._open.add(id(node))
        value, size, depth = self._sequence(node) if isinstance(node, SequenceNode) else self._mapping(node)
        self._open.discard(id(node))
        if depth > MAX_DEPTH:
            self._mistake(node, f"nested more than {MAX_DEPTH} levels deep")
            value, size, depth = None, 1, 1
        self._built[id(node)] = value, size, depth
        return value, size, depth

    def _sequence(self, node: SequenceNode) -> tuple[Any, int, int]:
        values, total, deepest = [], 1, 0
        for child in node.value:
            value, size, depth = self.build(child)
            values.append(value)
            total += size
            deepest = max(deepest, depth)
        return values, total, deepest + 1

    def _mapping(self, node: Node) -> tuple[Any, int, int]:
        values: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        lines: dict[str, int] = {}
        total, deepest = 1, 0
        for key, child in node.value:
            if not isinstance(key, ScalarNode):
                self._mistake(key, "a key must be text", of=node)
                continue
            value, size, depth = self.build(child)
            total += size
            deepest = max(deepest, depth)
            name = key.value
            if is_merge(key):
                for source in value if isinstance(value, list) else [value]:
                    if isinstance(source, dict):
                        merged = {**source, **merged}
                    else:
                        self._mistake(child, "`<<` takes a mapping or a list of mappings")
            elif name in lines:
                self._mistake(key, f"given twice; first in line {lines[name]}", of=node, name=name)
            else:
                lines[name] = key.start_mark.line + 1
                values[name] = value
        return ({**merged, **values} if merged else values), total, deepest + 1

    def _scalar(self, node: ScalarNode) -> Any:
        text: str = node.value
        if "${" in text and self._expand is not None:
            expansion = self._document.expansions.get(id(node)) or self._expand(text)
            if id(node) not in self._document.expansions:
                self._document.expansions[id(node)] = expansion
                for message in expansion.mistakes:
                    self._mistake(node, message)
            return expansion.text
        if node.tag == _STR:
            return text
        if node.tag and node.tag not in _CORE:
            self._mistake(node, f"unknown tag {_shown_tag(node.tag)}")
            return text
        if text and text[0] not in _SPECIAL:
            return text
        return plain(text)

    def _mistake(self, node: Node, message: str, *, of: Node | None = None, name: str | None = None) -> None:
        loc = path_to(self._document.root, of or node)
        if loc is not None and name is not None:
            loc = (*loc, name)
        self._document.mistakes.append(YamlMistake(mark_of(node.start_mark), loc, message))


def plain(text: str) -> Any:
    """A plain scalar by the core schema (YAML 1.2.2 §10.3.2), but for octals, which stay text."""
    if text in _NULL:
        return None
    if text in _BOOL:
        return _BOOL[text]
    if _INT.fullmatch(text):
        return int(text, 16) if text.startswith("0x") else int(text)
    if _FLOAT.fullmatch(text):
        return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
    return text


def _shown_tag(tag: str) -> str:
    return f"!!{tag.removeprefix(_TAG)}" if tag.startswith(_TAG) else tag
