"""What a CEL text refers to. The CEL library compiles names that nobody defines; here they are mistakes, with a place and the nearest name.

Every reference (`request.form.amount`, `request.headers["x-a"]`, `now`) becomes a variable of its own, so that an evaluation converts only
what the text names and a name that is absent reads as null. `has(…)` of such a reference means that it is not null.

The text has passed the library's parser when it comes here; this is no parser, but a walk over its tokens.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any, Final, Literal

import cel

from gateway.policy.network import parse_network


class ExpressionError(ValueError):
    """A mistake in a condition. `offset`: where, in characters from its beginning."""

    def __init__(self, message: str, offset: int) -> None:
        super().__init__(message)
        self.offset = offset


@dataclass(frozen=True, slots=True)
class Reference:
    """`root.field.name`. name: of an entry of a map, None for the map itself or for a plain value. Of a record, `name` is its own and
    `field` that of an entry, "" for the whole of it; `now` has neither."""

    root: Literal["request", "subject", "pass", "record", "now"]
    field: str = ""
    name: str | None = None


@dataclass(frozen=True, slots=True)
class Rewritten:
    """text: the expression over its variables. references: by variable."""

    text: str
    references: Mapping[str, Reference]


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Names that the configuration declares; None = not known here, any will do. records: each with the names of its entries."""

    claims: frozenset[str]
    records: Mapping[str, frozenset[str] | None] | None = None
    steps: frozenset[str] | None = None


MAP: Final = "map"
PLAIN: Final = "plain"
FIELDS: Final[Mapping[str, Mapping[str, str]]] = {
    "request": {
        "method": PLAIN,
        "host": PLAIN,
        "path": PLAIN,
        "ip": PLAIN,
        "protocol": PLAIN,
        "query": MAP,
        "headers": MAP,
        "form": MAP,
        "json": MAP,
    },
    "subject": {"id": PLAIN, "source": PLAIN, "claims": MAP},
    "pass": {"age": PLAIN, "steps": MAP},
}
ROOTS: Final = (*FIELDS, "record", "now")
# Name to the numbers of arguments that it takes.
FUNCTIONS: Final[Mapping[str, tuple[int, ...]]] = dict.fromkeys(
    ("bytes", "double", "duration", "dyn", "has", "int", "size", "string", "timestamp", "type", "uint"), (1,)
)
MACROS: Final[Mapping[str, tuple[int, ...]]] = {"all": (2,), "exists": (2,), "exists_one": (2,), "filter": (2,), "map": (2, 3)}
METHODS: Final[Mapping[str, tuple[int, ...]]] = {
    **MACROS,
    **dict.fromkeys(("contains", "endsWith", "in_network", "matches", "startsWith"), (1,)),
    **dict.fromkeys(
        (
            "getDate",
            "getDayOfMonth",
            "getDayOfWeek",
            "getDayOfYear",
            "getFullYear",
            "getHours",
            "getMilliseconds",
            "getMinutes",
            "getMonth",
        ),
        (0,),
    ),
    **dict.fromkeys(("getSeconds", "size"), (0,)),
}
TYPES: Final = frozenset({"bool", "bytes", "double", "int", "list", "map", "null_type", "string", "uint"})
_WORDS: Final = frozenset({"true", "false", "null", "in"})

_TOKEN: Final = re.compile(
    r"""(?P<skip>\s+|//[^\n]*)
    |(?P<string>(?:[rR][bB]?|[bB][rR])(?s:\"\"\".*?\"\"\"|'''.*?'''|"[^"\n]*"|'[^'\n]*')
        |[bB]?(?s:\"\"\"(?:\\.|[^\\])*?\"\"\"|'''(?:\\.|[^\\])*?'''|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'))
    |(?P<number>(?:0[xX][0-9a-fA-F]+|\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)[uU]?)
    |(?P<name>[A-Za-z_][A-Za-z0-9_]*)
    |(?P<mark>.)""",
    re.VERBOSE,
)
_OPENING: Final = {"(": ")", "[": "]", "{": "}"}


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str
    start: int

    @property
    def end(self) -> int:
        return self.start + len(self.text)


_END: Final = _Token("end", "", -1)


def rewrite(source: str, vocabulary: Vocabulary) -> Rewritten:
    """Check every name in a text that the library has parsed. Raises ExpressionError."""
    walk = _Walk(source, vocabulary)
    walk.run()
    return Rewritten(walk.edited(), {variable: reference for reference, variable in walk.variables.items()})


