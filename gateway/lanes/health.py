"""Which urls of an upstream are tried first. A pure table of what was seen, and the loop that asks actively.

A url that refuses connections is left alone for `retry_after`; one that takes connections and then fails is taken out
after `unhealthy_after` failures in a row; one that fails active checks stays out until a check succeeds. Nobody is ever
out for good: when all are out, all are tried.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from gateway.errors import UpstreamFault
from gateway.lanes.upstream import Endpoint, connect
from gateway.spec.sections import HealthSpec


@dataclass(frozen=True, slots=True)
class Health:
    """What is known of one url. `failures` in a row by requests, `missed` in a row by active checks; times are monotonic seconds."""

    failures: int = 0
    out_until: float = 0.0
    missed: int = 0

    def available(self, now: float, spec: HealthSpec) -> bool:
        return now >= self.out_until and self.missed < spec.unhealthy_after

    def after_success(self) -> Health:
        """A request was answered, whatever the status."""
        return self if not self.failures and not self.out_until else replace(self, failures=0, out_until=0.0)

    def after_failure(self, now: float, spec: HealthSpec, *, connecting: bool) -> Health:
        """A connection could not be made (`connecting`), or an exchange ended without an answer."""
        failures = self.failures + 1
        out = connecting or failures >= spec.unhealthy_after
        return replace(self, failures=failures, out_until=now + spec.retry_after if out else self.out_until)

    def after_probe(self, healthy: bool) -> Health:
        """An active check ended."""
        return Health() if healthy else replace(self, missed=self.missed + 1)


def in_turn(healths: Sequence[Health], turn: int, now: float, spec: HealthSpec) -> list[int]:
    """The order in which urls are tried: the available ones from `turn` on, then the others, as a last resort."""
    order = [(turn + i) % len(healths) for i in range(len(healths))]
    return sorted(order, key=lambda i: not healths[i].available(now, spec))


async def probe(endpoint: Endpoint, context: ssl.SSLContext | None, server_name: str | None, path: str, timeout: float) -> bool:
    """Ask once, on a connection of its own: True for a status from 200 to 399 within `timeout` seconds."""
    headers = ((b"Host", endpoint.authority.encode()), (b"User-Agent", b"step-up-gateway-health"), (b"Connection", b"close"))
    try:
        async with asyncio.timeout(timeout):
            connection = await connect(endpoint, context, server_name, timeout)
            try:
                connection.send_head("GET", path.encode("ascii"), headers, has_body=False, chunked=False)
                head = await connection.response(lambda _: None)
            finally:
                await connection.aclose()
    except (UpstreamFault, TimeoutError):
        return False
    return 200 <= head.status <= 399


async def watch(
    endpoints: Sequence[Endpoint],
    context: ssl.SSLContext | None,
    server_name: str | None,
    spec: HealthSpec,
    report: Callable[[Endpoint, bool], None],
) -> None:
    """Check every endpoint, report, wait `interval`, again; until cancelled. Returns at once when no `path` is configured."""
    if spec.path is None:
        return
    while True:
        results = await asyncio.gather(*(probe(e, context, server_name, spec.path, spec.timeout) for e in endpoints))
        for endpoint, healthy in zip(endpoints, results, strict=True):
            report(endpoint, healthy)
        await asyncio.sleep(spec.interval)
