"""The decision. Pure: the same head, facts, rules and time always come to the same.

All rules run, in file order: each may add steps; `allow` ends the run and keeps what was collected; `deny` ends it and discards it. Rules
in shadow mode are reported and change nothing. What a rule lacks is asked for (`Need`) only where it could still change the decision.
Rule functions are asked for last, all that were hit together: what YAML rules refuse anyway runs none. The redirect set last counts.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Final, Literal, assert_never

from gateway.policy.condition import Key
from gateway.policy.decision import Allow, Asked, Decision, Deny, MaxAge, Need, Shadow, StepUp
from gateway.policy.expression import Broken, Lacks, Met
from gateway.policy.facts import REDIRECT_CALLBACK, Facts, Nowhere, Ran, Redirect, ToSteps, ToUrl
from gateway.policy.model import Permit, Refuse, Require, Route, Rule, Ruleset, Run, TakeOver
from gateway.policy.view import View
from gateway.wire.head import RequestHead
from gateway.wire.subject import Proof

Cause = Literal["disabled", "match", "except", "who", "when", "error", "preflight", "login", "answer"]


@dataclass(frozen=True, slots=True)
class Hit:
    """The rule speaks. assumed: why it counts as met although its condition was not evaluated to the end; None where it was."""

    assumed: str | None = None


@dataclass(frozen=True, slots=True)
class Miss:
    """The rule is silent. key: the key of `match` that does not hold, or of `except` that does. detail: what went wrong in an error."""

    cause: Cause
    key: Key | None = None
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Unknown:
    """It cannot be said before this is gathered."""

    need: Need


@dataclass(frozen=True, slots=True)
class Faulty:
    """Its condition cannot be evaluated and `on_error` is `deny`: the request is refused. away: for want of a store."""

    reason: str
    away: bool = False


Verdict = Hit | Miss | Unknown | Faulty

HIT: Final = Hit()
BODY: Final = Unknown(Need(body=True))
NOTHING: Final = Allow()
UNCHECKED: Final = "This request could not be checked, so it was refused."
NO_ROUTE: Final = Deny(404, "There is nothing at this address.", "no route leads to an upstream", rule="")
_STRICTNESS: Final = {"auto": 0, "confirm": 1, "off": 2}


def route(head: RequestHead, ruleset: Ruleset) -> Route | None:
    """The first route of which every reading matches, or None. Worked out once for a head and a ruleset."""
    known: tuple[Ruleset, Route | None] | None = head.memo.get("route")
    if known is None or known[0] is not ruleset:
        view = View(head, None)
        known = ruleset, next((each for each in ruleset.routes if each.condition.missed_by_all(view) is None), None)
        head.memo["route"] = known
    return known[1]


def decide(head: RequestHead, facts: Facts, ruleset: Ruleset, now: float) -> Decision:
    """What becomes of a request. now: seconds since the epoch.

    After a `Need` you must gather what it names into `facts` (a body that cannot be had as `BodyUnavailable`, a record that does not exist
    as None) and ask again.
    """
    found = route(head, ruleset)
    if found is None:
        return NO_ROUTE
    upstream = found.upstream
    positions = ruleset.index.candidates(head.host, head.target.readings, upstream)
    if not positions:
        return NOTHING
    view = View(head, facts.body, upstream, folds=upstream in ruleset.case_insensitive)
    return run((ruleset.rules[position] for position in positions), view, facts, ruleset, now)


@dataclass(slots=True)
class _Collected:
    """What the rules so far came to."""

    hit: list[str] = field(default_factory=list)
    asked: dict[str, Asked] = field(default_factory=dict)
    proved: dict[str, None] = field(default_factory=dict)
    shadow: list[Shadow] = field(default_factory=list)
    body: bool = False
    records: frozenset[str] = frozenset()
    replay: Literal["auto", "confirm", "off"] = "auto"
    relied: bool = False
    functions: list[str] = field(default_factory=list)
    unrun: bool = False
    redirect: tuple[Rule, Redirect] | None = None

    def hits(self, rule: Rule) -> None:
        self.hit.append(rule.name)
        if _STRICTNESS[rule.replay] > _STRICTNESS[self.replay]:
            self.replay = rule.replay


def run(rules: Iterable[Rule], view: View, facts: Facts, ruleset: Ruleset, now: float) -> Decision:
    """Let rules in file order come to a decision. Rules that would miss may be left out."""
    collected = _Collected()
    for rule in rules:
        if isinstance(rule.effect, TakeOver):
            if isinstance(judge(rule, view, facts, ruleset, now), Hit):
                collected.proved.update(dict.fromkeys(shown(rule.effect, facts, ruleset)))
            continue
        verdict = judge(rule, view, facts, ruleset, now)
        if rule.shadow:
            # What a store holds is not worth failing a request for; the body is read only to report truly.
            if isinstance(verdict, Unknown):
                collected.body |= verdict.need.body and not facts.later
            elif isinstance(verdict, Hit) and isinstance(rule.effect, Run):
                if (ran := _ran(rule, collected, facts)) is not None:
                    collected.shadow.append(Shadow(rule.name, did(ran)))
            elif not isinstance(verdict, Miss):
                collected.shadow.append(Shadow(rule.name, effect(rule) if isinstance(verdict, Hit) else "deny"))
            continue
        collected.relied |= _relies(rule, verdict, facts)
        match verdict:
            case Miss():
                continue
            case Unknown(need):
                collected.body |= need.body and not facts.later
                collected.records |= need.records
                if isinstance(rule.effect, Require | Run) or (isinstance(rule.effect, Refuse) and facts.later and not need.records):
                    continue
                break  # whether the run ends here is open
            case Faulty(reason, away):
                return _fault(rule, reason, collected, away=away)
            case Hit():
                collected.hits(rule)
            case _:
                assert_never(verdict)
        match rule.effect:
            case Require():
                _ask(askable(rule, view, facts, ruleset), rule, collected, facts, ruleset, now)
            case Refuse(status, message):
                return Deny(status, message, f"rule {rule.name} denies", rule.name, collected.relied, tuple(collected.shadow))
            case Permit():
                break
            case Run():
                ran = _ran(rule, collected, facts)
                if ran is not None and (refused := _after(rule, ran, collected)) is not None:
                    return refused
            case TakeOver():
                continue  # it has had its turn
            case _:
                assert_never(rule.effect)
    if not collected.unrun:
        _redirect(collected, view, facts, ruleset, now)
    return _outcome(collected, facts, ruleset)


def _ran(rule: Rule, collected: _Collected, facts: Facts) -> Ran | None:
    """What a function did that was hit; None where it has not run yet."""
    collected.functions.append(rule.name)
    ran = facts.functions.ran.get(rule.name) if facts.functions is not None else None
    if ran is None and facts.functions is not None and facts.functions.later:
        return Ran()
    if ran is None:
        collected.unrun = True
    return ran


def _after(rule: Rule, ran: Ran, collected: _Collected) -> Deny | None:
    """A function has run: a refusal, or what it adds to the run."""
    shadow = tuple(collected.shadow)
    if ran.denied is not None:
        return Deny(403, ran.denied, f"rule {rule.name}: its function refuses", rule.name, collected.relied, shadow)
    if ran.error is not None and rule.on_error in {"deny", "require"}:
        # `require` names no steps here: what a function would have asked for is known to nobody.
        private = f"rule {rule.name}: its function failed ({ran.error}) and on_error is {rule.on_error}"
        return Deny(403, UNCHECKED, private, rule.name, collected.relied, shadow)
    if ran.error is None and ran.redirect is not None:
        collected.redirect = rule, ran.redirect
    return None


def _redirect(collected: _Collected, view: View, facts: Facts, ruleset: Ruleset, now: float) -> None:
    """What the functions' redirect comes to, after all rules have run."""
    if facts.functions is None or not collected.functions:
        return
    if facts.functions.protocol == REDIRECT_CALLBACK:
        # Once per flow: nothing is asked here. What was proved for a function's sake counts as it would for a `require`.
        collected.proved.update(dict.fromkeys(step for step in facts.granted if step in ruleset.steps))
        return
    match collected.redirect:
        case None | (_, Nowhere()):
            return
        case (rule, ToUrl(url)):
            step = page(rule.name)
            if step not in facts.granted:
                collected.asked[step] = Asked(step, "once", (rule.name,), url)
        case (rule, ToSteps(steps)):
            here = [step for step in _asked_here(steps, view, facts, ruleset) if visit(rule.name, step) not in facts.granted]
            _ask(here, rule, collected, facts, ruleset, now)
            for step in here:
                if step in collected.asked and not ruleset.steps[step].counts:
                    # The pass will not know of it: it is for this very request, as a page of the function's own is.
                    collected.asked[step] = replace(collected.asked[step], max_age="once")


