"""An answer as a value. Handlers turn it into bytes; nothing here knows aiohttp."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass

_ASCII = str.maketrans({"“": "'", "”": "'", "‘": "'", "’": "'", '"': "'", "\\": "/", "–": "-", "—": "-", "…": "..."})
_UNSEEN = frozenset({"Cc", "Cf", "Co", "Cs", "Zl", "Zp"})


@dataclass(frozen=True, slots=True)
class Page:
    """status: HTTP status. headers: in order, Content-Type among them, Content-Length not. body: complete."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def header(self, name: str) -> str | None:
        """The first value of a header, by case-insensitive name."""
        wanted = name.lower()
        return next((value for key, value in self.headers if key.lower() == wanted), None)


def quoted(text: str) -> str:
    """A header parameter's quoted-string that can hold anything and ends nowhere early.

    RFC 6750 §3 allows %x20-21 / %x23-5B / %x5D-7E in `error_description`: no quote, no backslash, nothing beyond ASCII.
    """
    plain = unicodedata.normalize("NFKD", text.translate(_ASCII))
    kept = (c if " " <= c <= "~" and c not in '"\\' else "" if unicodedata.combining(c) else " " if c.isspace() else "?" for c in plain)
    return '"' + "".join(kept) + '"'


def visible(text: str, limit: int = 200, *, lines: bool = False) -> str:
    """Foreign text as it may stand on a page: what cannot be seen (controls, bidi overrides, …) shows as U+FFFD, and the rest is bounded.

    limit: characters. lines: keep line feeds and tabs, for text that is shown preformatted.
    """
    cut = text[:limit]
    shown = "".join(c if (lines and c in "\n\t") or unicodedata.category(c) not in _UNSEEN else "\ufffd" for c in cut)
    return shown if len(text) <= limit else f"{shown}… ({len(text) - limit} more characters)"


def safe_href(href: str) -> str:
    """A link that stays on this origin, or is http(s) or mailto on purpose.

    A stored target may begin with `//` or `/\\`, which a browser reads as another host; behind `/.` it is a path again
    (URL Standard §4.1 writes such paths in the same way). Any other scheme becomes the start page.
    """
    if href[:2] in ("//", "/\\"):
        return "/." + href
    if not href or href.startswith(("/", "https://", "http://", "mailto:")):
        return href
    return "/"
