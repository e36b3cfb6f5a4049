"""Finds the password form in a page of the application, and what a browser would send with it (HTML §4.10.21.4, the common part).

Nothing of the page is executed or trusted beyond that: names and values are carried, the action is compared by the caller.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from html.parser import HTMLParser

_SILENT = frozenset({"reset", "button", "image", "file"})
MAX_FIELDS = 200


@dataclass(frozen=True, slots=True)
class PageForm:
    """action: as written ("" for the page's own URL). method: lower-case. carried: fields to send along, in order."""

    action: str
    method: str
    carried: tuple[tuple[str, str], ...]


@dataclass(slots=True)
class _Open:
    action: str
    method: str
    names: set[str] = field(default_factory=set)
    carried: list[tuple[str, str]] = field(default_factory=list)
    submits: bool = False


class _Forms(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.forms: list[_Open] = []
        self._open: _Open | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given: dict[str, str] = {}
        for name, value in attrs:
            given.setdefault(name, value or "")  # HTML §13.2.5.33: the first of a name counts
        if tag == "form" and self._open is None:
            self._open = _Open(given.get("action", "").strip(), given.get("method", "get").strip().lower())
            self.forms.append(self._open)
        elif self._open is not None and "disabled" not in given and len(self._open.names) < MAX_FIELDS:
            if tag == "input":
                self._input(self._open, given)
            elif tag == "button" and given.get("type", "submit").lower() == "submit":
                self._submit(self._open, given)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        if tag == "form":
            self._open = None

    def _input(self, form: _Open, given: dict[str, str]) -> None:
        kind = given.get("type", "text").strip().lower()
        if kind == "submit":
            self._submit(form, given)
        elif given.get("name") and kind not in _SILENT:
            form.names.add(given["name"])
            if kind in {"checkbox", "radio"}:
                if "checked" in given:
                    form.carried.append((given["name"], given.get("value", "on")))
            else:
                form.carried.append((given["name"], given.get("value", "")))

    def _submit(self, form: _Open, given: dict[str, str]) -> None:
        """The first submit button is the one that Enter presses; applications look at its name."""
        if not form.submits and given.get("name"):
            form.carried.append((given["name"], given.get("value", "")))
        form.submits = True


def find(page: str, fields: Sequence[str]) -> PageForm | None:
    """The first form that has all these fields; they themselves are not among what is carried."""
    forms = _Forms()
    forms.feed(page)
    forms.close()
    for form in forms.forms:
        if form.names.issuperset(fields):
            return PageForm(form.action, form.method, tuple(pair for pair in form.carried if pair[0] not in fields))
    return None
