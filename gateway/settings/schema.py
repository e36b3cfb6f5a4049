"""The JSON Schema of gateway.yaml (2020-12), for editors. Made from the models that check the file, so that the two cannot differ."""

from __future__ import annotations

from copy import deepcopy
from typing import Any, Final

from pydantic.json_schema import GenerateJsonSchema, models_json_schema
from pydantic_core.core_schema import BeforeValidatorFunctionSchema

from gateway.settings.registry import Registry
from gateway.spec.base import Duration, Int, Many, Spec, format_duration
from gateway.spec.sections import GatewaySpec

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"

_MANY = Many[str].__metadata__[0].func  # type: ignore[attr-defined] # an Annotated alias
_NUMBER = Int.__metadata__[0].func  # type: ignore[attr-defined]
_DURATION = Duration.__metadata__[1].json_schema["pattern"]  # type: ignore[attr-defined]
_EXPANDED = {"type": "string", "pattern": r"\$\{"}


class _Generator(GenerateJsonSchema):
    """Says what the file may hold: a scalar for a list of one, and `${…}` for a number."""

    schema_dialect = DIALECT

    def field_title_should_be_set(self, _schema: Any) -> bool:
        return False

    def function_before_schema(self, schema: BeforeValidatorFunctionSchema) -> dict[str, Any]:
        made = super().function_before_schema(schema)
        function = schema["function"]["function"]
        if function is _MANY:
            return {"anyOf": [made["items"], made]}
        if function is _NUMBER:
            return {"anyOf": [made, _EXPANDED]}
        return made


def json_schema(registry: Registry) -> dict[str, Any]:
    """The schema as JSON values. `steps:` entries differ by `kind`, `identity:` entries by `from`."""
    models: list[type[Spec]] = [GatewaySpec, *(kind.config for kind in registry.steps.values()), *registry.identity.values()]
    references, made = models_json_schema([(model, "validation") for model in dict.fromkeys(models)], schema_generator=_Generator)
    definitions: dict[str, Any] = made["$defs"]

    def definition(model: type[Spec]) -> dict[str, Any]:
        return deepcopy(definitions[references[model, "validation"]["$ref"].rpartition("/")[2]])

    root = definition(GatewaySpec)
    tagged: dict[str, Any] = {}
    variants: dict[str, list[dict[str, str]]] = {"kind": [], "from": []}
    for key, known in (("kind", {k: v.config for k, v in registry.steps.items()}), ("from", dict(registry.identity))):
        for name, model in known.items():
            tagged[f"{key}:{name}"] = _tagged(definition(model), key, name)
            variants[key].append({"$ref": f"#/$defs/{key}:{name}"})
    properties = root["properties"]
    properties["steps"] |= {"type": "object", "additionalProperties": {"oneOf": variants["kind"]}}
    properties["identity"] |= {"type": "array", "items": {"oneOf": variants["from"]}}
    # A validator of the model reads it, so pydantic sees a number where people write a duration.
    age = definitions["RuleSpec"]["properties"]["max_age"]
    age["anyOf"] = [{"type": "string", "pattern": _DURATION}, *(branch for branch in age["anyOf"] if branch.get("type") != "number")]
    whole = {"$schema": DIALECT, **root, "title": "gateway.yaml", "$defs": definitions | tagged}
    _in_human_form(whole)
    return _with_what_is_used(whole)


def _tagged(schema: dict[str, Any], key: str, name: str) -> dict[str, Any]:
    schema["properties"] = {key: {"const": name}, **{k: v for k, v in schema.get("properties", {}).items() if k != key}}
    schema["required"] = [key, *(k for k in schema.get("required", []) if k != key)]
    return schema


def _in_human_form(schema: Any) -> None:
    """Defaults of durations as one would write them; and a duration may come from `${…}`."""
    if isinstance(schema, dict):
        default = schema.get("default")
        if isinstance(default, float) and _DURATION in (branch.get("pattern") for branch in (schema, *schema.get("anyOf", []))):
            schema["default"] = format_duration(default)
        if schema.get("pattern") == _DURATION:
            schema["pattern"] = rf"{_DURATION}|\$\{{"
        for value in schema.values():
            _in_human_form(value)
    elif isinstance(schema, list):
        for value in schema:
            _in_human_form(value)


def _with_what_is_used(whole: dict[str, Any]) -> dict[str, Any]:
    """Definitions that nothing refers to are left out."""
    definitions = whole["$defs"]
    used: set[str] = set()
    waiting = list(_referred({k: v for k, v in whole.items() if k != "$defs"}))
    while waiting:
        name = waiting.pop()
        if name not in used:
            used.add(name)
            waiting.extend(_referred(definitions[name]))
    return whole | {"$defs": {name: definitions[name] for name in sorted(used)}}


def _referred(schema: Any) -> list[str]:
    if isinstance(schema, dict):
        here = [schema["$ref"].removeprefix("#/$defs/")] if isinstance(schema.get("$ref"), str) else []
        return here + [name for value in schema.values() for name in _referred(value)]
    return [name for value in schema for name in _referred(value)] if isinstance(schema, list) else []