@dataclass(slots=True)
class _Walk:
    source: str
    vocabulary: Vocabulary
    tokens: list[_Token] = field(default_factory=list)
    closing: dict[int, int] = field(default_factory=dict)
    scopes: list[tuple[str, int]] = field(default_factory=list)
    variables: dict[Reference, str] = field(default_factory=dict)
    edits: list[tuple[int, int, str]] = field(default_factory=list)

    def run(self) -> None:
        self.tokens = [
            _Token(found.lastgroup or "", found[0], found.start()) for found in _TOKEN.finditer(self.source) if found.lastgroup != "skip"
        ]
        self._pair()
        position = 0
        while position < len(self.tokens):
            token = self.tokens[position]
            following = self._at(position + 1)
            if token.kind != "name" or token.text in _WORDS:
                position += 1
            elif self._at(position - 1).text == ".":
                if following.text == "(":
                    self._method(position)
                elif not self._ends_operand(position - 2):
                    raise ExpressionError(f'write "{token.text}" without the dot before it', token.start)
                position += 1
            elif following.text == "(":
                position = self._function(position)
            elif token.text in ROOTS and not self._bound(token.text, position):
                position = self._reference(position)
            else:
                self._other(position)
                position += 1

    def edited(self) -> str:
        text: list[str] = []
        done = 0
        for start, end, replacement in sorted(self.edits):
            text += (self.source[done:start], replacement)
            done = end
        return "".join((*text, self.source[done:]))

    def _at(self, position: int) -> _Token:
        return self.tokens[position] if 0 <= position < len(self.tokens) else _END

    def _pair(self) -> None:
        open_: list[int] = []
        for position, token in enumerate(self.tokens):
            if token.kind == "mark" and token.text in _OPENING:
                open_.append(position)
            elif token.kind == "mark" and token.text in _OPENING.values():
                self.closing[open_.pop()] = position

    def _ends_operand(self, position: int) -> bool:
        token = self._at(position)
        return token.kind in {"name", "string", "number"} or token.text in {")", "]", "}"}

    def _bound(self, name: str, position: int) -> bool:
        return any(bound == name and position <= last for bound, last in self.scopes)

    def _arguments(self, opening: int) -> int:
        """How many arguments stand in the parentheses that open at a position."""
        closing = self.closing[opening]
        if closing == opening + 1:
            return 0
        count, position = 1, opening + 1
        while position < closing:
            if position in self.closing:
                position = self.closing[position]
            elif self.tokens[position].text == ",":
                count += 1
            position += 1
        return count

    def _call(self, position: int, known: Mapping[str, tuple[int, ...]], what: str) -> None:
        token = self.tokens[position]
        if token.text not in known:
            raise ExpressionError(f'no {what} named "{token.text}"{nearest(token.text, known)}', token.start)
        if (count := self._arguments(position + 1)) not in known[token.text]:
            takes = " or ".join(map(str, known[token.text]))
            raise ExpressionError(f"{token.text}() takes {takes} argument{'' if takes == '1' else 's'}, not {count}", token.start)

    def _constant(self, position: int) -> _Token | None:
        """The argument of a call, where it is a single literal text."""
        argument = self._at(position + 2)
        return argument if argument.kind == "string" and self.closing[position + 1] == position + 3 else None

    def _method(self, position: int) -> None:
        self._call(position, METHODS, "method")
        token, constant = self.tokens[position], self._constant(position)
        if token.text in MACROS:
            self._bind(position)
        elif constant and token.text == "matches":
            _evaluate(f'"".matches({constant.text})', "is not a regular expression", constant.start)
        elif constant and token.text == "in_network":
            try:
                parse_network(literal(constant.text))
            except ValueError as error:
                raise ExpressionError(str(error), constant.start) from None

    def _bind(self, position: int) -> None:
        """`.exists(x, …)`: x is a name up to the closing parenthesis."""
        variable = self._at(position + 2)
        if variable.text in ROOTS or variable.text in TYPES or variable.text.startswith("_"):
            raise ExpressionError(f'"{variable.text}" cannot name a variable here; take another name', variable.start)
        self.scopes.append((variable.text, self.closing[position + 1]))

    def _function(self, position: int) -> int:
        """A call of a function. Returns where to go on."""
        self._call(position, FUNCTIONS, "function")
        token, closing = self.tokens[position], self.tokens[self.closing[position + 1]]
        if token.text in {"timestamp", "duration"} and (constant := self._constant(position)):
            _evaluate(f"{token.text}({constant.text})", f"is not a {token.text}", constant.start)
        elif token.text == "has" and self._at(position + 2).text in ROOTS and not self._bound(self._at(position + 2).text, position + 2):
            behind = self._reference(position + 2)
            if behind == self.closing[position + 1]:
                self.edits += ((token.start, token.end, ""), (closing.start, closing.start, " != null"))
            return behind
        return position + 2

    def _other(self, position: int) -> None:
        token = self.tokens[position]
        if self._at(position + 1).text == "{":
            raise ExpressionError(f'messages such as "{token.text}{{…}}" cannot be made here', token.start)
        if token.text in TYPES or self._bound(token.text, position):
            return
        names = [*ROOTS, *(name for name, last in self.scopes if position <= last)]
        raise ExpressionError(f'no name "{token.text}"{nearest(token.text, names)}; there are {", ".join(ROOTS)}', token.start)

    def _reference(self, position: int) -> int:
        """A reference that begins at a position. Returns where to go on."""
        root = self.tokens[position]
        behind = position + 1
        if root.text == "now":
            return self._refer(Reference("now"), position, behind)
        name, behind = self._entry(behind)
        if name is None:
            example = (
                f"record.{min(self.vocabulary.records or {'name'})}"
                if root.text == "record"
                else f"{root.text}.{next(iter(FIELDS[root.text]))}"
            )
            raise ExpressionError(f'"{root.text}" is no value by itself; name what you mean, as in {example}', root.start)
        place = self.tokens[position + 2].start
        if root.text == "record":
            known = self.vocabulary.records
            self._declared(name, None if known is None else frozenset(known), "record", place)
            entry, after = self._entry(behind)
            if entry is None:
                return self._refer(Reference("record", name=name), position, behind)
            entries = None if known is None else known.get(name)
            if entries is not None and entry not in entries:
                raise ExpressionError(f'record.{name} has no field "{entry}"{nearest(entry, entries)}', self.tokens[behind + 1].start)
            return self._refer(Reference("record", entry, name), position, after)
        fields = FIELDS[root.text]
        if name not in fields:
            raise ExpressionError(f'"{root.text}" has no field "{name}"{nearest(name, fields)}', place)
        if self.tokens[position + 1].text == "[":
            raise ExpressionError(f"write {root.text}.{name}", place)
        entry, after = self._entry(behind)
        if entry is not None and fields[name] == PLAIN:
            raise ExpressionError(f'{root.text}.{name} has no field "{entry}"', self.tokens[behind + 1].start)
        if entry is not None:
            place, behind = self.tokens[behind + 1].start, after
            if name == "claims":
                self._declared(entry, self.vocabulary.claims, "claim", place)
            elif name == "steps":
                self._declared(entry, self.vocabulary.steps, "step", place)
            elif name == "headers":
                entry = entry.lower()
        return self._refer(Reference(root.text, name, entry), position, behind)  # type: ignore[arg-type]

    def _entry(self, position: int) -> tuple[str | None, int]:
        """`.name` or `["name"]` at a position: the name, and where to go on. A method call is none."""
        first, second, third = self._at(position), self._at(position + 1), self._at(position + 2)
        if first.text == "." and second.kind == "name" and third.text != "(":
            return second.text, position + 2
        if first.text == "[" and second.kind == "string" and third.text == "]" and isinstance(name := literal(second.text), str):
            return name, position + 3
        return None, position

    def _declared(self, name: str, declared: frozenset[str] | None, what: str, place: int) -> None:
        if declared is not None and name not in declared:
            raise ExpressionError(f'no {what} named "{name}" is declared{nearest(name, declared)}', place)

    def _refer(self, reference: Reference, position: int, behind: int) -> int:
        variable = self.variables.setdefault(reference, f"_{len(self.variables)}")
        self.edits.append((self.tokens[position].start, self.tokens[behind - 1].end, variable))
        return behind


def literal(text: str) -> Any:
    """The value of a literal, by the library's own reading."""
    return cel.compile(text).execute({})


def _evaluate(text: str, mistake: str, offset: int) -> None:
    try:
        cel.compile(text).execute({})
    except Exception:  # noqa: BLE001 - the library raises a different type for every function
        raise ExpressionError(f"{text[text.index('(') + 1 : -1]} {mistake}", offset) from None


def nearest(name: str, names: Any) -> str:
    """`; did you mean "…"?` where a name is close to a known one, else nothing."""
    found = get_close_matches(name, list(names), n=1)
    return f'; did you mean "{found[0]}"?' if found else ""
