"""gateway.yaml as typed settings and a compiled ruleset, or every mistake in it.

Nothing is opened that does not exist yet: key file and SQLite stores are made at start. Loading has no side effects, but for what the files
of rule functions do when they are run.
"""

from __future__ import annotations

import gc
import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gateway.policy.model import Ruleset
from gateway.settings import cross
from gateway.settings.absolute import absolute
from gateway.settings.documents import with_documents
from gateway.settings.entries import identity_entries, rule_entries, step_entries
from gateway.settings.functions import rule_functions
from gateway.settings.interpolate import expander
from gateway.settings.introspection import check_introspection
from gateway.settings.mistakes import Mistake, Problems, Report, Source, nearest
from gateway.settings.places import Document, Mark
from gateway.settings.policies import compile_policies
from gateway.settings.registry import IdentityConfig, Registry
from gateway.settings.secrets import check_secrets
from gateway.settings.shapes import shape
from gateway.settings.words import LATER_KEYS, NOT_YET
from gateway.settings.yaml import parse
from gateway.spec.base import Spec
from gateway.spec.rules import RouteSpec
from gateway.spec.sections import GatewaySpec

_APART = ("rules", "steps", "identity", "routes")  # sections that are checked entry by entry


@dataclass(frozen=True, slots=True)
class Loaded:
    """A configuration without mistakes.

    spec: the sections; its `rules` hold those of `rules_dir` too. steps, step_kinds: by name, in file order. identity: (`from`, settings),
    in file order. files: everything that was read, and `rules_dir` itself, for a watcher. base: the folder that relative paths (key file,
    stores) start at. version: changes with the text of the files; also the ruleset's version.
    warnings: what works, and perhaps not as it was meant.
    """

    spec: GatewaySpec
    steps: Mapping[str, Spec]
    step_kinds: Mapping[str, str]
    identity: tuple[tuple[str, Spec], ...]
    ruleset: Ruleset
    files: tuple[Path, ...]
    base: Path
    version: str
    warnings: tuple[Mistake, ...] = ()


@dataclass(slots=True)
class _Files:
    """What was read so far."""

    environ: Mapping[str, str]
    read: list[Path] = field(default_factory=list)
    digest: Any = field(default_factory=hashlib.sha256)

    def contents(self, path: Path, position: int) -> bytes:
        """A file as it is. Raises OSError or ValueError; a watcher knows it all the same."""
        self.read.append(path)
        data = path.read_bytes()
        self.digest.update(b"%d:%d:" % (position, len(data)) + data)
        return data

    def open(self, name: str, path: Path, position: int, report: Report) -> Source:
        """Read and parse a file. `name` is how messages call it. What cannot be read is reported and empty."""
        try:
            data = self.contents(path, position)
        except (OSError, ValueError) as error:
            source = Source(name, path, position, Document("", None))
            report.put(source, Mark(1, 1), None, f"cannot be read: {getattr(error, 'strerror', None) or error}")
            return source
        document = parse(data, expander(self.environ, path.parent, self.read))
        source = Source(name, path, position, document)
        report.documents.append(document)
        for mistake in document.mistakes:
            report.put(source, mistake.mark, mistake.loc, mistake.message)
            if mistake.loc is not None:
                source.failed.add(mistake.loc)
        return source


def load(path: Path, *, environ: Mapping[str, str], kinds: Registry) -> Loaded | Problems:
    """Read a configuration. `path` as the operator gave it: messages repeat it."""
    with _without_collector():
        return _load(path, environ, kinds)


