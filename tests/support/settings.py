"""A registry of its own for tests of the settings: two kinds of step, one identity source, stores by scheme."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from gateway.settings.load import Loaded, load
from gateway.settings.mistakes import Problems
from gateway.settings.registry import Registry, StepKind
from gateway.spec.base import Duration, Int, Many, Spec


class QuizConfig(Spec):
    """A step that anybody can be asked."""

    level: Int = Field(1, ge=1, le=5, description="How hard it is.")
    ttl: Duration = Field(300.0, le=3600, description="How long it may take.")


class MailedConfig(Spec):
    """A step that sends mail and sets claims."""

    kind: Literal["mailed"] = Field("mailed", description="Names this kind of step.")
    methods: Many[Literal["letter", "postcard"]] = Field(("letter",), min_length=1, description="Ways to send it.")
    to: str | None = Field(None, min_length=3, description="Address.")
    claims: dict[str, str | int | bool | None] = Field({}, description="Claims that hold afterwards.")

    @model_validator(mode="after")
    def _addressed(self) -> MailedConfig:
        if self.to is None and "letter" in self.methods:
            raise ValueError("letters need `to`")
        return self

    @property
    def needs_mail(self) -> bool:
        return True


class ReadFrom(Spec):
    """Where a claim is read."""

    cookie: str = Field(description="A cookie.")


class WatchedForm(Spec):
    """`from: watched_form`"""

    upstream: str | None = Field(None, description="The upstream.")
    path: str = Field(pattern="^/", description="The login.")
    claims: dict[str, ReadFrom] = Field({}, description="Claims by name.")

    def login_paths(self) -> frozenset[str]:
        return frozenset({self.path})

    def claim_names(self) -> frozenset[str]:
        return frozenset(self.claims)


def check_store(url: str) -> str | None:
    return None if url.startswith("sqlite:///") else f'no store "{url}"'


REGISTRY = Registry(
    steps={
        "quiz": StepKind(QuizConfig, lambda _: False),
        "mailed": StepKind(MailedConfig, lambda _: True),
    },
    identity={"watched_form": WatchedForm},
    check_state=check_store,
    check_records=check_store,
    records=frozenset({"terms"}),
)


def loaded(folder: Path, text: str, environ: Mapping[str, str] | None = None) -> Loaded | Problems:
    """Load a text as `gateway.yaml` in a folder."""
    path = folder / "gateway.yaml"
    path.write_text(text)
    return load(path, environ=environ or {}, kinds=REGISTRY)


def mistakes(folder: Path, text: str, environ: Mapping[str, str] | None = None) -> list[str]:
    """What is said about a text, without the folder's name."""
    found = loaded(folder, text, environ)
    return [str(m).replace(f"{folder}/", "") for m in found.mistakes] if isinstance(found, Problems) else []
