"""Suspends a request: stores it whole, opens a transaction, and sends a person to its first step or tells a script where that is.

Only navigations and API requests open transactions. Nobody is ever redirected who cannot follow.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from math import ceil

from aiohttp import web

from gateway.errors import BodyTooLarge
from gateway.flow.asked import Asked
from gateway.flow.browser import Browser, browser_for
from gateway.flow.codec import StoredRequest
from gateway.flow.functions import kept
from gateway.flow.gate import Judged
from gateway.flow.places import came_from
from gateway.flow.ports import Entropy
from gateway.flow.repository import TooMany, Transactions, transaction_id
from gateway.flow.trail import Trail
from gateway.flow.transaction import CONFIRM, Status, Task, Transaction
from gateway.flow.visit import holder_of
from gateway.lanes.answers import Answers
from gateway.lanes.body import ClientBody
from gateway.policy.decision import StepUp
from gateway.wire.head import RequestHead
from gateway.wire.headers import effective_methods
from gateway.wire.media import cross_site, navigation

_SAFE = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})


@dataclass(frozen=True, slots=True)
class Paths:
    """Where the gateway's own paths are."""

    prefix: str
    continue_path: str

    def own(self, path: bytes) -> bool:
        """A path of the gateway, as it was sent."""
        text = path.decode("latin-1")
        return text in (self.continue_path, self.prefix) or text.startswith(self.prefix + "/")


