"""Conditions: which requests. Asked in two ways, and the way is part of the rule's safety.

`missed_by_any` is for `require` and `deny`: a key holds if any reading of the request matches, case-folded too where the upstream ignores
case. `missed_by_all` and `excused_by` are for `allow`, routes and `except`: a key holds only if all readings match, as written.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from gateway.policy.glob import Glob
from gateway.policy.network import Network, within
from gateway.policy.view import Values, View

Key = Literal["upstream", "host", "path", "method", "header", "query", "cookie", "network", "content_type"]
Mapped = Literal["header", "query", "cookie"]

# Not a key: the answer hangs on a `_method` field in a body that nobody has read yet.
Unread = Literal["body"]


class KeyTest(Protocol):
    """One key of a condition, but for `method`: does some reading match, does every one?"""

    def some(self, view: View) -> bool: ...
    def every(self, view: View) -> bool: ...


@dataclass(frozen=True, slots=True)
class UpstreamTest:
    names: frozenset[str]

    def some(self, view: View) -> bool:
        return view.upstream in self.names

    every = some


@dataclass(frozen=True, slots=True)
class HostTest:
    globs: tuple[Glob, ...]

    def some(self, view: View) -> bool:
        host = view.head.host
        return any(glob.matches_folded(host) for glob in self.globs)

    every = some


@dataclass(frozen=True, slots=True)
class PathTest:
    globs: tuple[Glob, ...]

    def some(self, view: View) -> bool:
        for path in view.paths:
            for glob in self.globs:
                if glob.matches(path):
                    return True
        for path in view.folded_paths:
            for glob in self.globs:
                if glob.matches_folded(path):
                    return True
        return False

    def every(self, view: View) -> bool:
        return all(any(glob.matches(path) for glob in self.globs) for path in view.paths)


@dataclass(frozen=True, slots=True)
class MapTest:
    """`header`, `query` or `cookie`: every name must hold. `names`: how a name is spelt in each reading. None among the globs: absent."""

    kind: Mapped
    wanted: tuple[tuple[tuple[str, ...], tuple[Glob | None, ...]], ...]

    def some(self, view: View) -> bool:
        readings: tuple[Values, ...] = getattr(view, self.kind)
        return all(
            any(_some(reading.get(name, ()), globs, folds=view.folds) for reading, name in zip(readings, names, strict=False))
            for names, globs in self.wanted
        )

    def every(self, view: View) -> bool:
        readings: tuple[Values, ...] = getattr(view, self.kind)
        return all(
            all(_every(reading.get(name, ()), globs) for reading, name in zip(readings, names, strict=False))
            for names, globs in self.wanted
        )


@dataclass(frozen=True, slots=True)
class NetworkTest:
    networks: tuple[Network, ...]

    def some(self, view: View) -> bool:
        address = view.address
        return address is not None and any(within(address, network) for network in self.networks)

    every = some


@dataclass(frozen=True, slots=True)
class MediaTest:
    globs: tuple[Glob, ...]

    def some(self, view: View) -> bool:
        return any(glob.matches_folded(found) for found in view.media_types for glob in self.globs)

    def every(self, view: View) -> bool:
        found = view.media_types
        return bool(found) and all(any(glob.matches_folded(each) for glob in self.globs) for each in found)


def _some(values: tuple[str, ...], globs: Iterable[Glob | None], *, folds: bool) -> bool:
    if not values:
        return None in globs
    return any(
        glob is not None and (glob.matches(value) or (folds and glob.matches_folded(value.casefold())))
        for value in values
        for glob in globs
    )


def _every(values: tuple[str, ...], globs: Iterable[Glob | None]) -> bool:
    if not values:
        return None in globs
    return all(any(glob is not None and glob.matches(value) for glob in globs) for value in values)


@dataclass(frozen=True, slots=True)
class Condition:
    """tests: the keys other than `method`, all of which must hold. methods: None = any; GET brings HEAD with it.

    upstreams, hosts, paths: the same once more, for an index; None = any.
    """

    tests: tuple[tuple[Key, KeyTest], ...] = ()
    methods: frozenset[str] | None = None
    upstreams: frozenset[str] | None = None
    hosts: tuple[Glob, ...] | None = None
    paths: tuple[Glob, ...] | None = None

    def missed_by_any(self, view: View) -> Key | Unread | None:
        """None if every key holds for some reading, else the first that does not. A body that cannot be read may hide any method."""
        for key, test in self.tests:
            if not test.some(view):
                return key
        if self.methods is None or not self.methods.isdisjoint(view.methods):
            return None
        match view.override:
            case "known":
                return "method"
            case "unread":
                return "body"
            case "unreadable":
                return None

    def missed_by_all(self, view: View) -> Key | Unread | None:
        """None if every key holds for all readings, else the first that does not."""
        for key, test in self.tests:
            if not test.every(view):
                return key
        return self._methods_missed(view)

    def excused_by(self, view: View) -> Key | Unread | None:
        """The first key that holds for all readings; None if there is none."""
        for key, test in self.tests:
            if test.every(view):
                return key
        if self.methods is None or (missed := self._methods_missed(view)) == "method":
            return None
        return missed or "method"

    def _methods_missed(self, view: View) -> Literal["method", "body"] | None:
        if self.methods is None:
            return None
        if not view.methods <= self.methods or view.override == "unreadable":
            return "method"
        return "body" if view.override == "unread" else None


def condition(
    *,
    upstreams: Sequence[str] | None = None,
    hosts: Sequence[Glob] | None = None,
    paths: Sequence[Glob] | None = None,
    methods: Sequence[str] | None = None,
    maps: Sequence[tuple[Mapped, Sequence[tuple[str, Sequence[Glob | None]]]]] = (),
    networks: Sequence[Network] | None = None,
    media: Sequence[Glob] | None = None,
) -> Condition:
    """A condition of compiled parts; None = the key is not there. Keys are tested cheapest first."""
    tests: list[tuple[Key, KeyTest]] = []
    if upstreams is not None:
        tests.append(("upstream", UpstreamTest(frozenset(upstreams))))
    if hosts is not None:
        tests.append(("host", HostTest(tuple(hosts))))
    if paths is not None:
        tests.append(("path", PathTest(tuple(paths))))
    if networks is not None:
        tests.append(("network", NetworkTest(tuple(networks))))
    if media is not None:
        tests.append(("content_type", MediaTest(tuple(media))))
    tests.extend((kind, MapTest(kind, tuple((_spellings(kind, name), tuple(globs)) for name, globs in wanted))) for kind, wanted in maps)
    return Condition(
        tests=tuple(tests),
        methods=None if methods is None else frozenset(methods) | (frozenset({"HEAD"}) if "GET" in methods else frozenset()),
        upstreams=None if upstreams is None else frozenset(upstreams),
        hosts=None if hosts is None else tuple(hosts),
        paths=None if paths is None else tuple(paths),
    )


def _spellings(kind: Mapped, name: str) -> tuple[str, ...]:
    """A name as the first and as the second reading of `View.header`, `.query` or `.cookie` spell it."""
    match kind:
        case "header":
            return name.lower(), name.lower().replace("_", "-")
        case "query":
            return name, name.casefold()
        case "cookie":
            return (name,)
