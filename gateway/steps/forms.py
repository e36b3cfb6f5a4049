"""What came in a form is hostile text: bounded before it is looked at, and never an exception."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def text(form: Mapping[str, Any], name: str) -> str:
    """A field as text; "" where it is missing or (in JSON) something else than text."""
    value = form.get(name, "")
    return value if isinstance(value, str) else ""


def raw(value: str) -> bytes:
    """The bytes to hash: also of text that is no Unicode (lone surrogates from undecodable forms and JSON escapes)."""
    return value.encode("utf-8", "surrogatepass")
