"""Opens the door of a transaction: known, this browser's, this person's, this session's. Every way in goes through here.

The order matters: an unknown state and another browser's are told apart only after both were counted against the address.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from gateway.errors import Conflict
from gateway.flow.asked import Asked
from gateway.flow.browser import browser_for, holds, known_browser
from gateway.flow.gate import Gate
from gateway.flow.guessing import Guessing, Throttled
from gateway.flow.identity import Identified
from gateway.flow.ports import Entropy
from gateway.flow.redeem import with_grant
from gateway.flow.repository import Found, Transactions
from gateway.flow.transaction import Event, Grant, Status, Transaction, move
from gateway.wire.head import RequestHead
from gateway.wire.media import navigation

Wrong = Literal["unknown", "not_yours", "throttled", "subject_changed", "session_changed"]


@dataclass(frozen=True, slots=True)
class Closed:
    """No way in. transaction: only where it is this browser's."""

    kind: Wrong
    private: str
    retry_after: int | None = None
    transaction: Transaction | None = None


@dataclass(frozen=True, slots=True)
class Visit:
    """A transaction of this browser, and who is looking at it now. needs_login: a subject is still awaited.

    client: it is the client of a token endpoint that looks, not the browser that was sent to do its steps. cookie: a Set-Cookie value for
    the browser that has just claimed it.
    """

    found: Found
    identified: Identified
    needs_login: bool = False
    client: bool = False
    cookie: bytes | None = None


