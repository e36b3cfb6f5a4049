"""A browser comes back from a page of others, to `/continue` with the state that the page was given (design.md part 6).

With our cookie it is taken at once. A form of another site brings no cookie of ours (SameSite=Lax): then nothing is used up. What can be
verified without a browser is, the rest is parked, and the browser is sent to fetch it back by a GET, on which the cookie does come.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace

from aiohttp import web

from gateway.flow.asked import Asked
from gateway.flow.away import Arrival, Whereabouts
from gateway.flow.browser import holds, known_browser
from gateway.flow.guessing import Guessing
from gateway.flow.parking import HANDLE, MOST, Parking
from gateway.flow.ports import AuditEvent
from gateway.flow.progress import Held, Look, Moved, Progress, Showing
from gateway.flow.repository import Found, Transactions
from gateway.flow.trail import Trail
from gateway.flow.transaction import Status, Transaction
from gateway.flow.visit import Closed, Door, Visit
from gateway.web.answers import WebAnswers
from gateway.web.pages import Way
from gateway.web.parameters import Given, without_state
from gateway.web.transaction import NO_STEP, TransactionPages

Ready = Callable[[Asked, str, Visit], Awaitable[web.Response]]
"""What `/continue` does with a transaction that is READY."""


class Arrivals:
    """May raise StoreUnavailable."""

    def __init__(
        self, *, transactions: Transactions, parking: Parking, door: Door, guessing: Guessing, progress: Progress, pages: TransactionPages,
        answers: WebAnswers, trail: Trail, continue_path: str,
    ) -> None:  # fmt: skip
        self._transactions = transactions
        self._parking = parking
        self._door = door
        self._guessing = guessing
        self._progress = progress
        self._pages = pages
        self._answers = answers
        self._trail = trail
        self._continue = continue_path

    async def whereabouts(self, state: str, now: float) -> Whereabouts | None:
        """Where a state leads that was given to a page of others."""
        return await self._transactions.whereabouts(state, now)

    async def take(self, asked: Asked, state: str, where: Whereabouts, given: Given, ready: Ready) -> web.Response:
        """An arrival by GET or POST."""
        if (name := given.twice()) is not None:
            await self._refused(asked, where, f"{name[:40]!r} given twice")
            words = f"invalid_request: the parameter {name[:40]!r} is given more than once."
            return self._answers.refusal(asked, "bad_request", detail=words, error="invalid_request")
        arrival = Arrival(state, without_state(given.query), without_state(given.form))
        if arrival.too_large:
            await self._refused(asked, where, "more parameters than are kept")
            return self._answers.refusal(asked, "too_large", limit=MOST)
        if asked.head.method == "POST" and await self._without_cookie(asked, where):
            return await self._park(asked, where, arrival)
        visit = await self._door.enter(asked, where.transaction, own_page=True)
        if isinstance(visit, Closed):
            return await self._pages.turned_away(asked, visit)
        return known(await self._arrived(asked, where, arrival, visit, ready), visit)

    async def fetch(self, asked: Asked, handles: list[str], ready: Ready) -> web.Response:
        """`GET /continue?h=…`: the browser fetches back what another site posted, and now our cookie comes along."""
        arrival = None
        if asked.head.method != "GET":
            return self._pages.wrong_method(asked, "GET")
        if len(handles) == 1 and HANDLE.fullmatch(handles[0]):
            arrival = await self._parking.look(handles[0], asked.now)
        where = await self._transactions.whereabouts(arrival.state, asked.now) if arrival is not None else None
        if arrival is None or where is None:
            await self._refused(asked, None, "nothing is parked under this handle")
            return self._answers.refusal(asked, "answer_used")
        visit = await self._door.enter(asked, where.transaction, own_page=True)
        if isinstance(visit, Closed):
            return await self._pages.turned_away(asked, visit)
        if not await self._parking.take(handles[0], asked.now):
            return known(await self._used(asked, where, visit.found.transaction), visit)
        return known(await self._arrived(asked, where, arrival, visit, ready), visit)

    # -- with the cookie ----------------------------------------------------------------------------------------------

    async def _arrived(self, asked: Asked, where: Whereabouts, arrival: Arrival, visit: Visit, ready: Ready) -> web.Response:
        transaction = visit.found.transaction
        if not transaction.open:
            return self._pages.ended(asked, transaction, state=where.state, status=410 if transaction.reason == "authorize_again" else None)
        if visit.needs_login:
            return self._answers.see_other(self._answers.transaction_path(where.state))
        if not _awaited(transaction, where, arrival):
            return await self._used(asked, where, transaction)
        if not self._progress.knows(transaction):
            return self._pages.gone(asked, transaction, NO_STEP)
        result = await self._progress.arrive(visit.found, arrival, self._pages.look(asked, visit, where.state))
        match result:
            case Held():
                await self._pages.audit(asked, result.transaction, where.step, "throttled", f"by {result.by}")
                way = self._answers.transaction_path(where.state)
                return self._answers.refusal(asked, "throttled", retry_after=result.retry_after, href=way, about=transaction)
            case Showing():
                return await self._wrong(asked, where, result)
            case Moved():
                await self._pages.audit(asked, result.transaction, where.step, result.outcome or "overtaken", result.private)
                if not result.outcome:
                    return await self._used(asked, where, result.transaction)
                return await self._moved(asked, where, visit, result, ready)

    async def _moved(self, asked: Asked, where: Whereabouts, visit: Visit, moved: Moved, ready: Ready) -> web.Response:
        """To the next step, or, after the last one, to what /continue does."""
        if moved.transaction.status is Status.READY:
            found = await self._transactions.load(where.transaction, asked.now)
            if found is not None and found.transaction.status is Status.READY:
                return await ready(asked, where.state, replace(visit, found=found))
        return await self._pages.moved_on(asked, where.state, visit, moved)

    async def _wrong(self, asked: Asked, where: Whereabouts, shown: Showing) -> web.Response:
        error, way = shown.error, self._answers.transaction_path(where.state)
        if error is None:
            return self._answers.see_other(way)
        await self._pages.audit(asked, shown.transaction, where.step, "refused", shown.private)
        self._trail.event("refused", request_id=asked.request_id, kind="bad_answer", reason=shown.private)
        if error.code == "used":
            return await self._used(asked, where, shown.transaction)
        return self._no_answer(asked, error.code, error.message, way, shown.transaction, self._pages.out(where.state, shown.transaction))

    def _no_answer(
        self, asked: Asked, code: str, words: str, way: str, about: Transaction | None, out: Way | None = None
    ) -> web.Response:  # fmt: skip
        if code == "missing":
            return self._answers.refusal(
                asked, "answer_missing", message=words, detail=f"invalid_request: {words}", error="invalid_request", href=way, about=about,
                out=out,
            )  # fmt: skip
        return self._answers.refusal(asked, "bad_token", href=way, about=about, out=out)

    async def _used(self, asked: Asked, where: Whereabouts, transaction: Transaction) -> web.Response:
        await self._refused(asked, where, "a state that was used")
        way = self._answers.transaction_path(where.state)
        if not transaction.open:
            return self._pages.ended(asked, transaction, state=where.state, status=410)
        return self._answers.refusal(asked, "answer_used", href=way, about=transaction)

    # -- without it ---------------------------------------------------------------------------------------------------

    async def _without_cookie(self, asked: Asked, where: Whereabouts) -> bool:
        """No cookie of ours came, nor anything else that the transaction is bound to. Where no browser is known yet for a call of a token
        endpoint, none that comes along says anything: that one is known by the GET that follows."""
        secrets = known_browser(asked.head)
        if any(secret.startswith("cookie:") for secret in secrets):
            waiting = await self._transactions.load(where.transaction, asked.now)
            grant = waiting.transaction.grant if waiting is not None else None
            return grant is not None and not grant.claimed
        found = await self._transactions.load(where.transaction, asked.now)
        bindings = [b for secret in secrets for b in self._transactions.bindings(secret)]
        return found is None or not holds(bindings, found.transaction.binding)

    async def _park(self, asked: Asked, where: Whereabouts, arrival: Arrival) -> web.Response:
        found = await self._transactions.load(where.transaction, asked.now)
        if found is None or found.transaction.origin != asked.head.origin:
            return self._pages.closed(asked, Closed("unknown", "no such transaction"))
        if (refused := await self._doubted(asked, where, arrival, found)) is not None:
            return refused
        handle = await self._parking.park(arrival, asked.now)
        if handle is None:
            await self._refused(asked, where, "too much is parked for this state")
            return self._answers.refusal(asked, "throttled", retry_after=60)
        self._trail.event("parked", request_id=asked.request_id, transaction=where.transaction)
        return self._answers.see_other(f"{self._continue}?h={handle}")

    async def _doubted(self, asked: Asked, where: Whereabouts, arrival: Arrival, found: Found) -> web.Response | None:
        """An answer that is wrong whoever brings it. It counts against the address: the browser is not known."""
        if not found.transaction.open or not self._progress.knows(found.transaction) or not _awaited(found.transaction, where, arrival):
            return None  # told when the browser is known
        look = Look(asked.now, asked.head.client_ip, asked.head.origin, (), None, where.state)
        wrong = await self._progress.foresee(found, arrival, look)
        if wrong is None:
            return None
        throttled = await self._guessing.foreign(asked.head.client_ip, asked.now)
        if throttled is not None:
            await self._refused(asked, where, "too many wrong answers from this address")
            return self._answers.refusal(asked, "throttled", retry_after=throttled.retry_after)
        await self._refused(asked, where, wrong.private)
        return self._no_answer(asked, wrong.code, wrong.public, self._answers.transaction_path(where.state), None)

    async def _refused(self, asked: Asked, where: Whereabouts | None, reason: str) -> None:
        self._trail.event("refused", request_id=asked.request_id, kind="bad_answer", reason=reason)
        if where is not None:
            detail = {"transaction": where.transaction, "reason": reason}
            await self._trail.audit(
                AuditEvent(
                    at=asked.now, event="step", request_id=asked.request_id, step=where.step, outcome="refused",
                    address=asked.head.client_ip, detail=detail,
                )
            )  # fmt: skip


def known(response: web.Response, visit: Visit) -> web.Response:
    """An answer with the cookie of a browser that opened a transaction of a token endpoint by coming back to it: an app may have sent it
    to the page by itself."""
    text = visit.cookie.decode("latin-1") if visit.cookie is not None else ""
    if text and text not in response.headers.getall("Set-Cookie", []):
        response.headers.add("Set-Cookie", text)
    return response


def _awaited(transaction: Transaction, where: Whereabouts, arrival: Arrival) -> bool:
    """The step that the state was made for is the open one, and knows this state."""
    task = transaction.current
    return (
        transaction.status is Status.PENDING and task is not None and task.step == where.step and task.memory.get("state") == arrival.state
    )
