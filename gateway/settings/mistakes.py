"""Mistakes, said once and in the same form: `gateway.yaml:31:14: rules[2].require[0]: no step named "cod"; did you mean "code"?`.

A value that came from `${…}` never appears in a message: where a message could hold a part of one, only the variable's name is said.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path

from gateway.settings.places import Document, Expansion, Loc, Mark

_WORD = re.compile(r"\w+")
_PLAIN_KEY = re.compile(r"[A-Za-z0-9_-]+")


@dataclass(frozen=True, slots=True)
class Mistake:
    """`file` as the operator named it; line and column count from 1; `path` is "" where no value is to blame."""

    file: str
    line: int
    column: int
    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}: {self.path}{': ' if self.path else ''}{self.message}"


@dataclass(frozen=True, slots=True)
class Problems:
    """Why a configuration cannot be used: at least one mistake, by file and line. `files`: all that were read, for a watcher."""

    mistakes: tuple[Mistake, ...]
    files: tuple[Path, ...] = ()

    def __str__(self) -> str:
        return "\n".join(map(str, self.mistakes))


@dataclass(slots=True)
class Source:
    """A document and its names. `position` orders the files: gateway.yaml is 0. `failed`: places of mistakes in the YAML or in `${…}`."""

    name: str
    path: Path
    position: int
    document: Document
    failed: set[Loc] = field(default_factory=set)

    @property
    def base(self) -> Path:
        return self.path.parent


@dataclass(slots=True)
class Report:
    """Collects mistakes; the same one twice is one. `places`: (file's position, where a mistake was said); `above`: all that holds one."""

    found: dict[tuple[int, int, int, str, str], Mistake] = field(default_factory=dict)
    places: set[tuple[int, Loc]] = field(default_factory=set)
    above: set[tuple[int, Loc]] = field(default_factory=set)
    documents: list[Document] = field(default_factory=list)
    warned: list[Mistake] = field(default_factory=list)

    def warn(self, source: Source, loc: Loc, message: str) -> None:
        """Something that works, and perhaps not as it was meant. Stops nothing."""
        mark = source.document.mark(loc)
        self.warned.append(Mistake(source.name, mark.line, mark.column, shown(loc), f"warning: {message}"))

    def add(self, source: Source, loc: Loc, message: str, *, key: bool = False, missing: bool = False, offset: int | None = None) -> None:
        """key: the place is that of the key. missing: the last part of `loc` is not there. offset: a character within the scalar."""
        if loc in source.failed:
            return  # what is wrong there has been said
        document = source.document
        mark = document.mark(loc, key=key) if offset is None else document.mark_within(loc, offset)
        _, there, _ = document.find(loc)
        path = loc if missing or len(there) == len(loc) else there
        if offset is not None:
            message = f"{message} (at character {offset + 1})"
        self.put(source, mark, path, self._discreet(document, there, message))

    def put(self, source: Source, mark: Mark, loc: Loc | None, message: str) -> None:
        mistake = Mistake(source.name, mark.line, mark.column, shown(loc or ()), message)
        self.found.setdefault((source.position, mark.line, mark.column, mistake.path, message), mistake)
        self.places.add((source.position, loc or ()))
        self.above.update((source.position, (loc or ())[:length]) for length in range(len(loc or ()) + 1))

    def said(self, source: Source, loc: Loc) -> bool:
        """Whether there is a mistake at this very place already."""
        return (source.position, source.document.find(loc)[1]) in self.places

    def said_below(self, source: Source, loc: Loc) -> bool:
        """Whether there is one in the value at this place."""
        return (source.position, source.document.find(loc)[1]) in self.above

    def _discreet(self, document: Document, loc: Loc, message: str) -> str:
        """The message, unless a word of a secret at this place is in it, or it quotes a secret of another place."""
        here = document.secrets_under(loc)
        words = set(_WORD.findall(message.casefold())) if here else set()
        for expansion in here:
            for secret in filter(None, (s.casefold() for s in expansion.secrets)):
                if secret in message.casefold() or not words.isdisjoint(_WORD.findall(secret)):
                    return _hidden(expansion)
        for other in self.documents:
            for expansion in other.expansions.values():
                if f'"{expansion.text}"' in message:
                    return _hidden(expansion)
        return message

    def sorted(self) -> tuple[Mistake, ...]:
        return tuple(self.found[k] for k in sorted(self.found))


def _hidden(expansion: Expansion) -> str:
    return f"the value that comes from {', '.join(f'${{{name}}}' for name in expansion.names)} does not fit here"


def shown(loc: Loc) -> str:
    """`("rules", 2, "require", 0)` as `rules[2].require[0]`."""
    text = ""
    for part in loc:
        if isinstance(part, int):
            text += f"[{part}]"
        elif _PLAIN_KEY.fullmatch(part):
            text += f".{part}" if text else part
        else:
            text += f'["{part}"]'
    return text


def nearest(name: str, names: Iterable[str]) -> str:
    """`; did you mean "code"?`, or nothing where no name is near."""
    known = {n.lower(): n for n in names}
    near = get_close_matches(name.lower(), known, n=1, cutoff=0.6)
    return f'; did you mean "{known[near[0]]}"?' if near else ""
