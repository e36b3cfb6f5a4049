"""The pass as a cookie: what is sent when it changed, is due for a fresh date, or is over."""

from __future__ import annotations

from dataclasses import replace
from math import inf

from gateway.flow.issuer import Issuer
from gateway.spec.sections import PassSpec
from gateway.tokens.passes import Pass
from gateway.wire.cookies import format_set_cookie, pass_cookie
from gateway.wire.head import RequestHead


class PassCookies:
    def __init__(self, issuer: Issuer, spec: PassSpec) -> None:
        self._issuer = issuer
        self._spec = spec

    def issue(self, head: RequestHead, held: Pass, now: float) -> bytes:
        """Set-Cookie for a pass. One that does not fit 2 KiB loses its oldest proofs: a step too many is asked, never one too few."""
        secure = head.scheme == "https"
        while (value := self._issuer.pass_value(held, now)) is None and held.proofs:
            oldest = min(held.proofs.values(), key=lambda p: p.at).step
            held = replace(held, proofs={k: v for k, v in held.proofs.items() if k != oldest})
        return format_set_cookie(pass_cookie(secure), value, max_age=None, secure=secure) if value is not None else self.clear(head)

    def clear(self, head: RequestHead) -> bytes:
        secure = head.scheme == "https"
        return format_set_cookie(pass_cookie(secure), "", secure=secure, max_age=0)

    def due(self, held: Pass | None, now: float) -> bool:
        """A pass in use is dated anew after a tenth of its idle time."""
        return now >= self.due_at(held)

    def due_at(self, held: Pass | None) -> float:
        """When, in seconds since the epoch."""
        return inf if held is None else held.seen + self._spec.idle / 10
