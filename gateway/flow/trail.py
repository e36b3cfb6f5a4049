"""What the rooms report: one line for each decision, an audit event for each outcome of a step. Nothing here is ever a secret."""

from __future__ import annotations

from typing import Any, Protocol

from gateway.flow.ports import AuditEvent
from gateway.flow.repository import STATE


class Decided(Protocol):
    """One decision that comes again and again."""

    def tell(self, request_id: str, method: str, path: str, now: float, *, plain: bool) -> None:
        """As `Trail.decision`. now: seconds since the epoch. plain: the path is letters, digits and `_~/.-`."""


class Trail(Protocol):
    def decision(
        self, *, request_id: str, method: str, path: str, upstream: str, decision: str, rules: tuple[str, ...], reason: str, subject: str
    ) -> None:
        """One line per decision. `path` is without its query; `reason` is the private one."""

    def decided(self, *, upstream: str, decision: str, rules: tuple[str, ...], reason: str, subject: str) -> Decided:
        """The same for many requests of which the same is to be said."""

    def event(self, name: str, *, request_id: str = "", **fields: Any) -> None:
        """A log line for anything else worth knowing, and a count in the metrics."""

    async def audit(self, event: AuditEvent) -> None:
        """Append to the audit trail. A records store that is away is logged, and does not fail the request."""


def shown_path(path: bytes) -> str:
    """A path as logs may hold it. Our own pages are not logged by path; what only looks like one of them (`/%2estepup/t/su_…`) may hold a
    state all the same."""
    return STATE.sub("su_…", path.decode("latin-1"))
