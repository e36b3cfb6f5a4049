"""Token endpoints: nobody can be redirected there, so it is the answer that waits, or the call.

    password, /oauth/ro   call → upstream → held answer → rules → out | thrown away, 403 interaction_required
    everything else       rules → call → upstream → held answer → out

Where a user name and a password come with the call, the upstream says first whether they are right: nobody whose password was wrong gets a
step or a mail. Any other call is judged before it is sent, for a refresh token that was rotated and thrown away is lost. An authorization
code is let pass where `authorize` is configured: it was gated where it was issued.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, assert_never

from aiohttp import web

from gateway.errors import StoreUnavailable, UpstreamBroke
from gateway.flow.asked import Asked
from gateway.flow.functions import occasion, tell
from gateway.flow.gate import BodyReader, Gate, Judged
from gateway.flow.grant_call import Bad, Call, read_call
from gateway.flow.identity import Identified
from gateway.flow.issued import Issued, Known, Passed
from gateway.flow.ports import AuditEvent
from gateway.flow.protocol import CODE, REDIRECT_CALLBACK, REFRESH, endpoint_of, slashed
from gateway.flow.redeem import GrantTransactions, Redeemed, Unusable
from gateway.flow.repository import TooMany
from gateway.flow.rerun import overlaid
from gateway.flow.trail import Trail, shown_path
from gateway.flow.transaction import Transaction
from gateway.lanes.answers import Answers
from gateway.lanes.body import ClientBody
from gateway.lanes.held import Held, hold, release
from gateway.lanes.relay import Relay
from gateway.policy.body import parse_body
from gateway.policy.decision import Allow, Deny, Need, StepUp
from gateway.policy.facts import Body, BodyUnavailable
from gateway.policy.model import Route, Rule
from gateway.spec.oauth import OAuthSpec
from gateway.spec.sections import LimitsSpec
from gateway.tokens.passes import Pass
from gateway.wire.media import media_type, navigation
from gateway.wire.subject import Proof, Subject

_TOKENS: Final = frozenset({"access_token", "id_token", "refresh_token"})
_GRANTED: Final = _TOKENS | {"code", "token", "response"}
"""Members of an answer that are a grant. An error's `code` is a word."""
_WAITS: Final = frozenset({"authorization_pending", "slow_down"})  # RFC 8628 §3.5


@dataclass(frozen=True, slots=True)
class _Asking:
    """A call, and who it is for. own: who the request itself is from (cookies, headers). who: whom the rules are asked for.

    granted: proofs that count whatever their age. known: what is remembered of its refresh token or code. redeemed: the transaction that
    it continues.
    """

    asked: Asked
    call: Call
    route: Route
    oauth: OAuthSpec
    body: Body | BodyUnavailable
    own: Identified
    who: Identified
    granted: Mapping[str, Proof]
    known: Known | None
    redeemed: Redeemed | None = None

    @property
    def proofs(self) -> dict[str, Proof]:
        """All that was proved for what is about to be issued."""
        return {**(self.known.passed.proofs if self.known else {}), **(self.redeemed.proofs if self.redeemed else {})}


class _Turn:
    """Whether the transaction that a call continues must be let go."""

    __slots__ = ("settled",)

    def __init__(self) -> None:
        self.settled = False


