"""`/continue`: the rules run again, the pass is reissued, and the way back to the original request is opened.

Only READY resumes; PENDING goes back to its step. For another method than GET (or a step asked `once`) the way back carries a one-use
ticket, and it is the ticket that consumes the transaction.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import assert_never

from aiohttp import web

from gateway.errors import BodyTooLarge, Conflict, TokenInvalid
from gateway.flow.asked import Asked
from gateway.flow.cookies import PassCookies
from gateway.flow.functions import kept, tell
from gateway.flow.gate import Gate
from gateway.flow.issuer import Issuer
from gateway.flow.ports import AuditEvent
from gateway.flow.protocol import Endpoints, protocol_of
from gateway.flow.repository import STATE, STATE_PREFIX, TICKET_PARAMETER, Found, Transactions, transaction_id
from gateway.flow.rerun import enriched, rerun, stored_head
from gateway.flow.trail import Trail, shown_path
from gateway.flow.transaction import Event, Status, Transaction, ask_more, move, reopen
from gateway.flow.visit import Closed, Door, Visit
from gateway.policy.decision import Allow, Deny, Need, StepUp
from gateway.tokens.keys import Keyring
from gateway.tokens.signer import TokenKind, verify
from gateway.web.answers import WebAnswers, response, wants_page
from gateway.web.arrival import Arrivals
from gateway.web.csp import common_headers
from gateway.web.outside import OutsidePages
from gateway.web.page import Page
from gateway.web.parameters import Given, read_parameters
from gateway.web.problem import problem
from gateway.web.transaction import ReadBody, TransactionPages
from gateway.wire.media import navigation
from gateway.wire.target import with_parameter

NO_STATE = "invalid_request: the state parameter is missing. Send back the original state that you received."


class Resume:
    def __init__(
        self, *, arrivals: Arrivals, transactions: Transactions, door: Door, gate: Gate, pages: TransactionPages, answers: WebAnswers,
        issuer: Issuer, keyring: Callable[[], Keyring], passes: PassCookies, trail: Trail, read_body: ReadBody, answer_limit: int,
        condition_limit: int, outside: OutsidePages, leads_away: Callable[[Transaction], bool],
        endpoints: Callable[[str], Endpoints | None],
    ) -> None:  # fmt: skip
        self._arrivals = arrivals
        self._outside = outside
        self._leads_away = leads_away
        self._endpoints = endpoints
        self._transactions = transactions
        self._door = door
        self._gate = gate
        self._pages = pages
        self._answers = answers
        self._issuer = issuer
        self._keyring = keyring
        self._passes = passes
        self._trail = trail
        self._read_body = read_body
        self._answer_limit = answer_limit
        self._condition_limit = condition_limit

    async def handle(self, request: web.BaseRequest, asked: Asked) -> web.Response:
        """GET or POST with `state`, and optionally the continue token. May raise StoreUnavailable and ClientGone."""
        if request.method not in ("GET", "POST") or navigation(asked.head) == "subresource":
            # HEAD, a prefetch, an image: nobody looks at the answer, and what it would use up is used up once.
            return self._pages.wrong_method(asked, "GET", "POST")
        given = await self._parameters(request, asked)
        if isinstance(given, web.Response):
            return given
        states, tokens = given.all("state"), given.all("token")
        if not states and (handles := given.all("h")):
            return await self._arrivals.fetch(asked, handles, self._ready)
        if (outside := given.state()) and STATE.fullmatch(outside):
            where = await self._arrivals.whereabouts(outside, asked.now)
            if where is not None:
                return await self._arrivals.take(asked, outside, where, given, self._ready)
        if len(states) != 1:
            words = NO_STATE if not states else "invalid_request: the state parameter is given more than once."
            self._trail.event("refused", request_id=asked.request_id, kind="bad_request", reason=f"{len(states)} states at /continue")
            return self._answers.refusal(asked, "bad_request", detail=words, error="invalid_request")
        state = states[0]
        if not state.startswith(STATE_PREFIX):
            words = "invalid_request: this state is not one of ours. Send back the original state that you received."
            self._trail.event("refused", request_id=asked.request_id, kind="bad_request", reason="a state that is none of ours")
            return self._answers.refusal(asked, "bad_request", detail=words, error="invalid_request")
        if not STATE.fullmatch(state):
            return self._pages.closed(asked, Closed("unknown", "not a state"))
        visit = await self._door.enter(asked, transaction_id(state), own_page=True)
        if isinstance(visit, Closed):
            return await self._pages.turned_away(asked, visit)
        transaction = visit.found.transaction
        if transaction.outside is not None and transaction.status is not Status.PENDING:
            return await self._outside.resume(asked, state, visit)
        if transaction.grant is not None:  # nothing is resumed: its client repeats its call
            return await self._pages.visited(asked, state, visit)
        if tokens and (wrong := self._wrong_token(tokens, transaction, state, asked.now)):
            self._trail.event("refused", request_id=asked.request_id, kind="bad_token", reason=wrong)
            await self._pages.audit(asked, transaction, "", "refused", f"continue token: {wrong}")
            return self._answers.refusal(asked, "bad_token", href=self._answers.transaction_path(state), about=transaction)
        match transaction.status:
            case Status.READY:
                return await self._ready(asked, state, visit)
            case Status.PENDING:
                return self._back_to_step(asked, state)
            case _:
                return self._pages.ended(asked, transaction, state=state, status=410 if transaction.reason == "authorize_again" else None)

    async def _parameters(self, request: web.BaseRequest, asked: Asked) -> Given | web.Response:
        """What came in the query and in a form."""
        body = b""
        if request.method == "POST":
            try:
                body = await self._read_body(request, self._answer_limit)
            except BodyTooLarge as error:
                self._trail.event("refused", request_id=asked.request_id, kind="too_large", reason=str(error))
                return self._answers.refusal(asked, "too_large", limit=self._answer_limit)
        given = read_parameters(asked.head, body)
        if isinstance(given, Given):
            return given
        self._trail.event("refused", request_id=asked.request_id, kind="bad_request", reason=given.detail)
        return self._answers.refusal(asked, "bad_request", status=given.status, detail=given.detail, error="invalid_request")

    def _wrong_token(self, tokens: list[str], transaction: Transaction, state: str, now: float) -> str:
        """Why the continue token that came along is none of this transaction, "" if it is."""
        if len(tokens) != 1:
            return "more than one token"
        try:
            claims = verify(
                TokenKind.CONTINUE, tokens[0], keyring=self._keyring(), now=now, issuer=transaction.origin, audience=transaction.upstream
            )
        except TokenInvalid as error:
            return str(error)
        if (claims.get("state"), claims.get("jti"), claims.get("sub")) != (state, transaction.jti, transaction.subject.id):
            return "the token is another transaction's"
        return ""

    def _back_to_step(self, asked: Asked, state: str) -> web.Response:
        if wants_page(asked.head):
            return self._answers.see_other(self._answers.transaction_path(state))
        words = f"Steps are still open; see {self._answers.transaction_path(state)}"
        return response(problem(409, "step_pending", words, asked.request_id))

    async def _ready(self, asked: Asked, state: str, visit: Visit) -> web.Response:
        transaction = visit.found.transaction
        if transaction.outside is not None:  # it came back from a page of others, and goes on at the party's
            return await self._outside.resume(asked, state, visit)
        if transaction.grant is not None:
            return await self._pages.visited(asked, state, visit)
        stored = await self._transactions.request(transaction.id, asked.now)
        if stored is None:
            return self._pages.gone(asked, transaction, "its request is not stored any more")
        call = protocol_of(stored_head(stored, asked.head), self._endpoints(transaction.upstream), None)
        judged = await rerun(
            self._gate, transaction, stored, visit.identified, asked.head, asked.now, limit=self._condition_limit, call=call
        )
        functions, subject = judged.facts.functions, judged.identified.subject
        await tell(self._trail, asked, functions, subject)
        match judged.decision:
            case Allow():
                self._log(asked, transaction, "resume", judged.decision.rules, "")
                if functions is not None and not functions.earlier and _stays(transaction):
                    # What they did is done once: at the ticket, or where the client repeats its request, in a moment, it holds.
                    ran = replace(transaction, run=kept(functions, subject, at=asked.now))
                    with suppress(Conflict):  # another /continue was first: its run holds as well, and the ticket is the same
                        await self._transactions.save(ran, visit.found.version, asked.now)
                return await self._go_on(asked, state, visit)
            case StepUp():
                if (back := reopen(transaction, judged.decision.asked)) is not None:
                    self._log(asked, transaction, "step-up", judged.decision.rules, "came back, and the rules still ask")
                    return await self._still_asked(asked, state, visit, back)
                run = kept(functions, subject) or transaction.run
                jti = (functions.jti if functions is not None else "") or transaction.jti
                more = None if judged.decision.login else ask_more(replace(transaction, run=run, jti=jti), judged.decision.asked)
                self._log(asked, transaction, "step-up", judged.decision.rules, "rules run again ask for more")
                if more is None:
                    return await self._refused(
                        asked, state, visit, "The rules ask for another step, and one was added before", "rules keep asking"
                    )
                try:
                    await self._transactions.prolong(more, visit.found.version, stored, asked.now)
                except Conflict:
                    return await self._again(asked, state)
                return self._back_to_step(asked, state)
            case Deny() as deny:
                self._log(asked, transaction, "deny", (deny.rule,), deny.private)
                return await self._refused(asked, state, visit, deny.public, deny.private, status=deny.status)
            case Need():
                raise AssertionError("the gate answers every Need")
            case _:
                assert_never(judged.decision)

    async def _still_asked(self, asked: Asked, state: str, visit: Visit, back: Transaction) -> web.Response:
        """Who came back from a page without having done what it is for: told so, never sent there again by itself."""
        if any(task.attempts >= self._transactions.spec.max_attempts for task in back.tasks if task.passed is None):
            return await self._refused(asked, state, visit, "You came back too often without it being done", "came back too often")
        try:
            await self._transactions.save(back, visit.found.version, asked.now)
        except Conflict:
            return await self._again(asked, state)
        await self._pages.audit(asked, back, back.current.step if back.current else "", "refused", "came back, and the rules still ask")
        way = self._answers.transaction_path(state)
        return self._answers.refusal(asked, "still_asked", href=way, about=back, out=self._pages.out(state, back))

    async def _go_on(self, asked: Asked, state: str, visit: Visit) -> web.Response:
        transaction = visit.found.transaction
        enriched_pass = enriched(transaction, visit.identified, origin=asked.head.origin, sid=self._issuer.new_sid(), now=asked.now)
        if transaction.ticketed:
            cookies = (self._passes.issue(asked.head, enriched_pass, asked.now),)
            target = with_parameter(transaction.target, TICKET_PARAMETER, self._transactions.ticket(transaction.id))
            return self._answers.see_other(target.decode("latin-1"), cookies)
        if _stays(transaction):
            enriched_pass = enriched_pass.with_grant(transaction.id)
        else:
            try:
                await self._transactions.save(move(transaction, Event.REISSUED), visit.found.version, asked.now)
            except Conflict:
                return await self._again(asked, state)
        cookies = (self._passes.issue(asked.head, enriched_pass, asked.now),)
        if transaction.kind == "script" and not wants_page(asked.head):
            return response(Page(204, common_headers(), b""), cookies)
        if transaction.kind == "script" or transaction.replay == "off":
            # A script that opened the page in a window finds out by itself, and repeats its request.
            done = "script_done" if transaction.kind == "script" else "replay_off"
            return self._answers.refusal(asked, done, href=transaction.page, about=transaction, cookies=cookies)
        if self._leads_away(transaction) and wants_page(asked.head):
            return self._answers.onward(asked, transaction.target.decode("latin-1"), cookies)
        return self._answers.see_other(transaction.target.decode("latin-1"), cookies)

    async def _refused(
        self, asked: Asked, state: str, visit: Visit, public: str, private: str, *, status: int | None = None
    ) -> web.Response:
        """The rules say no: the transaction is over. Where another /continue was first, that one's word holds."""
        transaction = visit.found.transaction
        try:
            await self._transactions.save(move(transaction, Event.REFUSED, reason=public), visit.found.version, asked.now)
        except Conflict:
            return await self._again(asked, state)
        await self._trail.audit(
            AuditEvent(
                at=asked.now, event="transaction", request_id=asked.request_id, subject=transaction.subject.id,
                rule=",".join(transaction.rules), outcome="refused", address=asked.head.client_ip,
                detail={"transaction": transaction.id, "reason": private},
            )
        )  # fmt: skip
        return self._answers.refusal(asked, "denied", status=status, message=public, href=transaction.page, about=transaction)

    async def _again(self, asked: Asked, state: str) -> web.Response:
        """Another /continue was first: say how the transaction stands now."""
        found: Found | None = await self._transactions.load(transaction_id(state), asked.now)
        if found is None or found.transaction.open:
            return self._back_to_step(asked, state)
        return self._pages.ended(asked, found.transaction, state=state)

    def _log(self, asked: Asked, transaction: Transaction, decision: str, rules: tuple[str, ...], reason: str) -> None:
        self._trail.decision(
            request_id=asked.request_id, method=transaction.method, path=shown_path(transaction.target.partition(b"?")[0]),
            upstream=transaction.upstream, decision=decision, rules=rules, reason=reason or "redirect-callback",
            subject=transaction.subject.id,
        )  # fmt: skip


def _stays(transaction: Transaction) -> bool:
    """It is READY until its request comes: by its ticket, or, where the request itself is not stored and something was asked `once`, when
    the client repeats it."""
    return transaction.ticketed or any(task.max_age == "once" for task in transaction.tasks)
