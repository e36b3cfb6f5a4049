"""What a process does not hold: packages that a configuration has no use for, and their command lines. Each in a fresh interpreter."""

from __future__ import annotations

import subprocess
import sys

import pytest

SELDOM = {
    "alembic",
    "markdown_it",
    "mdurl",
    "sqlalchemy",
    "aiosqlite",
    "redis",
    "hiredis",
    "zxcvbn",
    "rich",
    "typer",
    "prompt_toolkit",
    "pygments",
}


def loaded(program: str) -> str:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_command_line_loads_nothing_that_is_seldom_needed() -> None:
    assert loaded(f"import sys, gateway.cli.main; print(sorted({SELDOM!r} & set(sys.modules)))") == "[]"


def test_what_was_left_out_can_be_imported_afterwards() -> None:
    program = "import gateway.cli.main, rich.traceback, cel, cel.cli; print(callable(cel.cli.cli_entry), cel.compile('1 + 1').execute({}))"
    assert loaded(program) == "True 2"


REDIS = """
from gateway.stores.factory import open_state
asyncio.run(open_state("%s", redis_deadline=1, sqlite_deadline=1))
"""
ZXCVBN = """
from types import SimpleNamespace
import gateway.app
from gateway.steps.password_change.step import PasswordChange
config = PasswordChange.Config.model_validate({"backend": {"http": {"url": "http://127.0.0.1/password"}}})
PasswordChange(config, SimpleNamespace(state=None, vault=None))
"""
CONSENT = """
import gateway.app
from gateway.steps.consent import ConsentConfig
ConsentConfig.model_validate({"document": "terms.md", "version": "1"}).with_document(b"# Terms")
"""


@pytest.mark.parametrize(
    ("package", "made"),
    [
        ("hiredis", REDIS % "redis://127.0.0.1:1"),
        ("redis", REDIS % "redis+cluster://127.0.0.1:1"),
        ("zxcvbn", ZXCVBN),
        ("markdown_it", CONSENT),
    ],
)
def test_a_missing_package_is_noticed_when_what_needs_it_is_made(package: str, made: str) -> None:
    """So at the start or at a reload, and never by a request."""
    program = "import asyncio, sys\n" + made + f"assert {package!r} in sys.modules"
    assert loaded(program) == ""
    with pytest.raises(AssertionError, match=f"ModuleNotFoundError: .*{package}"):
        loaded(f"import sys; sys.modules[{package!r}] = None\n" + program)
