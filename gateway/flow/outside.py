"""Transactions that are a part of somebody else's: they begin on that party's token or redirect, and end at its continue URL.

What comes in is verified before anything is done about it; where the user goes is taken from the configuration, or from what the upstream
itself said, and never from a parameter. The answer is one signed token. A refusal is never signed, so that nobody can take it for a yes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal
from urllib.parse import quote

from gateway.errors import TokenInvalid
from gateway.flow.issuer import authentication
from gateway.flow.ports import Entropy, PublishedKeys
from gateway.flow.repository import TooMany, Transactions, transaction_id
from gateway.flow.transaction import Outside, Task, Transaction
from gateway.policy.decision import MaxAge
from gateway.policy.model import StepInfo
from gateway.tokens.foreign import SharedSecret, key_named, read_foreign, sign_shared
from gateway.tokens.keys import Keyring
from gateway.tokens.signer import sign_plain
from gateway.wire.head import RequestHead
from gateway.wire.subject import Proof, Scalar, Subject

LONGEST_LIFE: Final = 86_400.0
"""Seconds that a token of others may be good for: so long its `jti` is remembered."""
LONGEST_NAME: Final = 512
"""Characters of a `sub` or `jti` of others."""
LONGEST_STATE: Final = 4096
"""Characters of a state of others."""

Direction = Literal["begin", "intercept"]


@dataclass(frozen=True, slots=True)
class Told:
    """What a party's token says. claims: all of it. expires: seconds since the epoch."""

    subject: str
    jti: str
    expires: float
    claims: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Reader:
    """How a party's tokens are verified. Exactly one of secret and keys. subject: the claim that holds the user's id."""

    issuer: str
    audience: str
    secret: SharedSecret | None
    keys: PublishedKeys | None
    subject: str = "sub"

    async def read(self, token: str, now: float) -> Told:
        """Raises TokenInvalid, whose text is for the log, and StoreUnavailable where the party's keys cannot be had."""
        kid = key_named(token)
        key = self.secret if self.keys is None else await self.keys.key(kid, now)
        if key is None:
            raise TokenInvalid(f"no key {kid[:64]!r} is published")
        claims = read_foreign(token, key, now=now, issuer=self.issuer, audience=self.audience)
        expires = float(claims["exp"])
        if expires > now + LONGEST_LIFE:
            raise TokenInvalid("good for more than a day")
        return Told(_text(claims, self.subject), _text(claims, "jti"), expires, claims)


@dataclass(frozen=True, slots=True)
class Writer:
    """How our answers to a party are signed. issuer: "" for the transaction's own origin. secret: None for our own key. ttl: seconds."""

    issuer: str
    audience: str
    secret: SharedSecret | None
    ttl: float


@dataclass(frozen=True, slots=True)
class Entry:
    """One of `begin:`. continue_urls: the first is the usual one. claims: of the subject, each from the token's claim."""

    name: str
    reader: Reader
    writer: Writer
    continue_urls: tuple[str, ...]
    steps: tuple[str, ...]
    method: Literal["post", "query"]
    state_parameter: str
    token_parameter: str
    answer_parameter: str
    claims: Mapping[str, str]
    next_origins: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Resumption:
    """What an `intercept` rule does with a redirect. incoming: the parameter with the upstream's token, and how that is verified."""

    rule: str
    url: str
    state_parameter: str
    token_parameter: str
    method: Literal["post", "query"]
    writer: Writer
    incoming: tuple[str, Reader] | None
    next_origins: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Parties:
    """Everybody outside, by name of the `begin` entry and of the `intercept` rule."""

    entries: Mapping[str, Entry] = field(default_factory=dict)
    resumptions: Mapping[str, Resumption] = field(default_factory=dict)

    @property
    def issuers(self) -> frozenset[str]:
        """What `iss` our answers to them have, beside the public origins."""
        writers = [*(e.writer for e in self.entries.values()), *(r.writer for r in self.resumptions.values())]
        return frozenset(writer.issuer for writer in writers if writer.issuer)

    def writer(self, outside: Outside) -> Writer | None:
        """None where a reload took the party away."""
        direction, _, name = outside.entry.partition(":")
        party = self.entries.get(name) if direction == "begin" else self.resumptions.get(name)
        return party.writer if party is not None else None


@dataclass(frozen=True, slots=True)
class Sending:
    """The browser's way on: this URL with these parameters, by a form that sends itself or in the query. next_origins: where that URL
    redirects to."""

    url: str
    fields: tuple[tuple[str, str], ...]
    method: Literal["post", "query"]
    next_origins: tuple[str, ...] = ()

    @property
    def address(self) -> str:
        """The URL with the parameters in its query."""
        return self.url + "?" + "&".join(f"{quote(name, safe='')}={quote(value, safe='')}" for name, value in self.fields)


@dataclass(frozen=True, slots=True)
class Opened:
    transaction: Transaction
    state: str


