"""Who a request is from: values and protocols between the lanes and the identity sources.

A pass speaks for a request only through a session that the upstream gave to this browser (login_form), or beside a subject
that arrives with the request itself (header, jwt). Nothing that a client sends makes a subject by itself.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import inf
from typing import Protocol

from gateway.tokens.passes import Pass
from gateway.wire.cookies import parse_cookies
from gateway.wire.head import Headers, RequestHead
from gateway.wire.subject import NOBODY, Subject


@dataclass(frozen=True, slots=True)
class Identified:
    """What is known before a decision.

    subject: NOBODY where nobody is known. holder: the pass, where it speaks for this request. presented: the pass that came with the
    request, also when it speaks for somebody else. session: digest of the app session that a pass vouches for, "" for none.
    strip: (cookie name, value) pairs of session cookies that nothing vouches for. note: why something was not accepted, for the log.
    """

    subject: Subject = NOBODY
    holder: Pass | None = None
    presented: Pass | None = None
    session: str = ""
    strip: frozenset[str] = frozenset()
    note: str = ""


@dataclass(frozen=True, slots=True)
class Login:
    """A request to a login path. name: the user name it posts, or None where that is not exactly one value."""

    name: str | None


@dataclass(frozen=True, slots=True)
class Observed:
    """What an upstream's answer means for the pass. pass_: the pass from now on (None: no pass). changed: it must be sent.

    revoke: sid of a pass that is over for every gateway. learned: a login just succeeded.
    """

    pass_: Pass | None
    changed: bool = False
    revoke: str | None = None
    learned: bool = False


class SessionSource(Protocol):
    """A source that learns who holds which session of an upstream by watching the login (one per upstream)."""

    name: str
    upstream: str
    login_url: str
    logout_path: str | None
    cookie_names: frozenset[str]
    strips: bool
    """A session cookie that nothing vouches for is not forwarded."""
    watched: frozenset[bytes]
    """Fields of answers, beside Set-Cookie and lower-case, that tell of a subject's claims."""

    def identify(self, head: RequestHead, presented: Pass | None, now: float) -> Identified: ...

    def is_login(self, head: RequestHead) -> bool:
        """This request may log somebody in: its body must be read before it is forwarded."""

    def concerns(self, readings: tuple[str, ...]) -> bool:
        """A path of this kind may log somebody in or out, whatever else the request is."""

    def read_login(self, head: RequestHead, body: bytes | None) -> Login: ...

    def second_name(self, login: Login, identified: Identified) -> bool:
        """Another name is posted on a living session: its pass is over before the request is forwarded."""

    async def observe(
        self, head: RequestHead, identified: Identified, login: Login | None, status: int, headers: Headers, now: float, sid: str
    ) -> Observed:
        """Read an answer. `sid`: the name of a new pass, should one be needed."""


@dataclass(frozen=True, slots=True)
class Said:
    """What a source says of a request. subject: None where it has nothing to say. until: seconds since the epoch from which on it may say
    something else of the very same request."""

    subject: Subject | None
    until: float = inf


class RequestSource(Protocol):
    """A source whose subject arrives with every request (a header of a trusted proxy, a bearer token)."""

    name: str

    async def subject(self, head: RequestHead, upstream: str, now: float) -> Subject | None: ...

    def at_once(self, head: RequestHead, upstream: str, now: float) -> Said | None:
        """The same without waiting; None where something must be fetched first."""


class Identity:
    """All sources, in order: the first that answers wins."""

    def __init__(self, sessions: dict[str, SessionSource], requests: tuple[RequestSource, ...], order: tuple[str, ...]) -> None:
        """`order`: for each configured source "session" or its name, in file order."""
        self._sessions = sessions
        self._requests = {source.name: source for source in requests}
        self._order = order

    def session_source(self, upstream: str) -> SessionSource | None:
        return self._sessions.get(upstream)

    async def identify(self, head: RequestHead, upstream: str, presented: Pass | None, now: float, *, own_page: bool = False) -> Identified:
        """The request's subject and the pass that speaks for it. May raise StoreUnavailable (keys that cannot be fetched).

        own_page: the request is for a page of ours, where the application's cookie may be missing because of its `Path`. There the pass
        speaks for the session that it vouches for; the session itself is looked at when the application is asked next.
        """
        seen = self._by_session(head, upstream, presented, now, own_page=own_page)
        for name in self._order:
            if name == "session":
                if seen.subject.known:
                    return seen
                continue
            subject = await self._requests[name].subject(head, upstream, now)
            if subject is not None:
                return replace(seen, subject=subject, holder=_same(presented, subject))
        return self._by_nobody(seen, upstream)

    def at_once(self, head: RequestHead, upstream: str, presented: Pass | None, now: float) -> tuple[Identified, float] | None:
        """The same without waiting, and until when (seconds since the epoch) it holds for the very same request while the pass does. None
        where a source must fetch something first."""
        seen = self._by_session(head, upstream, presented, now, own_page=False)
        until = min([v.until for v in presented.sessions if v.until is not None and v.until > now], default=inf) if presented else inf
        for name in self._order:
            if name == "session":
                if seen.subject.known:
                    return seen, until
                continue
            said = self._requests[name].at_once(head, upstream, now)
            if said is None:
                return None
            until = min(until, said.until)
            if said.subject is not None:
                return replace(seen, subject=said.subject, holder=_same(presented, said.subject)), until
        return self._by_nobody(seen, upstream), until

    def _by_session(self, head: RequestHead, upstream: str, presented: Pass | None, now: float, *, own_page: bool) -> Identified:
        source = self._sessions.get(upstream)
        if source is None:
            return Identified(presented=presented)
        if own_page and presented is not None and not any(n in source.cookie_names for n, _ in parse_cookies(head)):
            return by_pass_alone(presented)
        return source.identify(head, presented, now)

    def _by_nobody(self, seen: Identified, upstream: str) -> Identified:
        if upstream not in self._sessions and not seen.subject.known:
            return replace(seen, holder=_same(seen.presented, NOBODY))
        return seen


def by_pass_alone(presented: Pass) -> Identified:
    """Whom a pass speaks for by itself, through the session that it vouches for."""
    current = [v for v in presented.sessions if v.until is None]
    session = "+".join(sorted(v.digest for v in current))
    if not presented.subject.known:
        return Identified(presented=presented, holder=presented, session=session)
    if not current or not all(v.bound for v in current):
        return Identified(presented=presented)
    return Identified(subject=presented.subject, holder=presented, presented=presented, session=session)


def _same(held: Pass | None, subject: Subject) -> Pass | None:
    """The pass, if it is this very subject's (by id and source)."""
    return held if held is not None and (held.subject.id, held.subject.source) == (subject.id, subject.source) else None
