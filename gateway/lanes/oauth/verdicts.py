"""What becomes of an answer that holds an authorization response: it passes; or the grant is thrown away, and the browser goes through the
steps first; or the client gets an error at the redirect URI that the provider chose for this very answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol, assert_never

from aiohttp import web

from gateway.errors import StoreUnavailable
from gateway.flow.asked import Asked
from gateway.flow.browser import known_browser
from gateway.flow.functions import at_continue, occasion, tell
from gateway.flow.gate import Gate, Judged
from gateway.flow.identity import Identified
from gateway.flow.issued import Issued
from gateway.flow.oauth.memory import OAuthMemory, sessions
from gateway.flow.oauth.request import AuthorizationRequest, as_get
from gateway.flow.oauth.response import Pairs, Response, error_address, error_fields, usable
from gateway.flow.protocol import profile
from gateway.flow.rerun import proved
from gateway.flow.sessions import After
from gateway.flow.trail import Trail
from gateway.flow.transaction import Transaction
from gateway.flow.visit import Door, Visit
from gateway.lanes.answers import Answers
from gateway.lanes.relay import Diverted
from gateway.lanes.suspend import Suspender
from gateway.policy.decision import Allow, Deny, Need, StepUp
from gateway.policy.facts import REDIRECT_CALLBACK, Body, Functions
from gateway.spec.oauth import OAuthSpec
from gateway.tokens.passes import Pass
from gateway.wire.cookies import parse_set_cookie
from gateway.wire.head import Headers, RequestHead
from gateway.wire.media import navigation
from gateway.wire.subject import Proof, Subject

if TYPE_CHECKING:
    from gateway.lanes.oauth.requests import Asking

UNMET = "interaction_required"
"""OpenID Connect Core §3.1.2.6."""
DENIED = "access_denied"
"""RFC 6749 §4.1.2.1."""


@dataclass(frozen=True, slots=True)
class Case:
    """An answer and what it belongs to. asked: the client's request; head: as the provider got it (a replay's is another). asking: where it
    is an authorize request, or a pushed one."""

    asked: Asked
    head: RequestHead
    upstream: str
    spec: OAuthSpec
    identified: Identified
    asking: Asking | None

    @property
    def direct(self) -> bool:
        """It belongs to this very request. A form at the authorize path may be that of a page there, and a provider that shows one may
        go by its own notes: what was asked is the browser's word then, as with an answer from elsewhere."""
        return self.asking is not None and self.asking.authorize and self.asked.head.method != "POST"

    @property
    def address(self) -> str:
        """The address that it answers."""
        return self.asked.head.origin + self.head.target.raw.decode("latin-1")


class Pages(Answers, Protocol):
    """What the answers need of the pages beside the usual."""

    def handed_back(self, asked: Asked, uri: str, fields: Pairs, *, message: bool) -> web.Response:
        """A page that sends these fields to a redirect URI by itself: by a form, or as a message to the page that opened or frames it."""


