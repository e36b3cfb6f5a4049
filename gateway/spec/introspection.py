"""The shape of `introspection:`: who may ask what a token of ours says (RFC 7662)."""

from __future__ import annotations

from pydantic import Field

from gateway.spec.base import Duration, Int, Many, Spec


class IntrospectionClientSpec(Spec):
    """One service that asks. It learns of tokens that are for its audience, and of no others."""

    secret: Many[str] = Field(
        min_length=1,
        description="Its client secret, 32 characters or more of printable ASCII; a list while it is being replaced. Sent by "
        "`client_secret_basic` (form-urlencoded first: RFC 6749 §2.3.1) or `client_secret_post`.",
    )
    audience: Many[str] = Field(min_length=1, description="The `aud` of tokens that are for it: an upstream's name.")


class IntrospectionRateSpec(Spec):
    """How often may be asked; 429 with Retry-After above. Wrong secrets count as `guessing.per_address` says."""

    per_client: Int = Field(6000, ge=1, description="Questions of one client within `window`.")
    per_address: Int = Field(6000, ge=1, description="Questions from one address within `window`.")
    window: Duration = Field(60.0, gt=0, description="See above.")


class IntrospectionSpec(Spec):
    """Token introspection at `<prefix>/introspect` (RFC 7662). Without this section the path does not exist."""

    clients: dict[str, IntrospectionClientSpec] = Field(min_length=1, description="Client id to secret and audience.")
    rate: IntrospectionRateSpec = Field(default_factory=IntrospectionRateSpec, description="Bounds on asking.")
