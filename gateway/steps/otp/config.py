"""Settings of `kind: otp`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field as Setting
from pydantic import field_validator, model_validator

from gateway.spec.base import Duration, Int, Many, StepSpec
from gateway.steps.otp.address import ascii_domain, check_template

Method = Literal["totp", "email"]


class OtpConfig(StepSpec):
    """Settings of `kind: otp`."""

    methods: Many[Method] = Setting(("totp", "email"), min_length=1, description="Ways to get a code, the preferred one first.")
    email: str | None = Setting(None, description="Where codes are mailed to; may hold {subject.id} and {subject.claims.NAME}.")
    allowed_domains: Many[str] = Setting((), description="Domains that codes may be mailed to; any unless set.")
    digits: Int = Setting(6, ge=6, le=8, description="Digits of a code.")
    code_ttl: Duration = Setting(300.0, ge=30, le=3600, description="How long a mailed code counts.")
    resend_after: Duration = Setting(10.0, ge=1, le=300, description="Wait before a code is mailed again; doubles each time, up to 5m.")
    max_mails: Int = Setting(100, ge=1, description="Codes mailed to one subject within an hour, over all its transactions.")
    issuer: str | None = Setting(
        None, min_length=1, max_length=60, description="Name in the authenticator app; the site's host unless set."
    )
    enrol: Literal["after_proof", "allow", "never"] = Setting(
        "after_proof",
        description="Who may set up an authenticator app: users who gave another proof just now, all who have none yet, or nobody.",
    )
    period: Int = Setting(30, ge=15, le=120, description="Seconds that a code of the authenticator app counts (new set-ups).")

    @field_validator("methods")
    @classmethod
    def _each_once(cls, value: tuple[Method, ...]) -> tuple[Method, ...]:
        if len(set(value)) != len(value):
            raise ValueError("names a method twice")
        return value

    @field_validator("email")
    @classmethod
    def _template(cls, value: str | None) -> str | None:
        return None if value is None else check_template(value)

    @field_validator("allowed_domains")
    @classmethod
    def _domains(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        names = tuple(ascii_domain(domain) for domain in value)
        for domain, name in zip(value, names, strict=True):
            if name is None:
                raise ValueError(f"{domain!r} is not a domain; write it as in bank.example.com")
        return tuple(name for name in names if name is not None)

    @model_validator(mode="after")
    def _addressed(self) -> OtpConfig:
        if "email" in self.methods and self.email is None:
            raise ValueError('`methods` has email, so `email` must say where to, for example "{subject.id}@bank.example.com"')
        return self

    @property
    def needs_mail(self) -> bool:
        return "email" in self.methods
