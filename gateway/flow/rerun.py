"""Runs the rules again for a suspended request, with what was proved in its transaction as facts.

The request that is judged is the stored one; who it is judged for is whoever asks now. Step results override the subject's claims.
"""

from __future__ import annotations

from dataclasses import replace

from gateway.flow.codec import StoredRequest
from gateway.flow.functions import at_continue, came_back, occasion
from gateway.flow.gate import Gate, Judged
from gateway.flow.identity import Identified
from gateway.flow.protocol import HTTP
from gateway.flow.transaction import CONFIRM, Transaction
from gateway.policy.body import parse_body
from gateway.policy.decide import visit
from gateway.policy.facts import REDIRECT_CALLBACK, Body, BodyUnavailable, Functions
from gateway.tokens.passes import Pass
from gateway.wire.head import RequestHead
from gateway.wire.subject import Proof
from gateway.wire.target import parse_target


def stored_head(stored: StoredRequest, now_at: RequestHead) -> RequestHead:
    """The head of a stored request, with the client's address of now: bytes as they were, connection as it is."""
    return RequestHead(
        method=stored.method,
        target=parse_target(stored.target),
        headers=stored.headers,
        scheme=stored.scheme,
        host=stored.host,
        origin=now_at.origin,
        client_ip=now_at.client_ip,
        peer=now_at.peer,
    )


def proved(transaction: Transaction) -> dict[str, Proof]:
    """What the transaction proved, without the page that only shows what will be sent; and, by names that no step has, the pages from which
    the user came back without proof, for the rule functions that sent them there."""
    visited: dict[str, Proof] = {}
    for task in transaction.tasks:
        if task.passed is not None and not task.counts:
            names = [task.step] if task.url else [visit(rule, task.step) for rule in task.rules]
            visited |= {name: replace(task.passed, step=name) for name in names}
    return {**{name: proof for name, proof in transaction.proofs.items() if name != CONFIRM}, **visited}


def overlaid(identified: Identified, transaction: Transaction) -> Identified:
    """The subject with the results of the transaction's steps over its claims."""
    if not transaction.claims or not identified.subject.known:
        return identified
    return replace(identified, subject=replace(identified.subject, claims={**identified.subject.claims, **transaction.claims}))


async def rerun(
    gate: Gate, transaction: Transaction, stored: StoredRequest, identified: Identified, asked: RequestHead, now: float, *, limit: int,
    call: str = HTTP,
) -> Judged:  # fmt: skip
    """The decision on a suspended request, now. `limit`: bytes that conditions look into. What rule functions came to at /continue, a
    moment ago, holds. call: what kind of request it is (flow.protocol)."""
    head = stored_head(stored, asked)

    async def body() -> Body | BodyUnavailable:
        return parse_body(head.get("content-type"), stored.body, limit)

    who = overlaid(identified, transaction)
    functions = at_continue(transaction, who.subject, now)
    # What is not replayed is not stored: whoever sends it once more is judged by what they send then.
    later = (transaction.kind == "script" or transaction.replay == "off") and stored.method not in ("GET", "HEAD")
    if later and functions is None and not came_back(transaction):
        functions = Functions({}, REDIRECT_CALLBACK, transaction.jti, transaction.run.get("claims") or {}, earlier=True, later=True)
    return await gate.judge(
        head, now, body, identified=who, granted=proved(transaction), protocol=REDIRECT_CALLBACK, call=call,
        occasion=occasion(transaction, who.subject, call=call), functions=functions, later=later,
    )  # fmt: skip


def base_pass(identified: Identified, *, origin: str, sid: str, now: float) -> Pass:
    """The pass to add a proof to: the one that speaks for this request, or a new one named `sid`."""
    base = identified.holder or Pass(sid=sid, origin=origin, issued=now, seen=now, subject=identified.subject)
    if identified.holder is None and identified.presented is not None:
        # Beside a pass that does not speak for this request: the sessions that it vouches for as nobody's are not lost over a captcha.
        base = replace(base, sessions=tuple(s for s in identified.presented.sessions if not s.bound))
    return base


def enriched(transaction: Transaction, identified: Identified, *, origin: str, sid: str, now: float) -> Pass:
    """The pass after a transaction: the one that speaks for this request, or a new one, with the proofs that may last.

    What was asked `once` stays out of it. sid: the name of a new pass, should one be needed.
    """
    base = base_pass(identified, origin=origin, sid=sid, now=now)
    lasting = {t.step: t.passed for t in transaction.tasks if t.passed and t.counts and t.max_age != "once" and t.step != CONFIRM}
    subject = base.subject
    if transaction.claims and subject.known:
        subject = replace(subject, claims={**subject.claims, **transaction.claims})
    return replace(base, seen=now, subject=subject, proofs={**base.proofs, **lasting})
