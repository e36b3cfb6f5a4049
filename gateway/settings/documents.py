"""Documents that steps show: read with the settings, so that a step never shows half a file, and a mistake is told with its line."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from gateway.settings.entries import StepEntry
from gateway.settings.mistakes import Report, Source
from gateway.settings.places import Document, Mark
from gateway.settings.registry import NamesDocument
from gateway.spec.base import Spec

BEHIND = 1_000_000
"""Mistakes in documents are told behind those in the settings: no configuration has so many files."""


class Reads(Protocol):
    """What keeps account of the files that were read."""

    def contents(self, path: Path, position: int) -> bytes:
        """Raises OSError or ValueError."""


def with_documents(steps: Mapping[str, StepEntry], main: Source, files: Reads, report: Report) -> dict[str, StepEntry]:
    """The steps with their documents read. One whose document is no use is reported and left out."""
    found: dict[str, StepEntry] = {}
    for position, (name, entry) in enumerate(steps.items()):
        if not isinstance(entry.config, NamesDocument):
            found[name] = entry
            continue
        config = _read(entry.config, ("steps", name, "document"), main, files, report, BEHIND + position)
        if config is not None:
            found[name] = replace(entry, config=config)
    return found


def _read(config: NamesDocument, loc: tuple[str, ...], main: Source, files: Reads, report: Report, position: int) -> Spec | None:
    path = main.base / config.document
    try:
        data = files.contents(path, position)
    except (OSError, ValueError) as error:
        report.add(main, loc, f"cannot read {config.document}: {getattr(error, 'strerror', None) or 'no file has such a name'}")
        return None
    made = config.with_document(data)
    if isinstance(made, Spec):
        return made
    source = Source(str(path), path, position, Document("", None))
    for mistake in made:
        report.put(source, Mark(mistake.line, mistake.column), None, mistake.message)
    return None
