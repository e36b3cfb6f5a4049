"""What a request's rules come to. Four types, no booleans: `Allow | StepUp | Deny | Need`.

Every decision carries `shadow`: what rules in shadow mode would have done. They change nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

MaxAge = float | Literal["session", "once"]


@dataclass(frozen=True, slots=True)
class Shadow:
    """A rule in shadow mode that was hit, and what it would have done ("deny", "allow", "require a,b", or of a function what it did)."""

    rule: str
    effect: str


@dataclass(frozen=True, slots=True)
class Asked:
    """One step that is still open, the strictest age any rule asks for, and the rules that ask.

    url: where a rule function sends the user to a page of its own; then `step` is "@" and the rule's name, which no configured step has,
    and `max_age` is "once".
    """

    step: str
    max_age: MaxAge
    rules: tuple[str, ...]
    url: str = ""


@dataclass(frozen=True, slots=True)
class Allow:
    """Let it pass. `rules` were hit; `steps` are the proofs that satisfied them.

    `by_pass`: at least one `require` was satisfied by a proof (so the request gets an upstream token).
    `relied_on_pass`: the outcome depended on who the subject is or what was proved (so revocation must be known).
    """

    rules: tuple[str, ...] = ()
    steps: tuple[str, ...] = ()
    by_pass: bool = False
    relied_on_pass: bool = False
    shadow: tuple[Shadow, ...] = ()


@dataclass(frozen=True, slots=True)
class StepUp:
    """Suspend it. `asked` in the order of the rules; `login` when a step needs a subject and there is none."""

    asked: tuple[Asked, ...]
    rules: tuple[str, ...]
    replay: Literal["auto", "confirm", "off"]
    login: bool = False
    shadow: tuple[Shadow, ...] = ()


@dataclass(frozen=True, slots=True)
class Deny:
    """Refuse it. `public` is for the page, `private` for the log. `away`: for want of a store; a later request may fare better."""

    status: int
    public: str
    private: str
    rule: str
    relied_on_pass: bool = False
    shadow: tuple[Shadow, ...] = ()
    away: bool = False


@dataclass(frozen=True, slots=True)
class Need:
    """Gather this and ask again. `body`: the request body up to `limits.condition_body`; `records`: names of records; `functions`: rules
    whose functions must run, in this order, with one user and one context for all of them. Functions are asked for alone, and last."""

    body: bool = False
    records: frozenset[str] = frozenset()
    functions: tuple[str, ...] = ()


Decision = Allow | StepUp | Deny | Need
