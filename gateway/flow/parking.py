"""What another site posted without our cookie, kept for as long as the browser needs to fetch it back with its cookie (design.md part 6).

Sealed, bounded in size, number and time, and taken once. Whoever holds the handle alone can do nothing with it: the binding is asked for
before anything is used.
"""

from __future__ import annotations

import json
import re
from typing import Final

from gateway.errors import Conflict, SealBroken
from gateway.flow.away import Arrival
from gateway.flow.ports import Entropy, StateStore, Vault
from gateway.flow.repository import transaction_id

HANDLE: Final = re.compile(r"pk_[A-Za-z0-9_-]{43}")
LASTS: Final = 60.0
MOST: Final = 65_536
"""Bytes of one arrival."""
MOST_AT_ONCE: Final = 10
"""Arrivals with one state within a minute."""

_SPACE: Final = "parked"


class Parking:
    """All methods may raise StoreUnavailable."""

    def __init__(self, state: StateStore, vault: Vault, entropy: Entropy) -> None:
        self._state = state
        self._vault = vault
        self._entropy = entropy

    async def park(self, arrival: Arrival, now: float) -> str | None:
        """Keep it, and return its handle (46 characters). None: it is too large, or too many wait with this state."""
        plain = json.dumps([arrival.state, dict(arrival.query), dict(arrival.body)]).encode()
        group = transaction_id(arrival.state)
        if len(plain) > MOST or await self._state.count(_SPACE, group, by=1, expires=now + LASTS, now=now) > MOST_AT_ONCE:
            return None
        handle = "pk_" + self._entropy.token()
        key = transaction_id(handle)
        sealed = self._vault.seal(_SPACE, plain, place=f"{_SPACE}/{key}")
        await self._state.put(_SPACE, key, sealed, version=0, expires=now + LASTS, now=now)
        return handle

    async def look(self, handle: str, now: float) -> Arrival | None:
        """What waits under a handle, without taking it; None where nothing does (any more)."""
        key = transaction_id(handle)
        entry = await self._state.get(_SPACE, key, now)
        if entry is None or entry.version != 1:
            return None
        try:
            state, query, body = json.loads(self._vault.open(_SPACE, entry.value, place=f"{_SPACE}/{key}"))
        except SealBroken:
            return None
        return Arrival(state, query, body)

    async def take(self, handle: str, now: float) -> bool:
        """Use the handle up. True for the first who does."""
        try:
            await self._state.put(_SPACE, transaction_id(handle), b"", version=1, expires=now + LASTS, now=now)
        except Conflict:
            return False
        return True
