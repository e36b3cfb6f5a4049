"""The trail of decisions and outcomes: a log line, a count, and for outcomes of steps an audit event in the records."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import structlog

from gateway.errors import StoreUnavailable
from gateway.flow.ports import AuditEvent, Records
from gateway.telemetry.lines import Lines, Stamps, Template
from gateway.telemetry.logs import template, templated
from gateway.telemetry.metrics import Metrics


class _Decided:
    """Implements flow.trail.Decided."""

    def __init__(self, telemetry: Telemetry, line: tuple[Template, Lines] | None, fields: dict[str, Any]) -> None:
        self._telemetry = telemetry
        self._line = line
        self._fields = fields
        self._tally = telemetry.tally(fields["decision"], fields["upstream"], fields["rules"])

    def tell(self, request_id: str, method: str, path: str, now: float, *, plain: bool) -> None:
        line = self._line
        if line is not None and plain and templated():
            self._tally[0] += 1
            template, lines = line
            lines.later(template.fill(request_id, method, path, _STAMPS.stamp(now)))
        else:
            self._telemetry.decision(request_id=request_id, method=method, path=path, **self._fields)


_STAMPS = Stamps()


class Telemetry:
    """Implements flow.trail.Trail."""

    def __init__(self, metrics: Metrics, records: Records) -> None:
        self._metrics = metrics
        self._records = records
        self._tallies: dict[tuple[str, str, tuple[str, ...]], list[int]] = {}
        self._log = structlog.get_logger().bind()  # bound once: the lazy logger would be made anew for each line
        self._count_decision = lru_cache(maxsize=1024)(lambda decision, upstream: metrics.decisions.labels(decision, upstream).inc)
        self._count_rule = lru_cache(maxsize=16_384)(lambda rule: metrics.rules.labels(rule, "enforce").inc)

    def decision(
        self, *, request_id: str, method: str, path: str, upstream: str, decision: str, rules: tuple[str, ...], reason: str, subject: str
    ) -> None:
        self._count_decision(decision, upstream)()
        for rule in rules:
            self._count_rule(rule)()
        self._log.info(
            "decision", request_id=request_id, decision=decision, rules=",".join(rules) or "-", reason=reason, method=method, path=path,
            upstream=upstream, subject=subject or "-",
        )  # fmt: skip

    def decided(self, *, upstream: str, decision: str, rules: tuple[str, ...], reason: str, subject: str) -> _Decided:
        line = template(
            "decision", decision=decision, rules=",".join(rules) or "-", reason=reason, upstream=upstream, subject=subject or "-"
        )  # fmt: skip
        fields = {"upstream": upstream, "decision": decision, "rules": rules, "reason": reason, "subject": subject}
        return _Decided(self, line, fields)

    def tally(self, decision: str, upstream: str, rules: tuple[str, ...]) -> list[int]:
        """A count that `settle` moves into the metrics."""
        return self._tallies.setdefault((decision, upstream, rules), [0])

    def settle(self) -> None:
        """To be called before the metrics are read."""
        for (decision, upstream, rules), tally in self._tallies.items():
            count, tally[0] = tally[0], 0
            if count:
                self._count_decision(decision, upstream)(count)
                for rule in rules:
                    self._count_rule(rule)(count)

    def event(self, name: str, *, request_id: str = "", **fields: Any) -> None:
        match name:
            case "refused":
                self._metrics.refusals.labels(str(fields.get("kind", "other"))).inc()
            case "upstream fault":
                self._metrics.upstream.labels(str(fields.get("upstream", "")), str(fields.get("kind", ""))).inc()
            case "shadow":
                self._metrics.rules.labels(str(fields.get("rule", "")), "shadow").inc()
            case "transaction":
                self._metrics.transactions.labels(str(fields.get("outcome", ""))).inc()
            case "authorization":
                self._metrics.authorizations.labels(str(fields.get("upstream", "")), str(fields.get("outcome", ""))).inc()
            case _:
                pass
        quiet = name in ("transaction", "authorization", "shadow", "login", "introspected")
        level = self._log.info if quiet else self._log.warning
        level(name, **({"request_id": request_id} if request_id else {}), **fields)

    async def audit(self, event: AuditEvent) -> None:
        if event.step:
            self._metrics.steps.labels(event.step, event.outcome).inc()
        self._log.info(
            "audit", audit=event.event, request_id=event.request_id, subject=event.subject or "-", step=event.step or "-",
            rule=event.rule or "-", outcome=event.outcome, address=event.address, **dict(event.detail),
        )  # fmt: skip
        try:
            await self._records.audit(event)
        except StoreUnavailable as error:
            self._log.error("audit event not stored", request_id=event.request_id, reason=str(error))
