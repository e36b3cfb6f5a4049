"""`/.stepup/t/{state}`: the interstitial of the open step, as a page or as JSON, and the answers to it.

Forms need the binding, the hidden token, and `Sec-Fetch-Site: same-origin` where the browser sends it; JSON needs the binding and its
content type, which no form can send. Every refusal leaves a way on.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from math import ceil
from typing import Any
from urllib.parse import urljoin, urlsplit

from aiohttp import web

from gateway.errors import BodyTooLarge
from gateway.flow.asked import Asked
from gateway.flow.away import sendable
from gateway.flow.identity import Identified
from gateway.flow.issuer import Issuer
from gateway.flow.outside import way_back
from gateway.flow.ports import AuditEvent
from gateway.flow.progress import Held, Look, Moved, Problem, Progress, Showing, describe
from gateway.flow.repository import STATE, Found, Transactions, transaction_id
from gateway.flow.sessions import Sessions
from gateway.flow.step import Away
from gateway.flow.trail import Trail
from gateway.flow.transaction import CONFIRM, Status, Transaction
from gateway.flow.visit import ENDED, Closed, Door, Visit
from gateway.web.answer_form import Malformed, read_answer
from gateway.web.answers import WebAnswers, origin_or_own, response, suspended, wants_page
from gateway.web.page import Page
from gateway.web.pages import TOKEN_FIELD, Trouble, Way
from gateway.web.preview import preview
from gateway.web.problem import json_page
from gateway.wire.cookies import OWN_COOKIES, names_ours, parse_cookies
from gateway.wire.head import RequestHead
from gateway.wire.media import navigation, prefers_json

NO_STEP = "a reload took its step away"

ReadBody = Callable[[web.BaseRequest, int], Awaitable[bytes]]


def app_cookies(head: RequestHead, identified: Identified) -> tuple[tuple[str, str], ...]:
    """The browser's cookies for the upstream: ours, and those that nothing vouches for, removed."""
    return tuple((n, v) for n, v in parse_cookies(head) if n not in OWN_COOKIES and n not in identified.strip)


def _standing(transaction: Transaction) -> str:
    """How it ended, for the log."""
    return f"{transaction.status.value} ({transaction.reason})" if transaction.reason else transaction.status.value


def own_origins(transaction: Transaction) -> tuple[str, ...]:
    """Where rule functions send the browser in this transaction: a form's answer may lead there."""
    parts = [urlsplit(url) for task in transaction.tasks if task.url and (url := sendable(task.url)) and "://" in url]
    return tuple(f"{p.scheme}://{p.netloc.rpartition('@')[2]}" for p in parts)


