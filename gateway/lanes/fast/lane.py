"""What all connections of the fast lane share: the slow lane behind them, what is known, clocks, and one timer for all deadlines."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable
from email.utils import formatdate
from typing import TYPE_CHECKING

from aiohttp import web

from gateway.flow.ports import Entropy
from gateway.flow.sessions import Sessions
from gateway.flow.trail import Trail
from gateway.lanes.answers import Answers
from gateway.lanes.fast.known import Known
from gateway.lanes.intercept import Interceptor
from gateway.spec.sections import LimitsSpec

if TYPE_CHECKING:
    from gateway.lanes.fast.client import FastConnection
    from gateway.lanes.server import Listener

_IDS_AT_ONCE = 256


class FastLane:
    def __init__(
        self, *, known: Known, sessions: Sessions, answers: Answers, trail: Trail, entropy: Entropy, clock: Callable[[], float],
        limits: LimitsSpec, make: Callable[[FastLane, Listener], FastConnection], intercepts: Interceptor,
    ) -> None:  # fmt: skip
        self.known = known
        self.intercepts = intercepts
        self.sessions = sessions
        self.answers = answers
        self.trail = trail
        self.clock = clock
        self.limits = limits
        self.connections: set[FastConnection] = set()
        self._make = make
        self._entropy = entropy
        self._ids: list[str] = []
        self._timer: asyncio.TimerHandle | None = None
        bounds = (limits.head_timeout, limits.keepalive, limits.body_idle_timeout, limits.upload_timeout, limits.write_idle_timeout)
        self._tick = max(0.02, min(1.0, *(bound / 8 for bound in bounds)))

    def request_id(self) -> str:
        """As the slow lane's: 72 random bits, base64url."""
        if not self._ids:
            text = base64.urlsafe_b64encode(self._entropy.bytes(9 * _IDS_AT_ONCE)).decode("ascii")
            self._ids = [text[start : start + 12] for start in range(0, len(text), 12)]
        return self._ids.pop()

    def beside(self, limits: LimitsSpec, make: Callable[[FastLane, Listener], FastConnection]) -> FastLane:
        """The same for another listener: what is known is one."""
        return FastLane(
            known=self.known, sessions=self.sessions, answers=self.answers, trail=self.trail, entropy=self._entropy, clock=self.clock,
            limits=limits, make=make, intercepts=self.intercepts,
        )  # fmt: skip

    def connection(self, listener: Listener) -> FastConnection:
        """A protocol for a new connection."""
        return self._make(self, listener)

    def begin(self, connection: FastConnection) -> None:
        """A connection was made: it has deadlines from now on."""
        self.connections.add(connection)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._tick, self._sweep)

    def end(self, connection: FastConnection) -> None:
        self.connections.discard(connection)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _sweep(self) -> None:
        """Slow clients cost a look now and then, neither a timer nor a task each."""
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(self._tick, self._sweep) if self.connections else None
        now = loop.time()
        for connection in [each for each in self.connections if each.due <= now]:
            connection.expire(now)


def written(response: web.Response, *, method: bytes, last: bool) -> bytes:
    """One of our own answers as bytes, as aiohttp would send it."""
    body = response.body if isinstance(response.body, bytes) else b""
    lines = [f"HTTP/1.1 {response.status} {response.reason}", *(f"{name}: {value}" for name, value in response.headers.items())]
    if "Content-Length" not in response.headers:
        lines.append(f"Content-Length: {len(body)}")
    if "Date" not in response.headers:
        lines.append(f"Date: {formatdate(usegmt=True)}")
    if last:
        lines.append("Connection: close")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + (b"" if method == b"HEAD" else body)
