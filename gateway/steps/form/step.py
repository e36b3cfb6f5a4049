"""form: a few details that a user gives once. Proves nothing about who somebody is; needs a subject, whose they are.

Answers are kept in the records, sealed, by subject and source. Whoever has answered all that is required is not asked again;
where something new is, the form comes back with what is known filled in. Memory: `typed`, what was sent and could not be taken, so that
nothing is typed twice.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, ClassVar

from gateway.errors import Conflict, SealBroken, StoreUnavailable
from gateway.flow.ports import Vault
from gateway.flow.step import Context, Field, Outcome, Passed, Refused, Services, View
from gateway.spec.base import Spec
from gateway.steps import kept
from gateway.steps.form.answers import Wrong, judge, kept_back, written
from gateway.steps.form.config import FieldSpec, FormConfig
from gateway.steps.forms import text
from gateway.wire.subject import Scalar, Subject

KIND = "form"
PURPOSE = "form"
TRIES = 5


@dataclass(frozen=True, slots=True)
class Known:
    """What the record holds that still fits its field. at: when it was last answered. version: of the record, 0 for none."""

    answers: Mapping[str, Scalar] = field(default_factory=dict)
    at: float = 0.0
    version: int = 0
    answered: bool = False


class Form:
    """The fields of the settings, by their names. `step.data`: the form's text, and which answers are known already."""

    kind: ClassVar[str] = "form"
    Config: ClassVar[type[Spec]] = FormConfig
    proves_identity: ClassVar[bool] = False
    free_actions: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, name: str, config: FormConfig, services: Services) -> None:
        self._name = name
        self._config = config
        self._records = services.records
        self._vault: Vault = services.vault

    @classmethod
    def build(cls, name: str, config: FormConfig, services: Services) -> Form:
        return cls(name, config, services)

    @property
    def needs_subject(self) -> bool:
        return True

    async def begin(self, context: Context) -> View:
        config = self._config
        known = await self._load(context.subject) if context.subject.known else Known()
        typed: Mapping[str, str] = context.memory.get("typed", {})
        fields = tuple(_shown(f, typed.get(f.name, written(known.answers.get(f.name)))) for f in config.fields)
        return View(
            title=config.title,
            lead=config.lead,
            fields=fields,
            memory=context.memory,
            data={"text": config.text, "known": sorted(known.answers)},
            page={"submit": config.submit},
        )

    async def answer(self, context: Context, form: Mapping[str, str]) -> Outcome:
        if text(form, "action"):
            public = "That is not possible here. Please fill in the form."
            return Refused("unknown_action", public, "form: action not open", context.memory, counts=False)
        if not context.subject.known:
            return Refused("no_subject", "Please sign in first.", "form: nobody to keep it for", context.memory, counts=False)
        known = await self._load(context.subject)
        answers: dict[str, Scalar] = {}
        wrong: dict[str, Wrong] = {}
        for spec in self._config.fields:
            # A form of HTML leaves out boxes that are not ticked, and nothing else: what else is missing stays as it was.
            absent = "" if spec.type == "checkbox" else written(known.answers.get(spec.name))
            judged = judge(spec, text(form, spec.name) if spec.name in form else absent)
            if isinstance(judged, Wrong):
                wrong[spec.name] = judged
            else:
                answers[spec.name] = judged
        if wrong:
            return self._refused(form, wrong)
        await self._keep(context, known, answers)
        return self._passed(answers, context.now, "form: answered " + ", ".join(sorted(k for k, v in answers.items() if v is not None)))

    async def already(self, subject: Subject, now: float) -> Passed | None:  # noqa: ARG002 - answers do not grow old
        """See flow.step.Remembers. All that is required now was answered, and fits."""
        known = await self._load(subject)
        complete = known.answered and all(not isinstance(judge(f, written(known.answers.get(f.name))), Wrong) for f in self._config.fields)
        return self._passed(known.answers, known.at, "") if complete else None

    async def record(self, subject: Subject) -> Mapping[str, Any] | None:
        """See flow.step.Keeps."""
        known = await self._load(subject)
        if not known.answered:
            return None
        named = {f.name: known.answers.get(f.name) for f in self._config.fields}
        return {**named, "at": datetime.fromtimestamp(known.at, UTC)}

    def _refused(self, form: Mapping[str, str], wrong: Mapping[str, Wrong]) -> Refused:
        """There is nothing to guess here: no answer counts against anybody."""
        first, said = next(iter(wrong.items()))
        code = "missing" if all(w.missing for w in wrong.values()) else "invalid"
        # What is not in the form was not changed: an unticked box is "", and stays so.
        typed = {f.name: kept_back(text(form, f.name)) for f in self._config.fields if f.name in form or f.type == "checkbox"}
        private = f"form: not taken: {', '.join(wrong)}"
        errors = {name: w.public for name, w in wrong.items()}
        return Refused(code, said.public, private, {"typed": typed}, first, counts=False, errors=errors)

    def _passed(self, answers: Mapping[str, Scalar], at: float, private: str) -> Passed:
        claims = {claim: answers.get(name) for claim, name in self._config.claims.items()}
        return Passed((), claims, at=at, edition=self._config.edition, private=private)

    async def _keep(self, context: Context, known: Known, answers: Mapping[str, Scalar]) -> None:
        """Of two that are sent at the same time the later one counts. What the form asks for no more is forgotten."""
        owner, name = kept.owner(context.subject), kept.name(context.subject, self._name)
        plain = json.dumps({"answers": dict(answers), "at": context.now}).encode("ascii")
        sealed = self._vault.seal(PURPOSE, plain, place=f"{KIND}/{owner}/{name}")
        for _ in range(TRIES):
            try:
                await self._records.put(KIND, owner, name, sealed, version=known.version, now=context.now)
            except Conflict:
                known = await self._load(context.subject)
                if known.answers == {name: value for name, value in answers.items() if value is not None}:
                    return  # the very same, sent twice
            else:
                return
        raise StoreUnavailable("a record of answers is being written over and over")

    async def _load(self, subject: Subject) -> Known:
        owner, name = kept.owner(subject), kept.name(subject, self._name)
        entry = await self._records.get(KIND, owner, name)
        if entry is None:
            return Known()
        try:
            stored = json.loads(self._vault.open(PURPOSE, entry.value, place=f"{KIND}/{owner}/{name}"))
        except SealBroken:  # of a key that is gone: asked anew, and written over
            return Known(version=entry.version)
        answers = {f.name: value for f in self._config.fields if (value := _fitting(f, stored["answers"].get(f.name))) is not None}
        return Known(answers, stored["at"], entry.version, answered=True)


def _fitting(spec: FieldSpec, value: Scalar) -> Scalar:
    """An answer, if it is one to the field as it is asked for now."""
    if value is None or (isinstance(value, bool) and spec.type != "checkbox"):
        return None
    judged = judge(spec.model_copy(update={"required": False}), written(value))
    return None if isinstance(judged, Wrong) else judged


def _shown(spec: FieldSpec, value: str) -> Field:
    return Field(
        spec.name,
        spec.type,
        spec.label,
        required=spec.required,
        autocomplete=spec.autocomplete,
        inputmode={"number": "decimal" if spec.decimals else "numeric"}.get(spec.type),
        help=spec.help,
        choices=spec.options or None,
        value=value or None,
        pattern=spec.pattern,
        max_length=spec.max_length,
        min=spec.min,
        max=spec.max,
        step=str(10.0**-spec.decimals) if spec.type == "number" and spec.decimals else None,
    )
