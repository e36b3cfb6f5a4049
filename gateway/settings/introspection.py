"""What no single line of `introspection:` can tell: names, secrets long enough, audiences that somebody has."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from gateway.settings.mistakes import Report, Source, nearest
from gateway.settings.places import Loc
from gateway.spec.base import Spec
from gateway.spec.introspection import IntrospectionSpec
from gateway.spec.sections import GatewaySpec

LEAST_SECRET = 32

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]{0,63}")


def check_introspection(report: Report, source: Source, spec: GatewaySpec, steps: Mapping[str, Spec]) -> None:
    """steps: by name; one with an `audience` is a page of others, which gets tokens of ours."""
    if spec.introspection is None:
        return
    pages = (str(audience) for step in steps.values() if (audience := getattr(step, "audience", None)))
    resumed = (rule.resume.audience for rule in spec.rules if rule.resume is not None)
    receivers = {*spec.upstreams, *pages, *(entry.issuer for entry in spec.begin.values()), *resumed}
    _clients(report, source, spec.introspection, receivers)


def _clients(report: Report, source: Source, spec: IntrospectionSpec, receivers: Iterable[str]) -> None:
    known = sorted(receivers)
    for name, client in spec.clients.items():
        at: Loc = ("introspection", "clients", name)
        if not _NAME.fullmatch(name):
            message = "a client id is 1 to 64 letters, digits, `_`, `.` or `-`, and begins with a letter or digit"
            report.add(source, at, message, key=True)
        for index, secret in enumerate(client.secret):
            if len(secret) < LEAST_SECRET or not secret.isascii() or not secret.isprintable() or " " in secret:
                report.add(source, (*at, "secret", index), f"is {LEAST_SECRET} characters or more of ASCII without blanks")
        for index, audience in enumerate(client.audience):
            if audience not in known:
                message = f"no token is for this audience: no upstream is named so{nearest(audience, known)}"
                report.warn(source, (*at, "audience", index), message)
