"""Globs. A pattern is checked when it is compiled and matched in time linear in the text: nothing here backtracks.

`*` matches any run of characters within its unit, `**` any run at all. The unit of a path is a segment, that of a host a label; a value
(header, query, cookie, media type) is one unit. `/x/**` matches `/x` too. `re:` begins a regular expression (RE2) for the whole text.
Every glob has two forms: as written, and case-folded for texts that the caller has case-folded.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import re2


class Matcher(Protocol):
    def __call__(self, text: str, /) -> bool: ...


class GlobError(ValueError):
    """A pattern that means nothing. `offset`: where in the pattern, in characters, if that is known."""

    def __init__(self, message: str, offset: int | None = None) -> None:
        super().__init__(message)
        self.offset = offset


class Glob:
    """One compiled pattern.

    source: as written. matches, matches_folded: ask these with the text, or with `text.casefold()`. anchor: the literal text that every
    match begins with (paths: in whole segments) or ends with (hosts: in whole labels), case-folded; "" where there is none.
    """

    __slots__ = ("anchor", "matches", "matches_folded", "source")

    def __init__(self, source: str, matches: Matcher, matches_folded: Matcher, anchor: str) -> None:
        self.source = source
        self.matches = matches
        self.matches_folded = matches_folded
        self.anchor = anchor

    def __repr__(self) -> str:
        return f"Glob({self.source!r})"


def path_glob(pattern: str) -> Glob:
    """A glob over paths. Raises GlobError."""
    if pattern.startswith("re:"):
        return _regular(pattern, anchor="")
    _reject_runs(pattern)
    if not pattern.startswith(("/", "**")):
        raise GlobError("a path begins with `/` (or the pattern with `**` or `re:`)", 0)
    if (mark := pattern.find("?")) >= 0:
        raise GlobError("a path holds no `?`; what stands behind it is matched by the key `query`", mark)
    if "*" not in pattern:
        folded = pattern.casefold()
        return Glob(pattern, _Equal(pattern), _Equal(folded), folded)
    shortest = pattern
    while "/**/**" in shortest:
        shortest = shortest.replace("/**/**", "/**")
    folded = shortest.casefold()
    if shortest.endswith("/**") and "*" not in shortest[:-3]:
        return Glob(pattern, _Tree(shortest[:-3]), _Tree(folded[:-3]), folded[:-3])
    anchor = folded[: folded.index("*")].rpartition("/")[0]
    return Glob(pattern, _Lazy(_path_expression(shortest)), _Lazy(_path_expression(folded)), anchor)


def host_glob(pattern: str) -> Glob:
    """A glob over host names, without port. Host names have no case (RFC 4343): both forms are the folded one. Raises GlobError."""
    if pattern.startswith("re:"):
        return _regular(pattern, anchor="", sensitive=False)
    _reject_runs(pattern)
    if not pattern:
        raise GlobError("an empty host matches nothing")
    for mark in "/:":
        if mark in pattern.rpartition("]")[2]:  # [::1] is a host
            raise GlobError("a host stands here alone, without scheme, port or path", pattern.index(mark))
    folded = pattern.casefold()
    if "*" not in pattern:
        equal = _Equal(folded)
        return Glob(pattern, equal, equal, folded)
    anchor = folded[folded.rindex("*") + 1 :].partition(".")[2]
    lazy = _Lazy(_expression(folded, one=r"[^.]*"))
    return Glob(pattern, lazy, lazy, anchor)


def value_glob(pattern: str) -> Glob:
    """A glob over a value: `*` matches any run of characters. Raises GlobError."""
    if pattern.startswith("re:"):
        return _regular(pattern, anchor="")
    _reject_runs(pattern)
    folded = pattern.casefold()
    if "*" not in pattern:
        return Glob(pattern, _Equal(pattern), _Equal(folded), "")
    if pattern in {"*", "**"}:
        return Glob(pattern, _anything, _anything, "")
    return Glob(pattern, _Lazy(_expression(pattern, one=r".*")), _Lazy(_expression(folded, one=r".*")), "")


def _reject_runs(pattern: str) -> None:
    if (at := pattern.find("***")) >= 0:
        raise GlobError("`***` means nothing; write `*` or `**`", at)


def _path_expression(pattern: str) -> str:
    """`/**` between segments, or at the end, stands for no segment too; elsewhere `**` is any run of characters."""
    parts = pattern.split("/**/")
    last, tree, rest = parts[-1].rpartition("/**")
    if tree and not rest:
        parts[-1] = last
        return "(?:/.*)?/".join(_expression(part, one=r"[^/]*") for part in parts) + "(?:/.*)?"
    return "(?:/.*)?/".join(_expression(part, one=r"[^/]*") for part in parts)


def _expression(pattern: str, *, one: str) -> str:
    return ".*".join(one.join(re2.escape(literal) for literal in part.split("*")) for part in pattern.split("**"))


def _regular(pattern: str, *, anchor: str, sensitive: bool = True) -> Glob:
    expression = pattern.removeprefix("re:")
    try:
        compiled = re2.compile(expression, _options(sensitive=sensitive))
    except re2.error as error:
        reason = error.args[0].decode("utf-8", "replace") if isinstance(error.args[0], bytes) else str(error)
        raise GlobError(f"is not a regular expression (RE2): {reason}", 3) from None
    exact = _Lazy(expression, compiled.fullmatch)
    return Glob(pattern, exact, _Lazy(expression, sensitive=False) if sensitive else exact, anchor)


def _options(*, sensitive: bool) -> re2.Options:
    options = re2.Options()
    options.log_errors = False
    options.dot_nl = True  # a line break in a value must not hide what surrounds it
    options.never_capture = True
    options.case_sensitive = sensitive
    return options


class _Equal:
    __slots__ = ("text",)

    def __init__(self, text: str) -> None:
        self.text = text

    def __call__(self, text: str, /) -> bool:
        return text == self.text


class _Tree:
    """`/x/**`: a path and everything below it."""

    __slots__ = ("below", "root")

    def __init__(self, root: str) -> None:
        self.root = root
        self.below = root + "/"

    def __call__(self, text: str, /) -> bool:
        return text.startswith(self.below) or text == self.root


class _Lazy:
    """An RE2 expression, compiled when it is first asked: ten thousand rules load without compiling theirs."""

    __slots__ = ("expression", "fullmatch", "sensitive")

    def __init__(self, expression: str, fullmatch: Callable[[bytes], Any] | None = None, *, sensitive: bool = True) -> None:
        self.expression = expression
        self.fullmatch = fullmatch
        self.sensitive = sensitive

    def __call__(self, text: str, /) -> bool:
        if self.fullmatch is None:
            self.fullmatch = re2.compile(self.expression, _options(sensitive=self.sensitive)).fullmatch
        # A reading may hold lone surrogates for bytes that are no UTF-8; each counts as one unknown character.
        return self.fullmatch(text.encode("utf-8", "replace")) is not None


def _anything(_text: str, /) -> bool:
    return True
