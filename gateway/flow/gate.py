"""Asks `decide`, gathers what it needs, and asks again. Proxy, /continue and the ticket all come through here.

A pass that may have been revoked counts for nothing: where an outcome relied on one and the feed is stale, the gate raises
StoreUnavailable and the caller answers 503.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

from gateway.errors import StoreUnavailable
from gateway.flow.functions import Calling, FunctionRunner, Occasion
from gateway.flow.identity import Identified, Identity
from gateway.flow.ports import Vault
from gateway.policy.decide import decide, route
from gateway.policy.decision import Allow, Decision, Deny, Need, StepUp
from gateway.policy.facts import REDIRECT_CALLBACK, Body, BodyUnavailable, Facts, Functions, Ran
from gateway.policy.model import Route, Rule, Ruleset
from gateway.policy.unread import decide_unread, rules_of_path
from gateway.spec.sections import PassSpec
from gateway.tokens.passes import NoPass, Pass, early, read_pass
from gateway.wire.cookies import parse_cookies, pass_cookie
from gateway.wire.head import RequestHead
from gateway.wire.subject import NOBODY, Proof, Subject

FEED_MAX_AGE = 5.0  # design.md 7.1: older than this, a revocation may have been missed
MOST_CACHED = 4096

BodyReader = Callable[[], Awaitable[Body | BodyUnavailable]]


class Revocations(Protocol):
    """This process's copy of the revocation feed."""

    def revoked(self, sid: str) -> bool: ...

    def age(self, now: float) -> float:
        """Seconds since the feed was last read in full."""


class RecordReader(Protocol):
    async def records(self, names: frozenset[str], subject: Subject) -> Mapping[str, Any]:
        """Facts.records for these names. Raises nothing."""


@dataclass(frozen=True, slots=True)
class Judged:
    """A decision and what it was made from."""

    decision: Decision
    route: Route | None
    identified: Identified
    facts: Facts

    @property
    def claims(self) -> Mapping[str, Any]:
        """What rule functions put into tokens."""
        return self.facts.functions.claims if self.facts.functions is not None else {}


