"""Imports without what nobody here uses. A worker holds what it has imported for as long as it lives, and there is one for each core.

The rule for every import of a package that is large, or seldom needed:

* What each gateway needs is imported at the top of the module that uses it, as everywhere.
* What only some configurations need (hiredis, redis, zxcvbn, markdown_it) is imported by the constructor of what needs it, so at the start
  or at a reload, never at the first request: where the package is missing, the gateway does not start, or keeps its running configuration.
* What only some starts need (Alembic, and SQLAlchemy with it) stands in a module of its own, imported where it is due.
* What a package drags along for its own command line or for pretty printing is left out here.

Such an import is written `import_module("…")`, so that ruff's PLC0415 keeps finding those inside functions that have no reason.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from types import ModuleType


@contextmanager
def without(*, missing: Collection[str] = (), empty: Collection[str] = ()) -> Iterator[None]:
    """Within, modules named `missing` cannot be imported (for a package that can do without), and those named `empty` are empty ones (for
    a package that insists). What is loaded already stays as it is; afterwards everything can be imported as ever."""
    placed: dict[str, ModuleType | None] = {name: None for name in missing if name not in sys.modules}
    placed |= {name: ModuleType(name) for name in empty if name not in sys.modules}
    modules: dict[str, ModuleType | None] = sys.modules  # type: ignore[assignment] # None is how Python notes that there is no such module
    modules |= placed
    try:
        yield
    finally:
        for name, module in placed.items():
            if name in modules and modules[name] is module:
                del modules[name]


def trim() -> None:
    """Import the two packages that drag a command line or a pretty printer along, without it."""
    with without(missing=("rich", "greenlet")):
        import structlog  # noqa: F401, PLC0415 - before anybody else does; its console tracebacks and greenlets are not used
    with without(empty=("cel.cli",)):
        import cel  # noqa: F401, PLC0415 - `python -m cel` with typer, rich, prompt_toolkit and pygments: 9 MiB
