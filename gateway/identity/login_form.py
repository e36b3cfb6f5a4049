"""Learns who holds a session from the application's own login form.

The pass vouches only for session values that were seen in the upstream's `Set-Cookie` on their way to this browser. A session that
nothing vouches for is nobody's, and (by default) is not shown to the upstream. Claims come from what the upstream sent, never
from a request's cookies. Learning writes no store.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import Field, model_validator

from gateway.flow.identity import Identified, Login, Observed
from gateway.identity.whoami import WhoAmI
from gateway.policy.body import parse_body
from gateway.policy.facts import Body
from gateway.policy.glob import path_glob
from gateway.spec.base import Duration, HttpUrl, Int, Many, Spec
from gateway.tokens.passes import Pass, Vouched
from gateway.wire.cookies import SetCookie, parse_cookies, parse_set_cookie
from gateway.wire.head import Headers, RequestHead
from gateway.wire.media import media_type
from gateway.wire.subject import NOBODY, Scalar, Subject
from gateway.wire.target import query_pairs

ROTATION_GRACE = 10.0  # seconds that a rotated session value still counts: requests that were under way
MOST_SESSIONS = 4

Digests = Callable[[str, str, str], tuple[str, ...]]
"""(upstream, cookie name, cookie value) -> its digests by every key that still counts, the current one first."""


class SuccessSpec(Spec):
    """How the answer to a login that succeeded looks. All that is set must hold."""

    status: Many[Int] = Field((302, 303), description="Statuses.")
    location: Many[str] | None = Field(None, description="Path globs that `Location` must match one of.")
    location_not: Many[str] = Field((), description="Path globs that `Location` must not match.")


class ClaimSpec(Spec):
    """A claim, read from the upstream's answers. Exactly one of `cookie` and `header`."""

    cookie: str | None = Field(None, description="A cookie that the upstream sets.")
    header: str | None = Field(None, description="A response header of the upstream.")
    equals: str | None = Field(
        None, description="The claim is true when the value is this, false when it is another; the value itself unless set."
    )

    @model_validator(mode="after")
    def _one(self) -> ClaimSpec:
        if (self.cookie is None) == (self.header is None):
            raise ValueError("needs exactly one of cookie and header")
        return self


class WhoAmISpec(Spec):
    """A URL of the upstream that tells who a session belongs to."""

    url: HttpUrl = Field(description="Asked with the session's cookies.")
    field: str | None = Field(None, description="The JSON field with the user name; the whole text unless set.")
    timeout: Duration = Field(5.0, gt=0, description="Bound on the call.")


class LoginFormSpec(Spec):
    """`from: login_form`: the application's own form, watched."""

    upstream: str = Field(description="The upstream whose form this is.")
    path: Many[Annotated[str, Field(pattern="^/")]] = Field(
        min_length=1, description="The paths that log somebody in: where the form posts to, and any other."
    )
    login_url: str | None = Field(None, pattern="^/([^/].*)?$", description="Where people log in; the first `path` unless set.")
    logout: Many[str] = Field((), description="Paths that log out.")
    username: str = Field("username", description="The form field with the user name.")
    content_type: Literal["application/x-www-form-urlencoded", "multipart/form-data", "application/json"] = Field(
        "application/x-www-form-urlencoded", description="Content type of the login; any other teaches nothing."
    )
    cookie: Many[str] = Field(min_length=1, description="Names of the session cookies.")
    success: SuccessSpec = Field(default_factory=SuccessSpec, description="How success looks.")
    claims: dict[str, ClaimSpec] = Field(default_factory=dict, description="Claims by name.")
    whoami: WhoAmISpec | None = Field(None, description="Confirms the user; also where a login keeps the session's value.")
    unknown_session: Literal["strip", "allow"] = Field(
        "strip", description="A session cookie that no pass vouches for: not forwarded, or forwarded as nobody's."
    )

    def login_paths(self) -> frozenset[str]:
        return frozenset({*self.path, *self.logout, urlsplit(self.login_url or self.path[0]).path})

    def claim_names(self) -> frozenset[str]:
        return frozenset(self.claims)


