"""The page for others: `/.stepup/begin/{entry}` takes their users in, and `/continue` sends them back with a signed answer.

Nothing is done about a token before it is verified whole, and none is used up for an error. The answer is made once; a page that got lost
is sent again while the answer lives, for whoever gets it takes its `jti` once.
"""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import parse_qsl, urlsplit

from aiohttp import web

from gateway.errors import BodyTooLarge, Conflict, TokenInvalid
from gateway.flow.asked import Asked
from gateway.flow.browser import browser_for, known_browser
from gateway.flow.cookies import PassCookies
from gateway.flow.issuer import Issuer
from gateway.flow.outside import LONGEST_STATE, Entry, Opened, Outsiders, Told, answered, subject_of, way_back
from gateway.flow.ports import AuditEvent, Entropy, StateStore
from gateway.flow.replay import first_use, give_back, replay_key
from gateway.flow.repository import TooMany, Transactions
from gateway.flow.rerun import enriched
from gateway.flow.trail import Trail
from gateway.flow.transaction import Event, Outside, Status, Transaction, move
from gateway.flow.visit import Visit
from gateway.web.answers import WebAnswers
from gateway.web.transaction import ReadBody, TransactionPages
from gateway.wire.location import parse_location
from gateway.wire.media import cross_site, media_type, navigation
from gateway.wire.target import parse_target, query_pairs

AGAIN = "again"
"""Parameter of our own redirect, by which a browser shows its cookie after a form of another site."""

_NOWHERE = "http://none.invalid"


