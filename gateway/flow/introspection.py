"""Who may ask about our tokens, how often, and what they are told (RFC 7662). Anything doubtful is inactive, and nothing says why.

A token that verifies may still be over: the pass behind it was revoked, or what it was evidence for has been used.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any, assert_never

from gateway.errors import StoreUnavailable, TokenInvalid
from gateway.flow.gate import FEED_MAX_AGE, Revocations
from gateway.flow.guessing import Guessing, Throttled, counted_as, counter_key
from gateway.flow.ports import Count, StateStore
from gateway.flow.replay import was_used
from gateway.flow.repository import STATE_PREFIX, Transactions, transaction_id
from gateway.flow.transaction import Status
from gateway.spec.introspection import IntrospectionClientSpec, IntrospectionSpec
from gateway.tokens.inspect import Kind, PlainKind, inspect
from gateway.tokens.keys import Keyring
from gateway.tokens.signer import TokenKind
from gateway.wire.subject import NOBODY

_SPACE = "introspect"
_STEP = "introspection"
_NOBODYS = ("no client has this as its secret, but comparing with it takes as long",)


@dataclass(frozen=True, slots=True)
class Active:
    """claims: of a token that counts, for the client that asked."""

    kind: Kind
    claims: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Inactive:
    """private: why, for the log."""

    private: str


@dataclass(frozen=True, slots=True)
class Client:
    id: str
    audiences: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class WrongClient:
    """No such client, or not its secret."""


class Introspection:
    """May raise StoreUnavailable everywhere: then nobody is told anything."""

    def __init__(
        self, *, state: StateStore, guessing: Guessing, transactions: Transactions, revocations: Revocations,
        keyring: Callable[[], Keyring], issuers: Callable[[], Collection[str]],
    ) -> None:  # fmt: skip
        self._state = state
        self._guessing = guessing
        self._transactions = transactions
        self._revocations = revocations
        self._keyring = keyring
        self._issuers = issuers

    async def admit(self, spec: IntrospectionSpec, client: str, secret: str, address: str, now: float) -> Client | WrongClient | Throttled:
        """The client that asks. A wrong secret counts as a wrong answer of its address; only who knows the secret counts for the client.

        The right one is not counted first and given back, as answers to steps are: a service asks a hundred times at once.
        """
        throttled = await self._guessing.exhausted(address, now)
        if throttled is not None:
            return throttled
        known = spec.clients.get(client)
        if not _is_secret(known, secret) or known is None:
            return await self._guessing.begin(_STEP, NOBODY, address, now) or WrongClient()
        rate = spec.rate
        counts = (
            ("client", Count(_SPACE, counter_key("client", client), 1, now + rate.window), rate.per_client),
            ("address", Count(_SPACE, counter_key("address", counted_as(address)), 1, now + rate.window), rate.per_address),
        )
        results = await self._state.together([count for _, count, _ in counts], now)
        for (by, _, most), count in zip(counts, results, strict=True):
            if count > most:
                return Throttled(ceil(rate.window), by)
        return Client(client, known.audience)

    async def look(self, token: str, audiences: Collection[str], now: float) -> Active | Inactive:
        """What a token comes to, for a client with these audiences."""
        try:
            kind, claims = inspect(token, keyring=self._keyring(), now=now, issuers=self._issuers(), audiences=audiences)
        except TokenInvalid as error:
            return Inactive(str(error))
        match kind:
            case TokenKind.UPSTREAM:
                over = self._revoked(str(claims.get("sid", "")), now)
            case TokenKind.CONTINUE:
                over = await self._used(claims, now)
            case TokenKind.PAGE:
                used = await was_used(self._state, str(claims["aud"]), str(claims.get("jti", "")), now)
                over = "its step was answered" if used else ""
            case PlainKind.ANSWER:
                over = ""  # it was delivered as soon as it was made; whether it was used is for its receiver to know
            case _:
                assert_never(kind)
        return Inactive(over) if over else Active(kind, claims)

    def _revoked(self, sid: str, now: float) -> str:
        if self._revocations.age(now) > FEED_MAX_AGE:
            raise StoreUnavailable("the revocation feed is older than 5 s")
        return "its pass was revoked" if sid and self._revocations.revoked(sid) else ""

    async def _used(self, claims: Mapping[str, Any], now: float) -> str:
        """A continue token counts for as long as its transaction can be resumed by it."""
        state = claims.get("state")
        if not isinstance(state, str) or not state.startswith(STATE_PREFIX):
            return "it names no state of ours"
        found = await self._transactions.load(transaction_id(state), now)
        if found is None or found.transaction.jti != claims.get("jti"):
            return "its transaction is not known any more"
        if found.transaction.status is not Status.READY:
            return f"its transaction is {found.transaction.status}"
        return self._revoked(found.transaction.holder, now)


def _is_secret(client: IntrospectionClientSpec | None, given: str) -> bool:
    """Compared in a time that tells neither whether the client exists nor how much of the secret is right."""
    secrets: Sequence[str] = _NOBODYS if client is None else client.secret
    right = [hmac.compare_digest(secret.encode("utf-8"), given.encode("utf-8", "surrogateescape")) for secret in secrets]
    return client is not None and any(right)


__all__ = ["Active", "Client", "Inactive", "Introspection", "WrongClient"]
