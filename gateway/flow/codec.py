"""Transactions and stored requests as bytes. What is read was sealed by us: a mismatch is a fault, not bad input."""

from __future__ import annotations

import base64
import json
from dataclasses import asdict, dataclass
from typing import Any

from pydantic_core import from_json, to_json

from gateway.flow.transaction import Grant, Status, Task, Transaction
from gateway.wire.head import Headers
from gateway.wire.subject import Proof, Subject


@dataclass(frozen=True, slots=True)
class StoredRequest:
    """A suspended request, whole: `target` and headers as sent (ours removed at replay), the body's bytes."""

    method: str
    target: bytes
    headers: Headers
    body: bytes
    scheme: str
    host: str
    client_ip: str
    peer: str


def _dumps(document: dict[str, Any]) -> bytes:
    """JSON, by pydantic's writer: a third of what the standard library's costs, several times in each request of a step-up."""
    try:
        return to_json(document)
    except ValueError:  # half a character (a lone surrogate), which only the standard library writes and reads
        return json.dumps(document).encode()


def _loads(data: bytes) -> Any:
    try:
        return from_json(data)
    except ValueError:
        return json.loads(data)


def _b(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def encode_request(request: StoredRequest) -> bytes:
    """Length-prefixed JSON head, then the body's bytes as they are."""
    head = _dumps({
        "m": request.method, "t": _b(request.target), "h": [[_b(n), _b(v)] for n, v in request.headers],
        "s": request.scheme, "o": request.host, "c": request.client_ip, "p": request.peer,
    })  # fmt: skip
    return len(head).to_bytes(4, "big") + head + request.body


def decode_request(data: bytes) -> StoredRequest:
    size = int.from_bytes(data[:4], "big")
    head: dict[str, Any] = _loads(data[4 : 4 + size])
    return StoredRequest(
        method=head["m"],
        target=base64.b64decode(head["t"]),
        headers=tuple((base64.b64decode(n), base64.b64decode(v)) for n, v in head["h"]),
        body=data[4 + size :],
        scheme=head["s"],
        host=head["o"],
        client_ip=head["c"],
        peer=head["p"],
    )


def _proof(proof: Proof | None) -> list[Any] | None:
    return None if proof is None else [proof.step, proof.at, list(proof.amr)]


def encode(transaction: Transaction) -> bytes:
    t = transaction
    return _dumps({
        "id": t.id, "origin": t.origin, "upstream": t.upstream, "binding": t.binding, "method": t.method, "target": _b(t.target),
        "kind": t.kind, "replay": t.replay, "created": t.created, "expires": t.expires, "address": t.address, "rules": list(t.rules),
        "tasks": [
            {"step": k.step, "max_age": k.max_age, "rules": list(k.rules), "passed": _proof(k.passed), "memory": dict(k.memory),
             "attempts": k.attempts, "blocked_until": k.blocked_until}
            for k in t.tasks
        ],
        "status": t.status.value, "subject": [t.subject.id, dict(t.subject.claims), t.subject.source], "awaits_login": t.awaits_login,
        "late_subject": t.late_subject, "session": t.session, "holder": t.holder, "stored": t.stored, "ticketed": t.ticketed,
        "page": t.page,
        "extended": t.extended, "loop": t.loop, "claims": dict(t.claims), "since": t.since,
        "reason": t.reason, "jti": t.jti, "grant": None if t.grant is None else asdict(t.grant),
    })  # fmt: skip


def decode(data: bytes) -> Transaction:
    v: dict[str, Any] = _loads(data)
    tasks = tuple(
        Task(
            step=k["step"],
            max_age=k["max_age"],
            rules=tuple(k["rules"]),
            passed=None if k["passed"] is None else Proof(k["passed"][0], k["passed"][1], tuple(k["passed"][2])),
            memory=k["memory"],
            attempts=k["attempts"],
            blocked_until=k["blocked_until"],
        )
        for k in v.pop("tasks")
    )
    grant = v.pop("grant", None)
    return Transaction(
        tasks=tasks,
        grant=None if grant is None else Grant(**grant),
        target=base64.b64decode(v.pop("target")),
        rules=tuple(v.pop("rules")),
        status=Status(v.pop("status")),
        subject=Subject(*v.pop("subject")),
        **v,
    )
