"""Settings of `kind: consent`."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import Field as Setting
from pydantic import PrivateAttr, field_validator

from gateway.spec.base import Bool, RecordType, Spec, StepSpec, TextMistake
from gateway.steps.consent.document import Document
from gateway.steps.kept import edition


class DeclineSpec(Spec):
    """What follows where the user does not accept."""

    to: str = Setting(description="Where refusing leads: a path of the application, or a URL.")

    @field_validator("to")
    @classmethod
    def _place(cls, value: str) -> str:
        parts = urlsplit(value)
        local = value.startswith("/") and value[:2] not in ("//", "/\\")
        if not (local or (parts.scheme in ("http", "https") and parts.hostname)) or not value.isascii() or not value.isprintable():
            raise ValueError("is neither a path nor a URL; write /goodbye or https://…")
        return value


class ConsentConfig(StepSpec):
    """Settings of `kind: consent`."""

    document: str = Setting(min_length=1, description="The Markdown file that is shown. A `# heading` at its top becomes the page's.")
    version: str = Setting(
        min_length=1, max_length=64, description="Name of this version; another one is asked again of everybody. Not read out of the file."
    )
    title: str | None = Setting(None, min_length=1, max_length=200, description="The page's heading, in place of the document's own.")
    lead: str = Setting("Please read this. To go on, you have to accept it.", min_length=1, description="What stands above the document.")
    accept: str = Setting("Accept", min_length=1, max_length=60, description="What the button says that accepts.")
    refuse: str = Setting("Do not accept", min_length=1, max_length=60, description="What the button says that refuses.")
    decline: DeclineSpec | None = Setting(None, description="What follows a refusal; a page of ours, with a way back, unless set.")
    needs_subject: Bool = Setting(
        True, description="Somebody must be logged in. `false` asks nobody in particular too; that answer lasts as long as the pass."
    )
    claims: dict[str, Literal["version", "sha256", "at"]] = Setting(
        default_factory=dict, description="Claims by name, and what of the record they hold: `version`, `sha256` or `at`."
    )
    _read: Document | None = PrivateAttr(None)

    @property
    def read(self) -> Document:
        """The document. Raises ValueError where `with_document` was not called."""
        if self._read is None:
            raise ValueError("the document was not read")
        return self._read

    def with_document(self, data: bytes) -> Spec | tuple[TextMistake, ...]:
        """See settings.registry.NamesDocument."""
        render: Any = import_module("gateway.steps.consent.render")
        made = render.render(data)
        if not isinstance(made, Document):
            return tuple(made)
        copy = self.model_copy()
        copy._read = made  # noqa: SLF001 - our own
        return copy

    @property
    def edition(self) -> str:
        return edition(self.version)

    @property
    def record_fields(self) -> Mapping[str, RecordType]:
        return {"accepted": "boolean", "version": "text", "sha256": "text", "at": "time"}
