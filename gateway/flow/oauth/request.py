"""Authorization requests as rules and the gateway look at them: what is asked, wherever its parameters stand.

Parameters of the query, of a form (OpenID Connect Core §3.1.2.1), of a request object by value (RFC 9101) and of a pushed request
(RFC 9126) are one list here, so that a rule on `query` sees them all. Nothing is verified: that is the provider's business.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final
from urllib.parse import quote_plus, unquote_plus, urlencode

from gateway.flow.oauth.response import Pairs, read_unverified
from gateway.wire.head import RequestHead
from gateway.wire.target import parse_target, query_pairs

_OF_A_BODY = frozenset({b"content-type", b"content-length", b"transfer-encoding", b"content-encoding", b"expect", b"trailer"})

_FOLLOWED: Final = frozenset({"login", "select_account", "create"})
"""Values of `prompt` (OpenID Connect Core §3.1.2.1, Initiating User Registration §4.1) that are done with when the user has logged in."""

_REGISTERED: Final = frozenset({
    "response_type", "client_id", "redirect_uri", "scope", "state", "nonce", "display", "prompt", "max_age", "ui_locales", "claims_locales",
    "id_token_hint", "login_hint", "acr_values", "claims", "registration", "request", "request_uri", "response_mode", "code_challenge",
    "code_challenge_method", "resource", "authorization_details", "dpop_jkt", "audience",
})  # fmt: skip
"""What a client says in an authorization request (IANA, OAuth Parameters), and `audience`, which many take."""
_ONCE: Final = _REGISTERED - {"resource", "audience"}
"""RFC 6749 §3.1: none of them twice. RFC 8707 §2: but `resource`."""


@dataclass(frozen=True, slots=True)
class AuthorizationRequest:
    """target: as a GET, to be asked again. extra: parameters that do not stand in it as such. readable: no parameter is hidden from us
    (an encrypted request object, one by reference that was not pushed here, a body that could not be read, one that has two values).

    pushed: it is one of RFC 9126, which most providers answer once. reasked: it was sent to its provider a second time already.
    """

    target: bytes
    extra: Pairs = ()
    readable: bool = True
    pushed: bool = False
    reasked: bool = False

    @property
    def parameters(self) -> Pairs:
        return (*query_pairs(parse_target(self.target)), *self.extra)

    def values(self, name: str) -> set[str]:
        return {v for n, v in self.parameters if n == name and v}

    @property
    def silent(self) -> bool:
        """`prompt=none` is asked (OpenID Connect Core §3.1.2.1), as far as it can be seen."""
        return any("none" in value.split() for value in self.values("prompt"))

    @property
    def answered(self) -> AuthorizationRequest:
        """This request once the user has been through the provider's pages: it does not ask for the same login again. `consent` stays, for
        providers tie offline access to it; so does what stands in a request object."""
        path, mark, query = self.target.partition(b"?")
        pairs = [kept for pair in query.split(b"&") if (kept := _without_login(pair)) is not None]
        return replace(self, target=path + mark + b"&".join(pairs))

    @property
    def plain(self) -> bool:
        """It says all that an authorization request must (RFC 6749 §4.1.1, RFC 9101 §5), and nothing that no client says."""
        return self._whole and all(name in _REGISTERED for name, _ in self.parameters)

    @property
    def _whole(self) -> bool:
        return bool(self.values("client_id")) and any(self.values(name) for name in ("response_type", "request", "request_uri"))

    def follows(self, began: AuthorizationRequest) -> bool:
        """The form of a page that was shown for `began` may say this. One that does not say all has a `state` of its own."""
        names = ("client_id", "redirect_uri", "state", "nonce") if self._whole else ("client_id",)
        said = [(self.values(name), began.values(name)) for name in names]
        return all(not mine or not its or mine & its for mine, its in said)

    def fits(self, uri: str, state: str | None) -> bool:
        """An answer to this redirect URI with this state may be its answer. What either does not name, or hides, fits everything."""
        states, uris = self.values("state"), self.values("redirect_uri")
        if state is not None and states and state not in states:
            return False
        return not uris or any(_same(uri, each) for each in uris)

    def heads(self, around: RequestHead) -> tuple[RequestHead, ...]:
        """This request as a GET of the browser whose request `around` is, with every parameter in its query. Two of them where something
        within a request object or a pushed request stands beside it with another value: what is within counts (RFC 9101 §6.3), but to a
        server that knows none of these it is what stands beside."""
        beside, within = query_pairs(parse_target(self.target)), self.extra
        seen = (_over(within, beside), _over(beside, within))
        if not within and seen[0] == beside:
            return (as_get(around, self.target),)
        readings = seen if set(seen[0]) != set(seen[1]) else seen[:1]
        path = self.target.partition(b"?")[0]
        return tuple(as_get(around, path + b"?" + urlencode(pairs).encode("ascii")) for pairs in readings)


def as_get(around: RequestHead, target: bytes) -> RequestHead:
    """A GET of the same browser for another target."""
    headers = tuple(f for f, name in zip(around.headers, around.names, strict=True) if name not in _OF_A_BODY and name != b"origin")
    return replace(around, method="GET", target=parse_target(target), headers=headers)


def read_request(head: RequestHead, form: Pairs | None, pushed: Mapping[str, AuthorizationRequest]) -> AuthorizationRequest:
    """The authorization request that came with `head`. form: of its body; None where there is one that cannot be read. pushed: what was
    pushed here under which `request_uri`."""
    found = _with_objects(AuthorizationRequest(head.target.raw), form or ())
    target = head.target.raw
    if form:
        target += (b"&" if b"?" in target else b"?") + urlencode(form).encode("ascii")
        found = replace(found, target=target, extra=tuple(pair for pair in found.extra if pair not in form))
    if form is None or _ambiguous(query_pairs(parse_target(target))):
        found = replace(found, readable=False)
    for uri in found.values("request_uri"):
        known = pushed.get(uri)
        if known is None:
            found = replace(found, readable=False)
        else:
            found = replace(found, extra=(*found.extra, *known.extra), readable=found.readable and known.readable, pushed=True)
    return found


def read_pushed(form: Pairs) -> AuthorizationRequest:
    """What a pushed request says: its form's parameters and those of a request object in it. It has no target of its own."""
    return _with_objects(AuthorizationRequest(b"/"), form)


