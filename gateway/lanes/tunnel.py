"""After a 101: bytes both ways, unread. What the two ends say to each other is theirs; relaying WebSocket messages one by
one would lose conformance."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from gateway.errors import ClientGone
from gateway.flow.traffic import UpstreamTraffic
from gateway.lanes.duplex import Duplex


class Tunnel:
    """Two connections joined. `close` may be called from anywhere, for example when the pass behind it was revoked.

    `idle_timeout` seconds without a byte either way end it; as long an unread write does. `reason` says in the end why it ended: `ended`
    (by both), `broken` (one end went), `idle`, `slow_reader`, `shutdown`, or what `close` was given. `on_end` is called then, once.
    """

    def __init__(self, client: Duplex, upstream: Duplex, *, idle_timeout: float, traffic: UpstreamTraffic | None = None) -> None:
        self._client = client
        self._upstream = upstream
        self._idle = idle_timeout
        self._loop = asyncio.get_running_loop()
        self._last = self._loop.time()
        self.sent = 0  # bytes from the client to the upstream
        self.received = 0  # bytes from the upstream to the client
        self._traffic = traffic or UpstreamTraffic()
        self.reason = ""
        self.on_end: Callable[[], None] | None = None

    async def run(self) -> None:
        """Carry bytes until both ends have ended, one broke, it was idle too long, or `close` was called. Raises nothing of these."""
        timer = self._loop.call_later(self._idle, self._check_idle)
        self._timer = timer
        up = asyncio.create_task(self._pump(self._client, self._upstream, upwards=True))
        down = asyncio.create_task(self._pump(self._upstream, self._client, upwards=False))
        try:
            await asyncio.gather(up, down)
            self.reason = self.reason or "ended"
        except TimeoutError:
            self.reason = self.reason or "slow_reader"
        except (OSError, ClientGone):  # one end is gone; the other goes with it
            self.reason = self.reason or "broken"
        finally:
            self.reason = self.reason or "shutdown"
            self._timer.cancel()
            up.cancel()
            down.cancel()
            await asyncio.gather(up, down, return_exceptions=True)
            self._client.close()
            self._upstream.close()
            if self.on_end is not None:
                self.on_end()

    def close(self, reason: str = "closed") -> None:
        """End the tunnel at once. `reason` for the metrics, a word from the code."""
        self.reason = self.reason or reason
        self._client.abort(ClientGone("the tunnel was closed"))
        self._upstream.abort(ClientGone("the tunnel was closed"))

    async def _pump(self, source: Duplex, sink: Duplex, *, upwards: bool) -> None:
        while data := await source.read():
            self._last = self._loop.time()
            sink.write(data)
            await sink.drain(self._idle)
            if upwards:
                self.sent += len(data)
                self._traffic.sent += len(data)
            else:
                self.received += len(data)
                self._traffic.received += len(data)
        sink.end()

    def _check_idle(self) -> None:
        left = self._last + self._idle - self._loop.time()
        if left <= 0:
            self.close("idle")
        else:
            self._timer = self._loop.call_later(left, self._check_idle)
