"""Settings of `kind: password_change`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field as Setting
from pydantic import field_validator, model_validator

from gateway.policy.glob import path_glob
from gateway.spec.base import Duration, HttpUrl, Int, Many, Spec, StepSpec
from gateway.wire.subject import Scalar

LONGEST = 1024


class PolicySpec(Spec):
    """What a new password must be. It must also not be the old one and not hold the user name."""

    min_length: Int = Setting(12, ge=1, le=LONGEST, description="Characters at least.")
    max_length: Int = Setting(128, ge=8, le=LONGEST, description="Characters at most; what the application can take.")
    min_score: Int = Setting(3, ge=0, le=4, description="Least zxcvbn score: 0 guessed at once … 4 very hard to guess.")

    @model_validator(mode="after")
    def _order(self) -> PolicySpec:
        if self.min_length > self.max_length:
            raise ValueError("`min_length` is above `max_length`")
        return self


class FormFieldsSpec(Spec):
    """How the application calls the fields of its form."""

    current: str = Setting("current_password", min_length=1, description="Field of the current password.")
    new: str = Setting("new_password", min_length=1, description="Field of the new password.")
    confirm: str | None = Setting("confirm_password", description="Field of the repeated new password; `null` where the form has none.")

    @property
    def all(self) -> tuple[str, ...]:
        return (self.current, self.new) if self.confirm is None else (self.current, self.new, self.confirm)


class SuccessSpec(Spec):
    """How the application's answer to the form is known to be a success. All that is set must hold."""

    status: Many[Int] = Setting((302, 303), min_length=1, description="Statuses.")
    location: Many[str] | None = Setting(None, description="Path globs that `Location` must match one of.")
    location_not: Many[str] = Setting((), description="Path globs that `Location` must not match, such as the login page.")
    text: str | None = Setting(None, min_length=1, description="Text that the body must hold.")

    @field_validator("location", "location_not")
    @classmethod
    def _globs(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        for pattern in value or ():
            path_glob(pattern)
        return value


class FailureSpec(Spec):
    """What the application's answer says when it is none."""

    wrong_current: Many[str] = Setting((), description="Texts, any of which means that the current password was wrong.")


class HttpBackendSpec(Spec):
    """The application's own page for changing the password, filled in as the user."""

    url: HttpUrl = Setting(
        description="Where the form is. It is asked with the user's cookies, so it belongs to the upstream that set them."
    )
    fields: FormFieldsSpec = Setting(default_factory=FormFieldsSpec, description="Names of the form's fields.")
    success: SuccessSpec = Setting(default_factory=SuccessSpec, description="What a success looks like.")
    failure: FailureSpec = Setting(default_factory=FailureSpec, description="What a failure looks like.")
    timeout: Duration = Setting(10.0, gt=0, le=60, description="Bound on each of the two requests.")


class BackendSpec(Spec):
    """Where the password is changed."""

    http: HttpBackendSpec = Setting(description="Through the application's own form.")


class PasswordChangeConfig(StepSpec):
    """Settings of `kind: password_change`."""

    policy: PolicySpec = Setting(default_factory=PolicySpec, description="What a new password must be.")
    backend: BackendSpec = Setting(description="Where the password is changed.")
    then: Literal["authorize_again", "continue"] = Setting("authorize_again", description="Afterwards the user logs in anew, or goes on.")
    claims: dict[str, Scalar] = Setting({}, description="Claims that hold from now on, such as `password_expired: false`.")

    @property
    def needs_mail(self) -> bool:
        return False
