"""Uses a ticket: the stored request takes the place of the GET that brought it, so that the app's relative links and reloads are right.

The ticket is what consumes the transaction, by one conditional write, durable before the first byte goes upstream. From then on the
request is sent at most once: on a fresh connection, never retried, and not given up when the client goes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

from aiohttp import web

from gateway.errors import Conflict, GatewayError, StoreUnavailable
from gateway.flow.asked import Asked
from gateway.flow.codec import StoredRequest
from gateway.flow.functions import tell
from gateway.flow.gate import Gate, Judged
from gateway.flow.identity import Identified, SessionSource
from gateway.flow.ports import AuditEvent
from gateway.flow.repository import TICKET_PARAMETER, Transactions
from gateway.flow.rerun import rerun, stored_head
from gateway.flow.trail import Trail, shown_path
from gateway.flow.transaction import Event, Status, Transaction, move
from gateway.flow.visit import Closed, Door, Visit
from gateway.lanes.answers import Answers
from gateway.lanes.relay import Relay
from gateway.lanes.upstream import UpstreamConnection
from gateway.policy.decision import Allow
from gateway.wire.cookies import parse_cookies
from gateway.wire.head import RequestHead
from gateway.wire.target import without_parameter

Ended = Callable[[Asked, Transaction], web.Response]
ClosedPage = Callable[[Asked, Closed], web.Response]


class Tickets:
    """May raise StoreUnavailable and UpstreamFault; both before anything was sent leave the transaction READY."""

    def __init__(
        self, *, transactions: Transactions, door: Door, gate: Gate, relay: Relay, answers: Answers, trail: Trail, ended: Ended,
        closed: ClosedPage, clock: Callable[[], float], condition_limit: int,
    ) -> None:  # fmt: skip
        self._transactions = transactions
        self._door = door
        self._gate = gate
        self._relay = relay
        self._answers = answers
        self._trail = trail
        self._ended = ended
        self._closed = closed
        self._clock = clock
        self._condition_limit = condition_limit
        self._running: set[asyncio.Task[web.StreamResponse]] = set()

    async def use(self, request: web.BaseRequest, asked: Asked, tickets: list[str]) -> web.StreamResponse:
        """Answer a request whose query carries `stepup_resume`."""
        id_ = self._transactions.read_ticket(tickets[0]) if len(tickets) == 1 else None
        if id_ is None:
            return self._closed(asked, Closed("unknown", "no ticket of ours"))
        visit = await self._door.enter(asked, id_)
        if isinstance(visit, Closed):
            return self._closed(asked, visit)
        transaction = visit.found.transaction
        if asked.head.method != "GET" or without_parameter(asked.head.target.raw, TICKET_PARAMETER) != transaction.target:
            self._note(asked, "bad_request", "a ticket for another address, or not by GET")
            return self._answers.refusal(asked, "bad_request", detail="The ticket belongs to another address.")
        if transaction.status is not Status.READY or not transaction.ticketed:
            if not transaction.open:
                return self._ended(asked, transaction)
            self._note(asked, "expired", "a ticket, and its transaction awaits none")
            return self._answers.refusal(asked, "expired", about=transaction, href="/")
        stored = await self._transactions.request(id_, asked.now)
        if stored is None:
            self._note(asked, "expired", "its request is not stored any more")
            return self._answers.refusal(asked, "expired", href=transaction.page, about=transaction)
        return await self._resume(request, asked, visit, stored)

    def _note(self, asked: Asked, kind: str, reason: str) -> None:
        self._trail.event("refused", request_id=asked.request_id, kind=kind, reason=reason)

    async def _resume(self, request: web.BaseRequest, asked: Asked, visit: Visit, stored: StoredRequest) -> web.StreamResponse:
        transaction, identified = visit.found.transaction, visit.identified
        judged = await rerun(self._gate, transaction, stored, identified, asked.head, asked.now, limit=self._condition_limit)
        await tell(self._trail, asked, judged.facts.functions, judged.identified.subject)
        decision = judged.decision
        moved = judged.route is None or judged.route.upstream != transaction.upstream
        if not isinstance(decision, Allow) or moved:
            # Between /continue and here a rule, a route, the pass or the clock changed. Nothing was sent, nothing is used up.
            reason = "another upstream now" if moved else type(decision).__name__
            self._note(asked, "denied", f"at the ticket: {reason}")
            return self._answers.refusal(
                asked, "denied", message="This request is not allowed any more.", href=transaction.page, about=transaction
            )
        head = self._as_stored(transaction, stored, asked.head, identified, self._relay.source(judged))
        if head is None:
            return self._closed(
                asked, Closed("session_changed", "an app session that nothing vouches for changed", transaction=transaction)
            )
        self._trail.decision(
            request_id=asked.request_id, method=transaction.method, path=shown_path(transaction.target.partition(b"?")[0]),
            upstream=transaction.upstream, decision="allow", rules=decision.rules, reason="ticket", subject=identified.subject.id,
        )  # fmt: skip
        pool = self._relay.pool(transaction.upstream)
        connection = await pool.acquire(fresh=True)
        sending = move(transaction, Event.CONSUMED, since=asked.now)
        try:
            version = await self._transactions.save(sending, visit.found.version, asked.now)
        except Conflict:
            pool.release(connection)
            found = await self._transactions.load(transaction.id, asked.now)
            return self._ended(asked, found.transaction if found and not found.transaction.open else sending)
        except BaseException:
            pool.release(connection)
            raise
        # A task of its own: the client's disconnect cancels the handler, never the sending.
        task = asyncio.create_task(self._send(request, asked, head, judged, stored.body, connection, sending, version, decision.steps))
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return await asyncio.shield(task)

    async def _send(
        self, request: web.BaseRequest, asked: Asked, head: RequestHead, judged: Judged, body: bytes, connection: UpstreamConnection,
        sending: Transaction, version: int, steps: tuple[str, ...],
    ) -> web.StreamResponse:  # fmt: skip
        reason, closed = "internal error", False

        async def answered() -> None:
            # Before the client learns of it: who saw the answer never meets a page that doubts it, not even after kill -9.
            nonlocal closed
            closed = True
            await self._close(asked, sending, version, Event.ANSWERED, "")

        try:
            return await self._relay.replay(request, asked, head, judged, body, connection, steps=steps, answered=answered)
        except GatewayError as error:
            reason = str(error)
            self._trail.event(
                "upstream fault", request_id=asked.request_id, upstream=sending.upstream, kind=type(error).__name__, reason=reason
            )
            return self._ended(asked, move(sending, Event.BROKEN_OFF))
        finally:
            if not closed:
                await self._close(asked, sending, version, Event.BROKEN_OFF, reason)

    async def _close(self, asked: Asked, sending: Transaction, version: int, event: Event, reason: str) -> None:
        """Write what became of it. Where that cannot be written, the clock makes it UNKNOWN: never READY again."""
        now = self._clock()
        try:
            await self._transactions.save(move(sending, event, reason=reason), version, now)
        except (StoreUnavailable, Conflict) as error:
            self._trail.event("outcome not stored", request_id=asked.request_id, transaction=sending.id, reason=str(error))
        outcome = "resumed" if event is Event.ANSWERED else "unknown"
        self._trail.event("transaction", request_id=asked.request_id, outcome=outcome, transaction=sending.id)
        await self._trail.audit(
            AuditEvent(
                at=now, event="resume", request_id=asked.request_id, subject=sending.subject.id, rule=",".join(sending.rules),
                outcome=outcome, address=asked.head.client_ip, detail={"transaction": sending.id, **({"reason": reason} if reason else {})},
            )
        )  # fmt: skip

    def _as_stored(
        self, transaction: Transaction, stored: StoredRequest, now_at: RequestHead, identified: Identified, source: SessionSource | None
    ) -> RequestHead | None:
        """The stored request's own headers and cookies. Only a session that the pass vouches for has the value of now: a rotation that the
        pass has seen, or the login that the transaction waited for, has made the old one worthless. None: it is another session now."""
        head = stored_head(stored, now_at)
        if source is None:
            return head
        names = source.cookie_names
        current = [(n, v) for n, v in parse_cookies(now_at) if n in names and n not in identified.strip]
        before = [(n, v) for n, v in parse_cookies(head) if n in names]
        if not transaction.session and not transaction.late_subject:
            # Nothing vouched for what was suspended: it goes with the session that it came with, or with none.
            if not source.strips and before and current != before:
                return None
            current = [] if source.strips else before
        if current == before:
            return head
        kept = [(n, v) for n, v in parse_cookies(head) if n not in names]
        cookie = "; ".join(f"{n}={v}" for n, v in (*kept, *current)).encode("latin-1")
        others = tuple((n, v) for n, v in head.headers if n.lower() != b"cookie")
        return replace(head, headers=(*others, (b"Cookie", cookie)) if cookie else others)

    async def drain(self) -> None:
        """Wait for what is being sent."""
        if self._running:
            await asyncio.gather(*self._running, return_exceptions=True)
