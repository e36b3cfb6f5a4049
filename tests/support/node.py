"""Node.js programs of the tests: their packages are those of tests/node/package.json, installed by `tools/setup.sh test`."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

MODULES = Path(__file__).parents[1] / "node/node_modules"


def node() -> str:
    """The program. Fails, and does not skip, where it or its packages are missing: these tests are part of `make test`."""
    found = shutil.which("node")
    if found is None or not (MODULES / "express").is_dir():
        pytest.fail("no Node.js, or none of its packages: run tools/setup.sh test", pytrace=False)
    return found
