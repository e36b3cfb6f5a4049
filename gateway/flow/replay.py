"""Tokens of others that may be used once: whose `jti` was seen, by issuer, for as long as the token could be shown again."""

from __future__ import annotations

import base64
import hashlib

from gateway.errors import Conflict
from gateway.flow.ports import StateStore

SPACE = "replayed"


def replay_key(issuer: str, jti: str) -> str:
    """The store's key for one `jti` of one issuer: a hash, of any length and spelling of the two."""
    text = f"{len(issuer)}:{issuer}{jti}".encode("utf-8", "surrogatepass")
    return base64.urlsafe_b64encode(hashlib.sha256(text).digest()).rstrip(b"=").decode("ascii")


async def first_use(state: StateStore, issuer: str, jti: str, *, expires: float, now: float) -> bool:
    """Whether this `jti` was not seen before; from now on it was, until `expires`. Of several at the same time one is first.

    expires: no earlier than the token's own `exp`. Raises StoreUnavailable: then it must count as seen.
    """
    try:
        await state.put(SPACE, replay_key(issuer, jti), b"", version=0, expires=expires, now=now)
    except Conflict:
        return False
    return True


async def was_used(state: StateStore, issuer: str, jti: str, now: float) -> bool:
    """Whether this `jti` was seen, without using it. Raises StoreUnavailable."""
    return await state.get(SPACE, replay_key(issuer, jti), now) is not None


async def give_back(state: StateStore, issuer: str, jti: str) -> None:
    """Nothing came of a first use (a bound was met): the token may be shown once more. Raises StoreUnavailable."""
    await state.delete(SPACE, replay_key(issuer, jti))
