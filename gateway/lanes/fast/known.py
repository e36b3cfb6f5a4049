"""What the fast lane knows of requests that look like earlier ones: what a request costs is paid once, and all that is kept has an end.

    block of header fields → Seen (from one peer) → Place (a path there) → Standing (who asks, what goes up) → Verdict (Allow)

Nothing here decides anything: heads are read by `strict` and `heads`, edited by `wire.headers`, judged by `Gate`, as in the slow lane. None
means that the request is one for the slow lane. All of it is forgotten on a reload, and when the keys change.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import inf

import httptools

from gateway.errors import BadTarget, StoreUnavailable
from gateway.flow.asked import Asked
from gateway.flow.cookies import PassCookies
from gateway.flow.gate import Gate, Judged
from gateway.flow.identity import Identified, Identity, SessionSource
from gateway.flow.issuer import Issuer
from gateway.flow.repository import TICKET_PARAMETER
from gateway.flow.trail import Decided, Trail, shown_path
from gateway.lanes.forward import framed
from gateway.lanes.heads import Entrance, Located, locate
from gateway.lanes.pool import UpstreamPool
from gateway.lanes.relay import TOKEN_HEADER, Upstream, upstream_fields
from gateway.lanes.strict import judge
from gateway.lanes.suspend import Paths
from gateway.policy.decide import route
from gateway.policy.decision import Allow
from gateway.policy.model import Require, Rule, Ruleset
from gateway.spec.sections import LimitsSpec, UpstreamSpec
from gateway.wire.head import Headers, RequestHead
from gateway.wire.target import Target, parse_target, query_pairs

MOST_BLOCKS = 2048
LONGEST_BLOCK = 8192  # bytes; a longer one is read anew each time
MOST_PLACES = 8192
MOST_PEERS = 32  # of one block
MOST_VERDICTS = 256  # of one standing

_FIELDS = re.compile(rb"(?:[!#$%&'*+\-.^_`|~0-9A-Za-z]+:[\t -~\x80-\xff]*\r\n)*\r\n")
_PLAIN = re.compile(r"[A-Za-z0-9_~/.-]+")
# What the slow lane has a way with and this one has not: 100 (Continue), switches of protocols.
_UNUSUAL = frozenset({b"expect", b"upgrade"})
# What a `when` may look at and a verdict still be kept: nothing that moves with the clock, the query, the body or a record.
_STEADY = frozenset({"path", "method", "host", "headers", "ip", "subject"})


@dataclass(frozen=True, slots=True, eq=False)
class Way:
    """The way to one upstream."""

    name: str
    upstream: Upstream
    source: SessionSource | None
    takes: bool = False
    """A rule may take its answers over."""

    @property
    def watched(self) -> frozenset[bytes]:
        """Fields of its answers, beside Set-Cookie and lower-case, by which the identity source learns."""
        return self.source.watched if self.source is not None else frozenset()

    @property
    def pool(self) -> UpstreamPool:
        return self.upstream.pool

    @property
    def spec(self) -> UpstreamSpec:
        return self.upstream.pool.spec


class Place:
    """One path at one origin. free: no rule can hit. steady: what is decided here may be kept for a while."""

    __slots__ = ("free", "plain", "readings", "rules", "shown", "steady", "way")

    def __init__(self, path: bytes, readings: tuple[str, ...], way: Way | None, rules: tuple[Rule, ...]) -> None:
        self.shown = shown_path(path)
        self.plain = _PLAIN.fullmatch(self.shown) is not None
        self.readings = readings
        self.way = way
        """None: for the slow lane."""
        self.rules = rules
        self.free = not rules
        self.steady = all(map(_steady, rules))


class Verdict:
    """An Allow. tail: the last bytes of the head that goes up. until: seconds since the epoch."""

    __slots__ = ("answers", "gated", "relied", "tail", "token", "told", "until")

    def __init__(self, token: bytes, told: Decided, until: float, *, gated: bool, relied: bool) -> None:
        self.token = token
        self.tail = b"%b: %b\r\n\r\n" % (TOKEN_HEADER, token) if token else b"\r\n"
        self.answers: dict[object, bytes] = {}  # to proxies that ask, by what they ask
        self.told = told
        self.until = until
        self.gated = gated
        self.relied = relied


class Standing:
    """Who asks, and the header fields that go up. until: seconds since the epoch; due: when the pass is to be dated anew."""

    __slots__ = ("due", "fields", "free", "identified", "outs", "passing", "until", "verdicts", "way")

    def __init__(self, way: Way, identified: Identified, until: float, due: float, fields: Headers, free: Verdict) -> None:
        self.way = way
        self.identified = identified
        self.passing = identified.presented is not None
        self.until = until
        self.due = due
        self.fields = fields
        self.outs: dict[str, bytes] = {}
        self.free = free
        self.verdicts: dict[tuple[bytes, bytes], Verdict] = {}


class Seen:
    """A block as it came from one peer."""

    __slots__ = ("located", "places", "standings")

    def __init__(self, located: Located, places: dict[bytes, Place]) -> None:
        self.located = located
        self.places = places
        self.standings: dict[Way, Standing] = {}


class Block:
    """The header fields of a request, checked. length: of the body, None for chunks, 0 for no body. last: the connection ends after it."""

    __slots__ = ("headers", "last", "length", "seen")

    def __init__(self, headers: Headers, *, length: int | None, last: bool) -> None:
        self.headers = headers
        self.length = length
        self.last = last
        self.seen: dict[str, Seen] = {}


class Known:
    def __init__(
        self, *, entrance: Entrance, paths: Paths, gate: Gate, issuer: Issuer, passes: PassCookies, trail: Trail, limits: LimitsSpec,
        ruleset: Callable[[], Ruleset], identity: Callable[[], Identity], upstreams: Callable[[], Mapping[str, Upstream]],
        apart: Callable[[], tuple[bytes, ...]] = lambda: (),
    ) -> None:  # fmt: skip
        """apart: origins of pages from which a browser may come back to begin anew: the slow lane looks at who comes from there."""
        self._entrance = entrance
        self._paths = paths
        self._gate = gate
        self._issuer = issuer
        self._passes = passes
        self._trail = trail
        self._limits = limits
        self._ruleset = ruleset
        self._identity = identity
        self._upstreams = upstreams
        self._apart = apart
        self.blocks: dict[bytes, Block] = {}
        self._places: dict[str, dict[bytes, Place]] = {}
        self._place_count = 0
        self._ways: dict[str, Way] = {}
        self.generation = 0
        """One more with each `forget`."""

    def forget(self) -> None:
        """Rules, routes, identity, upstreams or keys have changed."""
        self.blocks.clear()
        self._places = {}
        self._place_count = 0
        self._ways = {}
        self.generation += 1

    # -- in the order in which a request is read ----------------------------------------------------------------------

    def block(self, line: bytes, fields: bytes, *, kept: bool = True) -> Block | None:
        """Read a head: its request line, and the fields with the empty line behind them. kept: they may come again."""
        if _FIELDS.fullmatch(fields) is None or not _checked(line + b"\r\n" + fields):
            return None
        lines = fields.split(b"\r\n")[:-2]
        limits = self._limits
        if len(lines) >= limits.header_count or (lines and len(max(lines, key=len)) > limits.header_size):
            return None
        headers = tuple([(name, value.strip(b" \t")) for name, _, value in [each.partition(b":") for each in lines]])
        names = {name.lower(): value for name, value in headers}
        if not _UNUSUAL.isdisjoint(names) or judge("GET", b"/", (1, 1), headers, request_line=limits.request_line) is not None:
            return None
        if (apart := self._apart()) and names.get(b"referer", b"").startswith(apart):
            return None
        length = None if b"transfer-encoding" in names else int(names.get(b"content-length", b"0"))
        if length is not None and length > limits.max_upload:
            return None
        connection = b",".join([value.lower() for name, value in headers if name.lower() == b"connection"]).split(b",")
        found = Block(headers, length=length, last=b"close" in [option.strip() for option in connection])
        if kept and len(fields) <= LONGEST_BLOCK:
            if len(self.blocks) >= MOST_BLOCKS:
                for old in list(self.blocks)[: MOST_BLOCKS // 4]:
                    del self.blocks[old]
            self.blocks[fields] = found
        return found

    def see(self, block: Block, peer: str) -> Seen | None:
        """Where a block leads that comes from this peer."""
        located = locate(block.headers, peer, self._entrance)
        if not isinstance(located, Located):
            return None
        if len(block.seen) >= MOST_PEERS:
            block.seen.clear()
        found = block.seen[peer] = self.seen(located)
        return found

    def seen(self, located: Located) -> Seen:
        return Seen(located, self._places.setdefault(located.origin, {}))

    def place(self, seen: Seen, path: bytes) -> Place | None:
        """What there is at a path. None where it has no safe readings."""
        try:
            target = parse_target(path)
        except BadTarget:
            return None
        found = self._placed(RequestHead("GET", target, (), *seen.located.around))
        if self._place_count >= MOST_PLACES:
            self._place_count = 0
            for places in self._places.values():
                places.clear()
        self._place_count += 1
        seen.places[path] = found
        return found

    def _placed(self, head: RequestHead) -> Place:
        path, readings = head.target.path, head.target.readings
        ruleset = self._ruleset()
        chosen = route(head, ruleset)
        if chosen is None or self._paths.own(path):
            return Place(path, readings, None, ())
        way = self._way(chosen.upstream)
        if way.spec.oauth is not None:  # its answers are looked into
            return Place(path, readings, None, ())
        if way.source is not None and way.source.concerns(readings):
            return Place(path, readings, None, ())
        positions = ruleset.index.candidates(head.host, readings, chosen.upstream)
        return Place(path, readings, way, tuple([ruleset.rules[position] for position in positions]))

    def _way(self, name: str) -> Way:
        found = self._ways.get(name)
        if found is None:
            found = self._ways[name] = Way(
                name, self._upstreams()[name], self._identity().session_source(name), name in self._ruleset().takeovers
            )
        return found

    def standing(self, block: Block, seen: Seen, way: Way, now: float) -> Standing | None:
        """Who asks. None where that cannot be said without waiting."""
        head = self.head(block, seen, "GET", Target(b"/", b"/", None, ("/",)))
        found = self._gate.at_once(head, way.name, now)
        if found is None:
            return None
        identified, until = found
        due = self._passes.due_at(identified.holder)
        fields = upstream_fields(head, identified, way.upstream, way.source, trusted=seen.located.trusted)
        told = self._trail.decided(upstream=way.name, decision="allow", rules=(), reason=identified.note, subject=identified.subject.id)
        made = Standing(way, identified, until, due, fields, Verdict(b"", told, inf, gated=False, relied=False))
        seen.standings[way] = made
        return made

    def verdict(
        self, block: Block, seen: Seen, place: Place, standing: Standing, method: bytes, target: bytes, now: float, *, kept: bool
    ) -> Verdict | None:
        """An Allow, else None. One that holds for a while is kept; `shadow` rules want to be told of each request. kept: the verdict
        is the same whatever the query, where no rule looks at it."""
        way = place.way
        assert way is not None, "the caller has asked"  # noqa: S101 -- tells mypy
        head = self.head(block, seen, method.decode("ascii"), _target(target, place.readings))
        try:
            judged = self._gate.judge_known(head, now, standing.identified)
        except StoreUnavailable:
            return None
        decision = judged.decision
        if not isinstance(decision, Allow) or decision.shadow:
            return None
        gated = decision.by_pass or decision.relied_on_pass
        token, until = "", inf
        if gated and decision.steps:
            identified, proofs = standing.identified, judged.facts.proofs
            shown = {step: proofs[step] for step in decision.steps}
            token, until = self._issuer.lasting_token(
                identified.holder, identified.subject, shown, origin=head.origin, upstream=way.name, now=now
            )
        who = standing.identified
        told = self._trail.decided(upstream=way.name, decision="allow", rules=decision.rules, reason=who.note, subject=who.subject.id)
        until = min([until, *_ends(place.rules, judged, now)])
        made = Verdict(token.encode("ascii"), told, until, gated=gated, relied=decision.relied_on_pass)
        if place.steady and kept:
            if len(standing.verdicts) >= MOST_VERDICTS:
                standing.verdicts.clear()
            standing.verdicts[method, target.partition(b"?")[0]] = made
        return made

    # -- odds ---------------------------------------------------------------------------------------------------------

    def head(self, block: Block, seen: Seen, method: str, target: Target) -> RequestHead:
        return RequestHead(method, target, block.headers, *seen.located.around)

    def asked(self, block: Block, seen: Seen, place: Place, method: bytes, target: bytes, request_id: str, now: float) -> Asked:
        return Asked(self.head(block, seen, method.decode("ascii"), _target(target, place.readings)), request_id, now)

    def out(self, standing: Standing, way: Way, authority: str, length: int | None) -> bytes:
        """The header fields for one url of an upstream, without the empty line."""
        host = {"keep": None, "rewrite": authority}.get(way.spec.host_header, way.spec.host_header)
        fields = framed(standing.fields, host=host, present=length != 0, length=length, upgrade=False)
        made = standing.outs[authority] = b"".join([b"%b: %b\r\n" % field for field in fields])
        return made

    def revoked(self, standing: Standing) -> bool:
        return self._gate.revoked(standing.identified)

    def fresh(self, now: float) -> bool:
        return self._gate.fresh(now)


def ticketed(target: bytes, readings: tuple[str, ...]) -> bool:
    """The query may hold a ticket, in whatever spelling."""
    return any(name == TICKET_PARAMETER for name, _ in query_pairs(_target(target, readings)))


def _target(raw: bytes, readings: tuple[str, ...]) -> Target:
    path, question, query = raw.partition(b"?")
    return Target(raw, path, query if question else None, readings)


def _checked(head: bytes) -> bool:
    """llhttp reads these bytes as one head, and no byte more."""
    parser = httptools.HttpRequestParser(_Nobody())
    try:
        parser.feed_data(head)
    except (httptools.HttpParserError, httptools.HttpParserUpgrade):
        return False
    return True


class _Nobody:
    """Wants to hear of nothing."""


def _steady(rule: Rule) -> bool:
    keys = {key for condition in (rule.match, rule.excuse) if condition is not None for key, _ in condition.tests}
    return "query" not in keys and (rule.when is None or rule.when.uses <= _STEADY)


def _ends(rules: tuple[Rule, ...], judged: Judged, now: float) -> list[float]:
    """When proofs become too old for these rules."""
    proofs = judged.facts.proofs
    return [
        proofs[step].at + rule.max_age
        for rule in rules
        if isinstance(rule.effect, Require) and isinstance(rule.max_age, int | float)
        for step in rule.effect.steps
        if step in proofs and proofs[step].at + rule.max_age > now
    ]
