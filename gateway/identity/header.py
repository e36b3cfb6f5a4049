"""A subject named by a header that a trusted proxy sets. From anybody else the header is removed before anything reads it."""

from __future__ import annotations

from pydantic import Field

from gateway.flow.identity import Said
from gateway.spec.base import Spec
from gateway.wire.forwarding import Networks, is_trusted
from gateway.wire.head import RequestHead
from gateway.wire.subject import Subject


class HeaderSpec(Spec):
    """`from: header`: a proxy in front of the gateway has authenticated the user."""

    name: str = Field(pattern=r"^[A-Za-z0-9-]+$", description="The header with the subject's id; honoured from `trusted_proxies` only.")
    upstream: str | None = Field(None, description="Only for this upstream; for all unless set.")
    claims: dict[str, str] = Field(default_factory=dict, description="Claims by name, each from the header named here.")

    def login_paths(self) -> frozenset[str]:
        return frozenset()

    def claim_names(self) -> frozenset[str]:
        return frozenset(self.claims)


class HeaderSource:
    def __init__(self, spec: HeaderSpec, trusted: Networks, name: str) -> None:
        self._spec = spec
        self._trusted = trusted
        self.name = name

    async def subject(self, head: RequestHead, upstream: str, now: float) -> Subject | None:
        return self.at_once(head, upstream, now).subject

    def at_once(self, head: RequestHead, upstream: str, now: float) -> Said:  # noqa: ARG002 - the protocol's signature
        """The named subject; None where the header is missing, empty, doubled, or from somebody who is not trusted."""
        return Said(self._named(head, upstream))

    def _named(self, head: RequestHead, upstream: str) -> Subject | None:
        if self._spec.upstream not in (None, upstream) or not is_trusted(head.peer, self._trusted):
            return None
        value = (head.get(self._spec.name) or "").strip()
        if not value or len(value) > 256 or not value.isprintable():
            return None
        return Subject(value, {claim: head.get(header) for claim, header in self._spec.claims.items()}, self.name)
