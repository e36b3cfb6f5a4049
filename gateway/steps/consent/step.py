"""consent: a document that must be accepted, each version of it once. Proves nothing about who somebody is.

What was accepted is kept in the records, by subject and source: version, SHA-256 of the file, time and address, and that of
earlier versions too. It is evidence, so it is not sealed: it must be readable when keys are long gone. Nobody in particular has no record;
that answer lasts as long as the pass. Memory: `sha256` of what was shown; only what was shown can be accepted.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, ClassVar
from urllib.parse import urlsplit

from gateway.errors import Conflict, StoreUnavailable
from gateway.flow.step import Choice, Context, Declined, Field, Outcome, Passed, Refused, Services, View
from gateway.spec.base import Spec
from gateway.steps import kept
from gateway.steps.consent.config import ConsentConfig
from gateway.steps.forms import text
from gateway.wire.subject import Scalar, Subject

KIND = "consent"
MOST_KEPT = 100
"""Versions that one subject's record remembers; the oldest are in the audit trail."""
TRIES = 5
SAME = 60.0
"""Seconds within which the same text accepted once more is one answer, of two tabs or a double click."""


class Consent:
    """Field `accept`: `yes` or `no`. `step.data`: version, sha256, and the document as `html` and as `text` (Markdown)."""

    kind: ClassVar[str] = "consent"
    Config: ClassVar[type[Spec]] = ConsentConfig
    proves_identity: ClassVar[bool] = False
    free_actions: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, name: str, config: ConsentConfig, services: Services) -> None:
        self._name = name
        self._config = config
        self._records = services.records
        self._document = config.read

    @classmethod
    def build(cls, name: str, config: ConsentConfig, services: Services) -> Consent:
        return cls(name, config, services)

    @property
    def needs_subject(self) -> bool:
        return self._config.needs_subject

    async def begin(self, context: Context) -> View:  # noqa: ARG002 - the same for everybody
        config, document = self._config, self._document
        choices = (Choice("yes", config.accept), Choice("no", config.refuse))
        to = config.decline.to if config.decline is not None else ""
        parts = urlsplit(to)
        return View(
            title=config.title or document.title or "Please read and accept this",
            lead=config.lead,
            fields=(Field("accept", "radio", "Your answer", choices=choices),),
            memory={"sha256": document.sha256},
            data={"version": config.version, "sha256": document.sha256, "html": document.html, "text": document.text},
            next_origins=(f"{parts.scheme}://{parts.netloc}",) if parts.netloc else (),
        )

    async def answer(self, context: Context, form: Mapping[str, str]) -> Outcome:
        config, document = self._config, self._document
        if text(form, "action"):
            public = "That is not possible here. Please accept, or do not accept."
            return self._refused(context, "unknown_action", public, "action not open")
        said = text(form, "accept").strip()
        if said not in ("yes", "no"):
            code = "invalid" if said else "missing"
            return self._refused(context, code, "Please accept, or do not accept.", "neither yes nor no", "accept")
        if config.needs_subject and not context.subject.known:
            return self._refused(context, "no_subject", "Please sign in first.", "nobody to keep it for")
        # A page says which text it shows: another tab may have been shown a newer one meanwhile.
        if {context.memory.get("sha256"), text(form, "sha256") or document.sha256} != {document.sha256}:
            public = "There is a newer text than the one that you were shown. Please read it, and answer once more."
            return self._refused(context, "changed", public, "another text was shown")
        what = f"version {config.version}, sha256 {document.sha256}"
        if said == "no":
            return Declined(f"consent: refused {what}", config.decline.to if config.decline is not None else "")
        entry = {
            "version": config.version, "sha256": document.sha256, "at": context.now, "address": context.client_ip,
            "subject": context.subject.id, "source": context.subject.source, "transaction": context.transaction,
        }  # fmt: skip
        if context.subject.known:
            entry = await self._keep(context, entry)
        return replace(self._passed(entry, f"consent: accepted {what}"), at=context.now)

    async def already(self, subject: Subject, now: float) -> Passed | None:  # noqa: ARG002 - consent does not grow old
        """See flow.step.Remembers."""
        accepted, _ = await self._load(subject)
        entry = next((e for e in reversed(accepted) if e["version"] == self._config.version), None)
        return None if entry is None else self._passed(entry, "")

    async def record(self, subject: Subject) -> Mapping[str, Any] | None:
        """See flow.step.Keeps. What was accepted last."""
        accepted, _ = await self._load(subject)
        if not accepted:
            return None
        last = accepted[-1]
        at = datetime.fromtimestamp(_at(last), UTC)
        return {"accepted": True, "version": last["version"], "sha256": last["sha256"], "at": at}

    async def _keep(self, context: Context, entry: dict[str, Any]) -> dict[str, Any]:
        """Add to the record; the entry that counts. The same text stands there once: with it when it was first accepted, and when last, for
        a rule may want that younger (`max_age`) or for each request."""
        owner, name = kept.owner(context.subject), kept.name(context.subject, self._name)
        for _ in range(TRIES):
            accepted, version = await self._load(context.subject)
            same = next((e for e in accepted if (e["version"], e["sha256"]) == (entry["version"], entry["sha256"])), None)
            if same is not None and entry["at"] - _at(same) < SAME:
                return same
            again = {what: entry[what] for what in ("at", "address", "transaction")}
            kept_now = entry if same is None else {**same, "again": again}
            value = json.dumps({"accepted": [*(e for e in accepted if e is not same), kept_now][-MOST_KEPT:]}).encode("ascii")
            try:
                await self._records.put(KIND, owner, name, value, version=version, now=context.now)
            except Conflict:
                continue
            return kept_now
        raise StoreUnavailable("a record of consent is being written over and over")

    async def _load(self, subject: Subject) -> tuple[list[dict[str, Any]], int]:
        """What was accepted, the latest last, and the version of the record: 0 where there is none."""
        entry = await self._records.get(KIND, kept.owner(subject), kept.name(subject, self._name))
        return ([], 0) if entry is None else (json.loads(entry.value)["accepted"], entry.version)

    def _passed(self, entry: Mapping[str, Any], private: str) -> Passed:
        claims: dict[str, Scalar] = {claim: _at(entry) if what == "at" else entry[what] for claim, what in self._config.claims.items()}
        return Passed((), claims, at=_at(entry), edition=self._config.edition, private=private)

    def _refused(self, context: Context, code: str, public: str, private: str, field: str | None = None) -> Refused:
        """There is nothing to guess here: no answer counts against anybody."""
        return Refused(code, public, f"consent: {private}", context.memory, field, counts=False)


def _at(entry: Mapping[str, Any]) -> float:
    """When it was accepted last."""
    return float(entry.get("again", entry)["at"])
