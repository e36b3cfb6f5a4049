"""Rule functions: the files that `python:` names are run, and the functions in them looked at, when the settings are loaded.

Each load makes a module of its own, so that a reload has what stands in the file by then. A file is run as it stands, never by a
compiled copy: those are told apart by the second, and two saves may fall into one.
"""

from __future__ import annotations

import hashlib
import inspect
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

from gateway.settings.entries import RuleEntry
from gateway.settings.mistakes import Report, nearest
from gateway.settings.places import Loc

RuleFunction = Callable[..., Any]

_LONGEST = 200  # of what a file says when it cannot be run


class Digest(Protocol):
    def update(self, data: bytes, /) -> None: ...


@dataclass(frozen=True, slots=True)
class Named:
    """The rules, each `python:` with an absolute path, and the functions by what stands there."""

    rules: list[RuleEntry]
    functions: dict[str, RuleFunction]


def rule_functions(rules: Sequence[RuleEntry], report: Report, read: list[Path], digest: Digest) -> Named:
    """Load every function that a rule names. What is wrong is reported where the rule names it; files go to `read` and `digest`."""
    modules: dict[Path, ModuleType | str] = {}
    found: dict[str, RuleFunction] = {}
    renamed: list[RuleEntry] = []
    for entry in rules:
        written = entry.spec.python
        if written is None:
            renamed.append(entry)
            continue
        loc: Loc = ("rules", entry.index, "python")
        name, colon, function = written.rpartition(":")
        path = (entry.source.base / name).absolute()
        reference = f"{path}:{function}"
        renamed.append(replace(entry, spec=entry.spec.model_copy(update={"python": reference})))
        if not colon or not name or not function.isidentifier():
            report.add(entry.source, loc, "is no rule function; write path/to/file.py:function")
            continue
        if path not in modules:
            modules[path] = _module(path, name, read, digest)
        module = modules[path]
        made = module if isinstance(module, str) else _function(module, name, function)
        if isinstance(made, str):
            report.add(entry.source, loc, made)
        else:
            found[reference] = made
    return Named(renamed, found)


def _module(path: Path, name: str, read: list[Path], digest: Digest) -> ModuleType | str:
    """The file, run as a new module; or why it cannot be."""
    read.append(path)
    try:
        source = path.read_bytes()
    except (OSError, ValueError) as error:
        return f"cannot read {name}: {getattr(error, 'strerror', None) or error}"
    digest.update(b"%d:" % len(source) + source)
    module = ModuleType(f"rule_functions_{hashlib.sha256(str(path).encode('utf-8', 'surrogateescape')).hexdigest()[:16]}")
    module.__file__ = str(path)
    before = sys.modules.get(module.__name__)
    sys.modules[module.__name__] = module  # dataclasses look their module up there
    try:
        exec(compile(source, str(path), "exec", dont_inherit=True), module.__dict__)  # noqa: S102 - the operator's own file
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001 - whatever a file does, it is a mistake in it
        _put_back(module.__name__, before)
        return f"{name}{_line(error, path)}: {_words(error)}"
    return module


def _put_back(name: str, before: ModuleType | None) -> None:
    """A load that fails leaves what is in force as it was."""
    if before is None:
        sys.modules.pop(name, None)
    else:
        sys.modules[name] = before


def _function(module: ModuleType, name: str, function: str) -> RuleFunction | str:
    if function not in module.__dict__:
        known = [key for key, value in module.__dict__.items() if callable(value) and not key.startswith("_")]
        return f'no function named "{function}" in {name}{nearest(function, known)}'
    made = module.__dict__[function]
    if not callable(made) or isinstance(made, type):
        return f'"{function}" in {name} is no function'
    try:
        signature = inspect.signature(made)
        signature.bind(None, None)
    except (TypeError, ValueError):
        return f'"{function}" in {name} does not take two arguments; write def {function}(user, context)'
    return made  # type: ignore[no-any-return] # whatever is callable


def _line(error: BaseException, path: Path) -> str:
    """Where in the file, as in `:3:14`."""
    if isinstance(error, SyntaxError):
        return f":{error.lineno}:{error.offset}" if error.lineno and error.filename == str(path) else ""
    line, frame = 0, error.__traceback__
    while frame is not None:
        if frame.tb_frame.f_code.co_filename == str(path):
            line = frame.tb_lineno
        frame = frame.tb_next
    return f":{line}" if line else ""


def _words(error: BaseException) -> str:
    text = error.msg if isinstance(error, SyntaxError) else f"{type(error).__name__}: {error}"
    return " ".join(str(text).split())[:_LONGEST]
