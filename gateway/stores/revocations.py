"""This process's copy of the revocation feed. Checking a pass reads memory; the feed is polled twice a second."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from math import inf

from gateway.errors import StoreUnavailable
from gateway.flow.ports import StateStore
from gateway.tokens.passes import CLOCK_SKEW

POLL = 0.5  # seconds: a revocation must reach every process within one


class RevocationFeed:
    """Implements flow.gate.Revocations. `run` polls until it is cancelled; `refresh` once.

    set_back: called where the clock has gone back by more than gateways may differ: what was worked out by it lasts too long now.
    """

    def __init__(self, state: StateStore, clock: Callable[[], float] = time.time, set_back: Callable[[], None] | None = None) -> None:
        self._state = state
        self._clock = clock
        self._set_back = set_back
        self._cursor = 0
        self._revoked: dict[str, float] = {}
        self._read_at = float("-inf")

    def revoked(self, sid: str) -> bool:
        return sid in self._revoked

    def age(self, now: float) -> float:
        # Read in the future, it would look young for as long as the clock was set back, whatever became of the store.
        return now - self._read_at if now >= self._read_at - CLOCK_SKEW else inf

    async def revoke(self, sid: str, *, until: float, now: float) -> None:
        """Revoke here at once, and everywhere by the feed. Raises StoreUnavailable when only the first was done."""
        self._revoked[sid] = until
        await self._state.revoke(sid, until=until, now=now)

    async def refresh(self) -> None:
        """Read what is new. Raises StoreUnavailable."""
        now = self._clock()
        if self._set_back is not None and now < self._read_at - CLOCK_SKEW:
            self._set_back()
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
