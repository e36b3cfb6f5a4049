"""The decision on a request of which little is known: its upstream, path and sender, not its query, method, headers or body.

What cannot be seen counts against it: `require` and `deny` hold where the known half of their conditions does, `allow` and `except` only
where there is no other half.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from gateway.policy.condition import Condition, Key
from gateway.policy.decide import run
from gateway.policy.decision import Decision
from gateway.policy.facts import BodyUnavailable, Facts, Functions, Ran, ToUrl
from gateway.policy.model import Permit, Rule, Ruleset, Run, TakeOver
from gateway.policy.view import View
from gateway.wire.head import RequestHead
from gateway.wire.target import parse_target

KNOWN_KEYS: Final[frozenset[Key]] = frozenset({"upstream", "path", "network"})
_KNOWN_NAMES: Final = frozenset({"path", "ip", "subject", "pass", "now"})


def rules_of_path(ruleset: Ruleset, upstream: str, path: str) -> tuple[Rule, ...]:
    """The rules, loosened, that any request for this path of this upstream may meet. It looks at every rule: keep what it returns."""
    head = RequestHead("GET", parse_target(path.encode("ascii")), (), "", "", "", "", "")
    view = View(head, None, upstream, folds=upstream in ruleset.case_insensitive)
    found = []
    for rule in ruleset.rules:
        loose = loosen(rule)
        if loose is not None and rule.enabled and all(test.some(view) for key, test in loose.match.tests if key in ("upstream", "path")):
            found.append(loose)
    return tuple(found)


def decide_unread(rules: Iterable[Rule], upstream: str, head: RequestHead, facts: Facts, ruleset: Ruleset, now: float) -> Decision:
    """What these rules, loosened, come to. head: of a request for their path; only its path and its sender are looked at."""
    view = View(head, BodyUnavailable("not known"), upstream, folds=upstream in ruleset.case_insensitive)
    rules = tuple(rules)
    if any(isinstance(rule.effect, Run) for rule in rules):
        # What a function would say of a request that nobody has seen is not known either: it counts as sending the user somewhere.
        ran = {rule.name: Ran(ToUrl("")) for rule in rules if isinstance(rule.effect, Run)}
        facts = replace(facts, functions=Functions(ran, facts.protocol, "", {}))
    return run(rules, view, facts, ruleset, now)


def loosen(rule: Rule) -> Rule | None:
    """The rule without what looks at unknown things; None for an `allow` that looks at one, and for what is about answers of another
    sort."""
    if isinstance(rule.effect, TakeOver):
        return None
    match = _known(rule.match)
    excuse = _known(rule.excuse) if rule.excuse is not None else None
    when = rule.when if rule.when is None or all(name in _KNOWN_NAMES or name.startswith("record:") for name in rule.when.uses) else None
    if isinstance(rule.effect, Permit):
        whole = (match, when) == (rule.match, rule.when)
        return rule if whole else None
    # Any key of an `except` excuses: those that are left still do.
    return replace(rule, match=match, excuse=excuse if excuse is not None and excuse.tests else None, when=when)


def _known(condition: Condition) -> Condition:
    tests = tuple(test for test in condition.tests if test[0] in KNOWN_KEYS)
    if len(tests) == len(condition.tests) and condition.methods is None:
        return condition
    return replace(condition, tests=tests, methods=None)
