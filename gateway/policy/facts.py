"""What is known about a request beside its head. Facts are gathered by the caller; `decide` asks for what it lacks by `Need`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from gateway.wire.subject import NOBODY, Proof, Subject


@dataclass(frozen=True, slots=True)
class Body:
    """What `request.form` and `request.json` see.

    form: field name to value (a list of values where a name stands more than once), or None where the body is no form.
    json: the parsed document, or None. `override`: the value of a `_method` field, upper-case, or None.
    """

    form: Mapping[str, Any] | None = None
    json: Any = None
    override: str | None = None


@dataclass(frozen=True, slots=True)
class BodyUnavailable:
    """The body is too large, malformed, or cannot be had; conditions on it count as met for `require` and `deny`."""

    reason: str


@dataclass(frozen=True, slots=True)
class Facts:
    """`body` None = not gathered yet. `records` maps a name to its value; a name that is missing is not gathered yet.

    proofs: what the pass proved (empty where the pass is not this subject's). granted: steps proved in the
    transaction that is being resumed; they count whatever their age, also for `once`.
    protocol: what kind of request it is (flow.protocol), or "redirect-callback" when rules run again at /continue. call: the kind in either
    case: `request.protocol` of conditions.
    """

    subject: Subject = NOBODY
    proofs: Mapping[str, Proof] = field(default_factory=dict)
    granted: Mapping[str, Proof] = field(default_factory=dict)
    body: Body | BodyUnavailable | None = None
    records: Mapping[str, Any] = field(default_factory=dict)
    protocol: str = "http"
    call: str = "http"
    pass_issued: float | None = None
