"""Who a request is from, as an identity source saw it, and what they proved. `NOBODY` is a subject too: id is ""."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field

Scalar = str | int | float | bool | None


@dataclass(frozen=True, slots=True)
class Subject:
    """`id` is "" for nobody; `claims` holds what the source declared (None until known); `source` its name."""

    id: str = ""
    claims: Mapping[str, Scalar] = field(default_factory=dict)
    source: str = ""

    @property
    def known(self) -> bool:
        return self.id != ""

    @property
    def counter(self) -> str:
        """One spelling for counters, whatever the spelling of the user name (NFKC, case-folded, trimmed)."""
        return unicodedata.normalize("NFKC", self.id).strip().casefold()


NOBODY = Subject()


@dataclass(frozen=True, slots=True)
class Proof:
    """A step that was done: when (seconds since the epoch) and how (RFC 8176 `amr` values). edition: of what was asked (see StepInfo)."""

    step: str
    at: float
    amr: tuple[str, ...] = ()
    edition: str = ""
