"""One store, one key. Gateways that share a store must share a key file, or each finds the other's transactions sealed.

Checked once, at start, by fingerprints: what a store holds of a key says nothing about the key itself.
"""

from __future__ import annotations

from gateway.errors import Conflict, KeyMismatch, StoreUnavailable
from gateway.flow.ports import StateStore

_SPACE, _KEY = "keys", "fingerprint"
_FAR = 32_503_680_000.0  # 1 January 3000: the claim outlives every transaction
_TRIES = 10


async def claim_key(store: StateStore, fingerprints: tuple[str, ...], now: float) -> None:
    """Write down that `store` is used with our key. `fingerprints` holds those of all our keys, the current one first; at least one.

    A store last used with an older key of ours moves to the current one. Raises KeyMismatch when it belongs to a key that we do not have,
    StoreUnavailable when it cannot be asked.
    """
    current = fingerprints[0]
    for _ in range(_TRIES):
        entry = await store.get(_SPACE, _KEY, now)
        if entry is not None:
            theirs = entry.value.decode("utf-8", "replace")
            if theirs == current:
                return
            if theirs not in fingerprints:
                raise KeyMismatch(
                    f"the state store was last used with the key {theirs}, which is not in this gateway's key file (it has "
                    f"{', '.join(fingerprints)}). Gateways that share a store share one key: copy the key file of the gateway that uses "
                    "this store to where `secrets: {key_file: …}` says, or name another store under `stores: {state: …}`. Where that key "
                    "is lost, empty the store: the transactions in it cannot be opened."
                )
        try:
            await store.put(_SPACE, _KEY, current.encode(), version=entry.version if entry else 0, expires=_FAR, now=now)
        except Conflict:
            continue  # another gateway starts at this moment: look at what it wrote
        return
    raise StoreUnavailable("the key's fingerprint in the state store keeps changing: gateways with different current keys start at once")
