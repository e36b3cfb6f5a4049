"""Rule functions: what they are given, what a run needs and leaves, and what of it a transaction keeps.

A function is called with a `User` and a `Context`, as Auth0's rules were. Both are mappings whose entries can be written as attributes too,
so that `context.request.query` and `context["request"]["query"]` are the same. Who runs them lives above (gateway/functions).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from gateway.flow.asked import Asked
from gateway.flow.identity import Identified
from gateway.flow.ports import AuditEvent
from gateway.flow.trail import Trail
from gateway.flow.transaction import Transaction
from gateway.policy.facts import REDIRECT_CALLBACK, Body, BodyUnavailable, Functions, Ran
from gateway.policy.model import Rule, Ruleset
from gateway.wire.head import RequestHead
from gateway.wire.subject import Proof, Subject

KEPT: Final = 60.0
"""Seconds for which what functions came to at /continue holds for the ticket, and for another /continue: they run once for all."""


class Unauthorized(Exception):
    """Raised by a rule function: the request is refused, with these words on the page."""


class Fields(dict[str, Any]):
    """A mapping; `it.name` is `it["name"]`."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"there is no {name!r} here; there are {', '.join(map(str, self))}") from None

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value


class User(Fields):
    """Who a request is from: `user_id` ("" for nobody), `source`, claims by their names, `jti`, `app_metadata`, `user_metadata`."""

    user_id: str
    source: str
    jti: str
    app_metadata: dict[str, Any]
    user_metadata: dict[str, Any]


class Context(Fields):
    """What is asked: `protocol`, `request`, `upstream`, `session`, `stats`; and what is to follow: `redirect`, `claims`."""

    protocol: str
    request: Fields
    upstream: str
    session: Fields
    stats: Fields
    redirect: Any
    claims: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Occasion:
    """What a run belongs to. protocol: what `context.protocol` says. jti: the transaction's, "" for a new one. claims: those that an
    earlier run of the transaction set. query, body: what a page of others brought back; None where the request's own count."""

    protocol: str = "http"
    jti: str = ""
    claims: Mapping[str, Any] = field(default_factory=dict)
    query: Mapping[str, Any] | None = None
    body: Any = None


@dataclass(frozen=True, slots=True)
class Calling:
    """A request that functions are run for. granted: what was proved in its transaction. now: seconds since the epoch."""

    head: RequestHead
    body: Body | BodyUnavailable | None
    upstream: str
    identified: Identified
    granted: Mapping[str, Proof]
    occasion: Occasion
    now: float


class FunctionRunner(Protocol):
    async def run(self, rules: Sequence[Rule], ruleset: Ruleset, calling: Calling) -> Functions:
        """Run the functions of these rules, one after the other, with one user and one context for all. Those in shadow mode change
        nothing. May raise StoreUnavailable, unless every one of the rules can do without a store."""


# -- what a transaction keeps ------------------------------------------------------------------------------------------------------------


def kept(functions: Functions | None, subject: Subject, *, at: float | None = None) -> dict[str, Any]:
    """`Transaction.run` after a run, {} where there was none. at: the time of the run at /continue."""
    if functions is None or functions.later:
        return {}
    run: dict[str, Any] = {"for": [subject.id, subject.source], "claims": dict(functions.claims)}
    if at is not None:
        run |= {"at": at, "ran": {name: ran.error or "" for name, ran in functions.ran.items()}}
    return run


def occasion(transaction: Transaction, subject: Subject, *, call: str = "http") -> Occasion:
    """The run at /continue. It is `redirect-callback` where functions have run for this person before in this transaction. For somebody
    who has only logged in since, it is the first: a redirect counts, once, or a login on the way would be a way around it. call: what kind
    of request it is then.

    A step that is a page of others leaves what it brought back in its task's memory: {"query": {…}, "body": {…}}. Where there was none,
    query and body are the request's own: a function that named a step reads there what made it name it.
    """
    run = transaction.run
    if run.get("for") != [subject.id, subject.source]:
        return Occasion(call, transaction.jti)
    if not came_back(transaction):
        return Occasion(REDIRECT_CALLBACK, transaction.jti, run.get("claims") or {})
    query: dict[str, Any] = {}
    body: Any = {}
    for task in transaction.tasks:
        if task.passed is None:
            continue
        query |= task.memory.get("query") or {}
        brought = task.memory.get("body")
        body = {**body, **brought} if isinstance(brought, Mapping) and isinstance(body, Mapping) else brought or body
    return Occasion(REDIRECT_CALLBACK, transaction.jti, run.get("claims") or {}, query, body)


def came_back(transaction: Transaction) -> bool:
    """The browser was at a page of others, which has sent it back."""
    return any(task.passed is not None and not {"query", "body"}.isdisjoint(task.memory) for task in transaction.tasks)


def at_continue(transaction: Transaction, subject: Subject, now: float) -> Functions | None:
    """What functions came to at /continue, where that was a moment ago and for the same person. Their side effects come once."""
    run = transaction.run
    if "at" not in run or not 0 <= now - run["at"] <= KEPT or run["for"] != [subject.id, subject.source]:
        return None
    ran = {name: Ran(error=error or None) for name, error in run["ran"].items()}
    return Functions(ran, REDIRECT_CALLBACK, transaction.jti, run["claims"], earlier=True)


# -- what the trail says -----------------------------------------------------------------------------------------------------------------


async def tell(trail: Trail, asked: Asked, functions: Functions | None, subject: Subject) -> None:
    """An audit line for every function that refused or failed, once a run. What shadow rules did stands in the decision."""
    for name, ran in functions.ran.items() if functions is not None and not functions.earlier else ():
        if ran.shadow or (ran.error is None and ran.denied is None):
            continue
        outcome, reason = ("failed", ran.error) if ran.error is not None else ("denied", ran.denied)
        if outcome == "failed":
            trail.event("rule function", request_id=asked.request_id, rule=name, outcome=outcome, reason=reason)
        await trail.audit(
            AuditEvent(
                at=asked.now, event="function", request_id=asked.request_id, subject=subject.id, rule=name, outcome=outcome,
                address=asked.head.client_ip, detail={"reason": reason},
            )
        )  # fmt: skip
