"""Continue tokens, upstream tokens and pass values: who signs what, for whom and for how long (design.md part 6)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

from gateway.flow.ports import Entropy, Vault
from gateway.flow.transaction import Transaction
from gateway.policy.model import StepInfo
from gateway.spec.sections import TokensSpec
from gateway.tokens.keys import Keyring
from gateway.tokens.passes import Pass, sign_pass
from gateway.tokens.signer import TokenKind, sign
from gateway.wire.subject import Proof, Subject

MOST_CACHED = 4096


def authentication(proofs: Mapping[str, Proof], steps: Mapping[str, StepInfo], *, oldest: bool = False) -> dict[str, Any]:
    """`acr` (space-separated, in the order of proving), `amr` (RFC 8176) and `auth_time` (of the latest step) as claims.

    oldest: of the oldest one. Whoever judges by `auth_time` how old a proof may be must not take an old one for a young one.
    """
    done = sorted(proofs.values(), key=lambda p: p.at)
    if not done:
        return {}
    names = [(steps[p.step].acr or p.step) if p.step in steps else p.step for p in done]
    return {"acr": " ".join(names), "amr": sorted({m for p in done for m in p.amr}), "auth_time": int(done[0 if oldest else -1].at)}


class Issuer:
    def __init__(
        self,
        *,
        keyring: Callable[[], Keyring],
        vault: Vault,
        entropy: Entropy,
        spec: TokensSpec,
        steps: Callable[[], Mapping[str, StepInfo]],
        challenged: Callable[[str], bool] = lambda _upstream: False,
    ) -> None:
        """challenged: whether an upstream judges by itself how old a proof may be."""
        self._challenged = challenged
        self._keyring = keyring
        self._vault = vault
        self._entropy = entropy
        self._spec = spec
        self._steps = steps
        self._kept: OrderedDict[tuple[str, str, str, float], tuple[str, float]] = OrderedDict()

    def continue_token(self, transaction: Transaction, state: str, now: float) -> str:
        """Evidence of what was proved in a transaction that is READY. Not a bearer token."""
        claims = {
            "iss": transaction.origin,
            "aud": transaction.upstream,
            "sub": transaction.subject.id,
            "jti": transaction.jti,
            "state": state,
            "rules": list(transaction.rules),
            **authentication(transaction.proofs, self._steps()),
            "results": dict(transaction.claims),
        }
        return sign(TokenKind.CONTINUE, claims, keyring=self._keyring(), now=now, ttl=self._spec.continue_ttl)

    def upstream_token(
        self, holder: Pass | None, subject: Subject, proofs: Mapping[str, Proof], *, origin: str, upstream: str, now: float
    ) -> str:
        """What the upstream may verify. Kept by pass and proofs for up to its life, and never sent with less than a third of it left."""
        return self.lasting_token(holder, subject, proofs, origin=origin, upstream=upstream, now=now)[0]

    def lasting_token(
        self, holder: Pass | None, subject: Subject, proofs: Mapping[str, Proof], *, origin: str, upstream: str, now: float
    ) -> tuple[str, float]:
        """An upstream token, and until when (seconds since the epoch) it may be sent."""
        sid = holder.sid if holder else ""
        kid = self._keyring().signing[0].kid  # after a rotation nothing more is sent that the old key signed
        key = (sid, subject.id, f"{kid} {origin} {upstream} {','.join(sorted(proofs))}", max((p.at for p in proofs.values()), default=0.0))
        kept = self._kept.get(key)
        if holder is not None and kept is not None and now < kept[1]:
            return kept
        claims = {
            "iss": origin,
            "aud": upstream,
            "sub": subject.id,
            "jti": self._entropy.token()[:22],
            "sid": sid,
            **authentication(proofs, self._steps(), oldest=self._challenged(upstream)),
        }
        token = sign(TokenKind.UPSTREAM, claims, keyring=self._keyring(), now=now, ttl=self._spec.upstream_ttl)
        self._kept[key] = token, now + self._spec.upstream_ttl * 2 / 3
        if len(self._kept) > MOST_CACHED:
            self._kept.popitem(last=False)
        return self._kept[key]

    def new_sid(self) -> str:
        """128 random bits, base64url."""
        return self._entropy.token()[:22]

    def pass_value(self, held: Pass, now: float) -> str | None:
        """The cookie's value, or None when the pass does not fit its 2 KiB."""
        return sign_pass(held, self._vault, now)
