"""docs/settings.md, made from the models that check gateway.yaml: what stands there is what is checked."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any, Final, Literal, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from gateway.policy.references import FIELDS, FUNCTIONS, METHODS
from gateway.settings.registry import Registry
from gateway.settings.words import flat
from gateway.spec.base import Address, Bool, Duration, HttpUrl, Int, Many, Network, Origin, PlainPath, Size, format_duration
from gateway.spec.sections import GatewaySpec

_INTRODUCTION: Final = """\
# Settings

<!-- Made from the models that check gateway.yaml. Do not edit; a test compares. -->

Every key of `gateway.yaml`. `gateway check` tells every mistake with its line and column; `gateway schema` prints the JSON Schema for
editors.

* YAML 1.2: only `true` and `false` are booleans; `no`, `on`, dates and `12:30` are text. A key given twice is a mistake.
* Durations are written `250ms`, `30s`, `5m`, `12h`, `7d`; sizes `65536`, `64KiB`, `1MiB`.
* Where a list is taken, a single value stands for a list of one.
* `${NAME}` is replaced by an environment variable and `${file:/run/secrets/name}` by the text of a file, within values, after the YAML was
  read. `$${` is a literal `${`. A variable that is not set is a mistake.
* Relative paths start at the folder of the file that names them.
"""
_CONDITIONS: Final = """\
## Conditions

`when` is an expression in CEL. A name that is absent reads as `null`; `has(…)` says whether it is there. What is unknown is a mistake that
`gateway check` finds.

