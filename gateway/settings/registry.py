"""What the settings must know of steps, identity sources and stores. gateway/app fills it in; nothing here imports a step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from gateway.spec.base import Spec

Check = Callable[[str], str | None]
"""A URL to what is wrong with it, or None."""


@dataclass(frozen=True, slots=True)
class StepKind:
    """config: the shape of an entry under `steps:`, without `kind`. It may have a property `needs_mail: bool`, and a mapping
    `claims` whose keys are claims that the step sets, or a property `sets` that names them; and an `acr`.
    needs_subject: whether a step so configured can be asked of somebody only."""

    config: type[Spec]
    needs_subject: Callable[[Spec], bool]


@runtime_checkable
class IdentityConfig(Protocol):
    """What the shape of an entry under `identity:` must offer, without `from`. `upstream` is None for a source of all upstreams."""

    @property
    def upstream(self) -> str | None: ...

    def login_paths(self) -> frozenset[str]:
        """Exact paths of its login and logout; empty where it has none."""

    def claim_names(self) -> frozenset[str]:
        """Claims that it declares."""


@dataclass(frozen=True, slots=True)
class Registry:
    """By `kind` and by `from`. check_state, check_records: for the URLs under `stores:`; they open nothing.

    records: names that `record.…` may have in conditions; None = any.
    """

    steps: Mapping[str, StepKind]
    identity: Mapping[str, type[Spec]]
    check_state: Check
    check_records: Check
    records: frozenset[str] | None = None