class Suspender:
    """May raise StoreUnavailable, and ClientGone while it reads a body."""

    def __init__(
        self,
        *,
        transactions: Transactions,
        entropy: Entropy,
        answers: Answers,
        trail: Trail,
        paths: Paths,
    ) -> None:
        self._transactions = transactions
        self._entropy = entropy
        self._answers = answers
        self._trail = trail
        self._paths = paths

    async def suspend(
        self, asked: Asked, judged: Judged, decision: StepUp, incoming: ClientBody | None, *, can_login: bool, replayed: bool = True
    ) -> web.Response:
        """Open a transaction for a request, or say why not. incoming: its body, None for a GET's or where it is gone
        (`replay` is off then).

        replayed: False where the browser asks again in any case, with its cookies of then, and nothing takes the place of what it sends.
        """
        head = asked.head
        steps = [a.step for a in decision.asked]
        # RFC 9470 §3: what is asked `once` was never proved recently enough.
        ages = [0.0 if a.max_age == "once" else a.max_age for a in decision.asked if a.max_age != "session"]
        max_age = min(ages, default=None)
        cors = judged.route.cors if judged.route else ()
        kind = navigation(head)
        if decision.login and not can_login:
            self._trail.event("refused", request_id=asked.request_id, kind="no_subject", reason="nobody is known, and nowhere to log in")
            return self._answers.refusal(asked, "no_subject")
        if kind not in ("navigation", "frame", "script"):
            return self._answers.step_up(asked, None, None, steps, max_age=max_age, cors=cors)
        script = kind == "script"
        browser = browser_for(head, self._entropy.token(), script=script)
        key = _key(head, browser, steps)
        if script and browser.secret.startswith("cookie:") and all(a.max_age != "once" for a in decision.asked):
            # A page asks for many things at once, and what lasts is in the pass for all of them.
            key = _shared(head, browser, steps, judged.route.upstream if judged.route else "")
        if not script and browser.set_cookie is None and await self._transactions.asked_again(key, asked.now):
            self._trail.event("refused", request_id=asked.request_id, kind="loop", rules=",".join(decision.rules))
            return self._answers.refusal(asked, "loop", href=head.target.raw.decode("latin-1") if head.method == "GET" else "/")
        cookies = (browser.set_cookie,) if browser.set_cookie else ()
        repeatable = script or head.method == "GET"
        # What a rule function has put into a URL is for this request, and old soon: a page is opened anew.
        once_more = script or not any(a.url for a in decision.asked)
        if (
            repeatable
            and once_more
            and browser.set_cookie is None
            and (again := await self._still_open(key, asked, judged, steps)) is not None
        ):
            found, state = again
            if script:
                return self._answers.step_up(asked, found, state, steps, max_age=max_age, cors=cors)
            return self._answers.see_other(self._answers.transaction_path(state))
        stored_body, too_large = b"", False
        if not script and decision.replay != "off" and incoming is not None and head.method not in ("GET", "HEAD"):
            try:
                stored_body = await self._whole(incoming)
            except BodyTooLarge as error:
                self._trail.event("refused", request_id=asked.request_id, kind="too_large", reason=str(error))
                # Refused, with a way to do the steps: else nobody whom no other request asks for them could ever send it.
                too_large, decision = True, replace(decision, replay="off")
        state = self._transactions.new_state()
        transaction = self._new(asked, judged, decision, transaction_id(state), browser, script=script, loop=key)
        if not replayed:
            tasks = tuple(task for task in transaction.tasks if task.step != CONFIRM)
            transaction = replace(transaction, replay="auto", ticketed=False, tasks=tasks)
        stored = StoredRequest(
            method=head.method, target=head.target.raw, headers=head.headers, body=stored_body, scheme=head.scheme,
            host=head.host, client_ip=head.client_ip, peer=head.peer,
        )  # fmt: skip
        refused = await self._transactions.open(transaction, stored, asked.now)
        if isinstance(refused, TooMany):
            self._trail.event("refused", request_id=asked.request_id, kind="too_many_open", of=refused.of)
            return self._answers.refusal(asked, "too_many_open", retry_after=60, cookies=cookies)
        if repeatable:
            await self._transactions.remember("asked", key, state, expires=transaction.expires, now=asked.now)
        self._trail.event("transaction", request_id=asked.request_id, outcome="opened", transaction=transaction.id, steps=",".join(steps))
        if script:
            return self._answers.step_up(asked, transaction, state, steps, max_age=max_age, cookies=cookies, cors=cors)
        way = self._answers.transaction_path(state)
        if too_large:
            limit = self._transactions.spec.max_body
            return self._answers.refusal(asked, "too_large_to_keep", href=way, cookies=cookies, limit=limit)
        return self._answers.see_other(way, cookies)

    async def _whole(self, incoming: ClientBody) -> bytes:
        """The request's body. Raises BodyTooLarge before a waiting client is told to send it, where it declared its length."""
        limit = self._transactions.spec.max_body
        peeked = await incoming.peek(limit)
        if not peeked.whole:
            raise BodyTooLarge(f"more than {limit} bytes cannot be suspended")
        return peeked.data

    def _new(self, asked: Asked, judged: Judged, decision: StepUp, id_: str, browser: Browser, *, script: bool, loop: str) -> Transaction:
        head = asked.head
        tasks = [Task(a.step, a.max_age, a.rules, url=a.url) for a in decision.asked]
        unsafe = not effective_methods(head) <= _SAFE  # a GET with `_method=POST` is a POST to some
        replayed = head.method != "GET" or unsafe or any(a.max_age == "once" for a in decision.asked)
        ticketed = not script and decision.replay != "off" and replayed
        # A forged form gains nothing: what came from elsewhere, or from nobody in particular, is shown before it is sent.
        shown = ticketed and unsafe and (decision.replay == "confirm" or cross_site(head) or decision.login)
        if shown:
            tasks.append(Task(CONFIRM, "once", decision.rules))
        return Transaction(
            id=id_,
            origin=head.origin,
            upstream=judged.route.upstream if judged.route else "",
            binding=self._transactions.binding(browser.secret),
            method=head.method,
            target=head.target.raw,
            kind="script" if script else "navigation",
            replay=decision.replay,
            created=asked.now,
            expires=asked.now + self._transactions.waits([t.step for t in tasks]),
            address=head.client_ip,
            rules=decision.rules,
            tasks=tuple(tasks),
            subject=judged.identified.subject,
            awaits_login=decision.login,
            late_subject=decision.login,
            session=judged.identified.session,
            holder=holder_of(judged.identified),
            stored=not script,
            ticketed=ticketed,
            page=came_from(head, self._paths.prefix, self._paths.continue_path),
            loop=loop,
            jti=(judged.facts.functions.jti if judged.facts.functions is not None else "") or self._entropy.token(),
            run=kept(judged.facts.functions, judged.identified.subject),
        )

    async def _still_open(self, key: str, asked: Asked, judged: Judged, steps: list[str]) -> tuple[Transaction, str] | None:
        """The transaction that this very request opened before, while it waits for the same steps of the same person."""
        state = await self._transactions.recall("asked", key, asked.now)
        found = await self._transactions.load(transaction_id(state), asked.now) if state else None
        if state is None or found is None:
            return None
        earlier, who = found.transaction, judged.identified
        same = (earlier.subject.id, earlier.subject.source, earlier.session) == (who.subject.id, who.subject.source, who.session)
        return (earlier, state) if earlier.status is Status.PENDING and same and list(earlier.remaining) == steps else None


def _key(head: RequestHead, browser: Browser, steps: list[str]) -> str:
    """One name for: this browser, these steps, this very request."""
    return _hashed(browser.secret, ",".join(steps), head.method, head.origin, head.target.raw.decode("latin-1"))


def _shared(head: RequestHead, browser: Browser, steps: list[str], upstream: str) -> str:
    """One name for: this browser, these steps, any request of its scripts to this application."""
    return _hashed(browser.secret, ",".join(steps), "", head.origin, upstream)


def _hashed(*parts: str) -> str:
    text = "\x00".join(parts)
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:40]


def seconds_left(expires: float, now: float) -> int:
    return max(0, ceil(expires - now))