class Grants:
    """May raise what SlowLane.guarded catches."""

    def __init__(
        self, *, gate: Gate, relay: Relay, transactions: GrantTransactions, issued: Issued, answers: Answers, trail: Trail,
        oauth: Callable[[str], OAuthSpec | None], rules: Callable[[], Mapping[str, Rule]], limits: LimitsSpec,
    ) -> None:  # fmt: skip
        self._gate = gate
        self._relay = relay
        self._transactions = transactions
        self._issued = issued
        self._answers = answers
        self._trail = trail
        self._oauth = oauth
        self._rules = rules
        self._limits = limits
        self._running: set[asyncio.Task[web.StreamResponse]] = set()

    async def serve(self, request: web.BaseRequest, asked: Asked, incoming: ClientBody) -> web.StreamResponse | None:
        """Answer a call of a token endpoint; None where the request is for none."""
        route = self._gate.route(asked.head)
        oauth = self._oauth(route.upstream) if route is not None else None
        if route is None or oauth is None or endpoint_of(asked.head, oauth) not in ("token", "resource_owner"):
            return None
        if navigation(asked.head) == "preflight":
            return None
        # A task of its own: a client that goes must not take the successor of its refresh token along.
        task = asyncio.create_task(self._served(request, asked, incoming, route, oauth))
        self._running.add(task)
        task.add_done_callback(self._ended)
        return await asyncio.shield(task)

    async def drain(self) -> None:
        """Wait for what is under way."""
        if self._running:
            await asyncio.gather(*self._running, return_exceptions=True)

    def _ended(self, task: asyncio.Task[web.StreamResponse]) -> None:
        self._running.discard(task)
        if not task.cancelled():
            task.exception()  # whoever waited has got it, or is gone

    async def _served(
        self, request: web.BaseRequest, asked: Asked, incoming: ClientBody, route: Route, oauth: OAuthSpec
    ) -> web.StreamResponse:
        limit = self._limits.condition_body
        peeked = await incoming.peek(limit)
        if not peeked.whole:
            return self._bad(asked, route, Bad(413, f"Send at most {limit} bytes.", "body too large"))
        body = parse_body(asked.head.get("content-type"), peeked.data, limit)
        call = read_call(asked.head, oauth, peeked.data, body)
        if slashed(asked.head, oauth):  # to some servers the same, to rules another path
            call = Bad(404, "There is no / at the end of this address.", "a slash behind the path of a token endpoint")
        if isinstance(call, Bad):
            return self._bad(asked, route, call)
        asking = await self._for_whom(asked, call, route, oauth, body)
        if call.token is None:
            return await self._decided(request, asking, _Turn())
        redeemed = await self._transactions.redeem(asked, call, route.upstream, asking.who.subject)
        if isinstance(redeemed, Unusable):
            await self._audit(asking, "refused", redeemed.private)
            self._trail.event("refused", request_id=asked.request_id, kind="bad_token", reason=redeemed.private)
            if redeemed.busy:
                return self._error(asked, route, 429, "temporarily_unavailable", "A call with this stepup_token is under way.", 1)
            return self._error(asked, route, 400, "invalid_request", "The stepup_token is not, or no longer, good for this call.")
        turn = _Turn()
        try:
            who = overlaid(asking.who, redeemed.found.transaction)
            granted = {**asking.granted, **redeemed.proofs}
            return await self._decided(request, replace(asking, who=who, granted=granted, redeemed=redeemed), turn)
        finally:
            if not turn.settled:
                await self._transactions.let_go(redeemed)

    async def _for_whom(self, asked: Asked, call: Call, route: Route, oauth: OAuthSpec, body: Body | BodyUnavailable) -> _Asking:
        own = await self._gate.identify(asked.head, route.upstream, asked.now)
        asking = _Asking(asked, call, route, oauth, body, own, own, {}, None)
        if call.by_credentials:
            return replace(asking, who=replace(own, subject=Subject(call.user, {}, f"oauth:{route.upstream}"), holder=None, session=""))
        if call.protocol not in (REFRESH, CODE):
            return asking
        known = await self._issued.find(
            "refresh" if call.protocol == REFRESH else "code", route.upstream, call.secret, call.client, asked.now
        )
        passed = known.passed if known is not None else Passed()
        passed = replace(passed, proofs=self._gate.current(passed.proofs))
        who = replace(own, subject=passed.subject, holder=None, session="")
        if call.protocol == CODE or oauth.refresh == "inherit":
            return replace(asking, who=who, granted=passed.proofs, known=known)
        longest = self._gate.spec.max_age  # `max_age: session` lasts as long as a pass would
        young = {step: proof for step, proof in passed.proofs.items() if asked.now - proof.at < longest}
        held = Pass(sid="", origin=asked.head.origin, issued=asked.now, seen=asked.now, subject=passed.subject, proofs=young)
        return replace(asking, who=replace(who, holder=held if young else None), known=known)

    async def _decided(self, request: web.BaseRequest, asking: _Asking, turn: _Turn) -> web.StreamResponse:
        """turn: told where the transaction that is continued must not be let go."""
        asked, call = asking.asked, asking.call
        first = self._gate.judge_known(asked.head, asked.now, asking.who, body=asking.body, granted=asking.granted, protocol=call.protocol)
        if isinstance(first.decision, Deny):
            return await self._denied(asking, first.decision)
        if call.by_credentials:
            steps = tuple(asking.redeemed.proofs) if asking.redeemed else ()
            held = await self._send(asking, first, steps)
            if _is_error(held):
                return await self._out(request, asking, first, held)
            judged = await self._judge(asking)
            return await self._gated(asking, judged, held, turn) or await self._issue(request, asking, judged, held, turn)
        judged = first
        if call.protocol == CODE and asking.oauth.authorize is not None:
            self._log(asking, "allow", (), "gated at the authorize endpoint")
        else:
            judged = await self._judge(asking)
            if (refused := await self._gated(asking, judged, None, turn)) is not None:
                return refused
        steps = judged.decision.steps if isinstance(judged.decision, Allow) else ()
        held = await self._send(asking, judged, steps)
        if _is_error(held):
            if asking.redeemed is not None and str((_document(held) or {}).get("error")) in _WAITS:
                await self._transactions.untried(asking.redeemed, asked.now)
            return await self._out(request, asking, judged, held)
        return await self._issue(request, asking, judged, held, turn)

    async def _judge(self, asking: _Asking) -> Judged:
        """The decision, with all that rules may want gathered."""
        body = asking.body

        async def read_body() -> Body | BodyUnavailable:
            return body

        reader: BodyReader = read_body
        redeemed = asking.redeemed
        protocol = REDIRECT_CALLBACK if redeemed is not None else asking.call.protocol
        run = occasion(redeemed.found.transaction, asking.who.subject, call=asking.call.protocol) if redeemed is not None else None
        judged = await self._gate.judge(
            asking.asked.head, asking.asked.now, reader, identified=asking.who, granted=asking.granted, protocol=protocol,
            call=asking.call.protocol, occasion=run,
        )  # fmt: skip
        await tell(self._trail, asking.asked, judged.facts.functions, asking.who.subject)
        return judged

    async def _gated(self, asking: _Asking, judged: Judged, held: Held | None, turn: _Turn) -> web.StreamResponse | None:
        """None where the rules allow it; else what the client gets. held: the grant that is thrown away then, None where none was made."""
        if not isinstance(judged.decision, Need):
            for shadow in judged.decision.shadow:
                self._trail.event("shadow", request_id=asking.asked.request_id, rule=shadow.rule, effect=shadow.effect)
        match judged.decision:
            case Allow() as allow:
                self._log(asking, "allow", allow.rules, "")
                return None
            case Deny() as deny:
                if asking.redeemed is not None:
                    await self._transactions.end(asking.redeemed, deny.public, asking.asked.now)
                    turn.settled = True
                return await self._denied(asking, deny, thrown=held is not None)
            case StepUp() as step_up:
                if held is not None and not _granted(held):
                    # What cannot be looked into may be a grant, or a login page: neither leaves, and nobody is asked for a step.
                    raise UpstreamBroke("the answer of the token endpoint is no JSON object with a grant, and rules are unmet")
                try:
                    return await self._step_up(asking, judged, step_up, turn, thrown=held is not None)
                except StoreUnavailable as error:
                    names = step_up.rules
                    rules = self._rules()
                    if not names or not all(rules[name].on_error == "allow" for name in names if name in rules):
                        raise
                    self._trail.event(
                        "allowed without a store", request_id=asking.asked.request_id, rules=",".join(names), reason=str(error)
                    )
                    return None
            case Need():
                raise AssertionError("the gate answers every Need")
            case _:
                assert_never(judged.decision)

    async def _step_up(self, asking: _Asking, judged: Judged, decision: StepUp, turn: _Turn, *, thrown: bool) -> web.StreamResponse:
        asked, steps = asking.asked, [a.step for a in decision.asked]
        self._log(asking, "step-up", decision.rules, "login first" if decision.login else ",".join(steps))
        await self._audit(asking, "thrown away" if thrown else "asked", ",".join(decision.rules))
        if asking.redeemed is not None:
            more = await self._transactions.more(asking.redeemed, judged, decision, asked.now)
            turn.settled = True
            if more is None:
                return self._error(asked, asking.route, 403, "access_denied", "The rules ask for another step, and one was added before.")
            return self._interaction(asking, more, asking.redeemed.state, list(more.remaining))
        if decision.login:
            # Nobody knows whose token this is: no step can be run for them. Signing in anew can.
            return self._interaction(asking, None, None, steps)
        opened = await self._transactions.open(asked, asking.call, asking.route.upstream, judged, decision)
        if isinstance(opened, TooMany):
            self._trail.event("refused", request_id=asked.request_id, kind="too_many_open", of=opened.of)
            return self._error(asked, asking.route, 429, "temporarily_unavailable", "Too many step-ups are open. Finish one, or wait.", 60)
        transaction, state = opened
        self._trail.event("transaction", request_id=asked.request_id, outcome="opened", transaction=transaction.id, steps=",".join(steps))
        return self._interaction(asking, transaction, state, steps)

    async def _denied(self, asking: _Asking, deny: Deny, *, thrown: bool = False) -> web.StreamResponse:
        self._log(asking, "deny", (deny.rule,) if deny.rule else (), deny.private)
        await self._audit(asking, "thrown away" if thrown else "denied", deny.private)
        return self._error(asking.asked, asking.route, deny.status, "access_denied", deny.public)

    # -- to and from the upstream -------------------------------------------------------------------------------------

    async def _send(self, asking: _Asking, judged: Judged, steps: tuple[str, ...]) -> Held:
        head, oauth = asking.asked.head, asking.oauth
        upstream = self._relay.upstream(asking.route.upstream)
        fields = self._relay.outgoing(asking.asked, judged, asking.who, steps)
        return await hold(
            upstream.pool, upstream.traffic, head.method, head.target.raw, fields, asking.call.body, limit=oauth.max_answer,
            timeout=oauth.answer_timeout,
        )  # fmt: skip

    async def _issue(self, request: web.BaseRequest, asking: _Asking, judged: Judged, held: Held, turn: _Turn) -> web.StreamResponse:
        """A grant that may leave. The transaction that it continues is used up before."""
        if asking.redeemed is not None:
            turn.settled = True
            if not await self._transactions.consume(asking.redeemed, asking.asked.now):
                await self._audit(asking, "thrown away", "the continue token was used meanwhile")
                return self._error(asking.asked, asking.route, 400, "invalid_request", "The stepup_token was used meanwhile.")
        await self._remember(asking, held)
        await self._audit(asking, "issued" if _granted(held) else "passed", "")
        return await self._out(request, asking, judged, held)

    async def _remember(self, asking: _Asking, held: Held) -> None:
        """What was passed goes with the refresh token. Where that cannot be written, the token is unknown later, and asked."""
        call, now = asking.call, asking.asked.now
        fresh = (_document(held) or {}).get("refresh_token")
        token = fresh if isinstance(fresh, str) and fresh else call.secret if call.protocol == REFRESH else ""
        if not token or not (asking.known or asking.redeemed or asking.who.subject.known):
            return
        passed = Passed(asking.who.subject, asking.proofs, call.client, asking.known.passed.sid if asking.known else "")
        before = asking.known if call.protocol == REFRESH else None
        try:
            kept = await self._issued.issued(
                asking.route.upstream, token, passed, before=before, ttl=asking.oauth.refresh_ttl, most=asking.oauth.max_refresh, now=now
            )
            if call.protocol == CODE and asking.known is not None:
                await self._issued.forget(asking.known)
            reason = "" if kept else "too many of one user"
        except StoreUnavailable as error:
            reason = str(error)
        if reason:
            self._trail.event("refresh token not remembered", request_id=asking.asked.request_id, reason=reason)

    async def _out(self, request: web.BaseRequest, asking: _Asking, judged: Judged, held: Held) -> web.StreamResponse:
        fields = await self._relay.incoming(asking.asked, judged, asking.own, held.head, gated=True)
        return await release(request, held, fields, write_idle=self._limits.write_idle_timeout)

    # -- answers of our own, and what is noted ------------------------------------------------------------------------

    def _interaction(self, asking: _Asking, transaction: Transaction | None, state: str | None, steps: list[str]) -> web.Response:
        return self._answers.interaction_required(asking.asked, transaction, state, steps, cors=asking.route.cors)

    def _error(self, asked: Asked, route: Route, status: int, error: str, description: str, retry_after: int | None = None) -> web.Response:
        return self._answers.oauth_error(asked, status, error, description, retry_after=retry_after, cors=route.cors)

    def _bad(self, asked: Asked, route: Route, bad: Bad) -> web.Response:
        self._trail.event("refused", request_id=asked.request_id, kind="bad_request", reason=f"token endpoint: {bad.private}")
        return self._error(asked, route, bad.status, bad.error, bad.public)

    def _log(self, asking: _Asking, decision: str, rules: tuple[str, ...], reason: str) -> None:
        head = asking.asked.head
        why = f"{asking.call.protocol}; {reason}" if reason else asking.call.protocol
        self._trail.decision(
            request_id=asking.asked.request_id, method=head.method, path=shown_path(head.target.path), upstream=asking.route.upstream,
            decision=decision, rules=rules, reason=why, subject=asking.who.subject.id,
        )  # fmt: skip

    async def _audit(self, asking: _Asking, outcome: str, reason: str) -> None:
        detail: dict[str, Any] = {"protocol": asking.call.protocol, "client": asking.call.client, "upstream": asking.route.upstream}
        if asking.redeemed is not None:
            detail["transaction"] = asking.redeemed.found.transaction.id
        if reason:
            detail["reason"] = reason
        await self._trail.audit(
            AuditEvent(
                at=asking.asked.now, event="grant", request_id=asking.asked.request_id, subject=asking.who.subject.id, outcome=outcome,
                address=asking.asked.head.client_ip, detail=detail,
            )
        )  # fmt: skip


def _document(held: Held) -> Mapping[str, Any] | None:
    """The answer's JSON object, None where it is none that can be looked into."""
    kinds = [media_type(v.decode("latin-1")) for n, v in held.head.headers if n.lower() == b"content-type"]
    encoded = any(v.strip().lower() != b"identity" for n, v in held.head.headers if n.lower() == b"content-encoding")
    if encoded or len(kinds) != 1 or not (kinds[0] == "application/json" or kinds[0].endswith("+json")):
        return None
    try:
        document = json.loads(held.body)
    except (ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None


def _granted(held: Held) -> bool:
    return not _GRANTED.isdisjoint(_document(held) or {})


def _is_error(held: Held) -> bool:
    """The upstream's own refusal, which passes as it is."""
    return held.head.status >= 400 and _TOKENS.isdisjoint(_document(held) or {})