class Verdicts:
    """May raise StoreUnavailable; then nothing of the answer leaves."""

    def __init__(
        self, *, gate: Gate, door: Door, memory: OAuthMemory, suspender: Suspender, answers: Pages,
        trail: Trail, issued: Issued,
    ) -> None:  # fmt: skip
        self._gate = gate
        self._door = door
        self._memory = memory
        self._issued = issued
        self._suspender = suspender
        self._answers = answers
        self._trail = trail

    async def precise(
        self, asked: Asked, upstream: str, request: AuthorizationRequest, identified: Identified, *, form: Pairs = (),
        resumed: Transaction | None = None, functions: Functions | None = None,
    ) -> Judged:  # fmt: skip
        """The decision on an authorize request by its parameters: as a GET that has them all, in each way to read them, and a POST
        as it was sent too.

        resumed: the transaction that it was suspended in. functions: what rule functions came to for this very request before, as part of
        that transaction or not.
        """
        protocol, granted, run = _protocol(request), {}, None
        if functions is not None and (functions.protocol == REDIRECT_CALLBACK) != (resumed is not None):
            functions = None  # a redirect that was not to count then may count now, and the other way round
        if resumed is not None:
            granted, run = proved(resumed), occasion(resumed, identified.subject, call=protocol)
            functions = at_continue(resumed, identified.subject, asked.now) or functions

        async def judged(head: RequestHead, body: Body, functions: Functions | None) -> Judged:
            return await self._gate.judge_answer(
                head, upstream, asked.now, identified, body=body, protocol=protocol, granted=granted, occasion=run, functions=functions
            )

        first, *others = request.heads(asked.head)
        whole = await judged(first, Body(), functions)
        for other in others if isinstance(whole.decision, Allow) else ():
            also = await judged(other, Body(), None)
            if not isinstance(also.decision, Allow):
                return also
        if form and isinstance(whole.decision, Allow):
            posted = await judged(asked.head, Body(form=dict(form)), whole.facts.functions)
            return whole if isinstance(posted.decision, Allow) else posted
        return whole

    async def resumed(self, asked: Asked, upstream: str, request: AuthorizationRequest, identified: Identified) -> Visit | None:
        """The transaction that this request was suspended in, and that has been through its steps."""
        return await self._door.repeated(asked, as_get(asked.head, request.target), upstream, identified)

    async def decide(self, case: Case, found: Response, headers: Headers, edited: Headers, after: After) -> Headers:
        """The headers of the answer that passes. headers: as the provider sent them; edited: as the client would get them; after: what
        the answer did to the pass. Raises Diverted with what takes its place."""
        request = await self._request(case, found)
        if request is not None and case.direct and found.state is None and len(states := request.values("state")) == 1:
            found = replace(found, state=states.pop())  # what is encrypted is not seen, and a client takes no answer without its state
        who = _after_login(case.identified, after)
        visit = await self.resumed(case.asked, case.upstream, request, case.identified) if request is not None else None
        if visit is not None and not _theirs(visit.found.transaction, who):
            visit = None
        judged = await self._judged(case, request, who, visit)
        if visit is not None and isinstance(judged.decision, Allow) and not await self._door.take(visit, case.asked.now):
            visit = None
            judged = await self._judged(case, request, who, visit)
        self._log(case, judged, found)
        await tell(self._trail, case.asked, judged.facts.functions, judged.identified.subject)
        cookies = tuple(value for name, value in edited if name.lower() == b"set-cookie")
        decision = judged.decision
        match decision:
            case Allow():
                held = who.holder if after.learned else after.held or who.holder
                await self._passed(case, decision, headers, held)
                here = proved(visit.found.transaction) if visit is not None else {}
                proofs = {**(held.proofs if held is not None else {}), **here}
                of = held or case.identified.presented
                if of is not None:
                    passed = {s: proofs[s] for s in decision.steps if s in proofs}
                    await self._code(case, found, request, held.subject if held is not None else who.subject, passed, of.sid)
                return edited
            case StepUp():
                raise Diverted(_with(await self._unmet(case, found, request, who, judged, decision), cookies))
            case Deny():
                if (again := await self._asked_again(case, request, who)) is not None:
                    raise Diverted(_with(again, cookies))
                self._outcome(case, "denied")
                raise Diverted(_with(self._error(case, found, DENIED, decision.public), cookies))
            case Need():
                self._outcome(case, "denied")
                raise Diverted(_with(self._error(case, found, DENIED, "This request could not be checked, so it was refused."), cookies))
            case _:
                assert_never(decision)

    async def suspend(self, asked: Asked, judged: Judged, decision: StepUp, request: AuthorizationRequest) -> web.Response:
        """Open a transaction for an authorize request: behind its steps the browser asks the provider again."""
        again = replace(asked, head=as_get(asked.head, request.target))
        return await self._suspender.suspend(again, judged, decision, None, can_login=False, replayed=False)

    # -- whose answer it is, and what that comes to -----------------------------------------------------------------------

    async def _request(self, case: Case, found: Response) -> AuthorizationRequest | None:
        if case.asking is not None and case.asking.authorize and not case.asking.page:
            return case.asking.request
        browsers = known_browser(case.asked.head)
        return await self._memory.recall(case.upstream, browsers, found.uri, found.state, case.asked.now)

    async def _judged(self, case: Case, request: AuthorizationRequest | None, who: Identified, visit: Visit | None) -> Judged:
        resumed = visit.found.transaction if visit is not None else None
        precise = None
        if request is not None:
            precise = await self.precise(
                case.asked, case.upstream, request, who, form=_form(case), resumed=resumed, functions=_run_before(case, request, who)
            )
        if case.direct and precise is not None and request is not None and request.readable:
            return precise
        if precise is not None and not isinstance(precise.decision, Allow):
            return precise
        head = as_get(case.asked.head, (case.spec.authorize or "/").encode("ascii"))
        protocol = _protocol(request)
        granted = proved(resumed) if resumed is not None else {}
        return await self._gate.judge_answer(
            head, case.upstream, case.asked.now, who, body=Body(), protocol=protocol, unread=True, granted=granted
        )

    async def _unmet(
        self, case: Case, found: Response, request: AuthorizationRequest | None, who: Identified, judged: Judged, decision: StepUp
    ) -> web.Response:
        asked = case.asked
        if request is None or not _repeatable(case, request):
            return self._error(case, found, UNMET, _steps(decision))
        if (again := await self._asked_again(case, request, who)) is not None:
            return again
        if not case.direct:
            request = request.answered
        if any(a.step.startswith("@") and not a.url for a in decision.asked):
            return self._error(case, found, UNMET, _steps(decision))  # a function that could not be asked, and asking again did not help
        if case.asking is not None and case.asking.kept:
            # A transaction is for somebody who is known by a pass, or for nobody; never for whom the provider's session stands.
            plain = await self._gate.identify(asked.head, case.upstream, asked.now)
            judged = await self.precise(asked, case.upstream, request, plain, form=_form(case))
            if not isinstance(judged.decision, StepUp):
                return self._error(case, found, UNMET, _steps(decision))
            decision = judged.decision
        if decision.login:
            return self._error(case, found, DENIED, "It is not known who is asking, so no step can be asked of them.")
        self._outcome(case, "suspended")
        return await self.suspend(asked, judged, decision, request)

    async def _asked_again(self, case: Case, request: AuthorizationRequest | None, who: Identified) -> web.Response | None:
        """Where the answer came by other ways, and its request would need less: the provider is asked once more, unnoticed. None: it is
        not. Judged as it was asked: a rule on `prompt` holds for whoever has followed it."""
        asked = case.asked
        if request is None or case.direct or request.reasked or not _repeatable(case, request):
            return None
        if not isinstance((await self.precise(asked, case.upstream, request, who)).decision, Allow):
            return None
        request = request.answered
        for secret in known_browser(asked.head)[:1]:
            await self._memory.remember(case.upstream, secret, replace(request, reasked=True), case.spec, asked.now)
        self._outcome(case, "asked again")
        return self._answers.see_other(request.target.decode("latin-1"))

    async def _code(
        self, case: Case, found: Response, request: AuthorizationRequest | None, subject: Subject, proofs: Mapping[str, Proof], sid: str
    ) -> None:
        """What was passed goes with the code, to the refresh token that it is exchanged for. Where that cannot be written, the token is
        asked about later."""
        if not found.code:
            return
        clients = request.values("client_id") if request is not None else set()
        client = next(iter(clients)) if len(clients) == 1 else ""
        try:
            await self._issued.remember_code(case.upstream, found.code, subject, proofs, client=client, sid=sid, now=case.asked.now)
        except StoreUnavailable as error:
            self._trail.event("code not remembered", request_id=case.asked.request_id, upstream=case.upstream, reason=str(error))

    async def _passed(self, case: Case, decision: Allow, headers: Headers, held: Pass | None) -> None:
        """It passes. By steps: they are kept under the provider's session, for the times when no cookie of ours comes along."""
        self._outcome(case, "passed")
        if held is None or not decision.steps:
            return
        for name in case.spec.session_cookie:
            given = [c for n, v in headers if n.lower() == b"set-cookie" and (c := parse_set_cookie(v)).name == name]
            current = [(name, given[-1].value)] if given else [cookie for cookie in sessions(case.spec, case.head) if cookie[0] == name]
            for cookie in current:
                if not cookie[1] or (given and given[-1].expired(case.asked.now)):
                    continue
                try:
                    await self._memory.keep(case.upstream, cookie, held, case.asked.now)
                except StoreUnavailable as error:
                    self._trail.event("passed steps not kept", request_id=case.asked.request_id, upstream=case.upstream, reason=str(error))

    # -- answers ----------------------------------------------------------------------------------------------------------

    def _error(self, case: Case, found: Response, error: str, description: str) -> web.Response:
        asked = case.asked
        self._trail.event("refused", request_id=asked.request_id, kind="authorization", reason=f"{error}: {description}")
        if error == UNMET:
            self._outcome(case, "refused")
        if found.mode == "unreadable" or not found.leads or not usable(found.uri):
            return self._answers.refusal(asked, "denied", message=description, error=error)
        fields = error_fields(found, error, _plain(description))
        if found.mode in ("form_post", "web_message"):
            return self._answers.handed_back(asked, found.uri, fields, message=found.mode == "web_message")
        address = error_address(found, fields)
        return web.Response(status=303, headers={"Location": address, "Cache-Control": "no-store", "Server": "stepup"})

    def _outcome(self, case: Case, outcome: str) -> None:
        self._trail.event("authorization", request_id=case.asked.request_id, upstream=case.upstream, outcome=outcome)

    def _log(self, case: Case, judged: Judged, found: Response) -> None:
        decision = judged.decision
        for shadow in decision.shadow if not isinstance(decision, Need) else ():
            self._trail.event("shadow", request_id=case.asked.request_id, rule=shadow.rule, effect=shadow.effect)
        rules: tuple[str, ...] = ()
        match decision:
            case Allow() | StepUp():
                rules = decision.rules
            case Deny():
                rules = (decision.rule,) if decision.rule else ()
            case Need():
                pass
        names = {Allow: "allow", StepUp: "step-up", Deny: "deny", Need: "deny"}
        self._trail.decision(
            request_id=case.asked.request_id, method=case.asked.head.method, path=case.head.target.path.decode("latin-1"),
            upstream=case.upstream, decision=names[type(decision)], rules=rules, reason=f"authorization response by {found.mode}",
            subject=judged.identified.subject.id,
        )  # fmt: skip


