"""What was typed into a field, judged. Text is hostile until it is; what is kept is what was meant, in one spelling."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache
from typing import Any, Final
from urllib.parse import urlsplit

from gateway.steps.form.config import FieldSpec, comparable, expression
from gateway.wire.subject import Scalar

_MAIL = re.compile(r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)+[A-Za-z]{2,63}")
"""As HTML's `type=email` takes it (HTML Standard §4.10.5.1.5), with a dot in the domain."""
_PHONE = re.compile(r"\+?[0-9()/. -]{3,40}")
_OVERRIDES = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""Turn the order of what stands behind them around (Unicode TR 9): in a name, nothing but a trick."""
_TICKED: Final = {"yes": True, "on": True, "true": True, "no": False, "false": False, "": False}
_FILL_IN: Final = {
    "select": "Please choose one of these.",
    "radio": "Please choose one of these.",
    "checkbox": "Please tick this to go on.",
}
DEAREST: Final = 20_000
"""Characters of one field that are shown again."""


@dataclass(frozen=True, slots=True)
class Wrong:
    """public: what to do about it. missing: nothing was filled in. Neither repeats what was typed."""

    public: str
    missing: bool = False


def kept_back(typed: str) -> str:
    """What is shown again: all of it that can be shown."""
    return "".join(c for c in typed[:DEAREST].replace("\r\n", "\n") if not _unfit(c))


def judge(field: FieldSpec, typed: str) -> Scalar | Wrong:
    """The answer: text, a number, whether it is ticked; None where nothing was filled in and nothing had to be."""
    value = typed.replace("\r\n", "\n").strip()
    if field.type == "checkbox":
        ticked = _TICKED.get(value.lower())
        if ticked is None:
            return Wrong("Please tick this, or leave it.")
        return Wrong(_FILL_IN["checkbox"], missing=True) if field.required and not ticked else ticked
    if not value:
        return Wrong(_FILL_IN.get(field.type, "Please fill this in."), missing=True) if field.required else None
    if len(value) > field.longest:
        return Wrong(f"At most {field.longest} characters, please; this has {len(value)}.")
    if any(_unfit(c) or (c in "\n\t" and field.type != "textarea") for c in value):
        return Wrong("This holds characters that cannot be kept. They were left out; please look at what is left.")
    value = unicodedata.normalize("NFC", value)
    match field.type:
        case "select" | "radio":
            return value if value in {choice.value for choice in field.options} else Wrong("Please choose one of these.")
        case "number" | "date":
            return _measured(field, value)
        case "email" if not _MAIL.fullmatch(value):
            return Wrong("Please write a mail address, as in name@example.com.")
        case "tel" if not _PHONE.fullmatch(value) or sum(c.isdigit() for c in value) < 3:
            return Wrong("Please write a phone number: digits, with spaces, dashes or brackets as you like, and + in front of a country.")
        case "url" if not _link(value):
            return Wrong("Please write an address that begins with https:// or http://.")
    if field.pattern is not None and not _compiled(field.pattern).fullmatch(value):
        return Wrong(field.mistake or "This does not have the form that is needed here.")
    return value


def written(value: Scalar) -> str:
    """An answer as it stands in its field."""
    if isinstance(value, bool):
        return "yes" if value else ""
    if isinstance(value, float):
        return format(Decimal(repr(value)), "f")  # never 1e-06
    return "" if value is None else str(value)


def _measured(field: FieldSpec, value: str) -> Scalar | Wrong:
    """A number or a date, within its bounds."""
    bounds = " ".join(filter(None, (f"from {field.min}" if field.min else "", f"to {field.max}" if field.max else "")))
    if field.type == "date":
        wrong = Wrong(f"Please write a date{' ' + bounds if bounds else ''}, as in 2026-11-23: year, month, day.")
    else:
        digits = f" with at most {field.decimals} digits behind the point" if field.decimals else ", without a point"
        wrong = Wrong(f"Please write a number{' ' + bounds if bounds else ''}{digits}.")
    try:
        found = comparable(field.type, value)
    except ValueError:
        return wrong
    if (field.min and found < comparable(field.type, field.min)) or (field.max and found > comparable(field.type, field.max)):
        return wrong
    if field.type == "date":
        return value
    if found != round(found, field.decimals):
        return wrong
    return float(found) if field.decimals else int(Decimal(found))


def _link(value: str) -> bool:
    try:
        parts = urlsplit(value)
        _ = parts.port
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname) and not any(c.isspace() for c in value)


def _unfit(c: str) -> bool:
    return (unicodedata.category(c) in {"Cc", "Cs"} and c not in "\n\t") or c in _OVERRIDES


@lru_cache(maxsize=256)
def _compiled(pattern: str) -> Any:
    return expression(pattern)
