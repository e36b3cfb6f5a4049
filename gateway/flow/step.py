"""The law of a step: begin, answer, and nothing else.

A step never sees the state, the transaction's other steps, a lane or an HTTP request. It keeps what it must remember
within a transaction in `memory` (JSON; the caller seals and stores it) and what must outlive it in the stores
that it was built with. Refusals are values with a public and a private reason; every one leaves a way on.
Attempts per transaction, subject and address, and growing delays, are counted by the caller for every step alike.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

from gateway.flow.ports import Entropy, Mailer, PublishedKeys, Records, StateStore, Vault
from gateway.spec.base import Spec
from gateway.tokens.keys import Keyring
from gateway.wire.subject import Scalar, Subject

Memory = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Services:
    """What the composition root hands to every step. `mailer` is None where `mail:` is not configured.

    keyring: our own keys, as they are now. published: the keys that a URL publishes. record: a record of a subject by name, as rules see it
    in `record.…`, None where there is none.
    """

    state: StateStore
    records: Records
    vault: Vault
    entropy: Entropy
    mailer: Mailer | None
    keyring: Callable[[], Keyring] | None = None
    published: Callable[[str], PublishedKeys] | None = None
    record: Callable[[Subject, str], Awaitable[Any]] | None = None


@dataclass(frozen=True, slots=True)
class Waiting:
    """The suspended request as a step may know it. target: as sent. page: where the user came from, a path."""

    method: str = "GET"
    target: str = "/"
    page: str = "/"


@dataclass(frozen=True, slots=True)
class Context:
    """One look at a transaction through a step's keyhole.

    transaction: its id (a hash, safe to log, constant for the transaction). step: the step's configured name.
    subject: whoever the transaction is bound to. memory: what this step returned last ({} at first).
    origin: the public origin. cookies: the browser's cookies for the upstream (ours removed), as (name, value),
    for steps that act at the application as the user. elevated: another step of this transaction that proves identity
    was passed, or the pass holds a fresh one (so that an enrolment is allowed). request: what waits.
    """

    transaction: str
    step: str
    subject: Subject
    memory: Memory
    now: float
    client_ip: str
    origin: str
    cookies: tuple[tuple[str, str], ...] = ()
    elevated: bool = False
    request: Waiting = Waiting()


@dataclass(frozen=True, slots=True)
class Choice:
    """One of the values that a field takes, and how it is called."""

    value: str
    label: str


@dataclass(frozen=True, slots=True)
class Field:
    """A field of a step's form, as JSON clients and pages see it. type: as of HTML's `input`, or `textarea`, `select`, `radio`.

    choices: of `select` and `radio`. value: what is known, or was typed before ("yes" for a ticked box). pattern: RE2, of the whole value.
    """

    name: str
    type: str
    label: str
    required: bool = True
    autocomplete: str | None = None
    inputmode: str | None = None
    help: str | None = None
    choices: tuple[Choice, ...] | None = None
    value: str | None = None
    pattern: str | None = None
    max_length: int | None = None
    min: str | None = None
    max: str | None = None
    step: str | None = None


@dataclass(frozen=True, slots=True)
class Away:
    """The step is a page of others: where the browser goes.

    url: absolute, http or https. fields: of the form that takes the browser there by POST; with "get" everything stands in `url`.
    state: the name by which the browser comes back, once. begins_anew: the page does not come back here but sends the browser to where it
    came from, to log in again; then the transaction is over.
    """

    url: str
    fields: tuple[tuple[str, str], ...] = ()
    method: Literal["get", "post"] = "get"
    state: str = ""
    begins_anew: bool = False


@dataclass(frozen=True, slots=True)
class View:
    """What to show. `data` goes to JSON clients as `step.data`; `page` only to the step's template.

    title: why the user is here, in one sentence. lead: what happens next. actions: values of `action` that the
    step takes beside an answer ("resend", "use:email"); each with its label. notice: something that just went well.
    away: the browser is sent there instead of being shown a page.
    next_origins: where an answer may lead by redirect, beside ourselves and the application.
    """

    title: str
    lead: str
    fields: tuple[Field, ...]
    memory: Memory
    data: Mapping[str, Any] = field(default_factory=dict)
    page: Mapping[str, Any] = field(default_factory=dict)
    actions: tuple[tuple[str, str], ...] = ()
    notice: str | None = None
    away: Away | None = None
    next_origins: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Passed:
    """Done. `amr`: RFC 8176 values. `claims`: results that override the subject's claims and go into tokens.
    `set_cookies`: Set-Cookie values of the application that the browser must get. `then`: what follows. `counts`: it is proved;
    False: the browser came back, and the rules, run again, say whether that is enough.
    `at`: when it was done, where that was not now. `edition`: what was asked (see policy.model.StepInfo). `private`: what the audit trail
    says of it."""

    amr: tuple[str, ...]
    claims: Mapping[str, Scalar] = field(default_factory=dict)
    set_cookies: tuple[bytes, ...] = ()
    then: Literal["continue", "authorize_again"] = "continue"
    counts: bool = True
    at: float | None = None
    edition: str = ""
    private: str = ""


@dataclass(frozen=True, slots=True)
class Refused:
    """Not this time. `counts`: a guess that counts against the bounds (an empty form or an outage does not, nor what proves nothing).
    `errors`: what is wrong with each field, where that can be said of several at once; `field` and `public` are the first."""

    code: str
    public: str
    private: str
    memory: Memory
    field: str | None = None
    retry_after: int | None = None
    counts: bool = True
    errors: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Again:
    """Nothing was wrong and nothing proved: a resend, a change of method, a page in between. Show the step again."""

    memory: Memory
    notice: str | None = None


@dataclass(frozen=True, slots=True)
class Failed:
    """This step cannot be passed in this transaction any more."""

    public: str
    private: str


@dataclass(frozen=True, slots=True)
class Declined:
    """The user said no: nothing is sent. to: where that leads (a path, or a URL of the settings), "" for a page of ours."""

    private: str
    to: str = ""


Outcome = Passed | Refused | Again | Failed | Declined


class Step(Protocol):
    """One configured step. `begin` shows it, and may be called any number of times (reload, back, another tab).

    A step's folder holds step.py (its class and its `Config`), page.html (a Jinja block) and its assets.
    Both methods may raise StoreUnavailable. Neither ever logs, raises or returns a secret in a private reason.
    """

    kind: ClassVar[str]
    Config: ClassVar[type[Spec]]
    free_actions: ClassVar[frozenset[str]]
    """Values of `action` under which nothing of the form is looked at as an answer: they are taken while guesses are held back."""

    @property
    def proves_identity(self) -> bool: ...

    @property
    def needs_subject(self) -> bool: ...

    async def begin(self, context: Context) -> View: ...

    async def answer(self, context: Context, form: Mapping[str, str]) -> Outcome:
        """`form` holds the submitted fields, each name once; `action` too where one was pressed (never "cancel")."""


@runtime_checkable
class Remembers(Protocol):
    """What a step offers beside the above that asks once, and not at every login."""

    async def already(self, subject: Subject, now: float) -> Passed | None:
        """What makes asking unnecessary: the answer that this subject gave before, with `at`, if it is still good. Shows nothing, changes
        nothing. May raise StoreUnavailable."""


@runtime_checkable
class Keeps(Protocol):
    """What a step offers beside the above that keeps a record which conditions can look at."""

    async def record(self, subject: Subject) -> Mapping[str, Any] | None:
        """`record.<step>` of a known subject: scalars and times (UTC) by name; None where there is none. May raise StoreUnavailable."""
