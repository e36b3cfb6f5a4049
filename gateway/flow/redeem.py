"""Transactions of token endpoints: opened for a client without cookies, used up by the very call, repeated with the continue token.

A token is used up by one conditional write, durable before a byte of the upstream's answer leaves; only a successful answer does that.
While one repeated call is under way another one is turned away; what the upstream refuses (a wrong password) costs one of
`transactions.max_attempts`.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from gateway.errors import Conflict, TokenInvalid
from gateway.flow.asked import Asked
from gateway.flow.functions import kept
from gateway.flow.gate import Judged
from gateway.flow.grant_call import Call
from gateway.flow.ports import Entropy, StateStore, Vault
from gateway.flow.repository import Found, TooMany, Transactions, transaction_id
from gateway.flow.rerun import proved
from gateway.flow.transaction import Event, Grant, Status, Task, Transaction, ask_more, move, reopen
from gateway.policy.decision import StepUp
from gateway.tokens.keys import Keyring
from gateway.tokens.signer import TokenKind, verify
from gateway.wire.subject import Proof, Subject

_STATE: Final = re.compile(r"su_[A-Za-z0-9_-]{43}")
_CALL: Final = "grant-call"
_SENDING: Final = "grant-sending"
_TRIES: Final = "grant-tries"


@dataclass(frozen=True, slots=True)
class Unusable:
    """A continue token that opens nothing here. private: for the log. busy: another call with it is under way."""

    private: str
    busy: bool = False


@dataclass(frozen=True, slots=True)
class Redeemed:
    """The transaction whose token came along, READY and held until `consume` or `let_go`. state: its raw state."""

    found: Found
    state: str

    @property
    def proofs(self) -> Mapping[str, Proof]:
        return proved(self.found.transaction)


class GrantTransactions:
    """Every method may raise StoreUnavailable."""

    def __init__(
        self, transactions: Transactions, state: StateStore, vault: Vault, entropy: Entropy, keyring: Callable[[], Keyring]
    ) -> None:
        self._transactions = transactions
        self._state = state
        self._vault = vault
        self._entropy = entropy
        self._keyring = keyring

    async def open(self, asked: Asked, call: Call, upstream: str, judged: Judged, decision: StepUp) -> tuple[Transaction, str] | TooMany:
        """A new transaction and its state. Never one that an equal call opened before: who calls with a stolen password must not be handed
        the one that its owner is about to pass."""
        subject = judged.identified.subject
        grant = Grant(call.client, call.protocol, self._mac(_CALL, call.same), self._authorization(call))
        # What counts as one browser among the bounds: this user at this client.
        binding = self._transactions.binding(json.dumps(["grant", upstream, call.client, subject.source, subject.counter]))
        state, functions = self._transactions.new_state(), judged.facts.functions
        waits = self._transactions.waits([a.step for a in decision.asked])
        transaction = Transaction(
            id=transaction_id(state), origin=asked.head.origin, upstream=upstream, binding=binding, method=asked.head.method,
            target=asked.head.target.raw, kind="grant", replay="off", created=asked.now, expires=asked.now + waits,
            address=asked.head.client_ip, rules=decision.rules,
            tasks=tuple(Task(a.step, a.max_age, a.rules, url=a.url) for a in decision.asked), subject=subject,
            jti=(functions.jti if functions is not None else "") or self._entropy.token(), run=kept(functions, subject), grant=grant,
        )  # fmt: skip
        refused = await self._transactions.open(transaction, None, asked.now)
        return (transaction, state) if refused is None else refused

    async def redeem(self, asked: Asked, call: Call, upstream: str, subject: Subject) -> Redeemed | Unusable:
        """The transaction whose continue token came with a call. After this `consume` or `let_go` must follow."""
        found = await self._named(asked, call, upstream)
        if isinstance(found, Unusable):
            return found
        held, state = found
        transaction, grant = held.transaction, held.transaction.grant
        assert grant is not None  # noqa: S101 - `_named` has looked
        if (subject.id, subject.source) != (transaction.subject.id, transaction.subject.source):
            return Unusable(f"passed by {transaction.subject.id!r}, used by {subject.id!r}")
        if grant.client != call.client or not self._authorized(grant, call.authorization):
            return Unusable("another client's")
        if not self._same(call.same, grant.call):
            return Unusable("the call is another one")
        if transaction.status is not Status.READY:
            return Unusable(f"the transaction is {transaction.status.value}")
        try:
            await self._state.put(
                _SENDING, transaction.id, b"", version=0, expires=asked.now + self._transactions.spec.sending_timeout, now=asked.now
            )
        except Conflict:
            return Unusable("another call with this token is under way", busy=True)
        redeemed = Redeemed(held, state)
        tries = await self._state.count(_TRIES, transaction.id, by=1, expires=transaction.expires, now=asked.now)
        if tries > self._transactions.spec.max_attempts:
            await self.end(redeemed, "too many attempts", asked.now)
            return Unusable("refused by the upstream too often")
        return redeemed

    async def consume(self, redeemed: Redeemed, now: float) -> bool:
        """Use it up. False: it was used, or ended, meanwhile; then nothing of the answer may leave."""
        try:
            await self._transactions.save(move(redeemed.found.transaction, Event.REISSUED), redeemed.found.version, now)
        except Conflict:
            return False
        return True

    async def let_go(self, redeemed: Redeemed) -> None:
        """It is not used up: it may be tried again."""
        await self._state.delete(_SENDING, redeemed.found.transaction.id)

    async def untried(self, redeemed: Redeemed, now: float) -> None:
        """The upstream has not refused it, but asks for patience."""
        transaction = redeemed.found.transaction
        await self._state.count(_TRIES, transaction.id, by=-1, expires=transaction.expires, now=now)

    async def more(self, redeemed: Redeemed, judged: Judged, decision: StepUp, now: float) -> Transaction | None:
        """The rules, run again, ask for one more step: once. Or they still ask for one from which the browser came back without having
        done what it is for: then it may go again, as often as other steps may be tried. None: it is over."""
        transaction, functions = redeemed.found.transaction, judged.facts.functions
        more = None if decision.login else reopen(transaction, decision.asked)
        if more is not None and any(task.attempts >= self._transactions.spec.max_attempts for task in more.tasks if task.passed is None):
            await self.end(redeemed, "came back too often without it being done", now)
            return None
        if more is None and not decision.login:
            # What functions were told, and came to, holds at the next call.
            run = kept(functions, judged.identified.subject) or transaction.run
            jti = (functions.jti if functions is not None else "") or transaction.jti
            more = ask_more(replace(transaction, run=run, jti=jti), decision.asked)
        if more is None:
            await self.end(redeemed, "the rules keep asking", now)
            return None
        try:
            await self._transactions.prolong(more, redeemed.found.version, None, now)
        except Conflict:
            return None
        await self.let_go(redeemed)
        return more

    async def end(self, redeemed: Redeemed, reason: str, now: float) -> None:
        """It is over: refused."""
        try:
            await self._transactions.save(move(redeemed.found.transaction, Event.REFUSED, reason=reason), redeemed.found.version, now)
        except Conflict:
            return

    async def _named(self, asked: Asked, call: Call, upstream: str) -> tuple[Found, str] | Unusable:
        try:
            claims: Mapping[str, Any] = verify(
                TokenKind.CONTINUE, call.token or "", keyring=self._keyring(), now=asked.now, issuer=asked.head.origin, audience=upstream
            )
        except TokenInvalid as error:
            return Unusable(str(error))
        state = claims.get("state")
        if not isinstance(state, str) or not _STATE.fullmatch(state):
            return Unusable("it names no state")
        found = await self._transactions.load(transaction_id(state), asked.now)
        if found is None:
            return Unusable("the transaction is long over")
        transaction = found.transaction
        if transaction.grant is None or (claims.get("jti"), claims.get("sub")) != (transaction.jti, transaction.subject.id):
            return Unusable("the token is of no such transaction")
        return found, state

    def _authorization(self, call: Call) -> str:
        return self._transactions.binding("authorization:" + call.authorization) if call.authorization else ""

    def _authorized(self, grant: Grant, value: str) -> bool:
        return not grant.authorization or grant.authorization in self._transactions.bindings("authorization:" + value)

    def _mac(self, purpose: str, data: bytes) -> str:
        return base64.urlsafe_b64encode(self._vault.mac(purpose, data)).rstrip(b"=").decode("ascii")

    def _same(self, call: bytes, mac: str) -> bool:
        return mac in {base64.urlsafe_b64encode(m).rstrip(b"=").decode("ascii") for m in self._vault.macs(_CALL, call)}


def with_grant(transaction: Transaction, **changes: Any) -> Transaction:
    """The transaction with parts of its grant changed."""
    assert transaction.grant is not None  # noqa: S101 - the caller has looked
    return replace(transaction, grant=replace(transaction.grant, **changes))
