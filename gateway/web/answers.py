"""Answers as aiohttp responses: a page to whoever can see one, problem+json to a script. Implements lanes.answers.Answers.

No answer of ours names an absolute URL outside `public_url`; redirects between our own pages are relative.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import ceil
from typing import Any, cast
from urllib.parse import urlsplit

from aiohttp import web

from gateway.flow.asked import Asked
from gateway.flow.outside import Sending
from gateway.flow.ports import Entropy
from gateway.flow.transaction import Transaction
from gateway.policy.model import StepInfo
from gateway.web.csp import common_headers
from gateway.web.page import Page, safe_href
from gateway.web.pages import ACTIONS, Behalf, Pages, Shown, Suspended, Way
from gateway.web.problem import json_page, problem, step_up_required
from gateway.web.texts import TEXTS, Kind
from gateway.wire.head import RequestHead
from gateway.wire.media import navigation, prefers_json


def response(page: Page, cookies: Sequence[bytes] = ()) -> web.Response:
    """A page with its headers and our cookies; aiohttp adds Content-Length, Date and Server."""
    made = web.Response(status=page.status, body=page.body)
    made.headers.popall("Content-Type", None)
    made.headers["Server"] = "stepup"
    for name, value in page.headers:
        made.headers.add(name, value)
    for cookie in cookies:
        made.headers.add("Set-Cookie", cookie.decode("latin-1"))
    return made


def wants_page(head: RequestHead) -> bool:
    """A person looks at the answer: a navigation or a frame, and not one that asks for JSON."""
    return navigation(head) in ("navigation", "frame") and not prefers_json(head)


def suspended(transaction: Transaction) -> Suspended:
    outside, grant, behalf = transaction.outside, transaction.grant, None
    if outside is not None:
        host = urlsplit(outside.url).netloc or transaction.origin.partition("://")[2]
        return Suspended("", "", host)
    if grant is not None:
        behalf = Behalf(grant.client, transaction.subject.id, ACTIONS.get(grant.protocol, "get access"))
    return Suspended(transaction.method, transaction.target.decode("latin-1"), transaction.origin.partition("://")[2], behalf)


class WebAnswers:
    def __init__(
        self, *, pages: Callable[[], Pages], steps: Callable[[], Mapping[str, StepInfo]], entropy: Entropy, prefix: str, continue_path: str
    ) -> None:
        self._pages = pages
        self._steps = steps
        self._entropy = entropy
        self._prefix = prefix
        self._continue = continue_path

    @property
    def pages(self) -> Pages:
        return self._pages()

    def shown(self, request_id: str) -> Shown:
        return Shown(nonce=self._entropy.token()[:22], request_id=request_id)

    def transaction_path(self, state: str) -> str:
        return f"{self._prefix}/t/{state}"

    def continue_path(self, state: str) -> str:
        return f"{self._continue}?state={state}"

    def see_other(self, location: str, cookies: Sequence[bytes] = ()) -> web.Response:
        headers = (("Location", safe_href(location)), *common_headers())
        return response(Page(303, headers, b""), cookies)

    def send(self, asked: Asked, sending: Sending, *, cookies: Sequence[bytes] = ()) -> web.Response:
        """The browser's way on to somebody else's URL. A script gets it as JSON: it is for the script to send."""
        if not wants_page(asked.head):
            body = {"status": "passed", "send": {"method": sending.method, "url": sending.url, "fields": dict(sending.fields)}}
            return response(json_page(200, body), cookies)
        if sending.method == "query":
            return self.see_other(sending.address, cookies)
        where = origin_or_own(asked.head, sending.url).partition("://")[2]
        page = self.pages.send(
            self.shown(asked.request_id), sending.url, sending.fields, where=where, next_origins=sending.next_origins
        )  # fmt: skip
        return response(page, cookies)

    def onward(self, asked: Asked, target: str, cookies: Sequence[bytes]) -> web.Response:
        """A page that goes on to a path on this origin by itself. Browsers hold a form to every redirect behind it (CSP `form-action`), and
        an authorize request leads to whatever client there is: here that chain ends, without a script."""
        href = safe_href(target)
        page = self.refusal(asked, "onward", href=href, cookies=cookies)
        page.headers["Refresh"] = f"0; url={href.replace(chr(34), '%22').replace(chr(39), '%27')}"
        return page

    def bare(self, status: int, kind: str, request_id: str) -> web.Response:
        """For a request that has no readable head: nothing is known of what it can show, so both get few words."""
        title = next((text.title for name, text in TEXTS.items() if name == kind), "This request cannot be served")
        text = f"{title}. Request number {request_id}.\n"
        return response(Page(status, (("Content-Type", "text/plain; charset=utf-8"), *common_headers()), text.encode()))

    def refusal(
        self, asked: Asked, kind: str, *, status: int | None = None, retry_after: int | None = None, cookies: Sequence[bytes] = (),
        message: str = "", href: str | None = None, label: str | None = None, detail: str = "", error: str | None = None,
        about: Transaction | None = None, limit: int | None = None, out: Way | None = None,
    ) -> web.Response:  # fmt: skip
        """A refusal or dead end. message: a rule's or step's public words. href, label: the way on. out: for who goes no further."""
        name = cast("Kind", kind)
        text = TEXTS[name]
        code = text.status if status is None else status
        if retry_after is None and code in (429, 503):
            retry_after = 5
        if wants_page(asked.head):
            # A browser comes here from a page of somebody who reads no JSON, and has to find out what it forgot.
            told = detail if kind == "bad_request" and error == "invalid_request" else ""
            made = self.pages.message(
                self.shown(asked.request_id), name, status=code, retry_after=retry_after, message=message, detail=told,
                primary=Way(href, label) if href is not None else None, secondary=out, suspended=suspended(about) if about else None,
                framed=navigation(asked.head) == "frame",
            )  # fmt: skip
        else:
            words = detail or message or " ".join(text.paragraphs).format(message=message, wait=f"{retry_after} seconds")
            extra = {"limit": limit} if limit is not None else None
            made = problem(code, kind, words, asked.request_id, error=error, retry_after=retry_after, extra=extra)
        return response(made, cookies)

    def not_allowed(self, asked: Asked, *methods: str, detail: str) -> web.Response:
        """405, with the methods that there are (RFC 9110 §15.5.6)."""
        made = self.refusal(asked, "bad_request", status=405, detail=detail)
        made.headers["Allow"] = ", ".join(methods)
        return made

    def handed_back(self, asked: Asked, uri: str, fields: Sequence[tuple[str, str]], *, message: bool) -> web.Response:
        """An authorization error for a client that asked for a form or a message. Implements lanes.oauth.verdicts.Pages."""
        try:
            return response(self.pages.handed_back(self.shown(asked.request_id), uri, fields, message=message))
        except ValueError:  # a redirect URI that no form of ours may name
            return self.refusal(asked, "denied", error=dict(fields).get("error"))

    def step_up(
        self, asked: Asked, transaction: Transaction | None, state: str | None, steps: Sequence[str], *, max_age: float | None,
        cookies: Sequence[bytes] = (), cors: Sequence[str] = (),
    ) -> web.Response:  # fmt: skip
        """The 401 for whoever cannot be redirected (RFC 9470, RFC 9457)."""
        infos = self._steps()
        opened: dict[str, Any] = {}
        if transaction is not None and state is not None:
            origin = asked.head.origin
            opened = {
                "state": state,
                "step_up_url": origin + self.transaction_path(state),
                "continue_url": origin + self.continue_path(state),
                "expires_in": max(0, ceil(transaction.expires - asked.now)),
            }
        made = step_up_required(
            request_id=asked.request_id,
            description="This request needs a step-up: " + ", ".join(steps),
            steps=steps,
            acr_values=[infos[s].acr or s if s in infos else s for s in steps if not s.startswith("@")],
            max_age=int(max_age) if max_age is not None else None,
            **opened,
        )
        answer = response(made, cookies)
        allow_origin(asked.head, answer, cors)
        return answer

    def interaction_required(
        self, asked: Asked, transaction: Transaction | None, state: str | None, steps: Sequence[str], *, cors: Sequence[str] = ()
    ) -> web.Response:
        """403 as for Auth0's `mfa_required`: RFC 6749 §5.2 says 400 "unless specified otherwise", and a 401 is about the client."""
        body: dict[str, Any] = {"error": "interaction_required"}
        if transaction is not None and state is not None:
            body |= {
                "error_description": "A step-up is needed. Run the steps, then repeat this call with stepup_token.",
                "state": state,
                "step_up_url": asked.head.origin + self.transaction_path(state),
                "expires_in": max(0, ceil(transaction.expires - asked.now)),
            }
        else:
            body["error_description"] = "A step-up is needed, and nobody is known who could do it. Sign in again."
        return self._oauth(asked, 403, {**body, "steps": list(steps)}, cors)

    def oauth_error(
        self, asked: Asked, status: int, error: str, description: str, *, retry_after: int | None = None, cors: Sequence[str] = ()
    ) -> web.Response:
        """An error of a token endpoint (RFC 6749 §5.2)."""
        headers = {405: (("Allow", "POST"),)}.get(status, ())
        if retry_after is not None:
            headers = (*headers, ("Retry-After", str(retry_after)))
        return self._oauth(asked, status, {"error": error, "error_description": description}, cors, headers)

    def _oauth(
        self, asked: Asked, status: int, body: Mapping[str, Any], cors: Sequence[str], headers: tuple[tuple[str, str], ...] = ()
    ) -> web.Response:
        made = json_page(status, {**body, "request_id": asked.request_id}, headers=(("Pragma", "no-cache"), *headers))
        answer = response(made)
        allow_origin(asked.head, answer, cors)
        return answer


def origin_or_own(head: RequestHead, url: str) -> str:
    """The origin of a continue URL; ours for a path."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}" if parts.netloc else head.origin


def allow_origin(head: RequestHead, answer: web.StreamResponse, origins: Sequence[str]) -> None:
    """CORS for the configured origins only (Fetch Standard §3.2): with credentials, so never `*`."""
    origin = head.get("origin")
    if origin is not None and origin in origins:
        answer.headers["Access-Control-Allow-Origin"] = origin
        answer.headers["Access-Control-Allow-Credentials"] = "true"
        answer.headers["Access-Control-Expose-Headers"] = "WWW-Authenticate, Retry-After"
    if origins:
        answer.headers.add("Vary", "Origin")