def _ask(steps: Iterable[str], rule: Rule, collected: _Collected, facts: Facts, ruleset: Ruleset, now: float) -> None:
    for step in steps:
        if proved(step, rule.max_age, facts, now, ruleset.steps[step].edition):
            collected.proved[step] = None
        else:
            collected.asked[step] = _merged(collected.asked.get(step), step, rule)


def _outcome(collected: _Collected, facts: Facts, ruleset: Ruleset) -> Decision:
    if collected.body or collected.records:
        return Need(body=collected.body, records=collected.records)
    if collected.unrun:
        return Need(functions=tuple(collected.functions))
    hit, shadow = tuple(collected.hit), tuple(collected.shadow)
    if collected.asked:
        known = [ruleset.steps[step] for step in collected.asked if step in ruleset.steps]
        login = not facts.subject.known and any(step.needs_subject for step in known)
        # Who must log in first is somebody else then: a page that a function made for nobody is none for them. The functions run again.
        asked = tuple(each for each in collected.asked.values() if not (login and each.url))
        return StepUp(asked, hit, collected.replay, login, shadow)
    by_pass = bool(collected.proved)
    return Allow(hit, tuple(collected.proved), by_pass, by_pass or collected.relied, shadow)


def judge(rule: Rule, view: View, facts: Facts, ruleset: Ruleset, now: float) -> Verdict:
    """Whether one rule speaks about a request."""
    if isinstance(rule.effect, TakeOver):
        if not rule.enabled:
            return Miss("disabled")
        here = rule.effect.upstream == view.upstream and not rule.shadow
        return HIT if here and rule.effect.challenge and shown(rule.effect, facts, ruleset) else Miss("answer")
    verdict = _judge(rule, view, facts, now)
    if isinstance(verdict, Miss) or not isinstance(rule.effect, Require | Run):
        return verdict
    if view.preflight:
        return Miss("preflight")
    if isinstance(rule.effect, Run):
        return verdict
    steps = askable(rule, view, facts, ruleset)
    if not steps:
        return Miss("login")
    if not isinstance(verdict, Hit) and all(proved(step, rule.max_age, facts, now, ruleset.steps[step].edition) for step in steps):
        return Hit(assumed="its steps are proved, so its condition does not matter")
    return verdict


