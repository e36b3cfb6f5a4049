"""Counters for Prometheus. Labels are names from the configuration, never anything that a client chose."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest


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
        self.reloads = Counter("stepup_reloads", "Configuration reloads by outcome.", ["outcome"], registry=self.registry)
        # livesum: over the workers that are alive
        self.connections = Gauge(
            "stepup_client_connections", "Open client connections.", multiprocess_mode="livesum", registry=self.registry
        )
        self.workers = Gauge("stepup_workers", "Workers that accept connections.", multiprocess_mode="livesum", registry=self.registry)
        self.restarts = Counter("stepup_worker_restarts", "Workers that ended unasked and were started again.", registry=self.registry)

    def text(self) -> bytes:
        """The Prometheus exposition format."""
        return generate_latest(self.registry)
