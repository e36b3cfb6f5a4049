"""The shapes of `routes:` and `rules:`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from gateway.spec.base import Bool, Duration, Int, Many, Network, Origin, Spec, parse_duration
from gateway.spec.outside import InterceptSpec, ResumeSpec

Glob = str
MaxAge = float | Literal["session", "once"]


class MatchSpec(Spec):
    """Which requests. All keys of a `match` must hold, any of an `except` excuses; a list means any of."""

    upstream: Many[str] | None = Field(None, description="Names under `upstreams:`.")
    host: Many[Glob] | None = Field(None, description="Host globs; `*` is one label, `re:` a regular expression (RE2).")
    path: Many[Glob] | None = Field(
        None,
        description="Path globs; `*` within a segment, `**` across segments, `/x/**` matches `/x` too; `re:` a regular expression (RE2).",
    )
    method: Many[str] | None = Field(None, description="Methods; GET covers HEAD; override headers and fields count.")
    header: dict[str, Many[Glob | None]] | None = Field(None, description="Header names to globs; null means absent.")
    query: dict[str, Many[Glob | None]] | None = Field(None, description="Query parameters to globs; null means absent.")
    cookie: dict[str, Many[Glob | None]] | None = Field(None, description="Cookie names to globs; null means absent.")
    network: Many[Network] | None = Field(None, description="Client addresses or CIDR ranges.")
    content_type: Many[Glob] | None = Field(None, description="Media types as globs, without parameters: `application/*`.")


class DenySpec(Spec):
    """A refusal: a page for people, problem+json for scripts."""

    status: Int = Field(403, ge=400, le=599, description="HTTP status of the refusal.")
    message: str = Field("This request is not allowed.", description="What the page says.")


class RuleSpec(Spec):
    """One rule: `match` + `when` select requests, `intercept` answers; exactly one of `require`, `deny`, `allow`, `python` says what
    follows."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.\-]{0,63}$", description="Unique; appears in logs, explain and the audit trail.")
    match: MatchSpec = Field(default_factory=MatchSpec, description="Which requests; all keys must hold.")
    except_: MatchSpec | None = Field(None, alias="except", description="Which of them are excused; any key excuses.")
    who: Literal["authenticated", "anonymous", "any"] = Field(
        "any", description="Only requests with, or without, a subject. A rule that protects something leaves it at `any`."
    )
    when: str | None = Field(None, description="A CEL condition over request, subject, pass, record and now.")
    intercept: InterceptSpec | None = Field(
        None, description="Answers of an upstream that are taken over, in place of `match`; with `require`, and `resume` for a redirect."
    )
    resume: ResumeSpec | None = Field(None, description="Where an intercepted redirect goes on.")
    require: Many[str] | None = Field(None, min_length=1, description="Names under `steps:`, asked in this order.")
    deny: DenySpec | None = Field(None, description="Refuse the request.")
    allow: Bool | None = Field(None, description="`true` ends the run and keeps the steps collected so far.")
    python: str | None = Field(
        None,
        description="A rule function that says what follows: `path/to/file.py:name`, called with `(user, context)`. See "
        "[rule functions](how-to/rule-functions.md).",
    )
    max_age: Annotated[
        MaxAge, Field(description="How old a proof may be: a duration, `session` (as long as the pass) or `once` (this very request).")
    ] = "session"
    replay: Literal["auto", "confirm", "off"] = Field(
        "auto", description="What happens to the suspended request: sent again, shown first, or not stored at all."
    )
    mode: Literal["enforce", "shadow"] = Field("enforce", description="`shadow` logs what would happen and does nothing.")
    enabled: Bool = Field(True, description="`false` switches the rule off; it is still checked.")
    on_error: Literal["deny", "require", "skip", "allow"] = Field(
        "deny",
        description="What an error in `when` means: refuse (default), count as met (`require`), as not met (`skip`), or let the request "
        "past this rule (`allow`), also when a store is away. An error in a rule function likewise; there `require` refuses.",
    )

    @field_validator("max_age", mode="before")
    @classmethod
    def _max_age(cls, value: object) -> object:
        if value in ("session", "once"):
            return value
        if (seconds := parse_duration(value)) <= 0:  # no proof is ever younger: asked again behind every step, without end
            raise ValueError("must be more than 0s; write `once` to ask each time")
        return seconds


class RouteSpec(Spec):
    """Which upstream serves a request; the first match wins."""

    host: Many[Glob] | None = Field(None, description="Host globs.")
    path: Many[Glob] | None = Field(None, description="Path globs; all readings of a target must match.")
    upstream: str = Field(description="A name under `upstreams:`.")
    cors: Many[Origin] = Field((), description="Other origins whose scripts may read our 401 here and drive steps by JSON.")


__all__ = ["DenySpec", "Duration", "MatchSpec", "MaxAge", "RouteSpec", "RuleSpec"]