def _judge(rule: Rule, view: View, facts: Facts, now: float) -> Verdict:
    if not rule.enabled:
        return Miss("disabled")
    every = isinstance(rule.effect, Permit)
    missed = rule.match.missed_by_all(view) if every else rule.match.missed_by_any(view)
    unread = missed == "body"
    if missed is not None and missed != "body":
        return Miss("match", missed)
    if rule.excuse is not None and (excused := rule.excuse.excused_by(view)) is not None:
        if excused != "body":
            return Miss("except", excused)
        unread = True
    if rule.who != "any" and (rule.who == "authenticated") is not facts.subject.known:
        return Miss("who")
    if rule.when is None:
        return BODY if unread else HIT
    match rule.when.evaluate(view, facts, now, every=every):
        case Met(value):
            if not value:
                return Miss("when")
            return BODY if unread else HIT
        case Lacks(need):
            return Unknown(Need(body=need.body or unread, records=need.records))
        case Broken(reason, away):
            if unread:
                return BODY
            match rule.on_error:
                case "deny":
                    return Faulty(reason, away)
                case "require":
                    return Hit(assumed=reason)
                case "skip" | "allow":
                    return Miss("error", detail=reason)
        case outcome:
            assert_never(outcome)


def proved(step: str, max_age: MaxAge, facts: Facts, now: float, edition: str = "") -> Proof | None:
    """The proof that makes asking unnecessary: of the transaction being resumed, or one in the pass that is young enough and of the edition
    that is asked now."""
    if granted := facts.granted.get(step):
        return granted
    proof = facts.proofs.get(step)
    if proof is None or max_age == "once" or proof.edition != edition:
        return None
    return proof if max_age == "session" or now - proof.at < max_age else None


