"""Who was sent to a page that changes a password comes back to the address it was told, `authorize_again`, and logs in anew.

The page never calls us: that it is done shows by the browser asking for that address again, coming from the page. Then the transaction is
over, and so is the session, for what it was asked for is known of an old login only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from urllib.parse import urlsplit

from aiohttp import web

from gateway.errors import Conflict
from gateway.flow.asked import Asked
from gateway.flow.away import anew_key
from gateway.flow.browser import known_browser
from gateway.flow.gate import Judged
from gateway.flow.repository import Transactions, transaction_id
from gateway.flow.sessions import Sessions
from gateway.flow.trail import Trail
from gateway.flow.transaction import Event, Status, move
from gateway.lanes.answers import Answers
from gateway.spec.base import parse_origin
from gateway.wire.head import RequestHead
from gateway.wire.media import navigation


class Anew:
    """urls: steps after which the user logs in anew, and where their page is. May raise StoreUnavailable."""

    def __init__(
        self, *, transactions: Transactions, sessions: Sessions, answers: Answers, trail: Trail, urls: Callable[[], Mapping[str, str]]
    ) -> None:
        self._transactions = transactions
        self._sessions = sessions
        self._answers = answers
        self._trail = trail
        self._urls = urls

    async def begins(self, asked: Asked, judged: Judged) -> web.Response | None:
        """The answer to a browser that begins anew: the same address once more, with nobody logged in. None for any other request."""
        head, urls = asked.head, self._urls()
        if not urls or head.method != "GET" or judged.route is None or navigation(head) != "navigation":
            return None
        for step, url in urls.items():
            if not _came_from(head, url):
                continue
            for binding in (b for secret in known_browser(head) for b in self._transactions.bindings(secret)):
                if await self._over(asked, step, binding):
                    parting = await self._sessions.end(asked, judged.route.upstream, judged.identified)
                    return self._answers.see_other(head.target.raw.decode("latin-1"), parting.cookies)
        return None

    async def _over(self, asked: Asked, step: str, binding: str) -> bool:
        """End the transaction that this browser was sent away from. False: there is none."""
        state = await self._transactions.recall("anew", anew_key(binding, step), asked.now)
        found = await self._transactions.load(transaction_id(state), asked.now) if state else None
        if found is None or found.transaction.status is not Status.PENDING or found.transaction.binding != binding:
            return False
        current = found.transaction.current
        again = found.transaction.target if found.transaction.method == "GET" else found.transaction.page.encode("latin-1", "replace")
        if current is None or current.step != step or asked.head.target.raw != again:
            return False
        try:
            await self._transactions.save(move(found.transaction, Event.REFUSED, reason="authorize_again"), found.version, asked.now)
        except Conflict:
            return False
        self._trail.event("transaction", request_id=asked.request_id, outcome="authorize_again", transaction=found.transaction.id)
        return True


def _came_from(head: RequestHead, url: str) -> bool:
    """The browser was led here by that page: by `Referer`, else (a page that gives none) by being led here from another site at all."""
    page = urlsplit(url)
    origin = parse_origin(f"{page.scheme}://{page.netloc}")
    referer = head.get("referer")
    if referer is not None:
        parts = urlsplit(referer)
        try:
            led = parse_origin(f"{parts.scheme}://{parts.netloc}") == origin
        except ValueError:
            return False
        return led and (origin != head.origin or parts.path.startswith(page.path or "/"))
    return origin != head.origin and (head.get("sec-fetch-site") or "").lower() in ("cross-site", "same-site")
