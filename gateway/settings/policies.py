"""Settings as policy wants them: what is compiled, and the compiler's mistakes put where they belong in the files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from gateway.policy.compile import Problem, compile_rules
from gateway.policy.model import LoginPaths, Ruleset, StepInfo
from gateway.settings.entries import IdentityEntry, RuleEntry, StepEntry
from gateway.settings.mistakes import Report, Source
from gateway.settings.places import Loc
from gateway.settings.registry import IdentityConfig, KeepsRecord, Registry
from gateway.spec.base import StepSpec
from gateway.spec.rules import RouteSpec
from gateway.spec.sections import GatewaySpec


def compile_policies(
    *,
    spec: GatewaySpec | None,
    routes: Sequence[tuple[int, RouteSpec]],
    rules: Sequence[RuleEntry],
    steps: Mapping[str, StepEntry],
    identity: Sequence[IdentityEntry],
    kinds: Registry,
    version: str,
    main: Source,
    report: Report,
    functions: Mapping[str, Callable[..., Any]],
) -> Ruleset | None:
    """Compile what is well shaped. Names count as known although their entry holds a mistake. None if there is any mistake here."""
    compiled = compile_rules(
        [rule.spec for rule in rules],
        [route for _, route in routes],
        upstreams={name: _ignores_case(spec, name) for name in _names(main, "upstreams")},
        steps={name: _info(name, steps.get(name), kinds) for name in _names(main, "steps")},
        logins=[login for entry in identity if (login := _login(entry)) is not None],
        claims=frozenset().union(*(_claims(config) for config in (*(e.config for e in identity), *(e.config for e in steps.values())))),
        records=_records(main, steps, kinds),
        version=version,
        functions=functions,
    )
    if isinstance(compiled, Ruleset):
        return compiled
    for problem in compiled:
        _tell(problem, routes, rules, main, report)
    return None


def _tell(problem: Problem, routes: Sequence[tuple[int, RouteSpec]], rules: Sequence[RuleEntry], main: Source, report: Report) -> None:
    section, *rest = problem.loc
    if not rest or not isinstance(rest[0], int):
        return  # that routes are missing is said where the upstreams are
    source, index, whole = main, rest[0], True
    if section == "rules":
        entry = rules[rest[0]]
        source, index, whole = entry.source, entry.index, entry.whole
    else:
        index = routes[rest[0]][0]
    loc: Loc = (section, index, *rest[1:])
    if report.said(source, loc) or (not whole and report.said_below(source, loc)):
        return
    report.add(source, loc, problem.message, offset=problem.offset)


def _names(main: Source, section: str) -> list[str]:
    value = main.document.value
    names = value.get(section) if isinstance(value, dict) else None
    return list(names) if isinstance(names, dict) else []


def _ignores_case(spec: GatewaySpec | None, name: str) -> bool:
    upstream = spec.upstreams.get(name) if spec is not None else None
    return upstream is None or upstream.case_insensitive


def _info(name: str, entry: StepEntry | None, kinds: Registry) -> StepInfo:
    if entry is None:
        return StepInfo(name, "", needs_subject=False)
    return StepInfo(
        name,
        entry.kind,
        needs_subject=kinds.steps[entry.kind].needs_subject(entry.config),
        acr=entry.config.acr if isinstance(entry.config, StepSpec) else None,
        edition=getattr(entry.config, "edition", ""),
        claims=tuple(sorted(_claims(entry.config))),
        counts=getattr(entry.config, "counts", True),
    )


def _records(main: Source, steps: Mapping[str, StepEntry], kinds: Registry) -> dict[str, frozenset[str] | None] | None:
    """Names of records, each with its entries. A step whose entry holds a mistake may keep anything."""
    if kinds.records is None:
        return None
    found: dict[str, frozenset[str] | None] = dict.fromkeys(kinds.records)
    for name in _names(main, "steps"):
        entry = steps.get(name)
        if entry is None:
            found[name] = None
        elif isinstance(entry.config, KeepsRecord):
            found[name] = frozenset(entry.config.record_fields)
    return found


def _login(entry: IdentityEntry) -> LoginPaths | None:
    config = entry.config
    if not isinstance(config, IdentityConfig) or config.upstream is None or not config.login_paths():
        return None
    return LoginPaths(config.upstream, config.login_paths())


def _claims(config: object) -> frozenset[str]:
    """A source declares claims; a step that sets some declares them too."""
    if isinstance(config, IdentityConfig):
        return config.claim_names()
    if (sets := getattr(config, "sets", None)) is not None:
        return frozenset(sets)
    claims = getattr(config, "claims", None)
    return frozenset(claims) if isinstance(claims, Mapping) else frozenset()
