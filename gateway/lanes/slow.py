"""The slow lane: a complete gateway by itself. Every request on the public listener comes through `SlowLane.handle`.

    head → own path? → ticket? → judge → Allow: forward | StepUp: suspend | Deny: refuse

It never answers with less than a reason and a way on, and it fails closed: without a store, a key or a subject nothing gated passes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Protocol, assert_never
from urllib.parse import parse_qsl

import structlog
from aiohttp import web

from gateway.errors import BodyTooLarge, ClientGone, GatewayError, StoreUnavailable, UpstreamFault
from gateway.flow.asked import Asked
from gateway.flow.functions import tell
from gateway.flow.gate import BodyReader, Gate, Judged
from gateway.flow.guessing import Guessing
from gateway.flow.ports import Entropy
from gateway.flow.remembered import Remembered, proofs_of, with_proofs
from gateway.flow.repository import STATE_PREFIX, TICKET_PARAMETER
from gateway.flow.rerun import proved
from gateway.flow.trail import Trail, shown_path
from gateway.flow.visit import Door
from gateway.lanes.anew import Anew
from gateway.lanes.answers import Answers
from gateway.lanes.body import BodyTimeout, ClientBody
from gateway.lanes.faults import refusal
from gateway.lanes.forward import Relayed
from gateway.lanes.grants import Grants
from gateway.lanes.heads import Entrance, Unreadable, read_head
from gateway.lanes.intercept import Interceptor
from gateway.lanes.oauth import OAuthRequests
from gateway.lanes.relay import Diverted, Relay
from gateway.lanes.suspend import Paths, Suspender
from gateway.lanes.ticket import Tickets
from gateway.policy.body import parse_body
from gateway.policy.decision import Allow, Decision, Deny, Need, StepUp
from gateway.policy.facts import Body, BodyUnavailable
from gateway.policy.model import Rule
from gateway.spec.sections import LimitsSpec
from gateway.wire.media import media_type
from gateway.wire.target import query_pairs

log = structlog.get_logger(__name__)


class LetPass(Protocol):
    """What an `Allow` comes to. gated: a rule protects the resource; steps: what was proved for it."""

    async def __call__(self, judged: Judged, steps: tuple[str, ...], *, gated: bool) -> web.StreamResponse: ...


OwnPages = Callable[[web.BaseRequest, Asked], Awaitable[web.StreamResponse]]


class SlowLane:
    def __init__(
        self, *, entrance: Entrance, paths: Paths, gate: Gate, door: Door, suspender: Suspender,
        tickets: Tickets, relay: Relay, answers: Answers, own_pages: OwnPages, trail: Trail, entropy: Entropy, guessing: Guessing,
        clock: Callable[[], float], limits: LimitsSpec, rules: Callable[[], Mapping[str, Rule]], anew: Anew, remembered: Remembered,
        intercepts: Interceptor, oauth: OAuthRequests, grants: Grants,
    ) -> None:  # fmt: skip
        self._intercepts = intercepts
        self._oauth = oauth
        self._entrance = entrance
        self._paths = paths
        self._gate = gate
        self._door = door
        self._suspender = suspender
        self._tickets = tickets
        self._relay = relay
        self._answers = answers
        self._own_pages = own_pages
        self._trail = trail
        self._entropy = entropy
        self._guessing = guessing
        self._clock = clock
        self._limits = limits
        self._rules = rules
        self._anew = anew
        self._remembered = remembered
        self._grants = grants

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request, whatever happens."""
        request_id = self._entropy.token()[:12]
        head = read_head(request, self._entrance)
        if isinstance(head, Unreadable):
            self._trail.event("refused", request_id=request_id, kind=head.kind, reason=head.private)
            return self._answers.bare(head.status, head.kind, request_id)
        asked = Asked(head, request_id, self._clock())
        return await self.guarded(asked, self._serve(request, asked))

    async def guarded(self, asked: Asked, serving: Awaitable[web.StreamResponse]) -> web.StreamResponse:
        """The answer of `serving`, or the refusal that a fault in it comes to."""
        request_id = asked.request_id
        try:
            response = await serving
            if isinstance(response, Relayed) and response.fault is not None:
                self._broke_off(asked, response.fault)
            return response  # noqa: TRY300 -- `else` would leave the faults of these lines outside of the net
        except Diverted as diverted:
            return diverted.response
        except (StoreUnavailable, BodyTooLarge, ClientGone, UpstreamFault) as error:
            return self._refusal(asked, error)
        except asyncio.CancelledError:
            raise
        except Exception:  # the last line: a fault of ours is a page with a number, and a line in the log
            log.exception("internal error", request_id=request_id)
            self._trail.event("refused", request_id=request_id, kind="internal", reason="a fault of ours")
            return self._answers.refusal(asked, "internal")

    def _refusal(self, asked: Asked, error: GatewayError) -> web.Response:
        route = self._gate.route(asked.head)
        upstream = route.upstream if route else ""
        return refusal(error, asked, upstream, answers=self._answers, trail=self._trail, limits=self._limits)

    def _broke_off(self, asked: Asked, fault: GatewayError) -> None:
        """An answer was cut behind its head: noted like a fault before it. A client that goes is nobody's fault."""
        if isinstance(fault, BodyTimeout) or not isinstance(fault, ClientGone):
            self._refusal(asked, fault)

    async def _serve(self, request: web.BaseRequest, asked: Asked) -> web.StreamResponse:
        if self._paths.own(asked.head.target.path):
            incoming = await self._theirs(request, asked)
            return await self._own_pages(request, asked) if incoming is None else await self._gated(request, asked, incoming)
        tickets = [v for n, v in query_pairs(asked.head.target) if n == TICKET_PARAMETER] if asked.head.target.query else []
        if tickets:
            return await self._tickets.use(request, asked, tickets)
        return await self._gated(request, asked)

    async def _theirs(self, request: web.BaseRequest, asked: Asked) -> ClientBody | None:
        """The body of a request for an upstream's own `/continue`: at our path, where a rule intercepts for it, with a state not of ours.
        None for one of ours."""
        head = asked.head
        if head.target.path.decode("latin-1") != self._paths.continue_path or (name := self._intercepts.continues(head)) is None:
            return None
        values = dict.fromkeys((name, "state"))  # ours is called `state`, whatever the upstream calls its own
        pairs = list(query_pairs(head.target))
        incoming = self.body(request)
        if head.method == "POST" and media_type(head.get("content-type") or "") == "application/x-www-form-urlencoded":
            peeked = await incoming.peek(self._limits.answer_body)
            pairs += _form(peeked.data) if peeked.whole else []
        states = [v for n, v in pairs if n in values and v]
        if len(states) != 1 or states[0].startswith(STATE_PREFIX):
            incoming.lend()
            return None
        return incoming

    async def _gated(self, request: web.BaseRequest, asked: Asked, incoming: ClientBody | None = None) -> web.StreamResponse:
        incoming = incoming or self.body(request)
        granted = await self._grants.serve(request, asked, incoming)
        if granted is not None:
            return granted

        async def forward(judged: Judged, steps: tuple[str, ...], *, gated: bool) -> web.StreamResponse:
            return await self._relay.forward(request, asked, judged, incoming, steps=steps, gated=gated)

        authorization = await self._oauth.authorization(asked, incoming)
        if authorization is not None:  # its rules are for the answer
            return await forward(*authorization, gated=True)
        return await self.decided(asked, incoming, self.reader(asked, incoming), forward)

    def body(self, request: web.BaseRequest) -> ClientBody:
        limits = self._limits
        return ClientBody(
            request, limit=limits.max_upload, idle_timeout=limits.body_idle_timeout, timeout=limits.body_timeout,
            total=limits.upload_timeout,
        )  # fmt: skip

    async def decided(
        self, asked: Asked, incoming: ClientBody, read_body: BodyReader, let_pass: LetPass, *, kept: bool = True
    ) -> web.StreamResponse:
        """Judge a request and do what follows. let_pass: what an `Allow` comes to. kept: a body can be stored; where it cannot, whoever
        sent one is asked to send it again after the step-up. May raise what `guarded` catches."""
        judged = await self._gate.judge(asked.head, asked.now, read_body)
        if (answer := await self._anew.begins(asked, judged)) is not None:
            return answer
        functions = judged.facts.functions
        await tell(self._trail, asked, functions, judged.identified.subject)
        if await self._used_up(asked, judged):
            bare = replace(judged.identified, holder=replace(judged.identified.holder, proofs={})) if judged.identified.holder else None
            judged = await self._gate.judge(asked.head, asked.now, read_body, identified=bare, functions=functions)
        decision = judged.decision
        self._log(asked, judged)
        match decision:
            case Allow():
                # What somebody may see because of who they are, or of what they proved, is for no shared cache.
                return await let_pass(judged, decision.steps, gated=decision.by_pass or decision.relied_on_pass)
            case StepUp():
                if not kept and asked.head.method != "GET":
                    decision = replace(decision, replay="off")
                return await self._step_up(asked, judged, decision, incoming, read_body, let_pass)
            case Deny():
                if judged.route is None:
                    return self._answers.refusal(asked, "denied", status=decision.status, message=decision.public)
                return self._answers.refusal(asked, "denied", status=decision.status, message=decision.public, detail=decision.public)
            case Need():
                raise AssertionError("the gate answers every Need")
            case _:
                assert_never(decision)

    async def _step_up(
        self, asked: Asked, judged: Judged, decision: StepUp, incoming: ClientBody, read_body: BodyReader, let_pass: LetPass
    ) -> web.StreamResponse:
        try:
            granted = await self._grant(asked, judged, decision, read_body) or await self._remember(asked, judged, decision, read_body)
            if granted is not None:
                return await let_pass(granted[0], granted[1].steps, gated=True)
            source = self._relay.source(judged)
            return await self._suspender.suspend(asked, judged, decision, incoming, can_login=source is not None)
        except StoreUnavailable as error:
            if not self._lenient(decision.rules):
                raise
            self._trail.event("allowed without a store", request_id=asked.request_id, rules=",".join(decision.rules), reason=str(error))
            return await let_pass(judged, (), gated=True)

    async def _grant(self, asked: Asked, judged: Judged, decision: StepUp, read_body: BodyReader) -> tuple[Judged, Allow] | None:
        """A client repeats a request that is not stored and whose steps were asked `once`: the READY transaction that its pass names is
        used up here."""
        if judged.route is None or all(a.max_age != "once" for a in decision.asked):
            return None
        visit = await self._door.repeated(asked, asked.head, judged.route.upstream, judged.identified)
        if visit is None:
            return None
        again = await self._gate.judge(
            asked.head, asked.now, read_body, identified=judged.identified, granted=proved(visit.found.transaction),
            functions=judged.facts.functions,
        )  # fmt: skip
        if not isinstance(again.decision, Allow) or not await self._door.take(visit, asked.now):
            return None
        self._log(asked, again)
        return again, again.decision

    async def _remember(self, asked: Asked, judged: Judged, decision: StepUp, read_body: BodyReader) -> tuple[Judged, Allow] | None:
        """All that is asked was answered before, by this very subject: there is nothing to suspend for. The pass is told of it."""
        if decision.login or (already := await self._remembered.already(decision.asked, judged.identified.subject, asked.now)) is None:
            return None
        known = with_proofs(
            judged, already, origin=asked.head.origin, sid=self._entropy.token()[:22], now=asked.now, idle=self._gate.spec.idle
        )
        proofs = proofs_of(already, asked.now)
        again = await self._gate.judge(
            asked.head, asked.now, read_body, identified=known.identified, granted=proofs, functions=judged.facts.functions
        )
        if not isinstance(again.decision, Allow):
            return None
        self._trail.event("remembered", request_id=asked.request_id, steps=",".join(already), subject=judged.identified.subject.id)
        self._log(asked, again)
        return again, again.decision

    async def _used_up(self, asked: Asked, judged: Judged) -> bool:
        """What was proved before a login (a captcha) counts for a bounded number of logins (design.md 7.7). May raise StoreUnavailable."""
        decision, holder, source = judged.decision, judged.identified.holder, self._relay.source(judged)
        if not isinstance(decision, Allow) or not decision.steps or holder is None or source is None or not source.is_login(asked.head):
            return False
        try:
            return not await self._guessing.login(holder.sid, [holder.proofs[s] for s in decision.steps if s in holder.proofs], asked.now)
        except StoreUnavailable:
            if not self._lenient(decision.rules):
                raise
            return False

    def _lenient(self, names: tuple[str, ...]) -> bool:
        """Every one of these rules says `on_error: allow`: it does not wait for a store."""
        rules = self._rules()
        return bool(names) and all(rules[name].on_error == "allow" for name in names if name in rules)

    def reader(self, asked: Asked, incoming: ClientBody) -> BodyReader:
        """What conditions see of the body, read when they ask for it."""

        async def read_body() -> Body | BodyUnavailable:
            incoming.check()
            peeked = await incoming.peek(self._limits.condition_body)
            if not peeked.whole:
                return BodyUnavailable(f"larger than {self._limits.condition_body} bytes")
            return parse_body(asked.head.get("content-type"), peeked.data, self._limits.condition_body)

        return read_body

    def _log(self, asked: Asked, judged: Judged) -> None:
        decision: Decision = judged.decision
        reason = ""
        rules: tuple[str, ...] = ()
        match decision:
            case Allow():
                name, rules = "allow", decision.rules
            case StepUp():
                name, rules = "step-up", decision.rules
                reason = "login first" if decision.login else ",".join(a.step for a in decision.asked)
            case Deny():
                name, rules, reason = "deny", (decision.rule,) if decision.rule else (), decision.private
            case Need():
                return
        for shadow in decision.shadow:
            self._trail.event("shadow", request_id=asked.request_id, rule=shadow.rule, effect=shadow.effect)
        note = judged.identified.note
        self._trail.decision(
            request_id=asked.request_id, method=asked.head.method, path=shown_path(asked.head.target.path),
            upstream=judged.route.upstream if judged.route else "", decision=name, rules=rules,
            reason="; ".join(filter(None, (reason, note))), subject=judged.identified.subject.id,
        )  # fmt: skip


def _form(body: bytes) -> list[tuple[str, str]]:
    """The fields of a form; none where it cannot be read."""
    try:
        return parse_qsl(body.decode("ascii"), keep_blank_values=True, max_num_fields=100)
    except ValueError:
        return []
