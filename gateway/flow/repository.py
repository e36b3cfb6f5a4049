"""Transactions in the state store: sealed, found by the hash of their state, written only against the version that was read.

The stored request is its own entry, so that a step's answer never rewrites a megabyte. It is written before the transaction that refers to
it, or in one with it: kill -9 leaves nothing that could be resumed without its body.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from gateway.errors import Conflict, SealBroken, StoreUnavailable
from gateway.flow import codec
from gateway.flow.away import Whereabouts
from gateway.flow.codec import StoredRequest
from gateway.flow.guessing import counted_as
from gateway.flow.ports import Count, Delete, Entropy, Join, Leave, Put, StateStore, Vault, Write
from gateway.flow.transaction import Status, Transaction, settled
from gateway.spec.sections import TransactionsSpec

STATE_PREFIX: Final = "su_"
STATE: Final = re.compile(STATE_PREFIX + r"[A-Za-z0-9_-]{43}")
TICKET_PREFIX: Final = "rt_"
TICKET_PARAMETER: Final = "stepup_resume"

_TRANSACTION: Final = "transaction"
_REQUEST: Final = "request"
_OPEN: Final = "open"
_LOOP: Final = "loop"
_OUTSIDE: Final = "outside"
_ALL: Final = 1_000_000_000
"""More than any counter counts to; none falls below 0."""

Memo = Literal["waiting", "asked", "anew"]
"""Where a raw state is kept, sealed: for this browser's next login, for the same request asked again, and for who comes back from a page of
others to begin anew."""


def _b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def transaction_id(state: str) -> str:
    """The store's key for a state: its SHA-256, base64url."""
    return _b64(hashlib.sha256(state.encode("utf-8", "surrogateescape")).digest())


def _groups(transaction: Transaction) -> tuple[str, str, str]:
    """Whose open transactions it is counted among."""
    return "b:" + transaction.binding, "a:" + counted_as(transaction.address), "all"


def _first(results: Sequence[Any]) -> Any:
    """The first result, where none is a refusal. Raises Conflict."""
    for result in results:
        if isinstance(result, Conflict):
            raise result
    return results[0]


@dataclass(frozen=True, slots=True)
class TooMany:
    """A cap on open transactions was reached. `of`: whose."""

    of: Literal["browser", "address", "total"]


@dataclass(frozen=True, slots=True)
class Found:
    """A transaction as it stands now, and the version it was read at (what `save` must be given)."""

    transaction: Transaction
    version: int


