"""The gateway's own paths on the public listener: which handler answers what. Anything else under the prefix is a 404 with a way on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from aiohttp import web

from gateway.errors import BodyTooLarge
from gateway.flow.asked import Asked
from gateway.flow.browser import browser_for
from gateway.flow.gate import Gate
from gateway.flow.ports import Entropy
from gateway.flow.sessions import Sessions
from gateway.flow.trail import Trail
from gateway.tokens.keys import Keyring
from gateway.web.answer_form import Malformed, read_answer
from gateway.web.answers import WebAnswers, allow_origin, response, wants_page
from gateway.web.csp import common_headers
from gateway.web.introspect import Introspect
from gateway.web.outside import OutsidePages
from gateway.web.page import Page
from gateway.web.pages import TOKEN_FIELD, Proved
from gateway.web.problem import json_page
from gateway.web.published import keys_preflight, published_keys
from gateway.web.resume import Resume
from gateway.web.static import TAG, Static
from gateway.web.texts import wait_text
from gateway.web.transaction import ReadBody, TransactionPages
from gateway.wire.media import navigation


class Site:
    def __init__(
        self, *, prefix: str, continue_path: str, transactions: TransactionPages, resume: Resume, answers: WebAnswers,
        static: Static, introspect: Introspect,
        gate: Gate, sessions: Sessions, keyring: Callable[[], Keyring], cors: Callable[[], Sequence[str]],
        form_token: Callable[[str], str], read_body: ReadBody, limit: int, outside: OutsidePages, entropy: Entropy,
        trail: Trail,
    ) -> None:  # fmt: skip
        self._outside = outside
        self._entropy = entropy
        self._trail = trail
        self._prefix = prefix
        self._continue = continue_path
        self._transactions = transactions
        self._resume = resume
        self._answers = answers
        self._static = static
        self._gate = gate
        self._sessions = sessions
        self._keyring = keyring
        self._cors = cors
        self._form_token = form_token
        self._read_body = read_body
        self._limit = limit
        self._introspect = introspect

    async def handle(self, request: web.BaseRequest, asked: Asked) -> web.StreamResponse:
        """Answer a request for one of our paths. May raise StoreUnavailable and ClientGone."""
        try:
            return await self._handle(request, asked)
        except BodyTooLarge as error:
            self._trail.event("refused", request_id=asked.request_id, kind="too_large", reason=str(error))
            return self._answers.refusal(asked, "too_large", limit=self._limit)

    async def _handle(self, request: web.BaseRequest, asked: Asked) -> web.StreamResponse:
        path = asked.head.target.path.decode("latin-1")
        tail = path[len(self._prefix) + 1 :]
        steps = path != self._continue and tail.startswith("t/")
        if (steps or path == self._continue) and request.method == "OPTIONS" and navigation(asked.head) == "preflight":
            return self._preflight(asked)
        if path == self._continue:
            answer: web.StreamResponse = await self._resume.handle(request, asked)
            allow_origin(asked.head, answer, self._cors())
            return answer
        if steps:
            answer = await self._transactions.handle(request, asked, tail[2:])
            allow_origin(asked.head, answer, self._cors())
            return answer
        if tail.startswith("begin/"):
            return await self._outside.begin(request, asked, tail.removeprefix("begin/"))
        if tail.startswith("static/") and request.method in ("GET", "HEAD"):
            return self._asset(asked, tail.removeprefix("static/"))
        match (request.method, tail):
            case ("GET" | "HEAD", "jwks.json"):
                return response(published_keys(self._keyring(), asked.head.get("if-none-match")))
            case ("OPTIONS", "jwks.json"):
                return response(keys_preflight())
            case (_, "introspect"):
                return await self._introspect.handle(request, asked) or self._nothing_here(asked)
            case ("GET" | "HEAD", "pass"):
                return await self._show_pass(asked)
            case ("POST", "pass/revoke"):
                return await self._revoke(request, asked)
            case (_, "jwks.json"):
                return self._transactions.wrong_method(asked, "GET", "HEAD", "OPTIONS")
            case (_, "pass"):
                return self._transactions.wrong_method(asked, "GET", "HEAD")
            case (_, "pass/revoke"):
                return self._transactions.wrong_method(asked, "POST")
            case _:
                return self._nothing_here(asked)

    def _nothing_here(self, asked: Asked) -> web.Response:
        self._trail.event("refused", request_id=asked.request_id, kind="unknown", reason="no such path of the gateway's")
        return self._answers.refusal(asked, "unknown")

    def _preflight(self, asked: Asked) -> web.Response:
        """Only configured origins may drive steps by JSON from elsewhere."""
        answer = response(Page(204, common_headers(), b""))
        allow_origin(asked.head, answer, self._cors())
        if "Access-Control-Allow-Origin" in answer.headers:
            answer.headers["Access-Control-Allow-Methods"] = "GET, POST"
            answer.headers["Access-Control-Allow-Headers"] = "Content-Type, Accept, Authorization"
            answer.headers["Access-Control-Max-Age"] = "600"
        return answer

    def _asset(self, asked: Asked, name: str) -> web.Response:
        page = self._static.respond(name, asked.head.get("if-none-match"))
        cookies: tuple[bytes, ...] = ()
        if name == TAG and (asked.head.get("sec-fetch-site") or "").lower() != "cross-site":
            # Before the page asks for anything: of many 401s at once each would set another one.
            cookie = browser_for(asked.head, self._entropy.token(), script=False).set_cookie
            cookies = (cookie,) if cookie else ()
        return response(page, cookies) if page is not None else self._nothing_here(asked)

    async def _show_pass(self, asked: Asked) -> web.Response:
        held, _ = self._gate.presented(asked.head, asked.now)
        ends = min(held.issued + self._gate.spec.max_age, held.seen + self._gate.spec.idle) if held else asked.now
        if not wants_page(asked.head):
            body: dict[str, Any] = {"subject": held.subject.id if held else "", "steps": [], "expires_in": int(ends - asked.now)}
            if held is not None:
                body["steps"] = [{"step": p.step, "age": max(0, int(asked.now - p.at)), "amr": list(p.amr)} for p in held.proofs.values()]
            return response(json_page(200, body))
        proofs = [Proved(p.step, f"{wait_text(max(1, int(asked.now - p.at)))} ago") for p in (held.proofs.values() if held else ())]
        page = self._answers.pages.proved(
            self._answers.shown(asked.request_id), subject=held.subject.id if held else "", proofs=proofs,
            ends=wait_text(max(1, int(ends - asked.now))), action=f"{self._prefix}/pass/revoke",
            token=self._form_token(held.sid if held else ""),
        )  # fmt: skip
        return response(page)

    async def _revoke(self, request: web.BaseRequest, asked: Asked) -> web.Response:
        """Forget what this browser has proved, here and in every other process. The form's token is the pass's own."""
        identified = await self._gate.identify(asked.head, "", asked.now)
        answer = read_answer(asked.head.get("content-type") or "", await self._read_body(request, self._limit))
        if isinstance(answer, Malformed):
            self._trail.event("refused", request_id=asked.request_id, kind="bad_request", reason=answer.private)
            return self._answers.refusal(asked, "bad_request", status=answer.status, detail=answer.public)
        held = identified.presented
        site = asked.head.get("sec-fetch-site")
        genuine = answer.json or answer.fields.get(TOKEN_FIELD, "") == self._form_token(held.sid if held else "")
        if not genuine or site not in (None, "same-origin", "none"):
            self._trail.event("refused", request_id=asked.request_id, kind="forged", reason="not from the page that shows the pass")
            return self._answers.refusal(asked, "bad_request", status=403, href=f"{self._prefix}/pass")
        cookie = await self._sessions.forget(asked, identified)
        if not wants_page(asked.head):
            return response(Page(204, common_headers(), b""), (cookie,))
        return self._answers.refusal(asked, "forgotten", cookies=(cookie,))