| name | what |
|---|---|
"""
_MEANINGS: Final[Mapping[str, str]] = {
    "request.method": "The method; an override header or field counts as well.",
    "request.host": "The host, without port.",
    "request.path": "The path. Of several readings of a target, `require` and `deny` are met by any, `allow` by all.",
    "request.ip": 'The client\'s address; `request.ip.in_network("10.0.0.0/8")`.',
    "request.protocol": "`http`, or at OAuth endpoints (`upstreams.<name>.oauth`) what kind of call it is: `oauth2-password`, "
    "`oauth2-refresh-token`, `oauth2-resource-owner`, `oidc-basic-profile`, …",
    "request.query": "Query parameters by name: text, or a list of texts where a name stands more than once.",
    "request.headers": "Header fields by lower-case name; fields of one name are joined by `, `.",
    "request.form": "Fields of a form by name, like `request.query`. Read up to `limits.condition_body`; what is larger counts as met.",
    "request.json": "The JSON document of the body, read likewise.",
    "subject.id": 'The user; `""` for nobody.',
    "subject.source": "The identity source that knows the user.",
    "subject.claims": "Claims that a source or a step declares; `null` until known.",
    "pass.age": "Seconds since the pass was issued; `null` without one.",
    "pass.steps": "Seconds since a step was passed, by the step's name; `null` where it was not.",
    "record": "A record of the subject, by name.",
    "now": "The time, as a timestamp in UTC.",
}
_ALIASES: Final[tuple[tuple[Any, str], ...]] = (
    (Duration, "duration"),
    (Size, "size"),
    (Bool, "`true` or `false`"),
    (Int, "number"),
    (Address, "`host:port`"),
    (Origin, "origin"),
    (HttpUrl, "URL"),
    (Network, "network"),
    (PlainPath, "path"),
)
_PLAIN: Final = {str: "text", int: "number", float: "number", bool: "`true` or `false`"}


def reference(registry: Registry) -> str:
    """The settings reference as Markdown."""
    pages = _Pages()
    lines = [_INTRODUCTION]
    lines += pages.section("gateway.yaml", GatewaySpec, skip=frozenset())
    for section, key, kinds in (
        ("steps", "kind", {name: kind.config for name, kind in registry.steps.items()}),
        ("identity", "from", dict(registry.identity)),
    ):
        for name, model in kinds.items():
            lines += pages.section(f"{section}: {key}: {name}", model, skip=frozenset({key}))
    lines.append(_conditions())
    return "\n".join(lines).rstrip() + "\n"


def _conditions() -> str:
    names = [f"{root}.{name}" for root, fields in FIELDS.items() for name in fields] + ["record", "now"]
    rows = "".join(f"| `{name}` | {_MEANINGS[name]} |\n" for name in names)
    functions = ", ".join(f"`{name}`" for name in sorted(FUNCTIONS))
    methods = ", ".join(f"`{name}`" for name in sorted(METHODS))
    return f"{_CONDITIONS}{rows}\nFunctions: {functions}. Methods: {methods}.\n"


class _Pages:
    """Sections in the order in which they are met. A model that several keys share has one section, where it is met first."""

    def __init__(self) -> None:
        self._headings: dict[type[BaseModel], str] = {}

    def section(self, heading: str, model: type[BaseModel], *, skip: frozenset[str]) -> Iterator[str]:
        self._headings[model] = heading
        below = [(f"{heading}.{key}" if heading != "gateway.yaml" else key, kind) for key, kind in _models(model)]
        fresh = [(name, kind) for name, kind in below if kind not in self._headings]
        for name, kind in fresh:
            self._headings.setdefault(kind, name)
        yield f"## {heading}\n"
        if model.__doc__:
            yield " ".join(model.__doc__.split()) + "\n"
        yield "| key | type | default | meaning |\n|---|---|---|---|"
        for name, field in model.model_fields.items():
            if name not in skip:
                yield f"| `{field.alias or name}` | {self._type(field)} | {_default(field)} | {_cell(field.description or '')} |"
        yield ""
        for name, kind in fresh:
            if self._headings[kind] == name:
                yield from self.section(name, kind, skip=frozenset())

    def _type(self, field: FieldInfo) -> str:
        annotation = Annotated[(field.annotation, *field.metadata)] if field.metadata else field.annotation
        return self._words(annotation) + _bounds(field)

    def _words(self, annotation: Any) -> str:
        metadata = get_args(annotation)[1:] if get_origin(annotation) is Annotated else ()
        for alias, words in _ALIASES:
            if get_args(alias)[1] in metadata:
                return words
        many = get_args(Many[str])[1] in metadata
        branches = [branch for branch in _branches(annotation) if branch is not type(None)]
        if set(branches) == {float, Literal["session", "once"]}:  # a rule's max_age, read by a validator of its own
            return "duration, `session` or `once`"
        return " or ".join(dict.fromkeys(self._branch(branch, many=many) for branch in branches))

    def _branch(self, branch: Any, *, many: bool) -> str:
        origin, args = get_origin(branch), get_args(branch)
        if origin is Annotated:
            return self._words(branch)
        if isinstance(branch, type) and issubclass(branch, BaseModel):
            heading = self._headings[branch]
            return f"[{heading}](#{_anchor(heading)})"
        if origin is Literal:
            return ", ".join(f"`{choice}`" for choice in args)
        if origin is tuple:
            item = self._words(args[0])
            return f"{item}, or a list" if many else f"list of: {item}"
        if origin is dict:
            return "settings of a kind, below" if args[1] is Any else f"name to: {self._words(args[1])}"
        return _PLAIN.get(branch, "any value")


def _branches(annotation: Any) -> Iterable[Any]:
    """The branches of a union as they stand, `Annotated` kept on those below the first level."""
    if get_origin(annotation) is Annotated:
        return _branches(get_args(annotation)[0])
    args = get_args(annotation)
    return args if flat(annotation) != [annotation] and args else [annotation]


def _models(model: type[BaseModel]) -> Iterator[tuple[str, type[BaseModel]]]:
    """Models among the fields, with how the file leads there."""
    for name, field in model.model_fields.items():
        yield from _models_in(field.annotation, field.alias or name)


def _models_in(annotation: Any, path: str) -> Iterator[tuple[str, type[BaseModel]]]:
    for branch in flat(annotation):
        origin, args = get_origin(branch), get_args(branch)
        if isinstance(branch, type) and issubclass(branch, BaseModel):
            yield path, branch
        elif origin is dict:
            yield from _models_in(args[1], f"{path}.NAME")
        elif origin is tuple:
            yield from _models_in(args[0], f"{path}[]")


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "**required**"
    value = field.default
    if field.default_factory is not None or value is None or isinstance(value, BaseModel) or value in ((), {}):
        return "–"
    if isinstance(value, float) and get_args(Duration)[1] in _metadata(field):
        return f"`{format_duration(value)}`"
    if isinstance(value, int) and get_args(Size)[1] in _metadata(field):
        return f"`{_size(value)}`"
    if isinstance(value, tuple):
        return "`[" + ", ".join(map(str, value)) + "]`"
    if isinstance(value, bool):
        return "`true`" if value else "`false`"
    return f"`{value}`"


def _metadata(field: FieldInfo) -> list[Any]:
    """The field's own, and that of the branches of a union."""
    return [*field.metadata, *(m for branch in get_args(field.annotation) if get_origin(branch) is Annotated for m in get_args(branch)[1:])]


def _bounds(field: FieldInfo) -> str:
    is_duration = get_args(Duration)[1] in _metadata(field)
    least: Any = next((m.ge if isinstance(m, Ge) else m.gt for m in field.metadata if isinstance(m, Ge | Gt)), None)
    most: Any = next((m.le if isinstance(m, Le) else m.lt for m in field.metadata if isinstance(m, Le | Lt)), None)
    low, high = (
        None if bound is None else format_duration(float(bound)) if is_duration and bound else str(bound) for bound in (least, most)
    )
    above = "more than " if any(isinstance(m, Gt) for m in field.metadata) else "at least "
    if low is not None and high is not None and above == "at least ":
        return f", {low} to {high}"
    return (f", {above}{low}" if low is not None else "") + (f", at most {high}" if high is not None else "")


def _size(value: int) -> str:
    for unit, bytes_ in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if value % bytes_ == 0:
            return f"{value // bytes_}{unit}"
    return str(value)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _anchor(heading: str) -> str:
    """As GitHub makes them: lower-case, spaces to dashes, punctuation away."""
    return "".join(c for c in heading.lower().replace(" ", "-") if c.isalnum() or c in "-_")
