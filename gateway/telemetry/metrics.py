"""Counters for Prometheus. Labels are names from the configuration, never anything that a client chose."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest

from gateway.flow.traffic import Traffic
from gateway.telemetry.traffic import TrafficCollector


class Metrics:
    """One registry per application object, so that several can live in one process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.decisions = Counter("stepup_decisions", "Decisions by kind and upstream.", ["decision", "upstream"], registry=self.registry)
        self.rules = Counter("stepup_rule_hits", "Rules that were hit, by name and mode.", ["rule", "mode"], registry=self.registry)
        self.steps = Counter("stepup_step_outcomes", "Outcomes of answers to steps.", ["step", "outcome"], registry=self.registry)
        self.transactions = Counter("stepup_transactions", "Transactions by what became of them.", ["outcome"], registry=self.registry)
        self.refusals = Counter(
            "stepup_refusals", "Requests refused before or beside a decision, by reason.", ["reason"], registry=self.registry
        )
        self.upstream = Counter(
            "stepup_upstream_errors", "Upstream faults by upstream and kind.", ["upstream", "kind"], registry=self.registry
        )
        self.authorizations = Counter(
            "stepup_authorization_responses", "Authorization responses of OAuth upstreams, by what became of them.",
            ["upstream", "outcome"], registry=self.registry,
        )  # fmt: skip
        self.reloads = Counter("stepup_reloads", "Configuration reloads by outcome.", ["outcome"], registry=self.registry)
        self.closed = Counter(
            "stepup_client_closed", "Client connections ended without need of a refusal, by reason.", ["reason"], registry=self.registry
        )
        # livesum: over the workers that are alive
        self.connections = Gauge(
            "stepup_client_connections", "Open client connections by state.", ["state"], multiprocess_mode="livesum", registry=self.registry
        )
        self.pools = Gauge(
            "stepup_upstream_connections", "Open connections to upstreams by address and state.", ["upstream", "url", "state"],
            multiprocess_mode="livesum", registry=self.registry,
        )  # fmt: skip
        self.waiting = Gauge(
            "stepup_upstream_waiting", "Requests that wait for a connection.", ["upstream"], multiprocess_mode="livesum",
            registry=self.registry,
        )  # fmt: skip
        self.workers = Gauge("stepup_workers", "Workers that accept connections.", multiprocess_mode="livesum", registry=self.registry)
        self.restarts = Counter("stepup_worker_restarts", "Workers that ended unasked and were started again.", registry=self.registry)
        self.traffic = Traffic()
        self.on_the_side = TrafficCollector(self.traffic)
        self.registry.register(self.on_the_side)

    def cut(self, reason: str) -> None:
        """A client connection ended without an answer. What only was not needed any longer is no refusal."""
        (self.closed if reason in ("keepalive", "unused") else self.refusals).labels(reason).inc()

    def text(self) -> bytes:
        """The Prometheus exposition format."""
        return generate_latest(self.registry)