class OutsidePages:
    """May raise StoreUnavailable, ClientGone."""

    def __init__(
        self, *, outsiders: Outsiders, transactions: Transactions, state: StateStore, pages: TransactionPages, answers: WebAnswers,
        issuer: Issuer, passes: PassCookies, entropy: Entropy, trail: Trail, read_body: ReadBody, answer_limit: int, prefix: str,
    ) -> None:  # fmt: skip
        self._outsiders = outsiders
        self._transactions = transactions
        self._state = state
        self._pages = pages
        self._answers = answers
        self._issuer = issuer
        self._passes = passes
        self._entropy = entropy
        self._trail = trail
        self._read_body = read_body
        self._answer_limit = answer_limit
        self._prefix = prefix

    # -- begin ------------------------------------------------------------------------------------------------------------------------

    async def begin(self, request: web.BaseRequest, asked: Asked, name: str) -> web.Response:
        """Somebody arrives with a state and a token of the entry's issuer, by query or form."""
        entry = self._outsiders.parties.entries.get(name)
        if entry is None:
            self._note(asked, "unknown", "no entry of this name under begin")
            return self._answers.refusal(asked, "unknown")
        if request.method not in ("GET", "POST"):
            return self._pages.wrong_method(asked, "GET", "POST")
        if navigation(asked.head) not in ("navigation", "frame", "script"):
            return self._refused(asked, entry, "bad_request", f"a {navigation(asked.head)} request begins nothing")
        pairs = await self._parameters(request, asked)
        if isinstance(pairs, web.Response):
            return pairs
        again = [value for n, value in pairs if n == AGAIN]
        if again and request.method == "GET" and not any(n == entry.token_parameter for n, _ in pairs):
            found = await self._outsiders.recall(name, again[0][:64], known_browser(asked.head), asked.now)
            return self._answers.see_other(self._answers.transaction_path(found)) if found else self._used(asked, entry)
        states = [v for n, v in pairs if n == entry.state_parameter and v]
        tokens = [v for n, v in pairs if n == entry.token_parameter and v]
        if len(states) != 1 or len(states[0]) > LONGEST_STATE:
            words = f"invalid_request: the parameter {entry.state_parameter} must be there once. Send the original state."
            return self._refused(asked, entry, "bad_request", f"{len(states)} states", detail=words, error="invalid_request")
        if len(tokens) != 1:
            words = f"invalid_request: the parameter {entry.token_parameter} must be there once."
            return self._refused(asked, entry, "bad_request", f"{len(tokens)} tokens", detail=words, error="invalid_request")
        try:
            told = await entry.reader.read(tokens[0], asked.now)
        except TokenInvalid as error:
            await self._audit(asked, entry, "", "refused", str(error))
            return self._refused(asked, entry, "bad_beginning", str(error), error="invalid_token")
        url = chosen_url(entry, [v for n, v in pairs if n in ("continue_url", "continue_uri")], told)
        if url is None:
            await self._audit(asked, entry, told.subject, "refused", "a continue URL that is not configured")
            words = "invalid_request: this continue URL is not one of the configured ones."
            return self._refused(asked, entry, "bad_request", "another continue URL", detail=words, error="invalid_request")
        return await self._arrived(asked, entry, states[0], told, url)

    async def _arrived(self, asked: Asked, entry: Entry, state: str, told: Told, url: str) -> web.Response:
        head, key = asked.head, replay_key(entry.reader.issuer, told.jti)
        if (found := await self._outsiders.recall(entry.name, key, known_browser(head), asked.now)) is not None:
            return self._answers.see_other(self._answers.transaction_path(found))
        if not await first_use(self._state, entry.reader.issuer, told.jti, expires=told.expires, now=asked.now):
            if (found := await self._outsiders.recall(entry.name, key, known_browser(head), asked.now)) is not None:
                return self._answers.see_other(self._answers.transaction_path(found))  # another tab was first, by a moment
            if head.method == "POST" and cross_site(head) and not known_browser(head):
                # No cookie comes along with another site's form: by a redirect it does, and the browser that began it finds it again.
                return self._answers.see_other(f"{self._prefix}/begin/{entry.name}?{AGAIN}={key}")
            await self._audit(asked, entry, told.subject, "refused", "the token was used before")
            return self._used(asked, entry)
        opened = await self._open(asked, entry, state, told, url)
        if isinstance(opened, TooMany):
            await give_back(self._state, entry.reader.issuer, told.jti)
            self._trail.event("refused", request_id=asked.request_id, kind="too_many_open", of=opened.of)
            return self._answers.refusal(asked, "too_many_open", retry_after=60)
        transaction, cookies = opened[0].transaction, opened[1]
        await self._outsiders.remember(entry.name, key, opened[0], asked.now)
        self._trail.event(
            "transaction", request_id=asked.request_id, outcome="opened", transaction=transaction.id, steps=",".join(entry.steps)
        )
        await self._audit(asked, entry, told.subject, "begun", "")
        return self._answers.see_other(self._answers.transaction_path(opened[0].state), cookies)

    async def _open(
        self, asked: Asked, entry: Entry, state: str, told: Told, url: str
    ) -> tuple[Opened, tuple[bytes, ...]] | TooMany:  # fmt: skip
        # Always bound by a cookie: the pages are a person's, whoever fetched the first one.
        browser = browser_for(asked.head, self._entropy.token(), script=False)
        outside = Outside(
            entry=f"begin:{entry.name}", url=url, state=state, jti=told.jti, subject=told.subject, method=entry.method,
            state_parameter=entry.state_parameter, token_parameter=entry.answer_parameter, next_origins=entry.next_origins,
        )  # fmt: skip
        # No pass is looked at, so every step is asked but those that this very user has answered for good (0046).
        opened = await self._outsiders.open(
            asked.head, outside, tuple((step, "session") for step in entry.steps), browser=browser.secret, subject=subject_of(entry, told),
            upstream="", rule=outside.entry, script=False, now=asked.now,
        )  # fmt: skip
        if isinstance(opened, TooMany):
            return opened
        return opened, (browser.set_cookie,) if browser.set_cookie else ()

    async def _parameters(self, request: web.BaseRequest, asked: Asked) -> list[tuple[str, str]] | web.Response:
        pairs = list(query_pairs(asked.head.target))
        if request.method != "POST":
            return pairs
        try:
            body = await self._read_body(request, self._answer_limit)
        except BodyTooLarge as error:
            self._trail.event("refused", request_id=asked.request_id, kind="too_large", reason=str(error))
            return self._answers.refusal(asked, "too_large", limit=self._answer_limit)
        if not body:
            return pairs
        if media_type(asked.head.get("content-type") or "") != "application/x-www-form-urlencoded":
            words = "Send application/x-www-form-urlencoded."
            self._note(asked, "bad_request", "a body that is no form")
            return self._answers.refusal(asked, "bad_request", status=415, detail=words)
        try:
            return pairs + parse_qsl(body.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=100)
        except ValueError:
            words = "invalid_request: the form cannot be read."
            self._note(asked, "bad_request", "a form that cannot be read")
            return self._answers.refusal(asked, "bad_request", detail=words, error="invalid_request")

    def _note(self, asked: Asked, kind: str, reason: str) -> None:
        self._trail.event("refused", request_id=asked.request_id, kind=kind, reason=reason)

    def _refused(self, asked: Asked, entry: Entry, kind: str, reason: str, *, detail: str = "", error: str | None = None) -> web.Response:
        self._trail.event("refused", request_id=asked.request_id, kind=kind, entry=entry.name, reason=reason)
        return self._answers.refusal(asked, kind, status=400, detail=detail, error=error, href=_start(entry.continue_urls[0]))

    def _used(self, asked: Asked, entry: Entry) -> web.Response:
        self._trail.event(
            "refused", request_id=asked.request_id, kind="used_beginning", entry=entry.name, reason="the token was used before"
        )
        words = "This token was used before. Start again where you came from."
        return self._answers.refusal(asked, "used_beginning", status=410, detail=words, error="used", href=_start(entry.continue_urls[0]))

    # -- continue ---------------------------------------------------------------------------------------------------------------------

    async def resume(self, asked: Asked, state: str, visit: Visit) -> web.Response:
        """`/continue` of a transaction that ends elsewhere. No rules run again: there is no request that they could judge."""
        transaction = visit.found.transaction
        if transaction.status is Status.READY:
            return await self._answer(asked, state, visit)
        if transaction.outside is not None and transaction.status is Status.DONE and self._outsiders.lives(transaction.outside, asked.now):
            return self._sent(asked, transaction, ())
        return self._pages.ended(asked, transaction)

    async def _answer(self, asked: Asked, state: str, visit: Visit) -> web.Response:
        transaction = answered(visit.found.transaction, asked.now)
        outside = transaction.outside
        if outside is None or self._outsiders.answer(transaction) is None:
            return self._pages.gone(asked, transaction, "a reload took the party outside away")
        if not all(task.counts for task in transaction.tasks):
            # Only a reload makes it so. There are no rules that could say whether to come back was enough: nothing is signed.
            self._trail.event("refused", request_id=asked.request_id, kind="expired", reason="a step that proves nothing")
            return self._answers.refusal(asked, "expired", href=way_back(transaction))
        done = move(transaction, Event.REISSUED)
        try:
            await self._transactions.save(done, visit.found.version, asked.now)
        except Conflict:
            found = await self._transactions.load(transaction.id, asked.now)
            if found is None or found.transaction.open:
                return self._answers.see_other(self._answers.transaction_path(state))
            return await self.resume(asked, state, Visit(found, visit.identified))
        cookies: tuple[bytes, ...] = ()
        if not outside.told:
            held = enriched(transaction, visit.identified, origin=asked.head.origin, sid=self._issuer.new_sid(), now=asked.now)
            cookies = (self._passes.issue(asked.head, held, asked.now),)
        self._trail.event("transaction", request_id=asked.request_id, outcome="answered", transaction=transaction.id)
        await self._trail.audit(
            AuditEvent(
                at=asked.now, event="outside", request_id=asked.request_id, subject=outside.subject, rule=outside.entry, outcome="answered",
                address=asked.head.client_ip, detail={"transaction": transaction.id, "acr": list(transaction.proofs)},
            )
        )  # fmt: skip
        return self._sent(asked, done, cookies)

    def _sent(self, asked: Asked, transaction: Transaction, cookies: Sequence[bytes]) -> web.Response:
        sending = self._outsiders.answer(transaction)
        if sending is None:
            return self._pages.gone(asked, transaction, "a reload took the party outside away")
        return self._answers.send(asked, sending, cookies=cookies)

    async def _audit(self, asked: Asked, entry: Entry, subject: str, outcome: str, reason: str) -> None:
        await self._trail.audit(
            AuditEvent(
                at=asked.now, event="begin", request_id=asked.request_id, subject=subject, rule=f"begin:{entry.name}", outcome=outcome,
                address=asked.head.client_ip, detail={"reason": reason} if reason else {},
            )
        )  # fmt: skip


def chosen_url(entry: Entry, given: Sequence[str], told: Told) -> str | None:
    """Where the user goes back to: the configured URL that the token, else the query names by origin and path; None for any other.

    What was named is compared and then forgotten: only the configuration's own words are ever followed.
    """
    named = [v for name in ("continue_url", "continue_uri") if (v := told.claims.get(name)) is not None] or list(given)
    if not named:
        return entry.continue_urls[0]
    places = {_place(v) if isinstance(v, str) else None for v in named}
    wanted = places.pop() if len(places) == 1 else None
    return next((url for url in entry.continue_urls if wanted is not None and _place(url) == wanted), None)


def _place(url: str) -> tuple[str, bytes] | None:
    """Origin and path of an absolute http(s) URL."""
    if not url.isascii() or not url.isprintable() or " " in url or "\\" in url or "@" in url.partition("?")[0]:
        return None
    if not url.lower().startswith(("https://", "http://")) or len(url) > LONGEST_STATE:
        return None
    found = parse_location(url.encode(), origin=_NOWHERE, target=parse_target(b"/"))
    return (found.origin, found.target.path) if found is not None else None


def _start(url: str) -> str:
    """The start page of whoever sent the user."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}/"
