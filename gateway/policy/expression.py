"""`when`: conditions in CEL. Evaluated over values only; an error is an outcome, never an exception.

`request.path` and `request.method` have readings like the keys of a match: for `require` and `deny` the condition is met if it is true for
any of them, for `allow` if it is true for all. What a text does not depend on is never asked for: CEL's `&&` and `||` tell whether the
outcome is certain without the part that is missing.

Types: `now` is a timestamp (UTC); `pass.age` and `pass.steps.<name>` are seconds or null; `request.ip` is text with a method
`.in_network("10.0.0.0/8")`; `request.query` and `request.form` hold text, or a list of texts where a name stands more than once;
`request.headers` has lower-case names, fields of one name joined by ", ".
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from itertools import product
from typing import Any, Final

import cel

from gateway.policy.decision import Need
from gateway.policy.facts import Body, Facts, RecordUnavailable
from gateway.policy.network import Network, parse_address, parse_network, within
from gateway.policy.references import ExpressionError, Reference, Vocabulary, rewrite
from gateway.policy.view import View


@dataclass(frozen=True, slots=True)
class Met:
    """The condition holds, or does not."""

    value: bool


@dataclass(frozen=True, slots=True)
class Lacks:
    """It hangs on something that nobody has gathered yet."""

    need: Need


@dataclass(frozen=True, slots=True)
class Broken:
    """It cannot be evaluated for this request. `reason` holds nothing that the client sent. away: for want of a store, and only for now."""

    reason: str
    away: bool = False


Outcome = Met | Lacks | Broken

MAX_LENGTH: Final = 4096


@dataclass(slots=True)
class _Situation:
    """What one request gives an expression. known: variable to value. varied: the readings of each that has several; {} is an unknown one.

    body, records: what could still be gathered. lost: something can never be had. away: a store is, so a record cannot be read now.
    """

    known: dict[str, Any] = field(default_factory=dict)
    varied: list[list[dict[str, str]]] = field(default_factory=list)
    body: bool = False
    records: set[str] = field(default_factory=set)
    lost: bool = False
    away: bool = False


@dataclass(frozen=True, slots=True)
class Expression:
    """source: as written. uses: what it looks at: "path", "method", "form", "json", "subject", "pass", "record:<name>", …

    references: its variables. claims: what sources declare. program: compiled by the library.
    """

    source: str
    uses: frozenset[str]
    references: tuple[tuple[str, Reference], ...]
    claims: frozenset[str]
    program: Any

    def evaluate(self, view: View, facts: Facts, now: float, *, every: bool) -> Outcome:
        """every: whether the condition must be true for all readings (`allow`) or for one (`require`, `deny`).

        A body that cannot be had counts as met where one reading is enough, as not met where all must be true.
        """
        situation = self._situation(view, facts, now, every=every)
        results = [self._run(situation.known, readings) for readings in product(*situation.varied)]
        if any(result.value is not every for result in results if isinstance(result, Met)):
            return Met(not every)
        broken = next((result for result in results if isinstance(result, Broken)), None)
        if broken is None:
            return Met(every)
        if situation.body or situation.records:
            return Lacks(Need(body=situation.body, records=frozenset(situation.records)))
        if situation.away:
            return Broken("a record cannot be read: the store is away", away=True)
        return Met(not every) if situation.lost else broken

    def _run(self, known: Mapping[str, Any], readings: Iterable[Mapping[str, str]]) -> Met | Broken:
        variables = dict(known)
        for reading in readings:
            variables |= reading
        try:
            result = self.program.execute(cel.Context(variables=variables, functions=_FUNCTIONS))
        except Exception as error:  # noqa: BLE001 - whatever the library makes of a client's values, it is an outcome
            return Broken(next(reason for kind, reason in _REASONS if isinstance(error, kind)))
        return Met(result) if isinstance(result, bool) else Broken("it is neither true nor false")

    def _situation(self, view: View, facts: Facts, now: float, *, every: bool) -> _Situation:
        found = _Situation()
        for variable, reference in self.references:
            match reference.root, reference.field:
                case "request", "path":
                    paths = view.paths if every else (*view.paths, *view.folded_paths)
                    found.varied.append([{variable: _text(path)} for path in paths])
                case "request", "method":
                    found.varied.append([{variable: method} for method in view.methods])
                    if view.override != "known":  # one more, that nobody knows
                        found.varied[-1].append({})
                        found.body |= view.override == "unread"
                        found.lost |= view.override == "unreadable"
                case "request", "form" | "json":
                    if isinstance(view.body, Body):
                        content = (view.body.form or {}) if reference.field == "form" else view.body.json
                        found.known[variable] = _entry(content, reference.name)
                    else:
                        found.body |= view.body is None
                        found.lost |= view.body is not None
                case "record", _:
                    name = reference.name or ""
                    if name not in facts.records:
                        found.records.add(name)
                    elif isinstance(value := facts.records[name], RecordUnavailable):
                        found.away = True
                    else:
                        found.known[variable] = _entry(value, reference.field or None)
                case _:
                    found.known[variable] = self._value(reference, view, facts, now)
        return found

    def _value(self, reference: Reference, view: View, facts: Facts, now: float) -> Any:
        """Of what is always known."""
        match reference.root, reference.field:
            case "request", "host":
                return view.head.host
            case "request", "ip":
                return view.head.client_ip
            case "request", "protocol":
                return facts.call
            case "request", "headers":
                return _entry({name: ", ".join(values) for name, values in view.header[0].items()}, reference.name)
            case "request", "query":
                return _entry(
                    {name: list(values) if len(values) > 1 else values[0] for name, values in view.query[0].items()}, reference.name
                )
            case "subject", "id":
                return facts.subject.id
            case "subject", "source":
                return facts.subject.source
            case "subject", "claims":
                return _entry(dict.fromkeys(self.claims) | dict(facts.subject.claims), reference.name)
            case "pass", "age":
                return None if facts.pass_issued is None else now - facts.pass_issued
            case "pass", "steps":
                return _entry({proof.step: now - proof.at for proof in (*facts.proofs.values(), *facts.granted.values())}, reference.name)
            case _:
                return datetime.fromtimestamp(now, UTC)


def compile_expression(
    source: str,
    *,
    claims: frozenset[str],
    records: Mapping[str, frozenset[str] | None] | None = None,
    steps: frozenset[str] | None = None,
) -> Expression:
    """Compile a condition. claims, records (each with its entries), steps: the names that are declared; None = not known, any will do.
    Raises ExpressionError."""
    if len(source) > MAX_LENGTH:
        raise ExpressionError(f"a condition has at most {MAX_LENGTH} characters", MAX_LENGTH)
    try:
        cel.compile(source)
    except ValueError as error:
        raise _syntax_error(source, str(error)) from None
    rewritten = rewrite(source, Vocabulary(claims, records, steps))
    references = tuple(rewritten.references.items())
    program = cel.compile(rewritten.text)
    if (kind := _no_condition(program, references)) is not None:
        raise ExpressionError(f"gives {kind}, where true or false is needed: compare it with something", 0)
    return Expression(source, frozenset(_use(reference) for _, reference in references), references, claims, program)


def _no_condition(program: Any, references: Iterable[tuple[str, Reference]]) -> str | None:
    """What an expression gives that can be no condition, tried on a request of which only the certain is known; None where it may be one.
    What is null there may be true or false elsewhere, and so may what fails."""
    known = {variable: _CERTAIN.get((reference.root, reference.field)) for variable, reference in references}
    try:
        result = program.execute(cel.Context(variables=known, functions=_FUNCTIONS))
    except Exception:  # noqa: BLE001 - as in Expression._run
        return None
    if result is None or isinstance(result, bool):
        return None
    return next((name for kind, name in _KINDS if isinstance(result, kind)), "a value")


def _use(reference: Reference) -> str:
    match reference.root:
        case "request":
            return reference.field
        case "record":
            return f"record:{reference.name}"
        case _:
            return reference.root


_PLACE: Final = re.compile(r"ERROR: <input>:(\d+):(\d+): (Syntax error: )?(.*)")
_EXPECTING: Final = re.compile(r" expecting .*")
_OFFENDER: Final = re.compile(r"(?:mismatched|extraneous) input '(.*)'|no viable alternative at input '(.*)'")


def _syntax_error(source: str, message: str) -> ExpressionError:
    """The library says `ERROR: <input>:LINE:COLUMN: …` for every mistake, counted from 1, the most telling ones as syntax errors."""
    found = _PLACE.findall(message)
    if not found:
        return ExpressionError("is not CEL", 0)
    line, column, _, text = next((each for each in found if each[2]), found[0])
    lines = source.split("\n")[: int(line) - 1]
    text = _EXPECTING.sub("", text)
    if offender := _OFFENDER.fullmatch(text):
        unexpected = offender[1] or offender[2]
        text = "the condition ends too early" if unexpected == "<EOF>" else f"unexpected `{unexpected}`"
    elif text.startswith("token recognition error at: "):
        text = f"cannot read {text.removeprefix('token recognition error at: ')}"
    return ExpressionError(text, min(sum(map(len, lines)) + len(lines) + int(column) - 1, len(source)))


def _entry(content: Any, name: str | None) -> Any:
    """A whole map, or an entry of it; null where there is none."""
    if name is None:
        return content
    return content.get(name) if isinstance(content, Mapping) else None


def _text(path: str) -> str:
    """Bytes of a path that are no UTF-8 become U+FFFD: CEL knows whole characters only."""
    return path if path.isascii() else path.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _in_network(address: Any, network: Any) -> bool | None:
    """`address.in_network("10.0.0.0/8")`. Null, so an error for whatever uses it, where one of them is not what it should be."""
    found, known = parse_address(address) if isinstance(address, str) else None, _network(network) if isinstance(network, str) else None
    return within(found, known) if found and known else None


@lru_cache(maxsize=1024)
def _network(text: str) -> Network | None:
    try:
        return parse_network(text)
    except ValueError:
        return None


_CERTAIN: Final[Mapping[tuple[str, str], Any]] = {
    ("request", "method"): "GET",
    ("request", "host"): "host.example",
    ("request", "path"): "/",
    ("request", "ip"): "192.0.2.1",
    ("request", "protocol"): "http",
    ("subject", "id"): "somebody",
    ("subject", "source"): "header",
    ("now", ""): datetime(2026, 1, 1, tzinfo=UTC),
}
_KINDS: Final[tuple[tuple[type | tuple[type, ...], str], ...]] = (
    (str, "text"), ((int, float), "a number"), (datetime, "a time"), ((list, tuple), "a list"), (Mapping, "a map"),
)  # fmt: skip
_FUNCTIONS: Final[dict[str, Callable[..., Any]]] = {"in_network": _in_network}
_REASONS: Final[tuple[tuple[type[Exception], str], ...]] = (
    (KeyError, "a key or field is missing"),
    (IndexError, "an index is out of range"),
    (TypeError, "an operation does not fit the types of its values"),
    (ArithmeticError, "a division by zero, or a number out of range"),
    (ValueError, "a value cannot be converted"),
    (RuntimeError, "a function does not take its arguments"),
    (Exception, "it cannot be evaluated"),
)