class LoginForm:
    """The source for one upstream."""

    name = "login_form"

    def __init__(self, spec: LoginFormSpec, digests: Digests, whoami: WhoAmI | None) -> None:
        self._spec = spec
        self._digests = digests
        self._whoami = whoami
        self.cookie_names = self._names = frozenset(spec.cookie)
        self.logout_path = spec.logout[0] if spec.logout else None
        self._location = tuple(path_glob(p) for p in spec.success.location or ())
        self._location_not = tuple(path_glob(p) for p in spec.success.location_not)
        self.upstream = spec.upstream
        self._paths = frozenset(map(_loosely, spec.path))
        self.login_url = spec.login_url or spec.path[0]
        self.watched = frozenset(claim.header.lower().encode() for claim in spec.claims.values() if claim.header is not None)
        self.strips = spec.unknown_session == "strip"

    # -- requests ---------------------------------------------------------------------------------------------------

    def identify(self, head: RequestHead, presented: Pass | None, now: float) -> Identified:
        """Which of the request's session cookies are vouched for, and whose they are."""
        sent = [(n, v) for n, v in parse_cookies(head) if n in self._names]
        if not sent:
            speaks = presented is not None and not presented.subject.known
            return Identified(presented=presented, holder=presented if speaks else None)
        vouched = {v.digest: v for v in presented.sessions if v.until is None or now < v.until} if presented else {}
        names = [n for n, _ in sent]
        digests = {n: self._digests(self.upstream, n, v) for n, v in sent if names.count(n) == 1}
        known = {n: d for n, ds in digests.items() for d in ds if d in vouched}
        unknown = frozenset(names) - frozenset(known)
        note = "" if not unknown else f"session cookie not vouched for: {', '.join(sorted(unknown))}"
        strip = unknown if self.strips else frozenset()
        if not known or (unknown and not strip):
            return Identified(presented=presented, strip=strip, note=note)
        session = "+".join(known[n] for n in sorted(known))
        bound = all(vouched[d].bound for d in known.values())
        if presented is None or not bound:
            nobodys = presented is not None and not presented.subject.known
            return Identified(presented=presented, holder=presented if nobodys else None, session=session, strip=strip, note=note)
        return Identified(subject=presented.subject, holder=presented, presented=presented, session=session, strip=strip, note=note)

    def is_login(self, head: RequestHead) -> bool:
        """Any reading of the target is the login path, and the request could carry a user name. Looser than `read_login`, for here a
        name must not slip by: many applications take `/Login/` for `/login`."""
        if not any(_loosely(r) in self._paths for r in head.target.readings):
            return False
        return head.method not in ("GET", "HEAD", "OPTIONS") or any(n == self._spec.username for n, _ in query_pairs(head.target))

    def concerns(self, readings: tuple[str, ...]) -> bool:
        return any(_loosely(r) in self._paths or r in self._spec.logout for r in readings)

    def read_login(self, head: RequestHead, body: bytes | None) -> Login:
        """The posted user name: exactly one value, of the configured content type, from the body, and not in the query as well."""
        if body is None or head.method != "POST" or not set(head.target.readings) <= set(self._spec.path):
            return Login(None)
        if any(n == self._spec.username for n, _ in query_pairs(head.target)):
            return Login(None)
        content_type = head.get("content-type") or ""
        if media_type(content_type) != self._spec.content_type:
            return Login(None)
        parsed = parse_body(content_type, body, len(body))
        if not isinstance(parsed, Body):
            return Login(None)
        fields = parsed.json if self._spec.content_type == "application/json" else parsed.form
        name = fields.get(self._spec.username) if isinstance(fields, Mapping) else None
        return Login(name if isinstance(name, str) and name.strip() and len(name) <= 256 and name.isprintable() else None)

    def second_name(self, login: Login, identified: Identified) -> bool:
        return identified.subject.source == self.name and identified.subject.known and login.name != identified.subject.id

    # -- answers ----------------------------------------------------------------------------------------------------

    async def observe(
        self, head: RequestHead, identified: Identified, login: Login | None, status: int, headers: Headers, now: float, sid: str
    ) -> Observed:
        """What an answer means for the pass: a login learned, a session given, rotated or ended, a claim changed."""
        cookies = [parse_set_cookie(v) for n, v in headers if n.lower() == b"set-cookie"]
        given = self._given(cookies, now)
        sent = {n: v for n, v in parse_cookies(head) if n in self._names and n not in identified.strip}
        fresh = {n: value for n, value in given.items() if value is not None and value != sent.get(n)}
        if login is not None and login.name is not None and self._succeeded(status, headers):
            subject = await self._confirmed(login.name, {**sent, **fresh}, bool(fresh))
            if subject is not None:
                learned = self._learned(head, identified, subject, fresh or sent, cookies, headers, now, sid)
                # The pass of somebody is over. Nobody's is too where it vouched for the very value that is now somebody's (a session that
                # was planted): else it is forgotten without a word, because learning writes no store.
                before = identified.presented
                over = before is not None and (before.subject.known or not fresh)
                return replace(learned, revoke=before.sid if before is not None and over else None)
        if self._logs_out(head, status) or any(n in sent and value is None for n, value in given.items()):
            return self._over(head, identified, fresh, now, sid)
        held = identified.presented
        if fresh and identified.subject.source == self.name and self._whoami is not None:
            # Where the application can be asked, a new value is not taken for a rotation on trust: there may be other ways to log in.
            said = await self._whoami.ask({**sent, **fresh})
            if said is None or said.casefold() != identified.subject.id.casefold():
                return self._over(head, identified, fresh, now, sid)
        if fresh:
            held = self._rebound(head, identified, fresh, now, sid)
        if held is not None and identified.subject.known and identified.subject.source == self.name and identified.session:
            held = replace(held, subject=replace(held.subject, claims={**held.subject.claims, **self._claims(cookies, headers, now)}))
        return Observed(held, changed=held != identified.presented)

    def _succeeded(self, status: int, headers: Headers) -> bool:
        if status not in self._spec.success.status:
            return False
        locations = [v.decode("latin-1") for n, v in headers if n.lower() == b"location"]
        try:
            path = urlsplit(locations[0]).path or "/" if len(locations) == 1 else None
        except ValueError:
            return False
        if self._location and (path is None or not any(g.matches(path) for g in self._location)):
            return False
        return path is None or not any(g.matches(path) for g in self._location_not)

    async def _confirmed(self, name: str, session: Mapping[str, str], fresh: bool) -> Subject | None:
        """Who it is: as posted where the session's value is new, as `whoami` says where that is configured."""
        if self._whoami is not None:
            said = await self._whoami.ask(session)
            return None if said is None or said.casefold() != name.casefold() else Subject(said, self._undeclared(), self.name)
        return Subject(name, self._undeclared(), self.name) if fresh else None

    def _undeclared(self) -> dict[str, Scalar]:
        return dict.fromkeys(self._spec.claims, None)

    def _learned(
        self,
        head: RequestHead,
        identified: Identified,
        subject: Subject,
        session: Mapping[str, str],
        cookies: list[SetCookie],
        headers: Headers,
        now: float,
        sid: str,
    ) -> Observed:
        """A new pass at each login. What nobody proved before it (a captcha) is kept; what somebody proved is not."""
        before = identified.holder
        kept = dict(before.proofs) if before is not None and not before.subject.known else {}
        subject = replace(subject, claims={**subject.claims, **self._claims(cookies, headers, now)})
        vouched = tuple(Vouched(self._digests(self.upstream, n, v)[0], None, bound=True) for n, v in sorted(session.items()))
        learned = Pass(sid=sid, origin=head.origin, issued=now, seen=now, subject=subject, proofs=kept, sessions=vouched)
        return Observed(learned, changed=True, learned=True)

    def _logs_out(self, head: RequestHead, status: int) -> bool:
        return status < 400 and any(r in self._spec.logout for r in head.target.readings)

    def _given(self, cookies: list[SetCookie], now: float) -> dict[str, str | None]:
        """What the browser holds afterwards under each session name that was set, None where it was deleted. A cookie with another path or
        domain is another cookie (RFC 6265 §5.3): deleting one there ends nothing while a value is set beside it."""
        jar = {(c.name, c.domain, c.path): None if c.expired(now) else c.value or None for c in cookies if c.name in self._names}
        found: dict[str, str | None] = {}
        for (name, _, _), value in jar.items():
            found[name] = found.get(name) if value is None else value
        return found

    def _over(self, head: RequestHead, identified: Identified, fresh: Mapping[str, str], now: float, sid: str) -> Observed:
        """The session has ended, and the pass with it; a new anonymous session may begin in the same answer."""
        if identified.presented is None and not fresh:
            return Observed(None)
        begun = self._anonymous(head, fresh, now, sid) if fresh else None
        known = identified.presented is not None and identified.presented.subject.known
        return Observed(begun, changed=True, revoke=identified.presented.sid if known and identified.presented else None)

    def _anonymous(self, head: RequestHead, fresh: Mapping[str, str], now: float, sid: str) -> Pass:
        vouched = tuple(Vouched(self._digests(self.upstream, n, v)[0]) for n, v in sorted(fresh.items()))
        return Pass(sid=sid, origin=head.origin, issued=now, seen=now, sessions=vouched)

    def _rebound(self, head: RequestHead, identified: Identified, fresh: Mapping[str, str], now: float, sid: str) -> Pass:
        """A session value was given. In answer to a vouched request it takes the old one's place, who it is included."""
        held = identified.presented
        if held is None or (held.subject.source == self.name and not identified.session):
            return self._anonymous(head, fresh, now, sid)
        replaced = set(identified.session.split("+")) if identified.session else set()
        answering = [v.bound for v in held.sessions if v.digest in replaced]
        bound = bool(answering) and all(answering)
        # Several session cookies: only the values that were sent under the names now set again are rotated out.
        sent = {d for n, v in parse_cookies(head) if n in fresh for d in self._digests(self.upstream, n, v)}
        # What was rotated out stays listed, though it counts no more: it tells that a transaction's session is this one's past.
        old = tuple(
            replace(v, until=min(v.until or now + ROTATION_GRACE, now + ROTATION_GRACE)) if v.digest in replaced & sent else v
            for v in held.sessions
        )
        new = tuple(Vouched(self._digests(self.upstream, n, v)[0], None, bound=bound) for n, v in sorted(fresh.items()))
        return replace(held, sessions=(old + new)[-MOST_SESSIONS:])

    def _claims(self, cookies: list[SetCookie], headers: Headers, now: float) -> dict[str, Scalar]:
        """The claims that this answer tells about; those that it is silent about are left as they are."""
        found: dict[str, Scalar] = {}
        for name, spec in self._spec.claims.items():
            if spec.cookie is not None:
                said = [None if c.expired(now) else c.value for c in cookies if c.name == spec.cookie]
            else:
                wanted = (spec.header or "").lower().encode()
                said = [v.decode("latin-1") for n, v in headers if n.lower() == wanted]
            if said:
                found[name] = said[-1] if spec.equals is None else said[-1] == spec.equals
        return found


def _loosely(path: str) -> str:
    return path.casefold().rstrip("/")


__all__ = ["NOBODY", "LoginForm", "LoginFormSpec"]
