"""A shared secret is known to two: us and one party. With a third, each of them could sign for the other (RFC 8725 §2.4, §3.1)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from gateway.settings.mistakes import Report, Source, shown
from gateway.settings.places import Loc
from gateway.spec.base import Spec
from gateway.spec.rules import RuleSpec
from gateway.spec.sections import GatewaySpec

_Held = tuple[Source, Loc, str, str]


def check_secrets(
    report: Report, main: Source, spec: GatewaySpec, steps: Mapping[str, Spec], rules: Iterable[tuple[Source, int, RuleSpec]]
) -> None:
    """Says where a secret is shared with another party than before. steps: by name."""
    first: dict[str, tuple[str, str]] = {}
    for source, at, party, secret in _held(main, spec, steps, rules):
        place = shown(at[: at.index("secret")])
        owner, where = first.setdefault(secret, (party, place))
        if owner != party:
            report.add(source, at, f'is shared with "{owner}" already ({where}); each party needs a secret of its own')


def _held(main: Source, spec: GatewaySpec, steps: Mapping[str, Spec], rules: Iterable[tuple[Source, int, RuleSpec]]) -> Iterator[_Held]:
    for name, step in steps.items():
        secret, audience = getattr(step, "secret", None), getattr(step, "audience", None)
        if isinstance(secret, str) and isinstance(audience, str):
            yield main, ("steps", name, "secret"), audience, secret
    for name, entry in spec.begin.items():
        if entry.secret is not None:
            yield main, ("begin", name, "secret"), entry.issuer, entry.secret
    for source, index, rule in rules:
        if rule.intercept is None:
            continue
        upstream, incoming = rule.intercept.upstream, rule.intercept.session_token
        if incoming is not None and incoming.secret is not None:
            yield source, ("rules", index, "intercept", "session_token", "secret"), upstream, incoming.secret
        if rule.resume is not None and rule.resume.secret is not None:
            yield source, ("rules", index, "resume", "secret"), upstream, rule.resume.secret
    if spec.introspection is not None:
        for name, client in spec.introspection.clients.items():
            for position, secret in enumerate(client.secret):
                yield main, ("introspection", "clients", name, "secret", position), name, secret
