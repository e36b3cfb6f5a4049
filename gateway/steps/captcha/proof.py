"""ALTCHA proof of work, v2 API: challenges that carry everything, so that nothing is stored until one is solved.

Algorithm `PBKDF2/SHA-256`, deterministic mode: the server draws a counter in 0…max_number and derives one key of 32 bytes
from it (password = nonce + counter as a big-endian uint32, `cost` iterations); the first 16 bytes are the `keyPrefix`
that the client must meet by trying counters from 0. So the work is bounded, and verifying costs two HMACs.

A challenge belongs to one transaction because the keys that sign it are derived from the transaction.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from altcha import Payload, create_challenge, verify_solution

from gateway.flow.ports import Entropy, Vault

ALGORITHM = "PBKDF2/SHA-256"
MAX_PAYLOAD = 4096
"""Characters of a payload: a real one has about 900."""


@dataclass(frozen=True, slots=True)
class Solved:
    """key: what names this solution in the replay cache. expires: until when it must be remembered."""

    key: str
    expires: float


@dataclass(frozen=True, slots=True)
class Expired:
    """The challenge was ours but too old, or says so."""


@dataclass(frozen=True, slots=True)
class Wrong:
    private: str


def _signing(place: str) -> bytes:
    return f"challenge {place}".encode()


def _deriving(place: str) -> bytes:
    return f"derived key {place}".encode()


def challenge(vault: Vault, entropy: Entropy, *, place: str, cost: int, max_number: int, ttl: float, now: float) -> Mapping[str, Any]:
    """A challenge object as clients of the ALTCHA v2 API expect it. place: the transaction and step it is for."""
    made = create_challenge(
        ALGORITHM,
        cost,
        counter=int.from_bytes(entropy.bytes(8), "big") % (max_number + 1),
        expires_at=math.ceil(now + ttl),
        data={"maxNumber": max_number},
        hmac_secret=vault.mac("altcha", _signing(place)),
        hmac_key_secret=vault.mac("altcha", _deriving(place)),
    )
    result: Mapping[str, Any] = made.to_dict()
    return result


def verify(vault: Vault, answer: str, *, place: str, now: float) -> Solved | Expired | Wrong:
    """Judge a payload (base64 of the JSON of challenge and solution). Whether it was used before is the caller's question.

    Expiry is judged by `now`, and by the library with the clock of this machine as well.
    """
    if len(answer) > MAX_PAYLOAD:
        return Wrong(f"altcha payload of {len(answer)} characters")
    try:
        payload = Payload.from_base64(answer)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        return Wrong(f"altcha payload unreadable: {type(error).__name__}")
    reason = "altcha signature is not ours, or another transaction's"
    for secret, key_secret in zip(vault.macs("altcha", _signing(place)), vault.macs("altcha", _deriving(place)), strict=True):
        result = verify_solution(payload, secret, hmac_key_secret=key_secret)
        if result.expired:
            return Expired()
        if result.verified:
            # Signed by us, so both are there. The signature is one fixed spelling of one challenge; the payload around it has many.
            expires = float(payload.challenge.parameters.expires_at or 0)
            key = hashlib.sha256(str(payload.challenge.signature).encode()).hexdigest()
            return Solved(key, expires + 1) if now < expires else Expired()
        if result.invalid_solution:
            reason = "altcha solution wrong"
    return Wrong(reason)
