"""Authorize requests and pushed ones, read on their way to the provider."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from gateway.flow.asked import Asked
from gateway.flow.browser import known_browser
from gateway.flow.gate import Gate, Judged
from gateway.flow.identity import Identified
from gateway.flow.oauth.memory import OAuthMemory, sessions
from gateway.flow.oauth.request import AuthorizationRequest, read_pushed, read_request
from gateway.flow.oauth.response import Pairs, parameters
from gateway.lanes.body import ClientBody
from gateway.lanes.oauth.verdicts import Verdicts
from gateway.lanes.relay import Diverted
from gateway.policy.decision import Allow, StepUp
from gateway.policy.facts import Functions
from gateway.spec.oauth import OAuthSpec
from gateway.tokens.passes import Pass
from gateway.wire.head import RequestHead
from gateway.wire.media import media_type, navigation

Specs = Callable[[str], OAuthSpec | None]
_FORM = "application/x-www-form-urlencoded"


@dataclass(frozen=True, slots=True)
class Asking:
    """What was read of a request, kept in its head's memo under "oauth" for whoever sees the answer.

    authorize: it is one to the authorize path; else one that pushes. form: the parameters of its body. page: it is not the client's, but
    the form of a page that the provider shows there; `request` is what that page was shown for, as far as it is known. kept: who asks is
    known by what was kept under the provider's session, not by a pass of theirs. functions: what rule functions came to for it.
    """

    request: AuthorizationRequest
    authorize: bool
    form: Pairs = ()
    page: bool = False
    kept: bool = False
    functions: Functions | None = None


class OAuthRequests:
    """May raise StoreUnavailable, and what reading a body raises."""

    def __init__(self, *, specs: Specs, gate: Gate, memory: OAuthMemory, verdicts: Verdicts, condition_body: int) -> None:
        self._specs = specs
        self._gate = gate
        self._memory = memory
        self._verdicts = verdicts
        self._condition_body = condition_body

    async def authorization(self, asked: Asked, incoming: ClientBody) -> tuple[Judged, tuple[str, ...]] | None:
        """An authorize request, and the steps that let its answer pass as things stand. None: an ordinary request, to be judged as such.

        Only the plain spelling of the path counts; rules meet any other as they meet every request. May raise Diverted: providers answer a
        pushed request once, so what can be asked already is asked before.
        """
        head, now = asked.head, asked.now
        route = self._gate.route(head)
        spec = self._specs(route.upstream) if route is not None else None
        if route is None or spec is None or spec.authorize is None or not self._gate.rules_at(route.upstream, spec.authorize):
            return None
        if spec.par is not None and spec.par in head.target.readings and head.method == "POST":
            form = await self._form(head, incoming)
            pushed = read_pushed(form) if form is not None else AuthorizationRequest(b"/", readable=False)
            head.memo["oauth"] = Asking(pushed, authorize=False)
            return None
        if head.target.readings != (spec.authorize,) or head.method not in ("GET", "HEAD", "POST"):
            return None
        form = await self._form(head, incoming)
        request = await self._read(route.upstream, head, form, now)
        page = False
        if head.method == "POST" and _from_here(head):
            began = await self._memory.began(route.upstream, known_browser(head), request, now)
            page = began is not None or not request.plain
            if page:
                # What else its form says is between the user and the provider: a password is no parameter, and stands in no address.
                request, form = began or AuthorizationRequest(head.target.raw, readable=False), ()
        identified = await self._gate.identify(head, route.upstream, now)
        held = await self._kept(route.upstream, spec, head, now) if identified.presented is None else None
        if held is not None:
            identified = await self._gate.identify(head, route.upstream, now, kept=held)
        visit = await self._verdicts.resumed(asked, route.upstream, request, identified)
        judged = await self._verdicts.precise(
            asked, route.upstream, request, identified, form=form or (), resumed=visit.found.transaction if visit is not None else None
        )
        asking = Asking(request, authorize=True, form=form or (), page=page, kept=held is not None, functions=judged.facts.functions)
        head.memo["oauth"] = asking
        decision = judged.decision
        plain = head.method == "GET" and navigation(head) == "navigation" and not request.silent
        if request.pushed and plain and not asking.kept and isinstance(decision, StepUp) and not decision.login:
            raise Diverted(await self._verdicts.suspend(asked, judged, decision, request))
        steps = decision.steps if isinstance(decision, Allow) else ()
        return replace(judged, decision=Allow()), steps

    async def _form(self, head: RequestHead, incoming: ClientBody) -> Pairs | None:
        """The parameters in a body: none without one, None where it cannot be read."""
        if not incoming.present:
            return ()
        incoming.check()
        peeked = await incoming.peek(self._condition_body)
        readable = media_type(head.get("content-type") or "") == _FORM and not head.has("content-encoding") and peeked.whole
        return parameters(peeked.data.decode("utf-8", "replace")) if readable and head.method == "POST" else None

    async def _read(self, upstream: str, head: RequestHead, form: Pairs | None, now: float) -> AuthorizationRequest:
        pushed = {}
        for uri in sorted(read_request(head, form, {}).values("request_uri"))[:4]:
            found = await self._memory.pushed(upstream, uri, now)
            if found is not None:
                pushed[uri] = found
        return read_request(head, form, pushed)

    async def _kept(self, upstream: str, spec: OAuthSpec, head: RequestHead, now: float) -> Pass | None:
        for cookie in sessions(spec, head):
            held = await self._memory.passed(upstream, cookie, head.origin, now)
            if held is not None and not self._gate.revoked(Identified(presented=held)):
                return held
        return None


def _from_here(head: RequestHead) -> bool:
    """A page of this very origin sent it, or the browser does not say: a page that forbids `Referer` has its forms say `Origin: null`."""
    site = (head.get("sec-fetch-site") or "").lower()
    if site:
        return site not in ("cross-site", "same-site")
    return all(value.strip().lower() in (head.origin, "null") for value in head.all("origin"))
