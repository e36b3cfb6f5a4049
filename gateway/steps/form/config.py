"""Settings of `kind: form`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import date
from decimal import Decimal
from typing import Annotated, Any, Literal

import re2
from pydantic import BeforeValidator, WithJsonSchema, field_validator, model_validator
from pydantic import Field as Setting

from gateway.flow.step import Choice
from gateway.spec.base import Bool, Int, RecordType, Spec, StepSpec
from gateway.steps.kept import edition

Type = Literal["text", "textarea", "email", "tel", "url", "number", "date", "select", "radio", "checkbox"]
LONGEST: dict[str, int] = {"text": 200, "textarea": 2000, "email": 254, "tel": 40, "url": 2000}
"""Types that take a free text, and the characters they take unless set."""
CHOSEN = ("select", "radio")
BOUNDED = ("number", "date")
RESERVED = frozenset({"action", "at", "stepup_token"})
ALL = 20_000
"""Characters that the fields of one form may hold together: an answer is at most 64 KiB, and a letter up to 9 bytes of it."""
CLAIMED = 200
"""Characters that go into claims: they stand in every pass, and a cookie is small."""


_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_NUMBER = re.compile(r"[+-]?[0-9]{1,15}(?:\.[0-9]{1,9})?")


def _written(value: object) -> object:
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


Bound = Annotated[str, BeforeValidator(_written), WithJsonSchema({"type": ["string", "number"]})]


class ChoiceSpec(Spec):
    """One of several values."""

    value: str = Setting(min_length=1, max_length=200, description="What is kept.")
    label: str = Setting(min_length=1, max_length=200, description="What is shown.")


class FieldSpec(Spec):
    """One field of a form."""

    name: str = Setting(
        pattern=r"^[a-z][a-z0-9_]{0,63}$", description="Name of the answer, as in `record.<step>.<name>`; small letters, digits and `_`."
    )
    type: Type = Setting("text", description="What it takes.")
    label: str = Setting(min_length=1, max_length=200, description="What is asked for.")
    help: str | None = Setting(None, min_length=1, max_length=500, description="A sentence below the label.")
    required: Bool = Setting(False, description="It must be filled in, chosen or ticked.")
    pattern: str | None = Setting(None, description="A regular expression (RE2) that the whole of a text must match.")
    mistake: str | None = Setting(None, min_length=1, max_length=300, description="What is said of a text that does not match `pattern`.")
    choices: tuple[str | ChoiceSpec, ...] = Setting((), max_length=300, description="Of `select` and `radio`: values, or `{value, label}`.")
    max_length: Int | None = Setting(None, ge=1, le=ALL, description="Characters at most; 200, or what suits the type, unless set.")
    min: Bound | None = Setting(None, description="Least number, or earliest date.")
    max: Bound | None = Setting(None, description="Largest number, or latest date.")
    decimals: Int = Setting(0, ge=0, le=6, description="Digits behind the point of a `number`.")
    autocomplete: str | None = Setting(
        None,
        pattern=r"^[a-z][a-z0-9 -]{0,99}$",
        description="What browsers may fill in, by the words of HTML: `tel`, `bday`, `street-address`.",
    )

    @field_validator("pattern")
    @classmethod
    def _expression(cls, value: str | None) -> str | None:
        if value is not None:
            try:
                expression(value)
            except re2.error as error:
                reason = error.args[0].decode("utf-8", "replace") if isinstance(error.args[0], bytes) else str(error)
                raise ValueError(f"is not a regular expression (RE2): {reason}") from None
        return value

    @model_validator(mode="after")
    def _fitting(self) -> FieldSpec:
        wrong = next(self._unfit(), None)
        if wrong is not None:
            raise ValueError(wrong)
        return self

    def _unfit(self) -> Any:
        kind = self.type
        if self.name in RESERVED:
            yield f'"{self.name}" cannot be the name of a field; take another'
        if (kind in CHOSEN) != bool(self.choices):
            yield "`choices` is missing" if kind in CHOSEN else f"`choices` is for select and radio, not for {kind}"
        values = [choice.value for choice in self.options]
        if len(set(values)) != len(values):
            yield "`choices` names a value twice"
        if kind not in LONGEST and (key := next((k for k in ("pattern", "max_length") if getattr(self, k) is not None), None)):
            yield f"`{key}` is for text that is typed, not for {kind}"
        if self.mistake is not None and self.pattern is None:
            yield "`mistake` goes with `pattern`"
        if self.decimals and kind != "number":
            yield f"`decimals` is for number, not for {kind}"
        bounds = [bound for bound in (self.min, self.max) if bound is not None]
        if bounds and kind not in BOUNDED:
            yield f"`min` and `max` are for number and date, not for {kind}"
        try:
            read = [comparable(kind, bound) for bound in bounds]
        except ValueError:
            yield "`min` and `max` of a date are written 2026-11-23" if kind == "date" else "`min` and `max` are numbers"
        else:
            if len(read) == 2 and read[0] > read[1]:
                yield "`min` is above `max`"

    @property
    def options(self) -> tuple[Choice, ...]:
        return tuple(Choice(c, c) if isinstance(c, str) else Choice(c.value, c.label) for c in self.choices)

    @property
    def longest(self) -> int:
        """Characters at most, of whatever is typed here."""
        return self.max_length or LONGEST.get(self.type) or max([40, *(len(choice.value) for choice in self.options)])


class FormConfig(StepSpec):
    """Settings of `kind: form`."""

    title: str = Setting("A few details about you", min_length=1, max_length=200, description="The page's heading.")
    lead: str = Setting(
        "You are asked for this once. Then you go on to where you were going.", min_length=1, description="What stands below it."
    )
    text: str | None = Setting(None, min_length=1, max_length=4000, description="Why it is asked, or what becomes of it; plain text.")
    submit: str = Setting("Continue", min_length=1, max_length=60, description="What the button says.")
    fields: tuple[FieldSpec, ...] = Setting(min_length=1, max_length=50, description="What is asked for, in this order.")
    claims: dict[str, str] = Setting(default_factory=dict, description="Claims by name, and the fields that they come from.")

    @model_validator(mode="after")
    def _whole(self) -> FormConfig:
        names = [field.name for field in self.fields]
        twice = next((name for position, name in enumerate(names) if name in names[:position]), None)
        if twice is not None:
            raise ValueError(f'two fields are named "{twice}"')
        if sum(field.longest for field in self.fields) > ALL:
            raise ValueError(f"the fields together may hold {ALL} characters; set `max_length` where less will do")
        for claim, name in self.claims.items():
            if name not in names:
                raise ValueError(f'the claim "{claim}" is of no field here; there are {", ".join(names)}')
        if self.claimed > CLAIMED:
            raise ValueError(
                f"the fields that go into claims may hold {CLAIMED} characters together, for they stand in a cookie; set their `max_length`"
            )
        return self

    @property
    def claimed(self) -> int:
        """Characters that its claims may put into a pass."""
        return sum(field.longest for field in self.fields if field.name in self.claims.values())

    @property
    def needs_subject(self) -> bool:
        """Answers are somebody's."""
        return True

    @property
    def edition(self) -> str:
        """Another one with whatever could make an answer from before incomplete."""
        return edition(*(field.model_dump_json(exclude={"label", "help", "mistake", "autocomplete"}) for field in self.fields))

    @property
    def record_fields(self) -> Mapping[str, RecordType]:
        kinds: dict[str, RecordType] = {"number": "number", "checkbox": "boolean"}
        return {**{field.name: kinds.get(field.type, "text") for field in self.fields}, "at": "time"}


def expression(pattern: str) -> Any:
    """Compiled. Raises re2.error."""
    options = re2.Options()
    options.log_errors = False
    options.never_capture = True
    return re2.compile(pattern, options)


def comparable(kind: str, text: str) -> Any:
    """A number or a date, as people write them; both libraries know more spellings. Raises ValueError."""
    if not (_DATE if kind == "date" else _NUMBER).fullmatch(text):
        raise ValueError("no number, or no date")
    return date.fromisoformat(text) if kind == "date" else Decimal(text)