def _after_login(identified: Identified, after: After) -> Identified:
    """Who the browser is behind this answer: whom it has just logged in, where it did. Who was logged in as the same person until then has
    the proofs of that pass for this answer: a provider that wants a login each time would else never be answered."""
    held, before = after.held, identified.holder
    if not after.learned or held is None:
        return identified
    if before is not None and (before.subject.id, before.subject.source) == (held.subject.id, held.subject.source):
        held = replace(held, proofs={**before.proofs, **held.proofs}, issued=before.issued)  # a proof lasts no longer for it
    session = "+".join(sorted(v.digest for v in held.sessions if v.until is None))
    return Identified(subject=held.subject, holder=held, presented=held, session=session)


def _protocol(request: AuthorizationRequest | None) -> str:
    """Auth0's `context.protocol`, by all that is seen of the request."""
    return profile(request.values("response_type") if request is not None else ())


def _theirs(transaction: Transaction, who: Identified) -> bool:
    """What a transaction proved counts for the person who went through it. It may have begun before anybody had logged in."""
    began = transaction.subject
    return not began.known or (began.id, began.source) == (who.subject.id, who.subject.source)


def _run_before(case: Case, request: AuthorizationRequest, who: Identified) -> Functions | None:
    """What rule functions came to when the request arrived, where that was for the same person: their side effects come once."""
    asking = case.asking
    if asking is None or asking.functions is None or asking.request != request:
        return None
    of = case.identified.subject
    return asking.functions if (of.id, of.source) == (who.subject.id, who.subject.source) else None


def _repeatable(case: Case, request: AuthorizationRequest) -> bool:
    """A person may be sent to make it once more. Whoever came by the provider's own pages was not asked in silence, whatever an encrypted
    request said."""
    visible = not request.silent and (request.readable or not case.direct)
    return visible and not request.pushed and navigation(case.asked.head) == "navigation"


def _form(case: Case) -> Pairs:
    return case.asking.form if case.asking is not None else ()


def _steps(decision: StepUp) -> str:
    return "A step-up is needed: " + ", ".join(asked.step for asked in decision.asked)


def _plain(text: str) -> str:
    """RFC 6749 §4.1.2.1: %x20-21 / %x23-5B / %x5D-7E."""
    return "".join(c if " " <= c <= "~" and c not in '"\\' else "?" for c in text)


def _with(response: web.Response, cookies: tuple[bytes, ...]) -> web.Response:
    """An answer of ours in the place of the provider's, with the cookies that it set: its session goes on."""
    ours = response.headers.getall("Set-Cookie", [])
    for cookie in cookies:
        text = cookie.decode("latin-1")
        if text not in ours:
            response.headers.add("Set-Cookie", text)
    return response