class TransactionPages:
    def __init__(
        self, *, transactions: Transactions, door: Door, progress: Progress, answers: WebAnswers, issuer: Issuer, trail: Trail,
        sessions: Sessions, read_body: ReadBody, answer_limit: int, next_origins: Callable[[str], Sequence[str]],
    ) -> None:  # fmt: skip
        self._transactions = transactions
        self._door = door
        self._progress = progress
        self._answers = answers
        self._issuer = issuer
        self._trail = trail
        self._sessions = sessions
        self._read_body = read_body
        self._answer_limit = answer_limit
        self._next_origins = next_origins

    async def handle(self, request: web.BaseRequest, asked: Asked, state: str) -> web.Response:
        """GET shows, POST answers. May raise StoreUnavailable and ClientGone."""
        if request.method not in ("GET", "HEAD", "POST"):
            return self.wrong_method(asked, "GET", "HEAD", "POST")
        if not STATE.fullmatch(state):
            return self.closed(asked, Closed("unknown", "not a state"))
        visit = await self._door.enter(asked, transaction_id(state), own_page=True)
        if isinstance(visit, Closed):
            return await self.turned_away(asked, visit)
        if request.method == "POST":
            return await self._post(request, asked, state, visit)
        if navigation(asked.head) == "subresource" and visit.found.transaction.status is Status.PENDING:
            # HEAD, a prefetch, an image: nobody looks at the page, and a code is mailed to who does.
            return self.wrong_method(asked, "GET", "POST")
        return await self.visited(asked, state, visit)

    async def visited(self, asked: Asked, state: str, visit: Visit) -> web.Response:
        """How a transaction stands, for whoever may look."""
        return await self._get(asked, state, visit, cookies=(visit.cookie,) if visit.cookie else ())

    def out(self, state: str, transaction: Transaction) -> Way:
        """How to leave a transaction whose step is at a page of others, where nobody finds a button of ours."""
        if transaction.outside is not None:
            return Way(way_back(transaction), "Cancel")
        fields = (("action", "cancel"), (TOKEN_FIELD, self._transactions.form_token(transaction.id, transaction.binding)))
        return Way(self._answers.transaction_path(state), "Cancel", "post", fields)

    async def turned_away(self, asked: Asked, closed: Closed) -> web.Response:
        """`closed`, for who came with a state that could be one: with a line in the audit trail, unless there were too many already."""
        if closed.kind != "throttled":
            about = closed.transaction
            await self._trail.audit(
                AuditEvent(
                    at=asked.now, event="transaction", request_id=asked.request_id, subject=about.subject.id if about else "",
                    outcome="refused", address=asked.head.client_ip,
                    detail={**({"transaction": about.id} if about else {}), "reason": closed.private},
                )
            )  # fmt: skip
        return self.closed(asked, closed)

    def closed(self, asked: Asked, closed: Closed) -> web.Response:
        """Why a transaction does not open, and what to do instead."""
        self._note(asked, closed.kind, closed.private)
        way = way_back(closed.transaction) if closed.transaction else "/"
        return self._answers.refusal(asked, closed.kind, retry_after=closed.retry_after, href=way, about=closed.transaction)

    def wrong_method(self, asked: Asked, *methods: str) -> web.Response:
        """methods: those that there are."""
        self._note(asked, "bad_request", f"method {asked.head.method}, as a {navigation(asked.head)}")
        return self._answers.not_allowed(asked, *methods, detail=f"Use {' or '.join(m for m in methods if m not in ('HEAD', 'OPTIONS'))}.")

    def _note(self, asked: Asked, kind: str, reason: str) -> None:
        """The private half of a refusal: a line in the log, and a count."""
        self._trail.event("refused", request_id=asked.request_id, kind=kind, reason=reason)

    def gone(self, asked: Asked, transaction: Transaction, reason: str) -> web.Response:
        """An open transaction that cannot go on, and the way to begin anew."""
        self._note(asked, "expired", reason)
        return self._answers.refusal(asked, "expired", href=transaction.page, about=transaction)

    def ended(
        self, asked: Asked, transaction: Transaction, *, state: str | None = None, status: int | None = None, cookies: Sequence[bytes] = ()
    ) -> web.Response:
        """The page of a transaction that is over: what happened, and the way on. state: where the client has shown it (not at a ticket)."""
        kind: Any = ENDED[transaction.status]
        if transaction.outside is not None:
            return self._ended_outside(asked, transaction, kind, state, status, cookies)
        if (
            transaction.grant is not None
            and wants_page(asked.head)
            and (transaction.status is Status.DONE or transaction.reason == "authorize_again")
        ):
            return self._answers.refusal(asked, "approved", about=transaction, cookies=cookies)
        way = transaction.target.decode("latin-1") if transaction.method == "GET" else transaction.page
        message, label, before = "", None, status
        if transaction.status is Status.FAILED:
            status = 410 if status is None else status
            if transaction.reason in ("cancelled", "declined"):
                kind, way = transaction.reason, transaction.page
            elif transaction.reason == "authorize_again":
                kind, way = "authorize_again", self._login_url(transaction.upstream) or "/"
                status = 200 if before is None else before
            else:
                message = transaction.reason[:1].upper() + transaction.reason[1:] + "."
        elif transaction.status is Status.DONE and transaction.kind == "script":
            kind, way, status = "script_done", transaction.page, 410 if status is None else status
        elif transaction.status is Status.DONE and transaction.method != "GET":
            way = transaction.page
        if transaction.status in (Status.SENDING, Status.UNKNOWN):
            status = 410 if transaction.status is Status.UNKNOWN else 409
        if status is None or status >= 400:
            self._note(asked, kind, f"its transaction is {_standing(transaction)}")
        if not wants_page(asked.head):
            return self._json(self._document(asked, transaction, state), status or 410, cookies)
        return self._answers.refusal(asked, kind, status=status, href=way, label=label, message=message, about=transaction, cookies=cookies)

    def _ended_outside(
        self, asked: Asked, transaction: Transaction, kind: str, state: str | None, status: int | None, cookies: Sequence[bytes]
    ) -> web.Response:
        """The way on is that of the party outside: back with an error, or to its start page where it has had our answer."""
        outside = transaction.outside
        assert outside is not None  # noqa: S101 - the caller has looked
        done = transaction.status is Status.DONE
        way = origin_or_own(asked.head, outside.url) + "/" if done else way_back(transaction)
        message = ""
        if transaction.status is Status.FAILED:
            status = 410 if status is None else status
            kind = transaction.reason if transaction.reason in ("cancelled", "declined", "authorize_again") else kind
            message = transaction.reason[:1].upper() + transaction.reason[1:] + "." if kind != transaction.reason else ""
        if status is None or status >= 400:
            self._note(asked, kind, f"its transaction is {_standing(transaction)}")
        if not wants_page(asked.head):
            return self._json(self._document(asked, transaction, state), status or 410, cookies)
        label = "Go back to " + origin_or_own(asked.head, outside.url).partition("://")[2]
        return self._answers.refusal(asked, kind, status=status, href=way, label=label, message=message, about=transaction, cookies=cookies)

    # -- GET --------------------------------------------------------------------------------------------------------

    async def _get(self, asked: Asked, state: str, visit: Visit, *, cookies: Sequence[bytes] = ()) -> web.Response:
        transaction = visit.found.transaction
        if transaction.outside is not None and transaction.status is Status.DONE and wants_page(asked.head):
            return self._answers.see_other(self._answers.continue_path(state), cookies)  # which sends the answer again while it lives
        if not transaction.open:
            return self.ended(asked, transaction, state=state, cookies=cookies)
        if navigation(asked.head) == "frame" and not prefers_json(asked.head):
            pages = self._answers.pages
            return response(
                pages.framed(
                    self._answers.shown(asked.request_id), href=self._answers.transaction_path(state), suspended=suspended(transaction)
                )
            )
        if visit.needs_login:
            return await self._to_login(asked, state, transaction)
        if transaction.status is Status.READY:
            if wants_page(asked.head):
                if transaction.grant is not None:
                    return self._answers.refusal(asked, "approved", about=transaction, cookies=cookies)
                return self._answers.see_other(self._answers.continue_path(state), cookies)
            return self._json(self._document(asked, transaction, state, evidence=visit.client), 200, cookies)
        if not self._progress.knows(transaction):
            return self.gone(asked, transaction, NO_STEP)
        found, skipped = await self._progress.skip(visit.found, asked.now)
        for step in skipped:
            await self.audit(asked, found.transaction, step, "remembered", "answered before")
        if found.transaction.status is not Status.PENDING:
            return self._onward(asked, state, Moved(found.transaction), cookies, evidence=visit.client)
        shown = await self._progress.show(found, self.look(asked, visit, state))
        return await self._showing(asked, state, shown, 200, cookies)

    async def _to_login(self, asked: Asked, state: str, transaction: Transaction) -> web.Response:
        login = self._login_url(transaction.upstream)
        if login is None:
            self._note(asked, "no_subject", "a subject is needed, and no login form is configured")
            return self._answers.refusal(asked, "no_subject", about=transaction)
        await self._transactions.remember("waiting", transaction.binding, state, expires=transaction.expires, now=asked.now)
        if wants_page(asked.head):
            return self._answers.see_other(login)
        document = self._document(asked, transaction, state)
        document["step"] = {
            "name": "login",
            "kind": "login",
            "title": "Sign in first",
            "fields": [],
            "data": {"login_url": asked.head.origin + login},
        }
        return self._json(document, 200)

    async def _showing(self, asked: Asked, state: str, shown: Showing, status: int, cookies: Sequence[bytes] = ()) -> web.Response:
        transaction, task, error = shown.transaction, shown.task, shown.error
        if shown.view is not None and shown.view.away is not None and error is None and wants_page(asked.head):
            return self._sent_away(asked, transaction, shown.view.away, cookies)
        if not wants_page(asked.head):
            document = self._document(asked, transaction, state, error)
            if shown.view is not None:
                document["step"] = {"name": task.step, "kind": self._progress.kind(task.step), **describe(shown.view)}
            else:
                document["step"] = await self._confirm_step(transaction, asked.now)
            headers = (("Retry-After", str(error.retry_after)),) if error and error.retry_after else ()
            return self._json(document, status, cookies, headers)
        page = await self._page(asked, state, shown, status)
        return response(page, cookies)

    def _sent_away(self, asked: Asked, transaction: Transaction, away: Away, cookies: Sequence[bytes]) -> web.Response:
        """To the page of others that the open step is."""
        if away.method == "get":
            return self._answers.see_other(away.url, cookies)
        origins = self._next_origins(transaction.upstream)
        return response(
            self._answers.pages.send(self._answers.shown(asked.request_id), away.url, away.fields, next_origins=origins), cookies
        )

    async def _page(self, asked: Asked, state: str, shown: Showing, status: int) -> Page:
        transaction, task, error = shown.transaction, shown.task, shown.error
        names = [t.step for t in transaction.tasks if not t.silent]
        common: dict[str, Any] = {
            "index": names.index(task.step) + 1,
            "total": len(names),
            "action": state,
            "token": self._transactions.form_token(transaction.id, transaction.binding),
            "suspended": suspended(transaction),
            "next_origins": (*self._origins(asked, transaction), *own_origins(transaction)),
        }
        pages, who = self._answers.pages, self._answers.shown(asked.request_id)
        if shown.view is None:
            stored = await self._transactions.request(transaction.id, asked.now)
            headers = {n.lower(): v.decode("latin-1") for n, v in stored.headers} if stored else {}
            foreign = headers.get(b"origin", transaction.origin) != transaction.origin
            page = pages.confirm(
                who, content_type=headers.get(b"content-type", ""), body=stored.body if stored else b"", foreign=foreign,
                came_from=headers.get(b"origin") if foreign else None, **common,
            )  # fmt: skip
            return replace(page, status=status)
        trouble = Trouble(error.code, error.message, error.field, error.retry_after, error.action, error.errors) if error else None
        common["next_origins"] = (*common["next_origins"], *shown.view.next_origins)
        return pages.step(
            who, kind=self._progress.kind(task.step), view=shown.view,
            expires_in=max(0, ceil(transaction.expires - asked.now)), trouble=trouble, status=status, **common,
        )  # fmt: skip

    def _origins(self, asked: Asked, transaction: Transaction) -> list[str]:
        """Where our form's answer may lead by redirect."""
        outside = transaction.outside
        elsewhere = [origin_or_own(asked.head, outside.url)] if outside is not None and "://" in outside.url else []
        return [*self._next_origins(transaction.upstream), *elsewhere, *(outside.next_origins if outside is not None else ())]

    async def _confirm_step(self, transaction: Transaction, now: float) -> dict[str, Any]:
        stored = await self._transactions.request(transaction.id, now)
        types = [v.decode("latin-1") for n, v in stored.headers if n.lower() == b"content-type"] if stored else []
        shown = preview(types[0] if len(types) == 1 else "", stored.body if stored else b"")
        data = {
            "method": transaction.method,
            "target": transaction.target.decode("latin-1"),
            "body_bytes": len(stored.body) if stored else 0,
            "body": {"fields": [{"name": i.name, "value": i.value} for i in shown.items], "text": shown.text, "note": shown.note},
        }
        action = {"name": "action", "type": "hidden", "label": "send", "required": True}
        return {"name": CONFIRM, "kind": CONFIRM, "title": "Look at what will be sent", "fields": [action], "data": data}

    # -- POST -------------------------------------------------------------------------------------------------------

    async def _post(self, request: web.BaseRequest, asked: Asked, state: str, visit: Visit) -> web.Response:
        transaction = visit.found.transaction
        try:
            body = await self._read_body(request, self._answer_limit)
        except BodyTooLarge as error:
            self._note(asked, "too_large", str(error))
            return self._answers.refusal(asked, "too_large", href=self._answers.transaction_path(state), limit=self._answer_limit)
        answer = read_answer(asked.head.get("content-type") or "", body)
        if isinstance(answer, Malformed):
            self._note(asked, "bad_request", answer.private)
            return self._answers.refusal(
                asked, "bad_request", status=answer.status, detail=answer.public, href=self._answers.transaction_path(state)
            )  # fmt: skip
        fields = dict(answer.fields)
        forged = self._forged(asked.head, fields.pop(TOKEN_FIELD, ""), transaction, scripted=answer.json)
        if forged:
            self._note(asked, "forged", forged)
            return self._answers.refusal(
                asked, "bad_request", status=403, href=self._answers.transaction_path(state), detail="The form did not come from this page."
            )
        if not transaction.open:
            return self.ended(asked, transaction, state=state)
        action = fields.get("action", "")
        if action == "cancel":
            return await self._cancelled(asked, state, visit)
        if visit.needs_login:
            return await self._to_login(asked, state, transaction)
        if transaction.status is Status.READY:
            return self._onward(asked, state, Moved(transaction), evidence=visit.client)
        if not self._progress.knows(transaction):
            return self.gone(asked, transaction, NO_STEP)
        current = transaction.current
        if current is not None and current.step == CONFIRM:
            if action == "send":
                return self._onward(asked, state, await self._progress.confirm(visit.found, asked.now))
            shown = await self._progress.show(visit.found, self.look(asked, visit, state))
            return await self._showing(
                asked, state, replace(shown, error=Problem("missing", "Choose to send it or to cancel.", "action")), 422
            )
        return await self._answered(asked, state, visit, fields)

    async def _answered(self, asked: Asked, state: str, visit: Visit, fields: Mapping[str, str]) -> web.Response:
        before = visit.found.transaction.current
        result = await self._progress.answer(visit.found, fields, self.look(asked, visit, state))
        match result:
            case Held():
                await self.audit(asked, result.transaction, before.step if before else "", "throttled", f"by {result.by}")
                return await self._held(asked, state, visit, result)
            case Showing():
                if result.error is not None:
                    await self.audit(asked, result.transaction, result.task.step, "refused", result.private)
                status = 200 if result.error is None else 429 if result.error.code == "throttled" else 422
                return await self._showing(asked, state, result, status)
            case Moved():
                await self.audit(asked, result.transaction, before.step if before else "", result.outcome or "overtaken", result.private)
                return await self.moved_on(asked, state, visit, result)

    async def moved_on(self, asked: Asked, state: str, visit: Visit, moved: Moved) -> web.Response:
        """The answer to whoever has moved a transaction, with the cookies that come of it."""
        cookies: tuple[bytes, ...] = ()
        if moved.passed is not None and moved.transaction.grant is None:
            upstream = moved.transaction.upstream
            given = tuple(value for value in moved.passed.set_cookies if not names_ours(value))
            if moved.transaction.reason == "authorize_again":
                cookies = (*given, *(await self._sessions.end(asked, upstream, visit.identified)).cookies)
            elif given:
                headers = tuple((b"Set-Cookie", value) for value in given)
                after = await self._sessions.after_answer(asked, asked.head, upstream, visit.identified, None, 200, headers)
                cookies = (*given, *after.cookies)
        if moved.transaction.status is Status.PENDING and not wants_page(asked.head):
            # A script follows no redirect: it gets the next step at once.
            found = await self._transactions.load(moved.transaction.id, asked.now)
            if found is not None:
                return await self._get(asked, state, replace(visit, found=found), cookies=cookies)
        return self._onward(asked, state, moved, cookies, evidence=visit.client)

    def _login_url(self, upstream: str) -> str | None:
        source = self._sessions.source(upstream)
        return source.login_url if source else None

    async def _held(self, asked: Asked, state: str, visit: Visit, held: Held) -> web.Response:
        """Too soon or too often: the page stays, with a word about the wait."""
        error = Problem("throttled", "Too many attempts. Please wait a moment before you try again.", None, held.retry_after)
        shown = await self._progress.show(Found(held.transaction, visit.found.version), self.look(asked, visit, state))
        return await self._showing(asked, state, replace(shown, error=error), 429)

    async def _cancelled(self, asked: Asked, state: str, visit: Visit) -> web.Response:
        moved = await self._progress.cancel(visit.found, asked.now)
        await self.audit(asked, moved.transaction, "", moved.outcome or "overtaken", moved.private)
        if moved.outcome != "cancelled":
            return self.ended(asked, moved.transaction, state=state)
        if wants_page(asked.head):
            if moved.transaction.grant is not None:  # this browser came from nowhere here
                return self.ended(asked, moved.transaction, status=200)
            return self._answers.see_other(way_back(moved.transaction))
        return self._json(self._document(asked, moved.transaction, state), 200)

    def _onward(self, asked: Asked, state: str, moved: Moved, cookies: Sequence[bytes] = (), *, evidence: bool = False) -> web.Response:
        """Post/redirect/get: to the next step, to /continue, or to the page that says how it ended."""
        transaction = moved.transaction
        if not wants_page(asked.head):
            chosen = moved.outcome == "declined" or transaction.reason == "authorize_again"
            status = 200 if transaction.open or chosen else 403 if moved.outcome == "failed" else 410
            document = self._document(asked, transaction, state, evidence=evidence)
            if moved.to and transaction.outside is None:
                document["leads_to"] = urljoin(asked.head.origin, moved.to)
            return self._json(document, status, cookies)
        if transaction.status is Status.READY and transaction.grant is None:
            return self._answers.see_other(self._answers.continue_path(state), cookies)
        if moved.outcome == "failed":
            return self.ended(asked, transaction, status=403, cookies=cookies)
        if moved.outcome == "declined" and transaction.outside is not None:  # whoever sent them waits for them
            return self._answers.see_other(way_back(transaction), cookies)
        if moved.outcome == "declined":
            return self._answers.see_other(moved.to, cookies) if moved.to else self.ended(asked, transaction, status=200, cookies=cookies)
        return self._answers.see_other(self._answers.transaction_path(state), cookies)

    def _forged(self, head: RequestHead, token: str, transaction: Transaction, *, scripted: bool) -> str:
        """Why a POST is not from our own page, "" if it is. JSON needs a preflight to be forged, and has one only where `cors:` says so."""
        if scripted:
            return ""
        site = head.get("sec-fetch-site")
        if site is not None and site not in ("same-origin", "none"):
            return f"Sec-Fetch-Site {site!r}"
        origin = head.get("origin")
        if origin is not None and origin not in (head.origin, "null"):
            return f"Origin {origin[:100]!r}"
        return "" if self._transactions.form_token_ok(token, transaction.id, transaction.binding) else "hidden token missing or wrong"

    # -- shared -----------------------------------------------------------------------------------------------------

    def look(self, asked: Asked, visit: Visit, state: str) -> Look:
        """How a step may see this request. state: the transaction's own."""
        head, identified, transaction = asked.head, visit.identified, visit.found.transaction
        # Whoever stands in somebody else's token, or does the steps of a token endpoint's client, has no session here: what the browser
        # holds may be another user's, and no step acts with it.
        aloof = transaction.grant is not None or (transaction.outside is not None and transaction.outside.told)
        cookies = app_cookies(head, identified) if not aloof else ()
        return Look(asked.now, head.client_ip, head.origin, cookies, identified.holder, state)

    def _document(
        self, asked: Asked, transaction: Transaction, state: str | None, error: Problem | None = None, *, evidence: bool = False
    ) -> dict[str, Any]:
        """The transaction as JSON (design.md part 5). evidence: it is the client of a grant who asks, and may have its token."""
        if transaction.status is Status.READY and state is not None and transaction.grant is not None:
            passed = {"state": state, "status": "passed"}
            return {**passed, "token": self._issuer.continue_token(transaction, state, asked.now)} if evidence else passed
        if transaction.status is Status.READY and state is not None:
            if transaction.outside is not None:  # the answer is made at /continue, for the party outside
                return {"state": state, "status": "passed", "continue": self._answers.continue_path(state)}
            token = self._issuer.continue_token(transaction, state, asked.now)
            return {"state": state, "status": "passed", "continue": self._answers.continue_path(state), "token": token}
        shown: dict[str, Any] | None = None
        if error is not None:
            shown = {"code": error.code, "message": error.message, "field": error.field, "retry_after": error.retry_after}
            shown |= {"fields": dict(error.errors)} if error.errors else {}
        if transaction.status is Status.PENDING:
            left = max(0, ceil(transaction.expires - asked.now))
            return {
                "state": state,
                "status": "pending",
                "expires_in": left,
                "step": None,
                "remaining": list(transaction.remaining),
                "error": shown,
            }
        status = "expired" if transaction.status is Status.EXPIRED else "failed"
        code = {Status.DONE: "used", Status.SENDING: "used", Status.UNKNOWN: "outcome_unknown", Status.EXPIRED: "expired"}.get(
            transaction.status, "failed"
        )
        if transaction.reason in ("cancelled", "declined", "authorize_again"):
            code = transaction.reason
        message = transaction.reason or f"This transaction is {transaction.status.value}."
        ended = {"code": code, "message": message, "field": None, "retry_after": None}
        document: dict[str, Any] = {"state": state, "status": status, "error": ended}
        if transaction.outside is not None and transaction.status is not Status.DONE:
            document["continue"] = way_back(transaction)
        if code == "authorize_again":
            document["authorize_again"] = asked.head.origin + (self._login_url(transaction.upstream) or "/")
        return document

    def _json(
        self, document: Mapping[str, Any], status: int, cookies: Sequence[bytes] = (), headers: tuple[tuple[str, str], ...] = ()
    ) -> web.Response:
        return response(json_page(status, document, headers=headers), cookies)

    async def audit(self, asked: Asked, transaction: Transaction, step: str, outcome: str, private: str) -> None:
        """What became of an answer: a line in the audit trail, and in the log where the transaction has ended."""
        if transaction.open is False:
            self._trail.event("transaction", request_id=asked.request_id, outcome=outcome, transaction=transaction.id)
        await self._trail.audit(
            AuditEvent(
                at=asked.now, event="step" if step else "transaction", request_id=asked.request_id, subject=transaction.subject.id,
                rule=",".join(transaction.rules), step=step, outcome=outcome, address=asked.head.client_ip,
                detail={"transaction": transaction.id, **({"reason": private} if private else {})},
            )
        )  # fmt: skip
