"""Transactions and stored requests as bytes. What is read was sealed by us: a mismatch is a fault, not bad input."""

from __future__ import annotations

import base64
import json
from dataclasses import asdict, dataclass
from typing import Any

from pydantic_core import from_json, to_json

from gateway.flow.transaction import Grant, Outside, Status, Task, Transaction
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
    return None if proof is None else [proof.step, proof.at, list(proof.amr), proof.edition]


def _read_proof(value: list[Any]) -> Proof:
    step, at, amr, *edition = value  # no edition: of a gateway that knew of none
    return Proof(step, at, tuple(amr), *edition)


def _outside(outside: Outside | None) -> dict[str, Any] | None:
    if outside is None:
        return None
    o = outside
    return {
        "entry": o.entry, "url": o.url, "state": o.state, "jti": o.jti, "subject": o.subject, "method": o.method,
        "state_parameter": o.state_parameter, "token_parameter": o.token_parameter, "next_origins": list(o.next_origins), "told": o.told,
        "proved": [_proof(proof) for proof in o.proved], "answered": o.answered,
    }  # fmt: skip


def _read_outside(value: dict[str, Any] | None) -> Outside | None:
    if value is None:
        return None
    return Outside(**{**value, "next_origins": tuple(value["next_origins"]), "proved": tuple(map(_read_proof, value["proved"]))})


def encode(transaction: Transaction) -> bytes:
    t = transaction
    return _dumps({
        "id": t.id, "origin": t.origin, "upstream": t.upstream, "binding": t.binding, "method": t.method, "target": _b(t.target),
        "kind": t.kind, "replay": t.replay, "created": t.created, "expires": t.expires, "address": t.address, "rules": list(t.rules),
        "tasks": [
            {"step": k.step, "max_age": k.max_age, "rules": list(k.rules), "passed": _proof(k.passed), "memory": dict(k.memory),
             "attempts": k.attempts, "blocked_until": k.blocked_until, "url": k.url, "counts": k.counts, "silent": k.silent}
            for k in t.tasks
        ],
        "status": t.status.value, "subject": [t.subject.id, dict(t.subject.claims), t.subject.source], "awaits_login": t.awaits_login,
        "late_subject": t.late_subject, "session": t.session, "holder": t.holder, "stored": t.stored, "ticketed": t.ticketed,
        "page": t.page,
        "extended": t.extended, "loop": t.loop, "claims": dict(t.claims), "since": t.since,
        "reason": t.reason, "jti": t.jti, "run": dict(t.run), "outside": _outside(t.outside),
        "grant": None if t.grant is None else asdict(t.grant),
    })  # fmt: skip


def decode(data: bytes) -> Transaction:
    v: dict[str, Any] = _loads(data)
    tasks = tuple(
        Task(
            step=k["step"],
            max_age=k["max_age"],
            rules=tuple(k["rules"]),
            passed=None if k["passed"] is None else _read_proof(k["passed"]),
            memory=k["memory"],
            attempts=k["attempts"],
            blocked_until=k["blocked_until"],
            url=k.get("url", ""),
            counts=k.get("counts", True),
            silent=k.get("silent", False),
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
        outside=_read_outside(v.pop("outside", None)),
        **v,
    )
