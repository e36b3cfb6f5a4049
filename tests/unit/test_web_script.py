"""What applications put into their pages: where it is, how large it is, and what it is made of."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from gateway.web.static import HERE, LASTING, Static

SOURCE = HERE.parent / "script/stepup.js"
MAKE = Path(__file__).parents[2] / "tools/script.sh"


@pytest.fixture
def static() -> Static:
    return Static("/.stepup", {})


@pytest.mark.parametrize("name", sorted(LASTING))
def test_it_has_an_address_that_stays_and_is_asked_for_anew(static: Static, name: str) -> None:
    page = static.respond(name)
    assert page is not None
    assert (page.status, page.body, page.header("cache-control")) == (200, static.body(name), "private, no-cache")
    assert page.header("cross-origin-resource-policy") == "cross-origin"
    again = static.respond(name, page.header("etag"))
    assert again is not None
    assert again.status == 304


def test_nothing_else_has_one(static: Static) -> None:
    assert static.respond("stepup.css") is None
    assert static.respond("stepup-page.js") is None


def test_the_script_is_under_5_kb_as_it_is_served() -> None:
    assert len((HERE / "stepup.js").read_bytes()) < 5000


@pytest.mark.parametrize("path", [SOURCE, HERE / "stepup.js"])
def test_no_policy_stands_in_its_way(path: Path) -> None:
    text = path.read_text()
    assert not re.search(r"\beval\b|\bFunction\(|innerHTML|outerHTML|insertAdjacentHTML|document\.write|\.style\b|cssText|import\(", text)


def test_what_is_served_is_what_its_source_makes() -> None:
    if shutil.which("node") is None:
        pytest.fail("no Node.js: `make test` installs it", pytrace=False)
    made = subprocess.run([MAKE, "--print"], capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr
    assert made.stdout == (HERE / "stepup.js").read_text(), "run `make script`"