class Outsiders:
    """Opens such transactions and makes the answers. May raise StoreUnavailable."""

    def __init__(
        self, *, transactions: Transactions, entropy: Entropy, parties: Callable[[], Parties], keyring: Callable[[], Keyring],
        steps: Callable[[], Mapping[str, StepInfo]],
    ) -> None:  # fmt: skip
        self._transactions = transactions
        self._entropy = entropy
        self._parties = parties
        self._keyring = keyring
        self._steps = steps

    @property
    def parties(self) -> Parties:
        return self._parties()

    def new_jti(self) -> str:
        return self._entropy.token()

    async def open(
        self, head: RequestHead, outside: Outside, asked: tuple[tuple[str, MaxAge], ...], *, browser: str, subject: Subject, upstream: str,
        rule: str, script: bool, now: float, session: str = "", holder: str = "", awaits_login: bool = False, page: str = "/",
    ) -> Opened | TooMany:  # fmt: skip
        """A new transaction for a party. asked: steps and how old their proof may be. browser: the secret that binds it. session, holder:
        of whoever is logged in at the upstream. rule: what asks. page: where the user came from."""
        state = self._transactions.new_state()
        transaction = Transaction(
            id=transaction_id(state),
            origin=head.origin,
            upstream=upstream,
            binding=self._transactions.binding(browser),
            method="GET",
            target=head.target.raw.partition(b"?")[0],  # the query holds the party's token
            kind="script" if script else "navigation",
            replay="off",
            created=now,
            expires=now + self._transactions.waits([step for step, _ in asked]),
            address=head.client_ip,
            rules=(rule,),
            tasks=tuple(Task(step, max_age, (rule,)) for step, max_age in asked),
            subject=subject,
            awaits_login=awaits_login,
            late_subject=awaits_login,
            session=session,
            holder=holder,
            page=page,
            jti=outside.jti,
            outside=outside,
        )
        refused = await self._transactions.open(transaction, None, now)
        return refused if refused is not None else Opened(transaction, state)

    def answer(self, transaction: Transaction) -> Sending | None:
        """Our answer to the party of a transaction whose `outside.answered` is set: the same whenever it is made. None where the party is
        not configured any more."""
        outside = transaction.outside
        assert outside is not None  # noqa: S101 - the caller has looked
        proofs = {p.step: p for p in outside.proved} | transaction.proofs
        return self.sign(outside, proofs, origin=transaction.origin, results=transaction.claims)

    def sign(self, outside: Outside, proofs: Mapping[str, Proof], *, origin: str, results: Mapping[str, Scalar]) -> Sending | None:
        """The answer, with what was proved for it."""
        writer = self.parties.writer(outside)
        if writer is None:
            return None
        claims = {
            "iss": writer.issuer or origin,
            "aud": writer.audience,
            "sub": outside.subject,
            "jti": outside.jti,
            "state": outside.state,
            **authentication(proofs, self._steps()),
            "results": dict(results),
        }
        if writer.secret is not None:
            token = sign_shared(claims, writer.secret, now=outside.answered, ttl=writer.ttl)
        else:
            token = sign_plain(claims, keyring=self._keyring(), now=outside.answered, ttl=writer.ttl)
        fields = ((outside.state_parameter, outside.state), (outside.token_parameter, token))
        return Sending(outside.url, fields, outside.method, outside.next_origins)

    def lives(self, outside: Outside, now: float) -> bool:
        """The answer that was made may be sent once more: whoever gets it takes its `jti` once."""
        writer = self.parties.writer(outside)
        return writer is not None and 0.0 < outside.answered <= now < outside.answered + writer.ttl

    # -- a party's token at `begin`, found again by the browser that showed it ------------------------------------------------------

    async def remember(self, entry: str, key: str, opened: Opened, now: float) -> None:
        await self._transactions.remember("asked", _place(entry, key, opened.transaction.binding), opened.state,
                                          expires=opened.transaction.expires + self._transactions.spec.tombstone, now=now)  # fmt: skip

    async def recall(self, entry: str, key: str, secrets: tuple[str, ...], now: float) -> str | None:
        """The state of the transaction that this browser opened with that token."""
        for secret in secrets:
            for binding in self._transactions.bindings(secret):
                state = await self._transactions.recall("asked", _place(entry, key, binding), now)
                if state is not None:
                    return state
        return None


def _place(entry: str, key: str, binding: str) -> str:
    return hashlib.sha256(json.dumps(["begin", entry, key, binding]).encode()).hexdigest()[:40]


def answered(transaction: Transaction, now: float) -> Transaction:
    """The transaction with the time of its answer, whole seconds."""
    assert transaction.outside is not None  # noqa: S101 - the caller has looked
    return replace(transaction, outside=replace(transaction.outside, answered=float(int(now))))


def refusal(outside: Outside, words: str) -> Sending:
    """The way back without an answer: their state, and an error in OAuth's words (RFC 6749 §4.1.2.1), unsigned on purpose. Always by query:
    it holds nothing that must not be seen."""
    fields = ((outside.state_parameter, outside.state), ("error", "access_denied"), ("error_description", words))
    return Sending(outside.url, fields, "query")


_WORDS: Final = {
    "cancelled": "cancelled by the user", "declined": "declined by the user", "authorize_again": "the user has to sign in again",
}  # fmt: skip


def way_back(transaction: Transaction) -> str:
    """Where somebody goes who does not go through with it: to where they came from, or back to the party outside, with an error."""
    outside = transaction.outside
    if outside is None:
        return transaction.page
    words = _WORDS.get(transaction.reason, transaction.reason)
    return refusal(outside, words or f"this transaction is {transaction.status.value}").address


def subject_of(entry: Entry, told: Told) -> Subject:
    """Whom a `begin` token is about; what is not a plain value is no claim."""
    found: dict[str, Scalar] = {}
    for name, source in entry.claims.items():
        value = told.claims.get(source)
        found[name] = value if isinstance(value, str | int | float | bool) else None
    return Subject(told.subject, found, f"begin:{entry.name}")


def _text(claims: Mapping[str, Any], name: str) -> str:
    value = claims.get(name)
    if not isinstance(value, str) or not value or len(value) > LONGEST_NAME or not value.isprintable():
        raise TokenInvalid(f"{name} is missing, or no text of 1 to {LONGEST_NAME} characters")
    return value
