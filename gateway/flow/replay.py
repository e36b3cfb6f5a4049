"""Tokens of others count once: their `jti` is remembered, by issuer, for as long as the token could be shown again.

Keyed on `jti` and never on the token's text: a signature can be re-shaped by anybody, and the text with it.
"""

from __future__ import annotations

import hashlib
import json

from gateway.errors import Conflict
from gateway.flow.ports import StateStore

_SPACE = "replayed"


def used_key(issuer: str, jti: str) -> str:
    """What stands for a token of this issuer in the store: a hash of 256 bits, hexadecimal."""
    return hashlib.sha256(json.dumps([issuer, jti]).encode()).hexdigest()


async def first_use(state: StateStore, issuer: str, jti: str, *, expires: float, now: float) -> bool:
    """True: not seen before, and from now on it is. expires: the token's own. May raise StoreUnavailable."""
    try:
        await state.put(_SPACE, used_key(issuer, jti), b"1", version=0, expires=expires, now=now)
    except Conflict:
        return False
    return True


async def give_back(state: StateStore, issuer: str, jti: str) -> None:
    """Nothing came of a first use (a bound was met): the token may be shown once more."""
    await state.delete(_SPACE, used_key(issuer, jti))
