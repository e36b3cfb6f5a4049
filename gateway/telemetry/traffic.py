"""Reads the lanes' counts for Prometheus, when it asks."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from gateway.flow.traffic import Histogram, Traffic


class TrafficCollector(Collector):
    """A custom collector: the lanes write plain numbers, and pay nothing for being read."""

    def __init__(self, traffic: Traffic) -> None:
        self._traffic = traffic

    def collect(self) -> Iterator[Metric]:
        answers = CounterMetricFamily(
            "stepup_upstream_responses", "Answers of upstreams, by class of status.", labels=["upstream", "status"]
        )
        sizes = CounterMetricFamily(
            "stepup_body_bytes", "Bytes of bodies and tunnels, to upstreams and to clients.", labels=["upstream", "to"]
        )
        retries = CounterMetricFamily("stepup_upstream_retries", "Requests sent again on a fresh connection.", labels=["upstream"])
        closed = CounterMetricFamily("stepup_tunnels_closed", "Tunnels by why they ended.", labels=["upstream", "reason"])
        tunnels = GaugeMetricFamily("stepup_tunnels", "Open tunnels (WebSocket).", labels=["upstream"])
        waited = HistogramMetricFamily(
            "stepup_upstream_seconds", "From seeking a connection to the head of the upstream's answer.", labels=["upstream"]
        )
        own = HistogramMetricFamily("stepup_gateway_seconds", "What the gateway took by itself.", labels=["upstream"])
        holding = GaugeMetricFamily("stepup_held_answers", "Answers that are held now to be looked into.", labels=["upstream"])
        held = CounterMetricFamily("stepup_held_bytes", "Bytes of answers that were held.", labels=["upstream"])
        for name, counts in self._traffic.upstreams.items():
            for digit, count in enumerate(counts.statuses):
                if count:
                    answers.add_metric([name, f"{digit}xx" if digit else "odd"], count)
            sizes.add_metric([name, "upstream"], counts.sent)
            sizes.add_metric([name, "client"], counts.received)
            retries.add_metric([name], counts.retries)
            tunnels.add_metric([name], counts.tunnels)
            if counts.held or counts.holding:
                holding.add_metric([name], counts.holding)
                held.add_metric([name], counts.held)
            for reason, count in counts.closed.items():
                closed.add_metric([name, reason], count)
            waited.add_metric([name], _buckets(counts.waited), counts.waited.total)
            own.add_metric([name], _buckets(counts.own), counts.own.total)
        yield from (answers, sizes, retries, closed, tunnels, waited, own, holding, held)


def _buckets(histogram: Histogram) -> list[tuple[str, float]]:
    """As Prometheus wants them: each with all that is below it."""
    ends = (*(str(bound) for bound in histogram.bounds), "+Inf")
    return list(zip(ends, accumulate(histogram.counts), strict=True))
