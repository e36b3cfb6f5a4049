"""What kind of request it is, in the words of Auth0's `context.protocol`: `http` unless it is for an OAuth endpoint that is configured.

The values are those of Auth0's rules and actions where it has one (`oidc-basic-profile`, `oauth2-password`, …). Two grants on which Auth0
ran no rules have names of the same sort here: `oauth2-authorization-code`, `oauth2-client-credentials`; so has whatever else RFC 6749 §4.5
allows. A path counts as an endpoint if any of its readings does: what an upstream could take for its token endpoint is treated as one.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping
from typing import Any, Final, Literal, Protocol

from gateway.wire.head import RequestHead
from gateway.wire.target import query_pairs

HTTP: Final = "http"
REDIRECT_CALLBACK: Final = "redirect-callback"
PASSWORD: Final = "oauth2-password"  # noqa: S105 - the name of a grant
RESOURCE_OWNER: Final = "oauth2-resource-owner"
REFRESH: Final = "oauth2-refresh-token"
CODE: Final = "oauth2-authorization-code"
CLIENT: Final = "oauth2-client-credentials"
EXTENSION: Final = "oauth2-extension-grant"
BASIC: Final = "oidc-basic-profile"
IMPLICIT: Final = "oidc-implicit-profile"
HYBRID: Final = "oidc-hybrid-profile"

_GRANTS: Final[Mapping[str, str]] = {
    "password": PASSWORD,
    "http://auth0.com/oauth/grant-type/password-realm": PASSWORD,
    "refresh_token": REFRESH,
    "authorization_code": CODE,
    "client_credentials": CLIENT,
    "urn:ietf:params:oauth:grant-type:device_code": "oauth2-device-code",  # RFC 8628 §3.4
    "urn:ietf:params:oauth:grant-type:token-exchange": "oauth2-token-exchange",  # RFC 8693 §2.1
    "urn:ietf:params:oauth:grant-type:jwt-bearer": "oauth2-resource-owner-jwt-bearer",  # RFC 7523 §2.1
    "urn:openid:params:grant-type:ciba": "oidc-ciba",
}

Endpoint = Literal["authorize", "token", "resource_owner"]


class Endpoints(Protocol):
    """The part of spec.oauth.OAuthSpec that is asked here: exact paths, None where there is no such endpoint."""

    @property
    def authorize(self) -> str | None: ...
    @property
    def token(self) -> str | None: ...
    @property
    def resource_owner(self) -> str | None: ...


def endpoint_of(head: RequestHead, oauth: Endpoints | None) -> Endpoint | None:
    """Which endpoint a request is for, by any reading of its path, whatever the case and a slash at its end."""
    if oauth is None:
        return None
    readings = {_bare(path) for path in head.target.readings}
    named: tuple[tuple[Endpoint, str | None], ...] = (
        ("token", oauth.token), ("resource_owner", oauth.resource_owner), ("authorize", oauth.authorize),
    )  # fmt: skip
    return next((name for name, path in named if path is not None and _bare(path) in readings), None)


def slashed(head: RequestHead, oauth: Endpoints) -> bool:
    """It is for an endpoint with a slash at its end and not for one without: no rule for that endpoint's path sees it, and yet it may be
    the same to its server (`/oauth/token%2f`, `/oauth/token/;x`)."""
    named = {path.casefold() for path in (oauth.token, oauth.resource_owner, oauth.authorize) if path is not None}
    readings = {path.casefold() for path in head.target.readings}
    return endpoint_of(head, oauth) is not None and named.isdisjoint(readings)


def odd_grant(grant: object) -> bool:
    """A `grant_type` that is none, or that some servers may take for one which is known here. Rules on `request.protocol` would miss it."""
    if not isinstance(grant, str) or not grant.strip():
        return True
    plain = "".join(c for c in unicodedata.normalize("NFKC", grant) if c.isprintable() and not c.isspace()).casefold()
    return plain in _GRANTS and grant not in _GRANTS


def protocol_of(head: RequestHead, oauth: Endpoints | None, form: Mapping[str, Any] | None) -> str:
    """form: the parameters of the body (a list of values where a name stands more than once), None where there are none."""
    match endpoint_of(head, oauth):
        case "token":
            grant = (form or {}).get("grant_type")
            return _GRANTS.get(grant, EXTENSION) if isinstance(grant, str) else EXTENSION
        case "resource_owner":
            return RESOURCE_OWNER
        case "authorize":
            return _profile(head, form or {})
        case None:
            return HTTP


def _profile(head: RequestHead, form: Mapping[str, Any]) -> str:
    """By `response_type` (OAuth 2.0 Multiple Response Types §3, §5). What a request object or PAR holds is not seen: then it is basic."""
    given = [value for name, value in query_pairs(head.target) if name == "response_type"]
    posted = form.get("response_type")
    given += [posted] if isinstance(posted, str) else []
    return profile(given)


def profile(response_types: Iterable[str]) -> str:
    """What an authorize request with these values of `response_type` is called."""
    kinds = {kind for value in response_types for kind in value.split()}
    if not kinds & {"token", "id_token"}:
        return BASIC
    return HYBRID if "code" in kinds else IMPLICIT


def _bare(path: str) -> str:
    return path.casefold().rstrip("/") or "/"
