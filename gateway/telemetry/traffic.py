"""Moves the lanes' counts to Prometheus, when it asks: the lanes write plain numbers, and pay nothing for being read.

Counters and histograms get what has come since the last time, so that many processes can be summed, those that ended included.
"""

from __future__ import annotations

from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge
from prometheus_client import Histogram as Published

from gateway.flow.traffic import Histogram, Traffic


class TrafficMetrics:
    def __init__(self, traffic: Traffic, registry: CollectorRegistry) -> None:
        self._traffic = traffic
        self._registry = registry
        self._before: dict[tuple[str, ...], float] = {}
        self._answers = Counter(
            "stepup_upstream_responses", "Answers of upstreams, by class of status.", ["upstream", "status"], registry=registry
        )
        self._sizes = Counter(
            "stepup_body_bytes", "Bytes of bodies and tunnels, to upstreams and to clients.", ["upstream", "to"], registry=registry
        )
        self._retries = Counter("stepup_upstream_retries", "Requests sent again on a fresh connection.", ["upstream"], registry=registry)
        self._closed = Counter("stepup_tunnels_closed", "Tunnels by why they ended.", ["upstream", "reason"], registry=registry)
        self._tunnels = Gauge("stepup_tunnels", "Open tunnels (WebSocket).", ["upstream"], multiprocess_mode="livesum", registry=registry)
        self._waited: Published | None = None
        self._own: Published | None = None

    def settle(self) -> None:
        """Add what has come since the last time."""
        for name, counts in self._traffic.upstreams.items():
            for digit, count in enumerate(counts.statuses):
                if count:
                    self._add(self._answers, (name, f"{digit}xx" if digit else "odd"), count)
            self._add(self._sizes, (name, "upstream"), counts.sent)
            self._add(self._sizes, (name, "client"), counts.received)
            self._add(self._retries, (name,), counts.retries)
            self._tunnels.labels(name).set(counts.tunnels)
            for reason, count in counts.closed.items():
                self._add(self._closed, (name, reason), count)
            if self._waited is None or self._own is None:
                self._waited = self._histogram(
                    "stepup_upstream_seconds", "From seeking a connection to the head of the upstream's answer.", counts.waited.bounds
                )
                self._own = self._histogram("stepup_gateway_seconds", "What the gateway took by itself.", counts.own.bounds)
            self._fill(self._waited, "waited", name, counts.waited)
            self._fill(self._own, "own", name, counts.own)

    def _histogram(self, name: str, words: str, bounds: Sequence[float]) -> Published:
        return Published(name, words, ["upstream"], buckets=bounds, registry=self._registry)

    def _add(self, counter: Counter, labels: tuple[str, ...], now: float) -> None:
        counter.labels(*labels).inc(self._since((counter._name, *labels), now))  # noqa: SLF001 -- a name of its own for each count

    def _fill(self, histogram: Published, kind: str, name: str, counted: Histogram) -> None:
        """prometheus_client has no way to add many observations at once but these two."""
        child = histogram.labels(name)
        for index, count in enumerate(counted.counts):
            if more := self._since((kind, name, str(index)), count):
                child._buckets[index].inc(more)  # noqa: SLF001 -- see above
        child._sum.inc(self._since((kind, name, "sum"), counted.total))  # noqa: SLF001 -- see above

    def _since(self, key: tuple[str, ...], now: float) -> float:
        more = now - self._before.get(key, 0)
        self._before[key] = now
        return more
