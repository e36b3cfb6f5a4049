"""Specs → ruleset. Every mistake is a value with its place, and all of them are found at once."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from gateway.policy.condition import Condition, Mapped, condition
from gateway.policy.expression import Expression, compile_expression
from gateway.policy.glob import Glob, GlobError, host_glob, path_glob, value_glob
from gateway.policy.index import RuleIndex
from gateway.policy.model import LoginPaths, Permit, Refuse, Require, Route, Rule, Ruleset, Run, StepInfo, TakeOver, Where
from gateway.policy.network import parse_network
from gateway.policy.references import ExpressionError, nearest
from gateway.spec.outside import InterceptSpec
from gateway.spec.rules import MatchSpec, RouteSpec, RuleSpec
from gateway.wire.headers import METHODS
from gateway.wire.location import origin_of

Loc = tuple[str | int, ...]
T = TypeVar("T")

_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110 §5.6.2


@dataclass(frozen=True, slots=True)
class Problem:
    """A mistake. loc: as in ("rules", 2, "require", 0). offset: where within that scalar, in characters, if known."""

    loc: Loc
    message: str
    offset: int | None = None


def compile_rules(
    rules: Sequence[RuleSpec],
    routes: Sequence[RouteSpec],
    *,
    upstreams: Mapping[str, bool],
    steps: Mapping[str, StepInfo],
    logins: Sequence[LoginPaths] = (),
    claims: frozenset[str] = frozenset(),
    records: Mapping[str, frozenset[str] | None] | None = None,
    version: str = "",
    functions: Mapping[str, Callable[..., Any]] | None = None,
) -> Ruleset | tuple[Problem, ...]:
    """Compile well-shaped specs, or say everything that is wrong with them, in their order.

    upstreams: name to whether it ignores case. claims: what any identity source declares. records: names of records, each with the names of
    its entries; None = not known here, any will do. functions: rule functions by the reference that rules name them by.
    Without routes, a single upstream serves everything.
    """
    compiler = _Compiler(frozenset(upstreams), tuple(steps), claims, records)
    compiled_routes = compiler.routes(routes)
    compiled_rules = tuple(compiler.rule(position, spec) for position, spec in enumerate(rules))
    compiler.find_repeated(rules)
    compiler.find_unreachable(rules)
    if compiler.problems:
        order = {"routes": 0, "rules": 1}
        return tuple(sorted(compiler.problems, key=lambda problem: (order[str(problem.loc[0])], problem.loc[1:2])))
    return Ruleset(
        rules=compiled_rules,
        index=RuleIndex.build((rule.position, rule.match) for rule in compiled_rules if rule.enabled and _about_requests(rule)),
        routes=compiled_routes,
        steps=dict(steps),
        logins=tuple(logins),
        case_insensitive=frozenset(name for name, folds in upstreams.items() if folds),
        version=version,
        functions=functions or {},
        takeovers=_by_upstream(compiled_rules),
    )


def _about_requests(rule: Rule) -> bool:
    """What takes redirects over has no say about requests; what takes challenges over has proofs to show."""
    return not isinstance(rule.effect, TakeOver) or rule.effect.challenge


def _by_upstream(rules: Sequence[Rule]) -> dict[str, tuple[Rule, ...]]:
    found: dict[str, tuple[Rule, ...]] = {}
    for rule in rules:
        if isinstance(rule.effect, TakeOver) and rule.enabled:
            found[rule.effect.upstream] = (*found.get(rule.effect.upstream, ()), rule)
    return found


class _Compiler:
    """Collects problems on the way; what is compiled is of use only if there are none."""

    def __init__(
        self,
        upstreams: frozenset[str],
        steps: tuple[str, ...],
        claims: frozenset[str],
        records: Mapping[str, frozenset[str] | None] | None,
    ) -> None:
        self.upstreams = upstreams
        self.order = steps
        self.steps = frozenset(steps)
        self.claims = claims
        self.records = records
        self.problems: list[Problem] = []

    def routes(self, specs: Sequence[RouteSpec]) -> tuple[Route, ...]:
        if not specs and len(self.upstreams) == 1:
            return (Route(next(iter(self.upstreams)), Condition()),)
        if not specs:
            self._problem(("routes",), "with several upstreams, routes must say which one serves what")
        compiled = []
        for position, spec in enumerate(specs):
            loc: Loc = ("routes", position)
            self._known(spec.upstream, self.upstreams, "upstream", (*loc, "upstream"))
            hosts = self._each(spec.host, host_glob, (*loc, "host"))
            paths = self._each(spec.path, path_glob, (*loc, "path"))
            compiled.append(Route(spec.upstream, condition(hosts=hosts, paths=paths), spec.cors))
        return tuple(compiled)

    def rule(self, position: int, spec: RuleSpec) -> Rule:
        loc: Loc = ("rules", position)
        return Rule(
            position=position,
            name=spec.name,
            match=_filed(spec.intercept) if spec.intercept is not None else self._condition(spec.match, (*loc, "match")),
            excuse=self._excuse(spec.except_, (*loc, "except")),
            who=spec.who,
            when=self._when(spec.when, (*loc, "when")),
            effect=self._effect(spec, loc),
            max_age=spec.max_age,
            replay=spec.replay,
            shadow=spec.mode == "shadow",
            enabled=spec.enabled,
            on_error=spec.on_error,
        )

    def find_repeated(self, specs: Sequence[RuleSpec]) -> None:
        """Names are what logs and tokens say: two rules of one name are told at the second."""
        seen: dict[str, int] = {}
        for position, spec in enumerate(specs):
            first = seen.setdefault(spec.name, position)
            if first != position:
                self._problem(("rules", position, "name"), f'rules[{first}] is named "{spec.name}" already')

    def find_unreachable(self, specs: Sequence[RuleSpec]) -> None:
        """Behind an `allow` or `deny` that always ends the run for the same requests (or for all), a rule never has its turn."""
        ends: dict[object, RuleSpec] = {}
        everything = _canonical(MatchSpec())
        for position, spec in enumerate(specs):
            if not spec.enabled or spec.intercept is not None:
                continue
            canonical = _canonical(spec.match)
            end = ends.get(everything) or ends.get(canonical)
            if end is not None:
                what = "deny" if end.deny is not None else "allow"
                self._problem(
                    ("rules", position), f'can never match: the {what} of "{end.name}" before it ends the run for the same requests'
                )
            elif (spec.deny is not None or spec.allow) and _unconditional(spec):
                ends[canonical] = spec

    def _effect(self, spec: RuleSpec, loc: Loc) -> Require | Refuse | Permit | Run | TakeOver:
        if spec.intercept is not None:
            return self._take_over(spec, spec.intercept, loc)
        if spec.resume is not None:
            self._problem((*loc, "resume"), "goes with `intercept`: it says where an intercepted redirect goes on")
        given = [name for name in ("require", "deny", "allow", "python") if getattr(spec, name) is not None]
        if len(given) != 1:
            self._problem(loc, f"needs exactly one of require, deny, allow and python; it has {' and '.join(given) or 'none'}")
        if spec.allow is False:
            self._problem(
                (*loc, "allow"), "only `allow: true` says something; use `deny` to refuse, or `enabled: false` to switch the rule off"
            )
        for position, name in enumerate(spec.require or ()):
            self._known(name, self.steps, "step", (*loc, "require", position))
        if spec.allow and spec.on_error == "require":
            self._problem((*loc, "on_error"), "an `allow` asks for no steps, so an error cannot require any; write deny or skip")
        if spec.require is not None:
            return Require(tuple(dict.fromkeys(spec.require)))
        if spec.deny is not None:
            return Refuse(spec.deny.status, spec.deny.message)
        if spec.python is not None:
            return Run(spec.python)
        return Permit()

    def _take_over(self, spec: RuleSpec, answers: InterceptSpec, loc: Loc) -> TakeOver:
        """A rule about answers: nothing that selects requests, and nothing but `require`."""
        for key in ("deny", "allow", "python"):
            if getattr(spec, key) is not None:
                self._problem((*loc, key), "an `intercept` takes `require` only")
        usual = RuleSpec(name="usual")
        for key, name in (
            ("match", "match"),
            ("except_", "except"),
            ("who", "who"),
            ("when", "when"),
            ("replay", "replay"),
            ("on_error", "on_error"),
        ):
            if getattr(spec, key) != getattr(usual, key):
                self._problem(
                    (*loc, name), "is about requests; an `intercept` looks at answers, and says which by `upstream` and `location`"
                )
        self._known(answers.upstream, self.upstreams, "upstream", (*loc, "intercept", "upstream"))
        for position, name in enumerate(spec.require or ()):
            self._known(name, self.steps, "step", (*loc, "require", position))
        if answers.challenge and spec.resume is not None:
            self._problem((*loc, "resume"), "a challenge goes on with the request that it answered; `resume` is for redirects")
        if not answers.challenge and spec.require is None:
            self._problem(loc, "needs `require`: the steps in place of the upstream's own page")
        if not answers.challenge and spec.resume is None:
            self._problem(loc, "needs `resume`: where the upstream goes on, and how our answer is signed")
        places = self._each(answers.location, _where, (*loc, "intercept", "location")) if answers.location is not None else None
        required = tuple(dict.fromkeys(spec.require or (self.order if answers.challenge else ())))
        return TakeOver(answers.upstream, tuple(places or ()), answers.challenge, required, named=spec.require is not None)

    def _when(self, source: str | None, loc: Loc) -> Expression | None:
        if source is None:
            return None
        try:
            return compile_expression(source, claims=self.claims, records=self.records, steps=self.steps)
        except ExpressionError as error:
            self._problem(loc, str(error), error.offset)
            return None

    def _excuse(self, spec: MatchSpec | None, loc: Loc) -> Condition | None:
        if spec is None:
            return None
        if spec == MatchSpec():
            self._problem(loc, "an empty `except` excuses nothing; leave it out")
        return self._condition(spec, loc)

    def _condition(self, spec: MatchSpec, loc: Loc) -> Condition:
        for position, name in enumerate(spec.upstream or ()):
            self._known(name, self.upstreams, "upstream", (*loc, "upstream", position))
        maps: list[tuple[Mapped, list[tuple[str, Sequence[Glob | None]]]]] = []
        kinds: tuple[tuple[Mapped, dict[str, tuple[str | None, ...]] | None], ...] = (
            ("header", spec.header),
            ("query", spec.query),
            ("cookie", spec.cookie),
        )
        for kind, wanted in kinds:
            if wanted is not None:
                maps.append((kind, self._mapped(kind, wanted, (*loc, kind))))
        return condition(
            upstreams=self._each(spec.upstream, str, (*loc, "upstream")),
            hosts=self._each(spec.host, host_glob, (*loc, "host")),
            paths=self._each(spec.path, path_glob, (*loc, "path")),
            methods=self._each(spec.method, _method, (*loc, "method")),
            maps=maps,
            networks=self._each(spec.network, parse_network, (*loc, "network")),
            media=self._each(spec.content_type, value_glob, (*loc, "content_type")),
        )

    def _mapped(self, kind: Mapped, wanted: Mapping[str, tuple[str | None, ...]], loc: Loc) -> list[tuple[str, Sequence[Glob | None]]]:
        if not wanted:
            self._problem(loc, f"names no {kind}")
        compiled: list[tuple[str, Sequence[Glob | None]]] = []
        for name, globs in wanted.items():
            if kind != "query" and not _TOKEN.fullmatch(name):
                self._problem((*loc, name), f'"{name}" is not the name of a {kind}')
            compiled.append((name, self._each(globs, _absent_or_value, (*loc, name)) or ()))
        return compiled

    def _each(self, items: Sequence[T] | None, compile_one: Callable[[T], R], loc: Loc) -> list[R] | None:
        """Every item compiled; None where the key is not there."""
        if items is None:
            return None
        if not items:
            self._problem(loc, "an empty list matches nothing")
        compiled = []
        for position, item in enumerate(items):
            try:
                compiled.append(compile_one(item))
            except GlobError as error:
                self._problem((*loc, position), str(error), error.offset)
            except ValueError as error:
                self._problem((*loc, position), str(error))
        return compiled

    def _known(self, name: str, names: frozenset[str], what: str, loc: Loc) -> None:
        if name not in names:
            self._problem(loc, f'no {what} named "{name}"{nearest(name, names)}')

    def _problem(self, loc: Loc, message: str, offset: int | None = None) -> None:
        self.problems.append(Problem(loc, message, offset))


R = TypeVar("R")


def _filed(answers: InterceptSpec) -> Condition:
    """A rule about answers is filed under its upstream."""
    return condition(upstreams=[answers.upstream])


def _where(location: str) -> Where:
    """Raises GlobError."""
    origin, path = None, location
    if not location.startswith("/"):
        scheme, _, rest = location.partition("://")
        host, _, path = rest.partition("/")
        origin, path = origin_of(f"{scheme}://{host}/"), "/" + path
    return Where(origin, path_glob(path))


def _absent_or_value(pattern: str | None) -> Glob | None:
    return None if pattern is None else value_glob(pattern)


def _method(name: str) -> str:
    if name.upper() not in METHODS:
        raise ValueError(f'no method named "{name}"{nearest(name.upper(), METHODS)}')
    return name.upper()


def _unconditional(spec: RuleSpec) -> bool:
    return spec.when is None and spec.except_ is None and spec.who == "any" and spec.mode == "enforce"


def _canonical(match: MatchSpec) -> object:
    """Equal for conditions that differ only in order, repetition or spelling."""
    anything = match.path is not None and "/**" in match.path
    return (
        _set(match.upstream),
        _set(match.host, str.casefold),
        None if anything else _set(match.path),
        _set(match.method, str.upper),
        *(_map(mapped, fold) for mapped, fold in ((match.header, str.lower), (match.query, str), (match.cookie, str))),
        _set(match.network),
        _set(match.content_type, str.casefold),
    )


def _set(items: Sequence[str] | None, fold: Callable[[str], str] = str) -> object:
    return None if items is None else frozenset(map(fold, items))


def _map(mapped: Mapping[str, Sequence[str | None]] | None, fold: Callable[[str], str]) -> object:
    return None if mapped is None else frozenset((fold(name), frozenset(globs)) for name, globs in mapped.items())
