"""Finds the rules that a request may hit without looking at the others. It may name a rule too many, never one too few.

A rule is filed under its upstream, the end of its host and the beginning of its path, as far as they are literal. A request looks into
every drawer that it could be in: some dictionary look-ups, whatever the number of rules.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from gateway.policy.condition import Condition

_Drawer = dict[str, list[int]]
_Cabinet = dict[tuple[str, str], _Drawer]


@dataclass(frozen=True, slots=True)
class RuleIndex:
    """cabinet: (upstream, end of host) to beginning of path to positions; "" = any. depth: slashes in the deepest beginning."""

    cabinet: _Cabinet
    depth: int
    by_host: bool

    @classmethod
    def build(cls, conditions: Iterable[tuple[int, Condition]]) -> RuleIndex:
        """Of (position, condition) pairs in file order."""
        cabinet: _Cabinet = {}
        depth = 0
        by_host = False
        for position, condition in conditions:
            hosts = {""} if condition.hosts is None else {glob.anchor for glob in condition.hosts}
            paths = {""} if condition.paths is None else {glob.anchor for glob in condition.paths}
            by_host = by_host or hosts != {""}
            depth = max([depth, *(path.count("/") for path in paths)])
            for upstream in {""} if condition.upstreams is None else condition.upstreams:
                for host in hosts:
                    drawer = cabinet.setdefault((upstream, host), {})
                    for path in paths:
                        drawer.setdefault(path, []).append(position)
        return cls(cabinet, depth, by_host)

    def candidates(self, host: str, readings: tuple[str, ...], upstream: str) -> Sequence[int]:
        """Positions, in file order, of every rule that could match; each once."""
        found: list[list[int]] = []
        beginnings: set[str] | tuple[str, ...] | None = None
        for end in _ends(host.casefold()) if self.by_host else ("",):
            for place in (upstream, ""):
                drawer = self.cabinet.get((place, end))
                if drawer is None:
                    continue
                if beginnings is None:
                    beginnings = self._beginnings(readings)
                found.extend(drawer[beginning] for beginning in beginnings if beginning in drawer)
        if not found:
            return ()
        return found[0] if len(found) == 1 else sorted(set().union(*found))

    def _beginnings(self, readings: tuple[str, ...]) -> set[str]:
        """Every literal beginning, in whole segments, that a path of these readings can have in the index. Bounded by `depth`."""
        beginnings = {""}
        for reading in readings:
            path = reading.casefold()
            end = path.find("/", 1)
            for _ in range(self.depth):
                if end < 0:
                    break
                beginnings.add(path[:end])
                end = path.find("/", end + 1)
            if end < 0:
                beginnings.add(path)
        return beginnings


def _ends(host: str) -> list[str]:
    """`a.b.c`, `b.c`, `c` and "". A host name has at most 127 labels (RFC 1035 §2.3.4); the caller bounds its length."""
    ends = [host]
    while host:
        host = host.partition(".")[2]
        ends.append(host)
    return ends