def _over(those: Pairs, others: Pairs) -> Pairs:
    """Both lists, where a name in one takes that name's place in the other. Nothing stands twice."""
    names = {name for name, _ in those}
    return tuple(dict.fromkeys((*(pair for pair in others if pair[0] not in names), *those)))


def _ambiguous(pairs: Iterable[tuple[str, str]]) -> bool:
    """One server reads the first, another the last."""
    names = [name for name, _ in dict.fromkeys(pairs)]
    return any(name in _ONCE and names.count(name) > 1 for name in set(names))


def _with_objects(found: AuthorizationRequest, form: Pairs) -> AuthorizationRequest:
    extra = list(form)
    readable = True
    for name, value in (*found.parameters, *form):
        if name == "request" and value:
            claims = read_unverified(value)
            if claims is None:
                readable = False
            else:
                extra += _texts(claims.items())
    return replace(found, extra=tuple(extra), readable=readable)


def _texts(claims: Iterable[tuple[str, Any]]) -> Pairs:
    return tuple((str(name), value if isinstance(value, str) else str(value)) for name, value in claims if value is not None)


def _without_login(pair: bytes) -> bytes | None:
    name, equals, value = pair.partition(b"=")
    if unquote_plus(name.decode("latin-1")) != "prompt" or not equals:
        return pair
    asked = unquote_plus(value.decode("latin-1")).split()
    left = [prompt for prompt in asked if prompt not in _FOLLOWED]
    if left == asked:
        return pair
    return name + equals + quote_plus(" ".join(left)).encode("ascii") if left else None


def _same(answered: str, asked: str) -> bool:
    """The provider's redirect URI is the one that was asked for: compared without query and fragment, in which responses travel."""
    return answered.partition("#")[0].partition("?")[0].rstrip("/") == asked.partition("#")[0].partition("?")[0].rstrip("/")