@contextmanager
def _without_collector() -> Iterator[None]:
    """Ten thousand rules are a million objects, none of them garbage: looking for some would take longer than all the rest."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _load(path: Path, environ: Mapping[str, str], kinds: Registry) -> Loaded | Problems:
    report, files = Report(), _Files(environ)
    main = files.open(str(path), path, 0, report)
    if main.document.root is None and report.found:
        return Problems(report.sorted(), tuple(files.read))
    value = main.document.value
    if value is not None and not isinstance(value, dict):
        report.add(main, (), "is not a mapping; write `key: value` lines")
        return Problems(report.sorted(), tuple(files.read))
    raw: dict[str, Any] = value or {}
    shaped = shape(
        GatewaySpec,
        {k: v for k, v in raw.items() if k not in _APART},
        report,
        main,
        (),
        stand_ins={"upstreams": {"?": {"url": "http://127.0.0.1"}}},
    )
    spec = shaped.spec
    sources = [main, *_more_rules(spec, main, files, report)]

    cross.check_names(report, main, raw)
    routes = []
    for index, entry in _entries(raw.get("routes"), main, "routes", report):
        route = shape(RouteSpec, entry, report, main, ("routes", index))
        if route.spec is not None and route.whole:
            routes.append((index, route.spec))
    steps = with_documents(step_entries(raw.get("steps"), main, kinds, report), main, files, report)
    identity = identity_entries(raw.get("identity"), main, kinds, report)
    written = [(source, *entry) for source in sources for entry in _entries(_rules_of(source), source, "rules", report)]
    named = rule_functions(rule_entries(written, report), report, files.read, files.digest)
    rules = named.rules
    cross.check_references(report, main, raw, written)
    if spec is not None:
        cross.check_sections(report, main, spec, kinds)
        placed = [(rule.source, rule.index, rule.spec) for rule in rules]
        configs = {name: step.config for name, step in steps.items()}
        cross.check_outside(report, main, spec, placed, configs)
        cross.check_steps(report, main, spec, configs)
        check_introspection(report, main, spec, configs)
        check_secrets(report, main, spec, configs, placed)
        known = [entry.config for entry in identity if isinstance(entry.config, IdentityConfig)]
        declared = frozenset(claim for config in known for claim in config.claim_names())
        cross.check_claims(report, main, configs, declared)
        cross.check_identity(report, main, spec, [(entry.index, entry.origin) for entry in identity])
        files.read.extend(cross.check_files(report, main, spec))

    version = files.digest.hexdigest()[:16]
    ruleset = compile_policies(
        spec=spec, routes=routes, rules=rules, steps=steps, identity=identity, kinds=kinds, version=version, main=main, report=report,
        functions=named.functions,
    )  # fmt: skip
    watched = tuple(dict.fromkeys(files.read))
    if report.found or spec is None or ruleset is None:
        return Problems(report.sorted(), watched)
    spec = spec.model_copy(
        update={
            "routes": tuple(route for _, route in routes),
            "rules": tuple(rule.spec for rule in rules),
            "steps": raw.get("steps") or {},
            "identity": tuple(raw.get("identity") or ()),
            **absolute(spec, path.parent),
        }
    )
    return Loaded(
        spec=spec,
        steps={name: step.config for name, step in steps.items()},
        step_kinds={name: step.kind for name, step in steps.items()},
        identity=tuple((entry.origin, entry.config) for entry in identity),
        ruleset=ruleset,
        files=watched,
        base=path.parent,
        version=version,
        warnings=tuple(report.warned),
    )


def _entries(value: object, source: Source, section: str, report: Report) -> list[tuple[int, Any]]:
    """A list's entries, numbered. An empty section (`rules:` and nothing behind it) is an empty list."""
    if value is None:
        return []
    if not isinstance(value, list):
        report.add(source, (section,), "is not a list; write [a, b] or `- a` lines")
        return []
    return list(enumerate(value))


def _rules_of(source: Source) -> object:
    value = source.document.value
    return value.get("rules") if isinstance(value, dict) else None


def _more_rules(spec: GatewaySpec | None, main: Source, files: _Files, report: Report) -> list[Source]:
    """The files of `rules_dir`, in name order. They hold rules and nothing else."""
    if spec is None or spec.rules_dir is None or ("rules_dir",) in main.failed:
        return []
    folder = main.base / spec.rules_dir
    files.read.append(folder)
    try:
        paths = sorted(p for p in folder.iterdir() if p.suffix in (".yaml", ".yml") and not p.name.startswith("."))
    except (OSError, ValueError) as error:
        report.add(main, ("rules_dir",), f"cannot read {spec.rules_dir}: {getattr(error, 'strerror', None) or error}")
        return []
    sources = []
    for position, path in enumerate(paths, start=1):
        source = files.open(str(path), path, position, report)
        value = source.document.value
        if isinstance(value, dict):
            for key in value:
                if key != "rules":
                    message = NOT_YET if key in LATER_KEYS else f"unknown key; a file of rules holds `rules` only{nearest(key, ['rules'])}"
                    report.add(source, (key,), message, key=True)
        elif value is not None:
            report.add(source, (), "is not a mapping; write `rules:` and the rules below")
        sources.append(source)
    return sources


__all__ = ["Loaded", "Mistake", "Problems", "load"]
