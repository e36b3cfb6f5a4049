"""Why a request is decided as it is, rule by rule and in words. Verdicts and decision come from the code that decides."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, assert_never

from gateway.policy.condition import Condition, HostTest, Key, MapTest, MediaTest, NetworkTest, PathTest, UpstreamTest
from gateway.policy.decide import Faulty, Hit, Miss, Unknown, Verdict, askable, decide, did, effect, judge, proved, route, shown
from gateway.policy.decision import Decision, Need
from gateway.policy.facts import Facts
from gateway.policy.glob import Glob
from gateway.policy.model import Permit, Refuse, Require, Rule, Ruleset, Run, TakeOver
from gateway.policy.view import View
from gateway.spec.base import format_duration
from gateway.wire.head import RequestHead


@dataclass(frozen=True, slots=True)
class Explained:
    """One rule. why: one sentence, without secrets. reached: False where the run ended before this rule."""

    name: str
    verdict: Literal["hit", "miss", "unknown"]
    why: str
    reached: bool


@dataclass(frozen=True, slots=True)
class Explanation:
    """upstream: where the request would go, None without a route. rules: every one, in file order."""

    upstream: str | None
    rules: tuple[Explained, ...]
    decision: Decision


def explain(head: RequestHead, facts: Facts, ruleset: Ruleset, now: float) -> Explanation:
    """As `decide`, and why. Looks at every rule: for people, not for traffic."""
    decision = decide(head, facts, ruleset, now)
    found = route(head, ruleset)
    if found is None:
        return Explanation(
            None, tuple(Explained(rule.name, "miss", "no route leads to an upstream", False) for rule in ruleset.rules), decision
        )
    view = View(head, facts.body, found.upstream, folds=found.upstream in ruleset.case_insensitive)
    lines = []
    ended: str | None = None
    for rule in ruleset.rules:
        verdict = judge(rule, view, facts, ruleset, now)
        why = _why(rule, verdict, view, facts, ruleset, now)
        if ended is not None:
            why = f"not reached, the run ended at {ended}; {why}"
        lines.append(Explained(rule.name, _named(verdict), why, ended is None))
        if ended is None and _ends(rule, verdict, facts):
            ended = rule.name
    return Explanation(found.upstream, tuple(lines), decision)


def _named(verdict: Verdict) -> Literal["hit", "miss", "unknown"]:
    match verdict:
        case Hit() | Faulty():
            return "hit"
        case Miss():
            return "miss"
        case Unknown():
            return "unknown"


def _ends(rule: Rule, verdict: Verdict, facts: Facts) -> bool:
    if rule.shadow or isinstance(verdict, Miss):
        return False
    if isinstance(rule.effect, Run) and isinstance(verdict, Hit | Unknown):
        ran = facts.functions.ran.get(rule.name) if facts.functions is not None else None
        return ran is not None and (ran.denied is not None or (ran.error is not None and rule.on_error in {"deny", "require"}))
    return isinstance(verdict, Faulty) or isinstance(rule.effect, Refuse | Permit)


def _why(rule: Rule, verdict: Verdict, view: View, facts: Facts, ruleset: Ruleset, now: float) -> str:
    match verdict:
        case Miss():
            return _missed(rule, verdict, view, facts)
        case Unknown(need):
            return _shadow(rule, f"needs {_needed(need)}")
        case Faulty(reason):
            return _shadow(rule, f"when fails ({reason}) and on_error is deny: refused")
        case Hit(assumed):
            return _shadow(rule, _done(rule, view, facts, ruleset, now) + (f" ({assumed})" if assumed else ""))
        case _:
            assert_never(verdict)


def _shadow(rule: Rule, why: str) -> str:
    return f"shadow, would {effect(rule)}: {why}" if rule.shadow else why


def _done(rule: Rule, view: View, facts: Facts, ruleset: Ruleset, now: float) -> str:
    match rule.effect:
        case Refuse(status):
            return f"denies with {status}"
        case Permit():
            return "allows, and ends the run"
        case Run():
            ran = facts.functions.ran.get(rule.name) if facts.functions is not None else None
            return "its function was not run" if ran is None else f"its function ran: {did(ran)}"
        case TakeOver() as taken:
            return f"shows the upstream what was proved: {', '.join(shown(taken, facts, ruleset))}"
        case Require():
            parts = []
            for step in askable(rule, view, facts, ruleset):
                if proof := proved(step, rule.max_age, facts, now, ruleset.steps[step].edition):
                    parts.append(f"{step} proved {format_duration(round(max(now - proof.at, 1.0)))} ago")
                else:
                    parts.append(f"asks for {step}")
            return ", ".join(parts)


def _needed(need: Need) -> str:
    return " and ".join([*(["the body"] if need.body else []), *(f"the record {name}" for name in sorted(need.records))])


def _missed(rule: Rule, miss: Miss, view: View, facts: Facts) -> str:
    match miss.cause:
        case "disabled":
            return "disabled"
        case "match":
            return _unmatched(rule.match, miss.key, view, every=isinstance(rule.effect, Permit))
        case "except":
            return f"excused by except: {_excuse(rule.excuse, miss.key, view)}"
        case "who":
            return f"only for {rule.who} requests; this one is {'from ' + facts.subject.id if facts.subject.known else 'from nobody'}"
        case "when":
            return "when is false"
        case "error":
            return f"when fails ({miss.detail}) and on_error is {rule.on_error}"
        case "preflight":
            return "a preflight passes unasked"
        case "login":
            return "its steps need a subject, and this is where one logs in or out"
        case "answer":
            return _awaits(rule, view)
        case _:
            assert_never(miss.cause)


def _awaits(rule: Rule, view: View) -> str:
    taken = rule.effect
    assert isinstance(taken, TakeOver)  # noqa: S101 - nothing else waits for an answer
    if taken.upstream != view.upstream:
        return f"looks at answers of {taken.upstream}"
    asks = ", ".join(taken.steps)
    if taken.challenge:
        return _shadow(rule, f"would take over a 401 that asks for other authentication; it may name {asks}")
    where = " or ".join((place.origin or "") + place.path.source for place in taken.locations)
    return _shadow(rule, f"would take over a redirect to {where}, and ask for {asks}")


def _unmatched(condition: Condition, key: Key | None, view: View, *, every: bool) -> str:
    if key == "method":
        return f"method {_list(view.methods)} is not {_list(condition.methods or ())}"
    match dict(condition.tests).get(key) if key else None:
        case PathTest(globs):
            stray = (
                next((path for path in view.paths if not any(glob.matches(path) for glob in globs)), view.paths[0])
                if every
                else view.paths[0]
            )
            read = f"{view.paths[0]} is also read as {stray}, which" if stray != view.paths[0] else stray
            return f"path {read} {_not_of(globs)}"
        case HostTest(globs):
            return f"host {view.head.host} {_not_of(globs)}"
        case UpstreamTest(names):
            return f"upstream {view.upstream} is not {_list(names)}"
        case NetworkTest(networks):
            return f"address {view.head.client_ip} is not in {_list(map(str, networks))}"
        case MediaTest(globs):
            return f"content type {_list(view.media_types) or '(none)'} {_not_of(globs)}"
        case MapTest(kind, wanted):
            return f"{kind} {_all(names[0] for names, _ in wanted)} {'do' if len(wanted) > 1 else 'does'} not match"
        case _:
            return "does not match"


def _excuse(condition: Condition | None, key: Key | None, view: View) -> str:
    match key:
        case "path":
            return f"path {view.paths[0]}"
        case "host":
            return f"host {view.head.host}"
        case "method":
            return f"method {_list(view.methods)}"
        case "upstream":
            return f"upstream {view.upstream}"
        case "network":
            return f"address {view.head.client_ip}"
        case "content_type":
            return f"content type {_list(view.media_types)}"
        case _:
            test = dict(condition.tests).get(key) if condition and key else None
            return f"{key} {_all(names[0] for names, _ in test.wanted)}" if isinstance(test, MapTest) else str(key)


def _not_of(globs: tuple[Glob, ...]) -> str:
    if len(globs) > 1:
        return f"matches none of {', '.join(glob.source for glob in globs)}"
    source = globs[0].source
    if source.endswith("/**") and "*" not in source[:-3]:
        return f"is not under {source}"
    return f"does not match {source}" if "*" in source or source.startswith("re:") else f"is not {source}"


def _all(words: Iterable[str]) -> str:
    return " and ".join(sorted(words))


def _list(words: Iterable[str]) -> str:
    return " or ".join(sorted(words))
