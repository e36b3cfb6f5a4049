"""Rule functions called without a gateway: a runner with records of its own, and a request to call them for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gateway.errors import Conflict, StoreUnavailable
from gateway.flow.functions import Calling, Occasion
from gateway.flow.identity import Identified
from gateway.flow.ports import AuditEvent, Entry
from gateway.functions.house import House
from gateway.functions.metadata import RecordedMetadata
from gateway.functions.runner import Runner
from gateway.policy.facts import Body, BodyUnavailable, Functions
from gateway.policy.model import Ruleset
from gateway.spec.sections import FunctionsSpec
from gateway.stores.entropy import SystemEntropy
from gateway.tokens.passes import Pass
from gateway.wire.head import RequestHead
from gateway.wire.subject import Proof, Subject
from tests.support.policy import NOW, request, ruleset

ALICE = Subject("alice", {"email": "alice@bank.example.com"}, "login_form")


class PlainVault:
    """Seals nothing: the records are for looking at. Implements flow.ports.Vault."""

    def seal(self, purpose: str, plain: bytes, *, place: str) -> bytes:
        return f"{purpose}|{place}|".encode() + plain

    def open(self, purpose: str, sealed: bytes, *, place: str) -> bytes:
        start = f"{purpose}|{place}|".encode()
        assert sealed.startswith(start)
        return sealed.removeprefix(start)

    def mac(self, purpose: str, data: bytes) -> bytes:
        raise NotImplementedError

    def macs(self, purpose: str, data: bytes) -> tuple[bytes, ...]:
        raise NotImplementedError


@dataclass
class MemoryRecords:
    """Implements flow.ports.Records. meanwhile: called once before each of the next writes. away: every call fails."""

    documents: dict[tuple[str, str, str], Entry] = field(default_factory=dict)
    meanwhile: list[Callable[[], None]] = field(default_factory=list)
    away: bool = False
    reads: int = 0
    writes: int = 0

    async def get(self, kind: str, owner: str, name: str) -> Entry | None:
        self._reach()
        self.reads += 1
        return self.documents.get((kind, owner, name))

    async def put(self, kind: str, owner: str, name: str, value: bytes, *, version: int, now: float) -> int:
        self._reach()
        if self.meanwhile:
            self.meanwhile.pop(0)()
        held = self.documents.get((kind, owner, name))
        if (held.version if held else 0) != version:
            raise Conflict("not at this version")
        self.writes += 1
        self.documents[kind, owner, name] = Entry(value, version + 1)
        return version + 1

    async def delete(self, kind: str, owner: str, name: str) -> None:
        self.documents.pop((kind, owner, name), None)

    async def audit(self, event: AuditEvent) -> None: ...

    async def ping(self) -> None: ...

    async def close(self) -> None: ...

    def _reach(self) -> None:
        if self.away:
            raise StoreUnavailable("the records are away")


@dataclass
class Called:
    """`await it.run(one, two)` runs these functions, as rules r0 and r1."""

    house: House
    records: MemoryRecords = field(default_factory=MemoryRecords)
    spec: FunctionsSpec = field(default_factory=FunctionsSpec)

    async def run(
        self, *functions: Callable[..., Any], rules: Sequence[Mapping[str, Any]] = (), subject: Subject = ALICE,
        head: RequestHead | None = None, body: Body | BodyUnavailable | None = None, occasion: Occasion | None = None,
        granted: Mapping[str, Proof] | None = None, holder: Pass | None = None,
    ) -> Functions:  # fmt: skip
        """rules: more keys of each rule."""
        more = [*rules, *({} for _ in functions[len(rules) :])]
        compiled = ruleset(*({"python": f"f.py:{position}", **keys} for position, keys in enumerate(more)))
        called = Ruleset(
            compiled.rules, compiled.index, compiled.routes, compiled.steps, compiled.logins, compiled.case_insensitive,
            functions={f"f.py:{position}": function for position, function in enumerate(functions)},
        )  # fmt: skip
        runner = Runner(self.house, self.metadata, SystemEntropy(), self.spec)
        identified = Identified(subject, holder, holder)
        calling = Calling(head or request("/x"), body, "bank", identified, granted or {}, occasion or Occasion(), NOW)
        return await runner.run(called.rules, called, calling)

    @property
    def metadata(self) -> RecordedMetadata:
        return RecordedMetadata(self.records, PlainVault())
