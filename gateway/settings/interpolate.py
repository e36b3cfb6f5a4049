"""`${VAR}` and `${file:/run/secrets/x}` in scalars. What comes in is and stays text: never read as YAML, never expanded again.

`$${` stands for `${`. Values that came in this way are secrets as far as messages are concerned: only their names are shown.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from gateway.settings.places import Expand, Expansion

MAX_FILE = 65_536

_PART = re.compile(r"\$\$\{|\$\{([^{}]*)\}|\$\{")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def expander(environ: Mapping[str, str], base: Path, files: list[Path]) -> Expand:
    """A function for `yaml.parse`. Relative paths start at the folder `base`; every file that is named is added to `files`."""

    def expand(text: str) -> Expansion:
        names: list[str] = []
        secrets: list[str] = []
        mistakes: list[str] = []

        def replace(match: re.Match[str]) -> str:
            if match[0] == "$${":
                return "${"
            name = match[1]
            if name is None:
                mistakes.append("`${` has no `}` behind it; write `$${` where it means itself")
                return ""
            names.append(name)
            value = _value(name, environ, base, files)
            if value is None:
                mistakes.append(f"environment variable {name} is not set")
            elif isinstance(value, _Unreadable):
                mistakes.append(value.why)
            else:
                secrets.append(value)
                return value
            return ""

        return Expansion(_PART.sub(replace, text), tuple(names), tuple(secrets), tuple(mistakes))

    return expand


class _Unreadable:
    __slots__ = ("why",)

    def __init__(self, why: str) -> None:
        self.why = why


def _value(name: str, environ: Mapping[str, str], base: Path, files: list[Path]) -> str | _Unreadable | None:
    if name.startswith("file:"):
        shown = name.removeprefix("file:")
        if not shown or "\0" in shown:
            return _Unreadable("`${file:…}` names no file")
        path = base / shown
        files.append(path)
        try:
            with path.open("rb") as file:
                data = file.read(MAX_FILE + 1)
        except OSError as error:
            return _Unreadable(f"cannot read {shown}: {error.strerror or error}")
        if len(data) > MAX_FILE:
            return _Unreadable(f"{shown} is larger than {MAX_FILE // 1024} KiB")
        try:
            return data.decode("utf-8").removesuffix("\n").removesuffix("\r")
        except UnicodeDecodeError:
            return _Unreadable(f"{shown} is not UTF-8 text")
    if not _VARIABLE.fullmatch(name):
        return _Unreadable(
            f"`${{{name}}}` names neither a variable nor a file; write ${{NAME}}, ${{file:PATH}}, or $${{ where it means itself"
        )
    return environ.get(name)