class Door:
    """May raise StoreUnavailable."""

    def __init__(self, transactions: Transactions, guessing: Guessing, gate: Gate, entropy: Entropy) -> None:
        self._transactions = transactions
        self._guessing = guessing
        self._gate = gate
        self._entropy = entropy

    async def enter(self, asked: Asked, id_: str, *, own_page: bool = False, identified: Identified | None = None) -> Visit | Closed:
        """The transaction, if this request may touch it. One that has ended is shown to its browser whoever is logged in now.

        own_page: the request is for a page of ours, where the application's cookie may be missing because of its `Path`. identified: who
        asks, where that was worked out when the request came: its answer may have ended their pass.
        """
        found = await self._transactions.load(id_, asked.now)
        if found is not None and found.transaction.grant is not None and found.transaction.origin == asked.head.origin:
            return await self._at_grant(found, found.transaction.grant, asked)
        secrets = known_browser(asked.head)
        bindings = [b for s in secrets for b in self._transactions.bindings(s)]
        if found is None or not holds(bindings, found.transaction.binding) or found.transaction.origin != asked.head.origin:
            if found is None:
                return await self._foreign(asked, Closed("unknown", "no such transaction"))
            return await self._foreign(
                asked, Closed("not_yours", "no cookie came along" if not secrets else "another browser's transaction")
            )
        transaction = found.transaction
        if transaction.outside is not None and transaction.outside.told:
            return Visit(found, Identified())  # its subject stands in the token that began it: who is logged in here is of no account
        identified = identified or await self._gate.identify(asked.head, transaction.upstream, asked.now, own_page=own_page)
        if not transaction.open:
            return Visit(found, identified)
        self._gate.rely(identified, asked.now)
        if transaction.awaits_login:
            if not identified.subject.known:
                return Visit(found, identified, needs_login=True)
            return await self._claim(found, identified, asked, own_page=own_page)
        mine = transaction.subject
        if (identified.subject.id, identified.subject.source) != (mine.id, mine.source):
            # Who has logged out is nobody now, not somebody else.
            kind: Wrong = "subject_changed" if identified.subject.known else "session_changed"
            return Closed(kind, f"began as {mine.id or 'nobody'!r}, now {identified.subject.id or 'nobody'!r}", transaction=transaction)
        if transaction.session and not _same_session(transaction, identified):
            return Closed("session_changed", "the app session is another one now", transaction=transaction)
        return Visit(found, identified)

    async def repeated(self, asked: Asked, head: RequestHead, upstream: str, identified: Identified) -> Visit | None:
        """The transaction of a request that is not stored, which its client makes once more: it has been through its steps, and what was
        proved there counts once (`take`). The pass names it. head: of the request; identified: who asks."""
        presented = identified.presented
        found = await self._transactions.load(presented.grant, asked.now) if presented is not None and presented.grant else None
        if found is None:
            return None
        transaction = found.transaction
        same = (head.method, head.target.raw, head.origin) == (transaction.method, transaction.target, transaction.origin)
        if not same or transaction.upstream != upstream or transaction.status is not Status.READY or transaction.ticketed:
            return None
        visit = await self.enter(asked, transaction.id, identified=identified)
        return None if isinstance(visit, Closed) or visit.found.version != found.version else visit

    async def take(self, visit: Visit, now: float) -> bool:
        """Use up what `repeated` found. False: somebody else was first."""
        try:
            await self._transactions.save(move(visit.found.transaction, Event.REISSUED), visit.found.version, now)
        except Conflict:
            return False
        return True

    async def _at_grant(self, found: Found, grant: Grant, asked: Asked) -> Visit | Closed:
        """A call of a token endpoint waits here (docs/decisions/0050). Its client knows the state, and shows the Authorization value that
        it had sent; beside it one browser may look: the first that opens the page. Neither a pass nor a session plays a part."""
        head, who = asked.head, Identified(subject=found.transaction.subject)
        shown = self._transactions.bindings("authorization:" + (head.get("authorization") or ""))
        page = navigation(head) in ("navigation", "frame")
        if not page and (not grant.authorization or grant.authorization in shown):
            return Visit(found, who, client=True)
        cookies = [b for s in known_browser(head) if s.startswith("cookie:") for b in self._transactions.bindings(s)]
        if grant.claimed and holds(cookies, grant.claimed):
            return Visit(found, who)
        if grant.claimed or navigation(head) != "navigation" or head.method != "GET" or not found.transaction.open:
            return await self._foreign(asked, Closed("not_yours", "neither the client nor the browser that opened it first"))
        browser = browser_for(head, self._entropy.token(), script=False)
        claimed = with_grant(found.transaction, claimed=self._transactions.binding(browser.secret))
        try:
            version = await self._transactions.save(claimed, found.version, asked.now)
        except Conflict:
            return await self.enter(asked, found.transaction.id)
        return Visit(Found(claimed, version), who, cookie=browser.set_cookie)

    async def _foreign(self, asked: Asked, closed: Closed) -> Closed:
        """No way in, after it was counted against the address."""
        throttled = await self._guessing.foreign(asked.head.client_ip, asked.now)
        if isinstance(throttled, Throttled):
            return Closed("throttled", "too many foreign states from this address", throttled.retry_after)
        return closed

    async def _claim(self, found: Found, identified: Identified, asked: Asked, *, own_page: bool) -> Visit | Closed:
        """Somebody logged in: the transaction is theirs from now on."""
        bound = replace(
            found.transaction, awaits_login=False, subject=identified.subject, session=identified.session, holder=holder_of(identified)
        )
        try:
            version = await self._transactions.save(bound, found.version, asked.now)
        except Conflict:
            return await self.enter(asked, bound.id, own_page=own_page)
        return Visit(Found(bound, version), identified)


def holder_of(identified: Identified) -> str:
    """The pass that speaks for somebody's session: its sid is kept over every rotation of the session, and is new at every login."""
    return identified.holder.sid if identified.holder is not None and identified.subject.known and identified.session else ""


def _same_session(transaction: Transaction, identified: Identified) -> bool:
    """The session of now is the one of then, or its successor by rotations that the pass has seen."""
    if identified.session == transaction.session or (transaction.holder and holder_of(identified) == transaction.holder):
        return True
    past = {v.digest for v in identified.holder.sessions} if identified.holder and identified.session else set()
    return bool(past) and set(transaction.session.split("+")) <= past


ENDED: dict[Status, str] = {
    Status.SENDING: "sending",
    Status.DONE: "already_sent",
    Status.FAILED: "failed",
    Status.EXPIRED: "expired",
    Status.UNKNOWN: "unknown_outcome",
}
"""Which text an ended transaction's page has."""
