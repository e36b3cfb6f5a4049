"""What the lanes count as bytes go by: plain numbers, no lock, no label looked up, nothing that waits. The metrics read them when asked.

A lane keeps the `UpstreamTraffic` of each upstream and calls `exchange` once for each answer. All of it can be added up over processes.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import Final

UPSTREAM_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
OWN_SECONDS: Final = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0)


class Histogram:
    """bounds: upper ends in seconds, inclusive; counts: one more, for what is above the last of them."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, seconds: float) -> None:
        self.counts[bisect_left(self.bounds, seconds)] += 1
        self.total += seconds


class UpstreamTraffic:
    """Counts of one upstream.

    statuses: answers by their first digit. sent, received: bytes of bodies and tunnels, to the upstream and to clients. waited: seconds
    from seeking a connection to the head of the answer. own: what the gateway took before that (a body that rules look into is waited for
    there) and behind it, until the answer's head was on its way. tunnels: open now; closed: those that ended, by why. holding: answers that
    are held now to be looked into; held: their bytes, of all that were.
    """

    __slots__ = ("closed", "held", "holding", "own", "received", "retries", "sent", "statuses", "tunnels", "waited")

    def __init__(self) -> None:
        self.statuses = [0] * 6
        self.sent = 0
        self.received = 0
        self.waited = Histogram(UPSTREAM_SECONDS)
        self.own = Histogram(OWN_SECONDS)
        self.retries = 0
        self.tunnels = 0
        self.closed: dict[str, int] = {}
        self.holding = 0
        self.held = 0

    def exchange(self, status: int, waited: float, own: float, sent: int, received: int) -> None:
        """An answer came and is over, whole or not. status: 100 to 599; seconds; bytes of the two bodies."""
        self.statuses[status // 100 if 100 <= status < 600 else 0] += 1
        histogram = self.waited  # `observe`, twice, without a call: this is done for every request
        histogram.counts[bisect_left(histogram.bounds, waited)] += 1
        histogram.total += waited
        histogram = self.own
        histogram.counts[bisect_left(histogram.bounds, own)] += 1
        histogram.total += own
        self.sent += sent
        self.received += received

    def tunnel_closed(self, reason: str) -> None:
        """reason: a word from the code, never from a client."""
        self.tunnels -= 1
        self.closed[reason] = self.closed.get(reason, 0) + 1


class Traffic:
    """All upstreams, by name. One that a reload took away keeps its counts: a counter must not go back."""

    def __init__(self) -> None:
        self.upstreams: dict[str, UpstreamTraffic] = {}

    def upstream(self, name: str) -> UpstreamTraffic:
        """The counts of this upstream, always the same object."""
        return self.upstreams.setdefault(name, UpstreamTraffic())