def shown(effect: TakeOver, facts: Facts, ruleset: Ruleset) -> tuple[str, ...]:
    """What an upstream that asks by challenges gets to see: what was proved of the steps that it may ask for, whatever its age. How old is
    too old, the upstream judges; which edition counts, it cannot know."""
    return tuple(step for step in effect.steps if proved(step, "session", facts, 0.0, ruleset.steps[step].edition) is not None)


def askable(rule: Rule, view: View, facts: Facts, ruleset: Ruleset) -> tuple[str, ...]:
    """The steps of a `require` that can be asked of this subject here: nobody is refused a login for not being logged in."""
    assert isinstance(rule.effect, Require)  # noqa: S101 - tells mypy what the caller has matched
    return _asked_here(rule.effect.steps, view, facts, ruleset)


def _asked_here(steps: tuple[str, ...], view: View, facts: Facts, ruleset: Ruleset) -> tuple[str, ...]:
    if facts.subject.known or not _login_path(view, ruleset):
        return steps
    return tuple(step for step in steps if step in ruleset.steps and not ruleset.steps[step].needs_subject)


def page(rule: str) -> str:
    """The name that stands for the page of a rule function among steps. No configured step has an `@`."""
    return "@" + rule


def visit(rule: str, step: str) -> str:
    """The name that stands among what was proved for a step which a rule asked for and from which the browser came back without proof."""
    return f"@{step}@{rule}"


def did(ran: Ran) -> str:
    """What a function did, in a few words and without the query of its URL, which may hold a token."""
    match ran:
        case Ran(error=str(error)):
            return f"fail ({error})"
        case Ran(denied=str(message)):
            return f"deny ({message})"
        case Ran(redirect=ToUrl(url)):
            return f"redirect to {url.partition('?')[0].partition('#')[0]}"
        case Ran(redirect=ToSteps(steps)):
            return f"require {','.join(steps)}"
        case Ran(redirect=Nowhere()):
            return "redirect nowhere"
        case _:
            return "nothing"


def effect(rule: Rule) -> str:
    """ "deny", "allow", "require a,b" or "run"."""
    match rule.effect:
        case Require(steps):
            return f"require {','.join(steps)}"
        case Refuse():
            return "deny"
        case Permit():
            return "allow"
        case Run():
            return "run"
        case TakeOver(challenge=True):
            return "take challenges over"
        case TakeOver(steps=steps):
            return f"take redirects over and require {','.join(steps)}"


def _login_path(view: View, ruleset: Ruleset) -> bool:
    return any(login.upstream == view.upstream and login.paths.issuperset(view.paths) for login in ruleset.logins)


def _relies(rule: Rule, verdict: Verdict, facts: Facts) -> bool:
    """Whether the verdict would be another for another subject or another pass, where there is one at all."""
    if not (facts.subject.known or facts.proofs or facts.pass_issued is not None):
        return False
    match verdict:
        case Miss("disabled" | "match" | "except"):
            return False
        case Miss("who"):
            return True
        case _:
            if isinstance(rule.effect, Run) and not isinstance(verdict, Miss):
                return True  # it may look at whatever it likes
            return rule.who != "any" or (rule.when is not None and any(_of_somebody(use) for use in rule.when.uses))


def _of_somebody(use: str) -> bool:
    """A condition that looks at this looks at who it is, or at what they did."""
    return use in ("subject", "pass") or use.startswith("record:")


def _merged(earlier: Asked | None, step: str, rule: Rule) -> Asked:
    """One step is asked once, as strictly as the strictest rule wants it."""
    if earlier is None:
        return Asked(step, rule.max_age, (rule.name,))
    return Asked(step, min(earlier.max_age, rule.max_age, key=_seconds), (*earlier.rules, rule.name))


def _seconds(max_age: MaxAge) -> float:
    match max_age:
        case "once":
            return -1.0
        case "session":
            return float("inf")
        case seconds:
            return seconds


def _fault(rule: Rule, reason: str, collected: _Collected, *, away: bool) -> Deny:
    private = f"rule {rule.name}: `when` cannot be evaluated ({reason}) and on_error is deny"
    shadow = tuple(collected.shadow)
    return Deny(403, UNCHECKED, private, rule.name, collected.relied, shadow, away)
