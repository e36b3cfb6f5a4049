"""What the settings must know of steps, identity sources and stores. gateway/app fills it in; nothing here imports a step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from gateway.spec.base import RecordType, Spec, TextMistake

Check = Callable[[str], str | None]
"""A URL to what is wrong with it, or None."""


@dataclass(frozen=True, slots=True)
class StepKind:
    """config: the shape of an entry under `steps:`, without `kind`. It may have a property `needs_mail: bool`, a property `edition: str`
    (see StepInfo), a mapping `claims` whose keys are claims that the step sets, or a property `sets` that names them; an `acr`; and be a
    `KeepsRecord` or a `NamesDocument`.
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


@runtime_checkable
class KeepsRecord(Protocol):
    """What the shape of a step must offer that keeps a record of each subject, under its own name."""

    @property
    def record_fields(self) -> Mapping[str, RecordType]:
        """What `record.<step>.…` may be in conditions, and of which type."""


@runtime_checkable
class NamesDocument(Protocol):
    """What the shape of a step must offer that shows a document."""

    @property
    def document(self) -> str:
        """The file; a relative path starts at the file that names it."""

    def with_document(self, data: bytes) -> Spec | tuple[TextMistake, ...]:
        """The settings with the document in them, or all that is wrong with it."""


@dataclass(frozen=True, slots=True)
class Registry:
    """By `kind` and by `from`. check_state, check_records: for the URLs under `stores:`; they open nothing.

    records: names that `record.…` may have in conditions beside those of steps; None = any.
    """

    steps: Mapping[str, StepKind]
    identity: Mapping[str, type[Spec]]
    check_state: Check
    check_records: Check
    records: frozenset[str] | None = None
