"""What is known about a request beside its head. Facts are gathered by the caller; `decide` asks for what it lacks by `Need`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

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


REDIRECT_CALLBACK: Final = "redirect-callback"
"""The protocol of a run at /continue: redirects of rule functions do not count there (once per flow)."""


@dataclass(frozen=True, slots=True)
class ToUrl:
    """A rule function sends the user to a page of its own."""

    url: str


@dataclass(frozen=True, slots=True)
class ToSteps:
    """A rule function asks for configured steps."""

    steps: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Nowhere:
    """A rule function took back what an earlier one had set."""


Redirect = ToUrl | ToSteps | Nowhere


@dataclass(frozen=True, slots=True)
class Ran:
    """What one rule function did. redirect: None where it set none. denied: its public message. error: why it failed, for the log. shadow:
    its rule is in shadow mode."""

    redirect: Redirect | None = None
    denied: str | None = None
    error: str | None = None
    shadow: bool = False


@dataclass(frozen=True, slots=True)
class Functions:
    """One run of rule functions. ran: by the rule's name; those behind one that ended the run are missing. protocol: the one they saw.

    jti: `user.jti` as they left it; claims: what they put into tokens. earlier: it was for another request of the same transaction.
    later: none has run, for they will when the client sends the request itself once more.
    """

    ran: Mapping[str, Ran] = field(default_factory=dict)
    protocol: str = "http"
    jti: str = ""
    claims: Mapping[str, Any] = field(default_factory=dict)
    earlier: bool = False
    later: bool = False


@dataclass(frozen=True, slots=True)
class RecordUnavailable:
    """There may be such a record: the store is away. Conditions on it are errors, unless they come to the same without it."""

    reason: str


@dataclass(frozen=True, slots=True)
class Facts:
    """`body` None = not gathered yet. `records` maps a name to its value, None where there is no such record, or RecordUnavailable; a name
    that is missing is not gathered yet.

    proofs: what the pass proved (empty where the pass is not this subject's). granted: steps proved in the
    transaction that is being resumed; they count whatever their age, also for `once`.
    protocol: what kind of request it is (flow.protocol), or "redirect-callback" when rules run again at /continue. call: the kind in either
    case: `request.protocol` of conditions. functions: None = not run yet. later: the body comes only when the client sends the request once
    more, and what has to look at it is asked then.
    """

    subject: Subject = NOBODY
    proofs: Mapping[str, Proof] = field(default_factory=dict)
    granted: Mapping[str, Proof] = field(default_factory=dict)
    body: Body | BodyUnavailable | None = None
    records: Mapping[str, Any] = field(default_factory=dict)
    protocol: str = "http"
    call: str = "http"
    pass_issued: float | None = None
    functions: Functions | None = None
    later: bool = False
