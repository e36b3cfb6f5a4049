"""Mail addresses out of a template and a subject: exactly one addr-spec (RFC 5321 §4.1.2, dot-string form), or none.

What a subject brings along is hostile: a user name with a comma, a line break or a second @ must not reach a second mailbox.
Quoted strings, comments, source routes (%, !) and address literals are legal and are refused nonetheless.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from gateway.wire.subject import Subject

_HOLE = re.compile(r"\{subject\.(id|claims\.[A-Za-z0-9_.\-]+)\}")
_LOCAL = re.compile(r"[A-Za-z0-9_+'=~\-]+(?:\.[A-Za-z0-9_+'=~\-]+)*")
_LABEL = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9\-]{0,61}[A-Za-z0-9])?")


@dataclass(frozen=True, slots=True)
class NoAddress:
    """Why there is none; `private` holds no address."""

    private: str


def check_template(template: str) -> str:
    """The template itself. Raises ValueError where it holds more than {subject.id} and {subject.claims.X}."""
    if "{" in (rest := _HOLE.sub("", template)) or "}" in rest:
        raise ValueError("may hold {subject.id} and {subject.claims.NAME} only")
    if not _HOLE.search(template):
        raise ValueError("would send every code to one address; write {subject.id} or {subject.claims.NAME} into it")
    return template


def ascii_domain(domain: str) -> str | None:
    """A host name in lower-case ASCII (IDNA where needed), or None where it is none."""
    try:
        name = domain.encode("idna").decode("ascii").lower() if not domain.isascii() else domain.lower()
    except UnicodeError:
        return None
    labels = name.split(".")
    if len(name) > 253 or not all(_LABEL.fullmatch(label) for label in labels) or labels[-1].isdigit():
        return None
    return name


def address(template: str, subject: Subject, allowed: Sequence[str]) -> str | NoAddress:
    """Where a subject's mail goes. allowed: lower-case ASCII domains; empty for any."""
    missing: list[str] = []

    def fill(hole: re.Match[str]) -> str:
        name = hole[1]
        # Applications trim names at login, and so do our counters.
        value = subject.id.strip() if name == "id" else subject.claims.get(name.removeprefix("claims."))
        if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
            missing.append(name)
            return ""
        return str(value)

    filled = _HOLE.sub(fill, template)
    if missing:
        return NoAddress(f"subject has no {', '.join(missing)}")
    local, at, domain = filled.partition("@")
    if not at or not _LOCAL.fullmatch(local) or len(local) > 64:
        return NoAddress("not one addr-spec (local part)")
    name = ascii_domain(domain)
    if name is None or len(local) + 1 + len(name) > 254:
        return NoAddress("not one addr-spec (domain)")
    if allowed and name not in allowed:
        return NoAddress("domain is not in allowed_domains")
    return f"{local}@{name}"


def masked(mail: str) -> str:
    """An address as its owner recognises it and nobody else learns it: a•••e@bank.example.com."""
    local, _, domain = mail.partition("@")
    return f"{local[0]}•••{local[-1] if len(local) > 2 else ''}@{domain}"