class Gate:
    def __init__(
        self, *, ruleset: Callable[[], Ruleset], identity: Callable[[], Identity], vault: Vault, revocations: Revocations,
        records: RecordReader, spec: PassSpec, functions: FunctionRunner,
    ) -> None:  # fmt: skip
        self._ruleset = ruleset
        self._identity = identity
        self._vault = vault
        self._revocations = revocations
        self._records = records
        self._spec = spec
        self._functions = functions
        self._passes: OrderedDict[tuple[str, str], Pass] = OrderedDict()
        self._at_paths: tuple[Ruleset | None, dict[tuple[str, str], tuple[Rule, ...]]] = None, {}

    @property
    def spec(self) -> PassSpec:
        return self._spec

    def presented(self, head: RequestHead, now: float) -> tuple[Pass | None, str]:
        """The pass that came with a request, if it counts, and else why not. Two pass cookies are none."""
        name = pass_cookie(head.scheme == "https")
        values = [v for n, v in parse_cookies(head) if n == name]
        if len(values) != 1:
            return None, "" if not values else "more than one pass cookie"
        key = (values[0], head.origin)
        held = self._passes.get(key)
        if held is None:
            found = read_pass(values[0], self._vault, origin=head.origin, now=now, max_age=self._spec.max_age, idle=self._spec.idle)
            if not isinstance(found, Pass):
                return None, f"pass refused: {found}"
            held = found
            self._passes[key] = held
            if len(self._passes) > MOST_CACHED:
                self._passes.popitem(last=False)
        if now >= held.issued + self._spec.max_age or now >= held.seen + self._spec.idle:
            return None, "pass is over"
        if early(held, now):  # the clock was set back since it was read
            return None, f"pass refused: {NoPass.EARLY}"
        if self._revocations.revoked(held.sid):
            return None, "pass revoked"
        return held, ""

    async def identify(
        self, head: RequestHead, upstream: str, now: float, *, own_page: bool = False, kept: Pass | None = None
    ) -> Identified:
        """Who a request is from. own_page: it is for a page of ours (see flow.identity). kept: a pass to be taken for one that came along,
        where none did; the caller has seen that it counts."""
        held, note = self.presented(head, now)
        held = held or kept
        seen = await self._identity().identify(head, upstream, held, now, own_page=own_page)
        return replace(seen, note=note) if note and not seen.note else seen

    def rely(self, identified: Identified, now: float) -> None:
        """To be called before anything is done because of a pass. Raises StoreUnavailable where it may have been revoked."""
        if self._stale(identified, now):
            raise StoreUnavailable("the revocation feed is older than 5 s")

    def current(self, proofs: Mapping[str, Proof]) -> dict[str, Proof]:
        """Those of what is asked now: a step whose text has a new version was not passed yet, however long the old proof counts."""
        steps = self._ruleset().steps
        return {name: proof for name, proof in proofs.items() if name not in steps or proof.edition == steps[name].edition}

    def rekeyed(self) -> None:
        """The keys have changed: every pass is verified anew, for what one of them signed may count no more."""
        self._passes.clear()

    def route(self, head: RequestHead) -> Route | None:
        return route(head, self._ruleset())

    async def judge(
        self, head: RequestHead, now: float, read_body: BodyReader, *, identified: Identified | None = None,
        granted: Mapping[str, Proof] | None = None, protocol: str = "http", call: str = "http", occasion: Occasion | None = None,
        functions: Functions | None = None, later: bool = False,
    ) -> Judged:  # fmt: skip
        """The decision for a request. Raises StoreUnavailable where it relied on a pass that may have been revoked, or on a record that
        cannot be read.

        protocol: what rule functions are told; call: what kind of request it is, also where that is `redirect-callback` (flow.protocol).
        identified: who it is judged for, worked out from `head` unless given. occasion: what a run of rule functions belongs to, the
        request itself unless given. functions: a run that holds for this request too; where the rules need another, all run again.
        later: see Facts; then the body is not read.
        """
        ruleset = self._ruleset()
        chosen = route(head, ruleset)
        identified = identified or await self.identify(head, chosen.upstream if chosen else "", now)
        told = call if protocol == REDIRECT_CALLBACK else protocol
        facts = self._facts(identified, body=None, granted=granted or {}, protocol=protocol, call=told, functions=functions)
        facts = replace(facts, later=later)
        run = False
        judged = self._judge(head, now, identified, ruleset, facts)
        while isinstance(need := judged.decision, Need):
            # What one rule needs may come to light when another has what it needs; nothing is gathered twice.
            if (need.body or (need.functions and _carries_body(head) and not later)) and facts.body is None:
                facts = replace(facts, body=await read_body())
            elif need.records and not need.records <= facts.records.keys():
                found = await self._records.records(need.records, identified.subject)
                facts = replace(facts, records={**facts.records, **found})
            elif need.functions and not run:
                run = True
                upstream = chosen.upstream if chosen else ""
                calling = Calling(head, facts.body, upstream, identified, facts.granted, occasion or Occasion(protocol), now)
                facts = replace(facts, functions=await self._run(need.functions, ruleset, calling))
            else:
                raise AssertionError(f"all is gathered, and it needs {need}")
            judged = self._judge(head, now, identified, ruleset, facts)
        return judged

    async def _run(self, names: tuple[str, ...], ruleset: Ruleset, calling: Calling) -> Functions:
        """Raises StoreUnavailable where it would rely on a pass that may have been revoked: what functions do cannot be taken back. Rules
        that let pass without a store, and those in shadow mode, are worth no refusal: they do not run then."""
        hit = [rule for rule in ruleset.rules if rule.name in names]
        if self._stale(calling.identified, calling.now) and all(rule.shadow or rule.on_error == "allow" for rule in hit):
            ran = {rule.name: Ran(error="the revocation feed is older than 5 s", shadow=rule.shadow) for rule in hit}
            return Functions(ran, calling.occasion.protocol, calling.occasion.jti, calling.occasion.claims)
        self.rely(calling.identified, calling.now)
        return await self._functions.run(hit, ruleset, calling)

    def judge_known(
        self, head: RequestHead, now: float, identified: Identified, *, body: Body | BodyUnavailable | None = None,
        records: Mapping[str, Any] | None = None, granted: Mapping[str, Proof] | None = None, protocol: str = "http", call: str = "http",
    ) -> Judged:  # fmt: skip
        """`judge` where it is known who it is for: waits for nothing, and comes to a Need where `body` is None or a record is missing and
        it matters. Raises StoreUnavailable as `judge` does."""
        told = call if protocol == REDIRECT_CALLBACK else protocol
        facts = self._facts(identified, body=body, records=records, granted=granted or {}, protocol=protocol, call=told)
        return self._judge(head, now, identified, self._ruleset(), facts)

    def _judge(self, head: RequestHead, now: float, identified: Identified, ruleset: Ruleset, facts: Facts) -> Judged:
        decision = decide(head, facts, ruleset, now)
        if isinstance(decision, Deny) and decision.away:
            raise StoreUnavailable(decision.private)
        if (
            isinstance(decision, Allow | Deny)
            and decision.relied_on_pass
            and self._stale(identified, now)
            and _matters(decision, head, facts, ruleset, now)
        ):
            raise StoreUnavailable("the revocation feed is older than 5 s")
        return Judged(decision, route(head, ruleset), identified, facts)

    def rules_at(self, upstream: str, path: str) -> tuple[Rule, ...]:
        """The rules that some request for this path may meet, as far as they can be told without the request."""
        ruleset, known = self._ruleset(), self._at_paths[1]
        if self._at_paths[0] is not ruleset:
            known = {}
            self._at_paths = ruleset, known
        found = known.get((upstream, path))
        if found is None:
            found = known[upstream, path] = rules_of_path(ruleset, upstream, path)
        return found

    async def judge_answer(
        self, head: RequestHead, upstream: str, now: float, identified: Identified, *, body: Body, protocol: str, unread: bool = False,
        granted: Mapping[str, Proof] | None = None, occasion: Occasion | None = None, functions: Functions | None = None,
    ) -> Judged:  # fmt: skip
        """The decision on an answer, by the request that it belongs to. Nobody is spared a step here for being about to log in. Raises
        StoreUnavailable as `judge` does.

        unread: of the request only its path is known for certain; what its other parts could be counts against it. granted, occasion,
        functions: as for `judge`.
        """
        ruleset = replace(self._ruleset(), logins=())
        facts = self._facts(identified, body=body, granted=granted or {}, protocol=protocol, functions=functions)
        run = False
        loosened = self.rules_at(upstream, head.target.path.decode("latin-1")) if unread else ()

        def decided(known: Facts) -> Decision:
            return decide_unread(loosened, upstream, head, known, ruleset, now) if unread else decide(head, known, ruleset, now)

        decision = decided(facts)
        while isinstance(decision, Need):
            if decision.records and not decision.records <= facts.records.keys():
                found = await self._records.records(decision.records, identified.subject)
                facts = replace(facts, records={**facts.records, **found})
            elif decision.functions and not run:
                run = True
                calling = Calling(head, body, upstream, identified, facts.granted, occasion or Occasion(protocol), now)
                facts = replace(facts, functions=await self._run(decision.functions, ruleset, calling))
            else:
                break  # a body that cannot be had: the caller refuses
            decision = decided(facts)
        if isinstance(decision, Deny) and decision.away:
            raise StoreUnavailable(decision.private)
        if isinstance(decision, Allow | Deny) and decision.relied_on_pass and self._stale(identified, now):
            raise StoreUnavailable("the revocation feed is older than 5 s")
        return Judged(decision, route(head, ruleset), identified, facts)

    def at_once(self, head: RequestHead, upstream: str, now: float) -> tuple[Identified, float] | None:
        """Who a request is from, and until when the very same one is, but for a revocation of the pass presented. None where that cannot be
        said without waiting."""
        held, note = self.presented(head, now)
        found = self._identity().at_once(head, upstream, held, now)
        if found is None:
            return None
        seen, until = found
        if held is not None:
            until = min(until, held.issued + self._spec.max_age, held.seen + self._spec.idle)
        elif note:
            until = now  # a clock that is behind is one reason for which a pass does not count yet
        return (replace(seen, note=note) if note and not seen.note else seen), until

    def revoked(self, identified: Identified) -> bool:
        """The pass that came with a request counts no more since `at_once`."""
        return identified.presented is not None and self._revocations.revoked(identified.presented.sid)

    def fresh(self, now: float) -> bool:
        """The revocation feed is young enough to rely on a pass."""
        return self._revocations.age(now) <= FEED_MAX_AGE

    def _facts(
        self, identified: Identified, *, body: Body | BodyUnavailable | None, granted: Mapping[str, Proof], protocol: str, call: str = "",
        records: Mapping[str, Any] | None = None, functions: Functions | None = None,
    ) -> Facts:  # fmt: skip
        holder = identified.holder
        return Facts(
            subject=identified.subject,
            proofs=holder.proofs if holder else {},
            granted=granted,
            body=body,
            records=records or {},
            protocol=protocol,
            call=call or protocol,
            pass_issued=holder.issued if holder else None,
            functions=functions,
        )

    def _stale(self, identified: Identified, now: float) -> bool:
        return identified.holder is not None and self._revocations.age(now) > FEED_MAX_AGE


def _carries_body(head: RequestHead) -> bool:
    """RFC 9112 §6: a request has a body where one of these says so."""
    return head.has("transfer-encoding") or any(value.strip() != "0" for value in head.all("content-length"))


def _matters(decision: Allow | Deny, head: RequestHead, facts: Facts, ruleset: Ruleset, now: float) -> bool:
    """Whether the decision could be another without the pass. What anybody may do, whoever holds a pass may do too; and a rule that says
    `on_error: allow` does not wait for a store."""
    chosen = route(head, ruleset)
    if isinstance(decision, Deny) or (decision.steps and chosen is not None and ruleset.challenged(chosen.upstream)):
        return True  # what was proved is shown to an upstream that judges by it
    nobodys = replace(facts, subject=NOBODY, records=dict.fromkeys(facts.records))
    for known in (nobodys, facts):
        match decide(head, replace(known, proofs={}, pass_issued=None, functions=None), ruleset, now):
            case Allow():
                continue
            case StepUp(rules=names) | Need(functions=(_, *_) as names) if all(
                rule.shadow or rule.on_error == "allow" for rule in ruleset.rules if rule.name in names
            ):
                continue
            case _:
                return True
    return False
