"""Every kind of step and identity source that there is, by name. A new one is a folder (or a file) and a line here."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import gateway.steps
from gateway.identity.header import HeaderSpec
from gateway.identity.jwt import JwtSpec
from gateway.identity.login_form import LoginFormSpec
from gateway.settings.registry import Registry, StepKind
from gateway.spec.base import Spec
from gateway.steps.captcha.step import Captcha
from gateway.steps.consent.step import Consent
from gateway.steps.form.step import Form
from gateway.steps.otp.step import Otp
from gateway.steps.password_change.step import PasswordChange
from gateway.steps.redirect import Redirect, RedirectConfig
from gateway.stores.factory import check_records_url, check_url

STEPS: tuple[Any, ...] = (Captcha, Otp, PasswordChange, Consent, Form, Redirect)
IDENTITY: Mapping[str, type[Spec]] = {"login_form": LoginFormSpec, "header": HeaderSpec, "jwt": JwtSpec}
STEP_FOLDERS = {kind.kind: Path(gateway.steps.__file__).parent / kind.kind for kind in STEPS}


def _asks_somebody(kind: Any, config: Spec) -> bool:
    """What proves an identity must know whose; a page of others is told who it is, unless its settings say that it asks anybody; others say
    it in their settings."""
    if isinstance(config, RedirectConfig):
        return config.subject == "required"
    return bool(kind.proves_identity) or bool(getattr(config, "needs_subject", False))


REGISTRY = Registry(
    steps={kind.kind: StepKind(kind.Config, partial(_asks_somebody, kind)) for kind in STEPS},
    identity=IDENTITY,
    check_state=check_url,
    check_records=check_records_url,
    records=frozenset(),
)
