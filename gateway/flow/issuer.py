"""Continue tokens, upstream tokens and pass values: who signs what, for whom and for how long (design.md part 6)."""

from __future__ import annotations

import json
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
from gateway.wire.subject import Proof, Scalar, Subject

MOST_CACHED = 4096


def authentication(proofs: Mapping[str, Proof], steps: Mapping[str, StepInfo], *, oldest: bool = False) -> dict[str, Any]:
    """`acr` (space-separated, in the order of proving), `amr` (RFC 8176) and `auth_time` (of the latest step) as claims.

    oldest: of the oldest one. Whoever judges by `auth_time` how old a proof may be must not take an old one for a young one. A page that a
    rule function sent the user to is no step: that the user came back from it proves nothing.
    """
    done = sorted((p for p in proofs.values() if not p.step.startswith("@")), key=lambda p: p.at)
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
            **(transaction.run.get("claims") or {}),
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
        self, holder: Pass | None, subject: Subject, proofs: Mapping[str, Proof], *, origin: str, upstream: str, now: float,
        claims: Mapping[str, Any] | None = None,
    ) -> str:  # fmt: skip
        """What the upstream may verify. Kept by pass, proofs and claims for up to its life, and never sent with less than a third of it
        left. claims: what rule functions add; none of ours."""
        return self.lasting_token(holder, subject, proofs, origin=origin, upstream=upstream, now=now, claims=claims)[0]

    def lasting_token(
        self, holder: Pass | None, subject: Subject, proofs: Mapping[str, Proof], *, origin: str, upstream: str, now: float,
        claims: Mapping[str, Any] | None = None,
    ) -> tuple[str, float]:  # fmt: skip
        """An upstream token, and until when (seconds since the epoch) it may be sent."""
        sid = holder.sid if holder else ""
        kid = self._keyring().signing[0].kid  # after a rotation nothing more is sent that the old key signed
        results = self._results(holder, proofs)
        # `repr` tells 1 from true and from "1".
        told = "".join(f" {name}={value!r}" for name, value in sorted(results.items()))
        added = json.dumps(claims, sort_keys=True) if claims else ""
        named = f"{kid} {origin} {upstream} {','.join(sorted(proofs))}{told} {added}"
        key = (sid, subject.id, named, max((p.at for p in proofs.values()), default=0.0))
        kept = self._kept.get(key)
        if holder is not None and kept is not None and now < kept[1]:
            return kept
        said = {
            **(claims or {}),
            "iss": origin,
            "aud": upstream,
            "sub": subject.id,
            "jti": self._entropy.token()[:22],
            "sid": sid,
            **authentication(proofs, self._steps(), oldest=self._challenged(upstream)),
            **({"results": results} if results else {}),
        }
        token = sign(TokenKind.UPSTREAM, said, keyring=self._keyring(), now=now, ttl=self._spec.upstream_ttl)
        self._kept[key] = token, now + self._spec.upstream_ttl * 2 / 3
        if len(self._kept) > MOST_CACHED:
            self._kept.popitem(last=False)
        return self._kept[key]

    def _results(self, holder: Pass | None, proofs: Mapping[str, Proof]) -> dict[str, Scalar]:
        """What the steps that were proved have set, as the pass holds it."""
        steps = self._steps()
        names = {claim for step in proofs if step in steps for claim in steps[step].claims}
        return {} if holder is None else {name: value for name, value in holder.subject.claims.items() if name in names}

    def new_sid(self) -> str:
        """128 random bits, base64url."""
        return self._entropy.token()[:22]

    def pass_value(self, held: Pass, now: float) -> str | None:
        """The cookie's value, or None when the pass does not fit its 2 KiB."""
        return sign_pass(held, self._vault, now)
