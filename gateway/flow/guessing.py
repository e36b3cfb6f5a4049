"""Bounds on guessing, for every step alike. Counted before an answer is looked at, so that parallel guesses cannot pass.

A right answer gives its own count back to the subject and the address; a wrong one stays counted for the window.
"""

from __future__ import annotations

import base64
import hashlib
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass

from gateway.flow.ports import Count, StateStore
from gateway.spec.sections import GuessingSpec
from gateway.wire.subject import Proof, Subject

_SPACE = "guess"


def counter_key(*parts: str) -> str:
    """Counter keys hold no user name in the clear."""
    return base64.urlsafe_b64encode(hashlib.sha256("\x00".join(parts).encode("utf-8", "surrogateescape")).digest()[:18]).decode()


def counted_as(address: str) -> str:
    """What counts as one address: an IPv6 customer has a /64 to walk through (RFC 6177)."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    return str(parsed) if parsed.version == 4 else str(ipaddress.ip_network((int(parsed), 64), strict=False))


@dataclass(frozen=True, slots=True)
class Throttled:
    """Too many wrong answers. retry_after: whole seconds."""

    retry_after: int
    by: str


class Guessing:
    """May raise StoreUnavailable everywhere: then no answer is looked at."""

    def __init__(self, state: StateStore, spec: GuessingSpec) -> None:
        self._state = state
        self._spec = spec

    async def begin(self, step: str, subject: Subject, address: str, now: float) -> Throttled | None:
        """Count one answer about to be looked at. Throttled: it must not be looked at."""
        counters = self._counters(step, subject, address)
        until = now + self._spec.window
        counts = await self._state.together([Count(_SPACE, key, 1, until) for _, key, _ in counters], now)
        for (by, _, limit), count in zip(counters, counts, strict=True):
            if count > limit:
                # What is not looked at is no guess: an address that is throttled must not use up its subject's tries.
                await self._state.together(self.given_back(step, subject, address, now), now)
                return Throttled(int(self._spec.window), by)
        return None

    async def exhausted(self, address: str, now: float) -> Throttled | None:
        """Whether an address has given too many wrong answers already; counts nothing."""
        key = counter_key("address", counted_as(address))
        count = await self._state.count(_SPACE, key, by=0, expires=now + self._spec.window, now=now)
        return Throttled(int(self._spec.window), "address") if count >= self._spec.per_address else None

    def given_back(self, step: str, subject: Subject, address: str, now: float) -> Sequence[Count]:
        """The answer was right, or was none: what gives its count back."""
        return [Count(_SPACE, key, -1, now + self._spec.window) for _, key, _ in self._counters(step, subject, address)]

    async def foreign(self, address: str, now: float) -> Throttled | None:
        """Count a request for an unknown state, or another browser's, against its address only."""
        count = await self._state.count(_SPACE, counter_key("foreign", counted_as(address)), by=1, expires=now + self._spec.window, now=now)
        return Throttled(int(self._spec.window), "address") if count > self._spec.foreign_per_address else None

    async def login(self, sid: str, proofs: Sequence[Proof], now: float) -> bool:
        """Count one login that these proofs of one pass let through. False: they have let through enough, and must be made anew."""
        made = ",".join(sorted(f"{p.step}@{p.at}" for p in proofs))
        until = now + self._spec.window
        return await self._state.count(_SPACE, counter_key("login", sid, made), by=1, expires=until, now=now) <= self._spec.logins_per_proof

    def _counters(self, step: str, subject: Subject, address: str) -> tuple[tuple[str, str, int], ...]:
        by_address = ("address", counter_key("address", counted_as(address)), self._spec.per_address)
        if not subject.known:
            return (by_address,)
        return (("subject", counter_key("subject", step, subject.source, subject.counter), self._spec.per_subject), by_address)
