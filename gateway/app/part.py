"""What of a gateway one process runs. In `gateway demo` and in most tests it is the whole; `gateway run` divides it among workers.

What holds for all workers together (`limits.max_connections`) holds because each has its share.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from gateway.settings.load import Loaded
from gateway.spec.base import parse_address
from gateway.spec.sections import GatewaySpec, LimitsSpec
from gateway.telemetry.metrics import Metrics
from gateway.web.admin import Check

PUBLIC, ADMIN = "listen", "admin.listen"
"""Listeners are called by the key of their address in the settings."""

FIXED = (
    "listen", "lane", "tls", "public_url", "admin", "trusted_proxies", "stores", "secrets", "prefix", "continue_path", "mail",
    "transactions", "passes", "guessing", "tokens", "limits", "log", "forward_auth", "functions",
)  # fmt: skip
"""Settings that take effect at a start only."""


@dataclass(frozen=True, slots=True)
class Part:
    """public, admin: whether clients' and proxies' listeners, and the admin listener, run here. sockets: bound ones, by the key of their
    address; where a key is missing, the listener binds by itself. worker, workers: this is number `worker`, from 0, of so many. tls: the
    public listener's context, where one was made before. metrics_text, checks: in place of this process's own metrics, and beside its own
    checks, on the admin listener. settled: told whenever what is counted on the side was settled."""

    public: bool = True
    admin: bool = True
    sockets: Mapping[str, Sequence[socket.socket]] = field(default_factory=dict)
    worker: int = 0
    workers: int = 1
    tls: ssl.SSLContext | None = None
    metrics_text: Callable[[], bytes] | None = None
    checks: Mapping[str, Check] = field(default_factory=dict)
    settled: Callable[[Metrics], None] | None = None

    def limits(self, whole: LimitsSpec) -> LimitsSpec:
        """The bounds of this worker's listeners. The shares of all add up to the whole, or to one each where that is more."""
        if self.workers == 1:
            return whole
        in_all = whole.max_connections // self.workers + (self.worker < whole.max_connections % self.workers)
        per_address = -(-whole.max_connections_per_address // self.workers)
        return whole.model_copy(update={"max_connections": max(1, in_all), "max_connections_per_address": per_address})


WHOLE = Part()


def listeners(spec: GatewaySpec, listen: str | None = None) -> dict[str, tuple[str, int]]:
    """Host and port of every listener that clients or proxies use, by settings key, and of the admin listener. listen: in place of the
    settings' own."""
    asking = {forward_auth_key(n): parse_address(proxy.listen) for n, proxy in spec.forward_auth.items() if proxy.listen is not None}
    return {PUBLIC: parse_address(listen or spec.listen), ADMIN: parse_address(spec.admin.listen), **asking}


def forward_auth_key(name: str) -> str:
    return f"forward_auth.{name}.listen"


def settled(began: GatewaySpec, loaded: Loaded) -> tuple[Loaded, list[str]]:
    """A reloaded configuration as a process that starts now must have it to be like those that run: with the settings of the start where
    only a start changes them. And the names of those that differ."""
    differ = [name for name in FIXED if getattr(began, name) != getattr(loaded.spec, name)]
    return replace(loaded, spec=loaded.spec.model_copy(update={name: getattr(began, name) for name in differ})), differ
