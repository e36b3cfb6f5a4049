"""Looks into a provider's answers: their addresses, and the pages among them, held before the client gets any of it."""

from __future__ import annotations

import json

from gateway.errors import StoreUnavailable
from gateway.flow.asked import Asked
from gateway.flow.browser import browser_for
from gateway.flow.gate import Gate, Judged
from gateway.flow.oauth.memory import OAuthMemory, sessions
from gateway.flow.oauth.page import HTML, decoded, in_json, in_page, join, refresh_address
from gateway.flow.oauth.response import Response, in_address
from gateway.flow.ports import Entropy
from gateway.flow.sessions import After
from gateway.flow.trail import Trail
from gateway.lanes.forward import Hold
from gateway.lanes.oauth.requests import Asking, Specs
from gateway.lanes.oauth.verdicts import Case, Verdicts
from gateway.lanes.relay import Watch
from gateway.lanes.upstream import ResponseHead
from gateway.wire.cookies import parse_set_cookie
from gateway.wire.head import Headers, RequestHead
from gateway.wire.media import media_type, navigation

_UNASKED = frozenset({b"accept-encoding", b"range", b"if-range", b"te"})
"""Whoever asks for a part, or for it to be encoded, asks for what cannot be looked into."""
_BODILESS = frozenset({101, 204, 304})


class AnswerWatcher:
    """Implements lanes.relay.Watcher for all upstreams with `oauth`."""

    def __init__(
        self, *, specs: Specs, gate: Gate, memory: OAuthMemory, verdicts: Verdicts, entropy: Entropy, trail: Trail
    ) -> None:  # fmt: skip
        self._specs = specs
        self._gate = gate
        self._memory = memory
        self._verdicts = verdicts
        self._entropy = entropy
        self._trail = trail

    async def __call__(self, asked: Asked, head: RequestHead, judged: Judged) -> Watch | None:
        upstream = judged.route.upstream if judged.route is not None else ""
        spec = self._specs(upstream)
        if spec is None or spec.authorize is None or not self._gate.rules_at(upstream, spec.authorize):
            return None
        asking: Asking | None = head.memo.get("oauth")
        return AnswerWatch(
            Case(asked, head, upstream, spec, judged.identified, asking), self._memory, self._verdicts, self._entropy, self._trail
        )


