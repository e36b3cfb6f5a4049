"""Takes answers of upstreams over: redirects to a page that we stand in for, and challenges that our steps can meet (RFC 9470).

The upstream's cookies reach the browser in any case. What a rule cannot take over goes on as it came where that is harmless (a challenge),
and is refused where the user would land on the page that is not to be visited (a redirect without a state).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from aiohttp import web

from gateway.errors import TokenInvalid
from gateway.flow.asked import Asked
from gateway.flow.browser import browser_for
from gateway.flow.gate import Gate, Judged
from gateway.flow.identity import Identified
from gateway.flow.outside import LONGEST_STATE, Outsiders, Resumption, Told
from gateway.flow.places import came_from
from gateway.flow.ports import AuditEvent, Entropy
from gateway.flow.repository import STATE_PREFIX, TooMany, Transactions
from gateway.flow.sessions import Sessions
from gateway.flow.trail import Trail
from gateway.flow.transaction import Outside
from gateway.flow.visit import holder_of
from gateway.lanes.answers import Answers
from gateway.lanes.suspend import Paths, Suspender
from gateway.policy.decide import effect, proved
from gateway.policy.decision import Asked as Step
from gateway.policy.decision import StepUp
from gateway.policy.facts import Facts
from gateway.policy.model import Rule, Ruleset, TakeOver
from gateway.policy.takeover import Beyond, demanded, redirected
from gateway.wire.challenge import parse_challenges
from gateway.wire.head import Headers, RequestHead
from gateway.wire.location import Located, parse_location
from gateway.wire.media import navigation
from gateway.wire.subject import Proof, Subject
from gateway.wire.target import query_pairs

REDIRECTS = frozenset({301, 302, 303, 307, 308})
"""What browsers follow (Fetch Standard §2.2.3)."""

TAKEN = REDIRECTS | {401}


@dataclass(frozen=True, slots=True)
class Seen:
    """An answer's head. head: the request that it answers. who: known from this answer on. granted: what the transaction that is being
    resumed has proved. edited: the fields that the client would get."""

    asked: Asked
    head: RequestHead
    upstream: str
    who: Identified
    granted: Mapping[str, Proof]
    status: int
    edited: Headers

    def all(self, name: bytes) -> tuple[bytes, ...]:
        return tuple(value for field, value in self.edited if field.lower() == name)


class Interceptor:
    """May raise StoreUnavailable."""

    def __init__(
        self, *, ruleset: Callable[[], Ruleset], outsiders: Outsiders, transactions: Transactions, suspender: Suspender, sessions: Sessions,
        gate: Gate, answers: Answers, trail: Trail, entropy: Entropy, paths: Paths,
    ) -> None:  # fmt: skip
        self._ruleset = ruleset
        self._outsiders = outsiders
        self._transactions = transactions
        self._suspender = suspender
        self._sessions = sessions
        self._gate = gate
        self._answers = answers
        self._trail = trail
        self._entropy = entropy
        self._paths = paths

    def watches(self, upstream: str) -> bool:
        """Whether answers of this upstream need a look at all."""
        return upstream in self._ruleset().takeovers

    async def take(self, seen: Seen) -> web.Response | None:
        """The answer in place of the upstream's, None where that goes on as it is."""
        rules = self._ruleset().takeovers.get(seen.upstream, ())
        if seen.status in REDIRECTS:
            return await self._redirect(seen, rules)
        if seen.status == 401:
            return await self._challenge(seen, rules)
        return None

    def continues(self, head: RequestHead) -> str | None:
        """The name of the state where our `/continue` may as well be that of this request's upstream; None where it may not."""
        route = self._gate.route(head)
        for rule in self._ruleset().takeovers.get(route.upstream, ()) if route is not None else ():
            resumption = self._outsiders.parties.resumptions.get(rule.name)
            if resumption is not None and resumption.url == self._paths.continue_path and not rule.shadow:
                return resumption.state_parameter
        return None

    # -- redirects --------------------------------------------------------------------------------------------------------------------

    async def _redirect(self, seen: Seen, rules: Sequence[Rule]) -> web.Response | None:
        locations = seen.all(b"location")
        if len(locations) != 1:
            return None
        located = parse_location(locations[0], origin=seen.asked.head.origin, target=seen.head.target)
        if located is None:
            return None
        if (watched := redirected((r for r in rules if r.shadow), located, seen.asked.head.origin)) is not None:
            self._trail.event("shadow", request_id=seen.asked.request_id, rule=watched[0].name, effect=effect(watched[0]))
        taken = redirected((r for r in rules if not r.shadow), located, seen.asked.head.origin)
        if taken is None:
            return None
        rule, over = taken
        return await self._stand_in(seen, rule, over, self._outsiders.parties.resumptions[rule.name], located)

    async def _stand_in(self, seen: Seen, rule: Rule, over: TakeOver, resumption: Resumption, located: Located) -> web.Response:
        asked = seen.asked
        given = self._given(seen)
        states = [v for n, v in query_pairs(located.target) if n == resumption.state_parameter]
        wrong = self._wrong_state(states, resumption)
        told: Told | None = None
        if not wrong and resumption.incoming is not None:
            parameter, reader = resumption.incoming
            tokens = [v for n, v in query_pairs(located.target) if n == parameter]
            try:
                told = await reader.read(tokens[0], asked.now) if len(tokens) == 1 else None
                wrong = "" if told is not None else f"{len(tokens)} tokens"
            except TokenInvalid as error:
                wrong = f"its token: {error}"
        if wrong:
            return await self._refused(seen, rule, f"the redirect cannot be taken over: {wrong}", given)
        who = self._subject(seen.who, told, rule)
        infos = self._ruleset().steps
        if not who.subject.known and any(infos[step].needs_subject for step in over.steps):
            self._trail.event("refused", request_id=asked.request_id, kind="no_subject", rule=rule.name, reason="nobody is known")
            return self._answers.refusal(asked, "no_subject", cookies=given)
        self._gate.rely(who, asked.now)
        aloof = who is not seen.who
        facts = Facts(subject=who.subject, proofs=who.holder.proofs if who.holder else {}, granted={} if aloof else seen.granted)
        now = asked.now
        found = {step: proved(step, rule.max_age, facts, now, infos[step].edition) for step in over.steps}
        known = {step: proof for step, proof in found.items() if proof is not None}
        outside = Outside(
            entry=f"intercept:{rule.name}", url=resumption.url, state=states[0],
            jti=told.jti if told is not None else self._outsiders.new_jti(),
            subject=told.subject if told is not None else who.subject.id, method=resumption.method,
            state_parameter=resumption.state_parameter, token_parameter=resumption.token_parameter, told=aloof,
            next_origins=resumption.next_origins,
            proved=tuple(known.values()),
        )  # fmt: skip
        missing = tuple(step for step in over.steps if step not in known)
        self._trail.decision(
            request_id=asked.request_id, method=seen.head.method, path=seen.head.target.path.decode("latin-1"), upstream=seen.upstream,
            decision="step-up" if missing else "allow", rules=(rule.name,), subject=who.subject.id,
            reason="intercepted: " + (",".join(missing) or "proved already"),
        )  # fmt: skip
        if not missing:
            return await self._straight_on(seen, rule, outside, known, who, given)
        return await self._suspended(seen, rule, outside, missing, who, given)

    def _wrong_state(self, states: Sequence[str], resumption: Resumption) -> str:
        if len(states) != 1 or not states[0]:
            return f"{len(states)} states"
        if len(states[0]) > LONGEST_STATE:
            return "its state is too long"
        if states[0].startswith(STATE_PREFIX) and resumption.url == self._paths.continue_path:
            return "its state would be taken for one of ours"
        return ""

    def _subject(self, who: Identified, told: Told | None, rule: Rule) -> Identified:
        """Whom the steps are asked of: who the upstream's own token is about, where there is one. An older session of somebody else, who is
        about to log in as another, must not lend them what it has proved."""
        if told is None or told.subject == who.subject.id:
            return who
        return Identified(subject=Subject(told.subject, {}, f"intercept:{rule.name}"))

    async def _straight_on(
        self, seen: Seen, rule: Rule, outside: Outside, known: Mapping[str, Proof], who: Identified, given: tuple[bytes, ...]
    ) -> web.Response:
        """All is proved already: no page of ours in between. An upstream that asks again and again is not obeyed for ever."""
        asked = seen.asked
        name = who.holder.sid if who.holder is not None else who.session
        if name and await self._transactions.asked_again(f"intercept {rule.name} {name}", asked.now):
            self._trail.event("refused", request_id=asked.request_id, kind="loop", rules=rule.name)
            return self._answers.refusal(asked, "loop", href="/", cookies=given)
        at = replace(outside, answered=float(int(asked.now)))
        sending = self._outsiders.sign(at, known, origin=asked.head.origin, results={})
        assert sending is not None, "the rule was found just now"  # noqa: S101 - tells mypy
        await self._audit(seen, rule, who.subject, "passed", "proved already")
        return self._answers.send(asked, sending, cookies=given)

    async def _suspended(
        self, seen: Seen, rule: Rule, outside: Outside, missing: tuple[str, ...], who: Identified, given: tuple[bytes, ...]
    ) -> web.Response:
        asked, head = seen.asked, seen.asked.head
        kind = navigation(head)
        max_age = rule.max_age if isinstance(rule.max_age, int | float) else None
        route = self._gate.route(head)
        cors = route.cors if route is not None else ()
        if kind not in ("navigation", "frame", "script"):
            return self._answers.step_up(asked, None, None, missing, max_age=max_age, cookies=given, cors=cors)
        browser = browser_for(head, self._entropy.token(), script=kind == "script")
        cookies = (*given, browser.set_cookie) if browser.set_cookie else given
        opened = await self._outsiders.open(
            head, outside, tuple((step, rule.max_age) for step in missing), browser=browser.secret, subject=who.subject,
            upstream=seen.upstream, rule=rule.name, script=kind == "script", now=asked.now, session=who.session, holder=holder_of(who),
            page=came_from(head, self._paths.prefix, self._paths.continue_path),
        )  # fmt: skip
        if isinstance(opened, TooMany):
            self._trail.event("refused", request_id=asked.request_id, kind="too_many_open", of=opened.of)
            return self._answers.refusal(asked, "too_many_open", retry_after=60, cookies=cookies)
        self._trail.event(
            "transaction", request_id=asked.request_id, outcome="opened", transaction=opened.transaction.id, steps=",".join(missing)
        )
        if kind == "script":
            return self._answers.step_up(asked, opened.transaction, opened.state, missing, max_age=max_age, cookies=cookies, cors=cors)
        return self._answers.see_other(self._answers.transaction_path(opened.state), cookies)

    async def _refused(self, seen: Seen, rule: Rule, reason: str, given: tuple[bytes, ...]) -> web.Response:
        self._trail.event("refused", request_id=seen.asked.request_id, kind="intercept", rule=rule.name, reason=reason)
        await self._audit(seen, rule, seen.who.subject, "refused", reason)
        return self._answers.refusal(
            seen.asked, "bad_request", status=502, cookies=given, detail="The application's redirect cannot be followed.", href="/"
        )

    # -- challenges -------------------------------------------------------------------------------------------------------------------

    async def _challenge(self, seen: Seen, rules: Sequence[Rule]) -> web.Response | None:
        fields = [value.decode("latin-1") for value in seen.all(b"www-authenticate")]
        if not fields:
            return None
        ruleset, asked = self._ruleset(), seen.asked
        challenges = parse_challenges(fields)
        for rule in rules:
            over = rule.effect
            if not isinstance(over, TakeOver) or not over.challenge:
                continue
            demand = demanded(rule, over, challenges, ruleset.steps) if challenges is not None else Beyond("it is not well-formed")
            if demand is None:
                return None
            if isinstance(demand, Beyond):
                self._trail.event("challenge passed on", request_id=asked.request_id, rule=rule.name, reason=demand.reason)
                continue
            if rule.shadow:
                self._trail.event("shadow", request_id=asked.request_id, rule=rule.name, effect=f"require {','.join(demand.steps)}")
                continue
            proofs = seen.who.holder.proofs if seen.who.holder else {}
            facts = Facts(subject=seen.who.subject, proofs=proofs, granted=seen.granted)
            age, now, infos = demand.max_age, asked.now, ruleset.steps
            missing = tuple(step for step in demand.steps if proved(step, age, facts, now, infos[step].edition) is None)
            if not missing:
                return self._insists(seen, rule)
            return await self._ask(seen, rule, tuple(Step(step, demand.max_age, (rule.name,)) for step in missing), facts)
        return None

    def _insists(self, seen: Seen, rule: Rule) -> web.Response | None:
        """The request showed what was asked for, and the upstream asks for it again: to ask the user once more would never end."""
        asked = seen.asked
        self._trail.event("refused", request_id=asked.request_id, kind="loop", rules=rule.name, reason="challenged for what was shown")
        if navigation(asked.head) in ("navigation", "frame"):
            href = seen.head.target.raw.decode("latin-1") if seen.head.method == "GET" else "/"
            return self._answers.refusal(asked, "loop", href=href, cookies=self._given(seen))
        return None

    async def _ask(self, seen: Seen, rule: Rule, steps: tuple[Step, ...], facts: Facts) -> web.Response | None:
        asked, infos = seen.asked, self._ruleset().steps
        login = not seen.who.subject.known and any(infos[step.step].needs_subject for step in steps)
        if login and self._sessions.source(seen.upstream) is None:
            self._trail.event("challenge passed on", request_id=asked.request_id, rule=rule.name, reason="nobody is known")
            return None
        # A body that has gone upstream is not here any more: whoever sent one sends it again.
        decision = StepUp(steps, (rule.name,), "auto" if seen.head.method == "GET" else "off", login)
        head = asked.head if seen.head is asked.head else replace(asked.head, method=seen.head.method, target=seen.head.target)
        judged = Judged(decision, self._gate.route(head), seen.who, facts)
        self._trail.decision(
            request_id=asked.request_id, method=head.method, path=head.target.path.decode("latin-1"), upstream=seen.upstream,
            decision="step-up", rules=(rule.name,), reason="challenged: " + ",".join(step.step for step in steps),
            subject=seen.who.subject.id,
        )  # fmt: skip
        response = await self._suspender.suspend(Asked(head, asked.request_id, asked.now), judged, decision, None, can_login=True)
        for value in self._given(seen):
            response.headers.add("Set-Cookie", value.decode("latin-1"))
        return response

    # -- shared -----------------------------------------------------------------------------------------------------------------------

    def _given(self, seen: Seen) -> tuple[bytes, ...]:
        """The cookies of the answer that is replaced, ours for it among them."""
        return seen.all(b"set-cookie")

    async def _audit(self, seen: Seen, rule: Rule, subject: Subject, outcome: str, reason: str) -> None:
        await self._trail.audit(
            AuditEvent(
                at=seen.asked.now, event="intercept", request_id=seen.asked.request_id, subject=subject.id, rule=rule.name, outcome=outcome,
                address=seen.asked.head.client_ip, detail={"reason": reason},
            )
        )  # fmt: skip