class Transactions:
    """Every method may raise StoreUnavailable; `save` raises Conflict when another write was first."""

    def __init__(
        self, state: StateStore, vault: Vault, entropy: Entropy, spec: TransactionsSpec,
        patience: Callable[[], Mapping[str, float]] = dict,
    ) -> None:  # fmt: skip
        """patience: seconds that steps at pages of others may take, by their names."""
        self._patience = patience
        self._state = state
        self._vault = vault
        self._entropy = entropy
        self.spec = spec

    def new_state(self) -> str:
        """`su_` and 256 random bits, base64url (46 characters)."""
        return STATE_PREFIX + self._entropy.token()

    def waits(self, steps: Sequence[str]) -> float:
        """Seconds for a transaction with these steps: as long as pages of others may take, one after the other, and the usual time for
        whatever else is asked beside them; at least the usual time."""
        patience = self._patience()
        pages = [patience[step] for step in steps if step in patience]
        return max(self.spec.ttl, sum(pages) + (self.spec.ttl if len(pages) < len(steps) else 0.0))

    async def open(self, transaction: Transaction, request: StoredRequest | None, now: float) -> TooMany | None:
        """Store a new transaction (and its request). None when it is stored; durable then."""
        caps: tuple[tuple[Literal["browser", "address", "total"], str, int], ...] = (
            ("browser", "b:" + transaction.binding, self.spec.max_per_browser),
            ("address", "a:" + counted_as(transaction.address), self.spec.max_per_address),
            ("total", "all", self.spec.max_total),
        )
        joined = await self._state.together([Join(_OPEN, group, transaction.id, cap, transaction.expires) for _, group, cap in caps], now)
        if not all(joined):
            took = [Leave(_OPEN, group, transaction.id) for (_, group, _), is_in in zip(caps, joined, strict=True) if is_in]
            if took:
                await self._state.together(took, now)
            return TooMany(next(whose for (whose, _, _), is_in in zip(caps, joined, strict=True) if not is_in))
        writes: list[Write] = []
        if request is not None:
            sealed = self._vault.seal(_REQUEST, codec.encode_request(request), place=f"{_REQUEST}/{transaction.id}")
            writes.append(Put(_REQUEST, transaction.id, sealed, 0, transaction.expires + self.spec.sending_timeout))
        _first(await self._state.together([*writes, self._put(transaction, 0, now)], now))
        return None

    async def load(self, id_: str, now: float) -> Found | None:
        """The transaction as it stands at `now` (see `settled`), or None when it is not known (any more)."""
        entry = await self._state.get(_TRANSACTION, id_, now)
        if entry is None:
            return None
        transaction = codec.decode(self._open(_TRANSACTION, entry.value, id_))
        return Found(settled(transaction, now, sending_timeout=self.spec.sending_timeout), entry.version)

    async def save(self, transaction: Transaction, version: int, now: float, *, along: Sequence[Write] = ()) -> int:
        """Write the transaction if nobody else has since `version`. A transaction that has ended frees its place and its request.

        along: writes that are done in any case.
        """
        put, freed = self._put(transaction, version, now), self._freed(transaction)
        if not freed or transaction.since:
            # Who ends what was being sent was the one who sent it: there is no other writer whose request this could take away.
            return int(_first(await self._state.together([put, *along, *freed], now)))
        written = int(_first(await self._state.together([put, *along], now)))
        with suppress(StoreUnavailable):  # what is not freed here ends by its expiry
            await self._state.together(freed, now)
        return written

    async def prolong(self, transaction: Transaction, version: int, request: StoredRequest | None, now: float) -> int:
        """`save` for a transaction whose rules have asked for more: what came last has as much time as what came first. request: the
        stored one, which waits as long. To be called once for a transaction."""
        longer = replace(transaction, expires=max(transaction.expires, now + self.waits(transaction.remaining)))
        # The caps were met when it was opened; it keeps its places.
        along: list[Write] = [Join(_OPEN, group, longer.id, _ALL, longer.expires) for group in _groups(longer)]
        if request is not None:
            sealed = self._vault.seal(_REQUEST, codec.encode_request(request), place=f"{_REQUEST}/{longer.id}")
            along.append(Put(_REQUEST, longer.id, sealed, 1, longer.expires + self.spec.sending_timeout))
        return await self.save(longer, version, now, along=along)

    async def request(self, id_: str, now: float) -> StoredRequest | None:
        """The stored request, or None when it is gone (ended, expired)."""
        entry = await self._state.get(_REQUEST, id_, now)
        return None if entry is None else codec.decode_request(self._open(_REQUEST, entry.value, id_))

    async def remember(self, space: Memo, key: str, state: str, *, expires: float, now: float) -> None:
        """Remember a state where it will be asked for; the latest one counts."""
        sealed = self._vault.seal(space, state.encode(), place=f"{space}/{key}")
        version = 0  # most often nothing is remembered there
        for _ in range(3):
            try:
                await self._state.put(space, key, sealed, version=version, expires=expires, now=now)
            except Conflict:
                entry = await self._state.get(space, key, now)
                version = entry.version if entry else 0
            else:
                return

    async def recall(self, space: Memo, key: str, now: float, *, once: bool = False) -> str | None:
        """The state that was remembered there; `once` forgets it."""
        entry = await self._state.get(space, key, now)
        if entry is None:
            return None
        if once:
            await self._state.delete(space, key)
        return self._open(space, entry.value, key).decode()

    def outside(self, state: str, where: Whereabouts, transaction: Transaction, now: float) -> Put:
        """What leads from a state that goes to a page of others to its step. It lasts as long as the transaction is remembered."""
        key = transaction_id(state)
        sealed = self._vault.seal(_OUTSIDE, json.dumps([where.transaction, where.step, where.state]).encode(), place=f"{_OUTSIDE}/{key}")
        return Put(_OUTSIDE, key, sealed, 0, max(transaction.expires, now) + self.spec.tombstone)

    async def whereabouts(self, state: str, now: float) -> Whereabouts | None:
        """Where a state leads that a page of others was given; None for any other."""
        key = transaction_id(state)
        entry = await self._state.get(_OUTSIDE, key, now)
        return None if entry is None else Whereabouts(*json.loads(self._open(_OUTSIDE, entry.value, key)))

    async def asked_again(self, key: str, now: float) -> bool:
        """Count one asking. True: it was asked more than `loop_limit` times within `loop_window` without an answer."""
        return await self._state.count(_LOOP, key, by=1, expires=now + self.spec.loop_window, now=now) > self.spec.loop_limit

    def answered(self, transaction: Transaction, now: float) -> Sequence[Write]:
        """There was an answer: what lets the asking start from zero."""
        return [Count(_LOOP, transaction.loop, -_ALL, now)] if transaction.loop else []

    async def also(self, writes: Sequence[Write], now: float) -> None:
        """Writes of `answered` and the like, by themselves."""
        await self._state.together(writes, now)

    def ticket(self, id_: str) -> str:
        """The one-use ticket of a transaction: always the same, so that a second /continue needs no second write."""
        return TICKET_PREFIX + id_ + _b64(self._vault.mac("ticket", id_.encode())[:16])

    def read_ticket(self, ticket: str) -> str | None:
        """The transaction's id, or None when this is no ticket of ours."""
        if not ticket.startswith(TICKET_PREFIX) or len(ticket) != len(TICKET_PREFIX) + 43 + 22 or not ticket.isascii():
            return None
        id_, tag = ticket[len(TICKET_PREFIX) : -22], ticket[-22:]
        ours = (_b64(mac[:16]) for mac in self._vault.macs("ticket", id_.encode()))
        return id_ if any(hmac.compare_digest(tag, mine) for mine in ours) else None

    def form_token(self, id_: str, binding: str) -> str:
        """The hidden token of a transaction's forms."""
        return _b64(self._vault.mac("form", f"{id_}/{binding}".encode())[:16])

    def form_token_ok(self, given: str, id_: str, binding: str) -> bool:
        macs = self._vault.macs("form", f"{id_}/{binding}".encode())
        return given.isascii() and any(hmac.compare_digest(given, _b64(m[:16])) for m in macs)

    def binding(self, secret: str) -> str:
        """What a transaction remembers of the browser cookie or the Authorization value that may finish it."""
        return _b64(self._vault.mac("binding", secret.encode("utf-8", "surrogateescape"))[:24])

    def bindings(self, secret: str) -> tuple[str, ...]:
        return tuple(_b64(m[:24]) for m in self._vault.macs("binding", secret.encode("utf-8", "surrogateescape")))

    def _put(self, transaction: Transaction, version: int, now: float) -> Put:
        sealed = self._vault.seal(_TRANSACTION, codec.encode(transaction), place=f"{_TRANSACTION}/{transaction.id}")
        return Put(_TRANSACTION, transaction.id, sealed, version, max(transaction.expires, now) + self.spec.tombstone)

    def _freed(self, transaction: Transaction) -> Sequence[Write]:
        """What an ended transaction needs no more. One that is being sent keeps it: its end is written too, and nothing delays its first
        byte."""
        if transaction.open or transaction.status is Status.SENDING:
            return ()
        return (Delete(_REQUEST, transaction.id), *(Leave(_OPEN, group, transaction.id) for group in _groups(transaction)))

    def _open(self, space: str, sealed: bytes, key: str) -> bytes:
        try:
            return self._vault.open(space, sealed, place=f"{space}/{key}")
        except SealBroken as error:
            # Another gateway's key, or a key that was rotated out too early: not this user's fault, and nothing can be resumed.
            raise StoreUnavailable(f"{space} {key} cannot be opened with our keys: {error}") from error