class AnswerWatch:
    """One answer. Implements lanes.relay.Watch. May raise StoreUnavailable: then nothing of the answer leaves."""

    def __init__(self, case: Case, memory: OAuthMemory, verdicts: Verdicts, entropy: Entropy, trail: Trail) -> None:
        self._case = case
        self._memory = memory
        self._verdicts = verdicts
        self._entropy = entropy
        self._trail = trail
        self._after = After()
        self._looked = False
        asking = case.asking
        self._pushing = asking.request if asking is not None and not asking.authorize else None
        self.quiet = asking is not None and asking.kept

    def request(self, headers: Headers) -> Headers:
        return tuple(field for field in headers if field[0].lower() not in _UNASKED)

    async def head(self, answer: ResponseHead, edited: Headers, after: After) -> Headers:
        self._after = after
        await self._follow_session(answer.headers)
        found = in_fields(answer.headers, self._case.asked.head.origin, self._case.address)
        if found is None and (self._page(answer) or self._document(answer)) and _unreadable(answer):
            found = Response("unreadable")
        if found is not None:
            self._looked = True
            return await self._verdicts.decide(self._case, found, answer.headers, edited, self._after)
        return edited if self.hold(answer) is not None else await self._on_its_way(answer, edited)

    def hold(self, answer: ResponseHead) -> Hold | None:
        pushed = self._pushing is not None and self._bodied(answer)
        if self._looked or not (pushed or self._page(answer) or self._document(answer)):
            return None
        return Hold(self._case.spec.max_answer, self._case.spec.answer_timeout)

    async def held(self, answer: ResponseHead, edited: Headers, body: bytes, whole: bool) -> Headers:
        if self._pushing is not None and not self._page(answer):
            await self._pushed(answer, body)
            return edited
        found = self._read(answer, body) if whole else Response("unreadable")
        if found is not None:
            return await self._verdicts.decide(self._case, found, answer.headers, edited, self._after)
        return await self._on_its_way(answer, edited)

    def _read(self, answer: ResponseHead, body: bytes) -> Response | None:
        own, address = self._case.asked.head.origin, self._case.address
        if not self._page(answer):
            return in_json(body, own, address)
        text = decoded(body, _joined(answer.headers, b"content-type"))
        return in_page(text, own, address) if text is not None else Response("unreadable")

    def _bodied(self, answer: ResponseHead) -> bool:
        return self._case.head.method != "HEAD" and answer.status not in _BODILESS

    def _page(self, answer: ResponseHead) -> bool:
        return self._bodied(answer) and not HTML.isdisjoint(_media_types(answer.headers))

    def _document(self, answer: ResponseHead) -> bool:
        """JSON at the authorize path, for a script that asks there. An error's `code` is a word."""
        asking = self._case.asking
        kinds = _media_types(answer.headers)
        scripted = any(kind == "application/json" or kind.endswith("+json") for kind in kinds)
        return asking is not None and asking.authorize and answer.status < 400 and self._bodied(answer) and scripted

    async def _pushed(self, answer: ResponseHead, body: bytes) -> None:
        """The provider names a pushed request (RFC 9126 §2.2)."""
        try:
            document = json.loads(body) if answer.status in (200, 201) else None
        except ValueError:
            return
        if self._pushing is None or not isinstance(document, dict) or not isinstance(uri := document.get("request_uri"), str):
            return
        lives = document.get("expires_in")
        seconds = min(float(lives), self._case.spec.exchange_ttl) if isinstance(lives, int | float) and lives > 0 else 60.0
        now = self._case.asked.now
        await self._memory.push(self._case.upstream, uri, self._pushing, expires=now + seconds, now=now)

    async def _on_its_way(self, answer: ResponseHead, edited: Headers) -> Headers:
        """A person goes through the provider's pages now: remember for what."""
        case, head = self._case, self._case.asked.head
        if case.asking is None or not case.asking.authorize or case.asking.page or answer.status >= 400 or navigation(head) != "navigation":
            return edited
        browser = browser_for(head, self._entropy.token(), script=False)
        await self._memory.remember(case.upstream, browser.secret, case.asking.request, case.spec, case.asked.now)
        return (*edited, (b"Set-Cookie", browser.set_cookie)) if browser.set_cookie is not None else edited

    async def _follow_session(self, headers: Headers) -> None:
        """What was kept under the provider's session moves with it, and ends with it. What cannot be moved is asked for again."""
        case = self._case
        given = [parse_set_cookie(value) for name, value in headers if name.lower() == b"set-cookie"]
        for name, old in sessions(case.spec, case.head):
            new = next((cookie for cookie in reversed(given) if cookie.name == name), None)
            if new is None or new.value == old:
                continue
            ended = new.expired(case.asked.now) or not new.value
            try:
                await self._memory.rotate(case.upstream, (name, old), None if ended else (name, new.value), case.asked.now)
            except StoreUnavailable as error:
                self._trail.event("passed steps not moved", request_id=case.asked.request_id, upstream=case.upstream, reason=str(error))


def in_fields(headers: Headers, own: str, here: str) -> Response | None:
    """The authorization response in an answer's head. own: our origin. here: the address that it answers."""
    for name, value in headers:
        match name.lower():
            case b"location" | b"content-location":
                address = value.decode("latin-1").strip()
            case b"refresh":
                address = refresh_address(value.decode("latin-1"))
            case _:
                continue
        absolute = address if ":" in address.partition("/")[0] else join(here, address)
        if (found := in_address(absolute, own)) is not None:
            return found
    return None


def _unreadable(answer: ResponseHead) -> bool:
    """A page that cannot be looked into, though we asked for one that can."""
    return answer.status == 206 or _joined(answer.headers, b"content-encoding").strip().lower() not in ("", "identity")


def _joined(headers: Headers, wanted: bytes) -> str:
    return ", ".join(value.decode("latin-1") for name, value in headers if name.lower() == wanted)


def _media_types(headers: Headers) -> frozenset[str]:
    found = frozenset(media_type(value.decode("latin-1")) for name, value in headers if name.lower() == b"content-type")
    return found or frozenset({""})
