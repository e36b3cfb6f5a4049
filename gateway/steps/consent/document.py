"""A document as it is shown and as it is proved."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Document:
    """title: the heading at its top, "" for none; it is not in `html`. text: as written. sha256: of the file's bytes, hex."""

    title: str
    html: str
    text: str
    sha256: str
