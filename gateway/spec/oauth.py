"""The shape of `upstreams.<name>.oauth`: where an OAuth or OpenID provider behind the gateway has its endpoints (RFC 6749, RFC 9126)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from gateway.spec.base import Duration, Int, Many, PlainPath, Size, Spec


class OAuthSpec(Spec):
    """The endpoints of an OAuth or OpenID provider. None has a default: what is not named is an ordinary path."""

    authorize: PlainPath | None = Field(
        None,
        description="Authorization endpoint (RFC 6749 §3.1). Rules that match it hold for its *answers*: the login goes on undisturbed, "
        "and no code or token leaves while one is unmet.",
    )
    token: PlainPath | None = Field(None, description="Token endpoint (RFC 6749 §3.2).")
    resource_owner: PlainPath | None = Field(None, description="Auth0's `/oauth/ro`: user name and password for a token, by JSON or form.")
    par: PlainPath | None = Field(
        None, description="Pushed authorization requests (RFC 9126): read on their way, for `prompt` and the like. Needs `authorize`."
    )
    session_cookie: Many[str] = Field(
        (),
        description="The provider's session cookies. What was passed is kept under their keyed hash too, so that `prompt=none` works in a "
        "frame of another site, where no cookie of ours comes along.",
    )
    refresh: Literal["inherit", "require"] = Field(
        "require",
        description="`inherit`: a refresh token that was issued after the steps passes by itself, its successors too. `require`: the rules "
        "ask at each refresh, and what was passed at its issue counts for their `max_age`. An unknown one is asked in either case.",
    )
    refresh_ttl: Duration = Field(
        2_592_000.0,
        gt=0,
        description="How long it is remembered what was passed for a refresh token, from its last use; then it is unknown.",
    )
    max_refresh: Int = Field(200, ge=1, description="Refresh tokens of one user that are remembered; further ones are unknown.")
    max_answer: Size = Field(
        1 << 20,
        ge=1,
        description="Largest answer that is held and looked into. A larger page counts as carrying a code; from a token endpoint, 502.",
    )
    answer_timeout: Duration = Field(15.0, gt=0, description="Time for such an answer to arrive in full; 504 above.")
    exchange_ttl: Duration = Field(
        900.0, gt=0, description="How long an authorize request is remembered, from the first call to the answer that carries its code."
    )
    max_exchanges: Int = Field(10, ge=1, description="Authorize requests of one browser that are remembered; then the oldest is forgotten.")
