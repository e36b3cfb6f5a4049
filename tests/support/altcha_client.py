"""The client of docs/how-to/captcha.md, as it stands there: what is documented is what the tests solve challenges with."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

DOCUMENT = Path(__file__).parents[2] / "docs/how-to/captcha.md"


def _documented() -> Callable[[Mapping[str, Any]], str]:
    found = re.search(r"```python\n(import base64.*?)```", DOCUMENT.read_text(), re.DOTALL)
    assert found, "the how-to has lost its example"
    names: dict[str, Any] = {}
    exec(found[1], names)
    solve: Callable[[Mapping[str, Any]], str] = names["solve"]
    return solve


payload = _documented()
