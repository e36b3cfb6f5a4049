"""This process's copy of the revocation feed. Checking a pass reads memory; the feed is polled twice a second."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress

from gateway.errors import StoreUnavailable
from gateway.flow.ports import StateStore

POLL = 0.5  # seconds: a revocation must reach every process within one


class RevocationFeed:
    """Implements flow.gate.Revocations. `run` polls until it is cancelled; `refresh` once."""

    def __init__(self, state: StateStore, clock: Callable[[], float] = time.time) -> None:
        self._state = state
        self._clock = clock
        self._cursor = 0
        self._revoked: dict[str, float] = {}
        self._read_at = float("-inf")

    def revoked(self, sid: str) -> bool:
        return sid in self._revoked

    def age(self, now: float) -> float:
        return now - self._read_at

    async def revoke(self, sid: str, *, until: float, now: float) -> None:
        """Revoke here at once, and everywhere by the feed. Raises StoreUnavailable when only the first was done."""
        self._revoked[sid] = until
        await self._state.revoke(sid, until=until, now=now)

    async def refresh(self) -> None:
        """Read what is new. Raises StoreUnavailable."""
        now = self._clock()
        for revocation in await self._state.revocations(self._cursor, now):
            self._revoked[revocation.sid] = revocation.until
            self._cursor = max(self._cursor, revocation.cursor)
        self._read_at = now
        if len(self._revoked) > 1000:
            self._revoked = {sid: until for sid, until in self._revoked.items() if until > now}

    async def run(self) -> None:
        """Poll for ever. A store that is away makes the feed old, which fails closed; it recovers by itself."""
        while True:
            with suppress(StoreUnavailable):
                await self.refresh()
            await asyncio.sleep(POLL)
