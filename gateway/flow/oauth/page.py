"""Authorization responses within pages: a form that submits itself, a script or a tag that leads on, a message to the opener.

The provider writes these pages, the user chooses what it puts into them (`state`, the response mode), and reads them without a browser. So
all of a page is looked into as a parser reads it, and what cannot be read counts as carrying one.
"""

from __future__ import annotations

import codecs
import json
import re
from dataclasses import dataclass, field, replace
from html.parser import HTMLParser
from typing import Final
from urllib.parse import urljoin

from gateway.flow.oauth.response import Response, carries, code_in, foreign, in_address, returned

HTML: Final = frozenset({"text/html", "application/xhtml+xml", ""})
"""Media types that may be shown as a page; none is guessed by browsers."""

_MOST_WITHIN = 3

_CHARSET = re.compile(r"charset\s*=\s*[\"']?\s*([A-Za-z0-9_.:\-]+)", re.IGNORECASE)
# Those in which ASCII is ASCII, and UTF-16. Not the ones with escapes (UTF-7, ISO-2022, HZ), in which a tag may not look like one.
_READABLE = re.compile(
    r"utf-8|ascii|utf-16(-[lb]e)?|iso8859-\d+|cp(125\d|874|932|949)|koi8-[ru]|gb\w+|big5\w*|euc_\w+|shift_jis\w*|tis-620"
)
_ESCAPE = re.compile(r"\\(?:u([0-9A-Fa-f]{4})|x([0-9A-Fa-f]{2})|u\{([0-9A-Fa-f]{1,6})\}|(/))")
_IN_SCRIPT = re.compile(r"[?&#](?:code|access_token|id_token|response)=[^&\"'`\s<>]")
_LEADS = re.compile(r"\blocation\s*(?:\.\s*\w+\s*)?[=(]\s*$")
_QUOTED = re.compile(r"[\"'`]([^\"'`\s<>]{1,4096})[\"'`]")
# A member of an object, or set on one.
_KEYED = re.compile(r"[\"']?\b(code|access_token|id_token|response)[\"']?\]?\s*[:=]\s*[\"'`][^\"'`]")
_ANSWER = re.compile(r"[\"']?\b(state|iss|code|redirect_uri)[\"']?\]?\s*[:=]\s*(\"(?:[^\"\\]|\\.)*\"|'(?:[^'\\\"]|\\[^'\"])*')")
_TARGET_ORIGIN = re.compile(r"postMessage\s*\([^;]*?,\s*[\"'](https?://[^\"']+)[\"']")
_REFRESH = re.compile(r"^[\s\d.]*[;,]?\s*(?:url\s*=\s*)?[\"']?([^\"']*)", re.IGNORECASE)


def refresh_address(value: str) -> str:
    """Where a `Refresh` header or its tag leads, "" for nowhere."""
    found = _REFRESH.match(value.strip())
    return found[1].strip() if found else ""


def join(base: str, address: str) -> str:
    """An address as it stands on a page. One that is no address at all leads nowhere, and stays what it is."""
    try:
        return urljoin(base, address)
    except ValueError:
        return address


def decoded(data: bytes, content_type: str) -> str | None:
    """A page's text; None where its charset is none that is read here."""
    for mark, name in ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be")):
        if data.startswith(mark):
            return data[len(mark) :].decode(name, "replace")
    named = _CHARSET.search(content_type) or _CHARSET.search(data[:1024].decode("latin-1"))
    try:
        name = codecs.lookup(named[1]).name if named else "utf-8"
    except LookupError:
        return None
    return data.decode(name, "replace") if _READABLE.fullmatch(name) else None


def in_page(text: str, own: str, address: str) -> Response | None:
    """The authorization response in an HTML page, or None. own: our origin. address: the page's, which relative ones belong to."""
    reader = _Reader()
    try:
        reader.feed(text)
        reader.close()
    except AssertionError:  # what html.parser says of some declarations that no page has
        return Response("unreadable")
    base = join(address, reader.base) if reader.base else address
    for form in (*reader.forms.values(), *reader.named.values()):
        target = join(base, form.action)
        elsewhere = foreign(target, own)
        # Within the provider's own pages a field to type a code into is no response.
        fields = [*form.hidden, *form.shown] if elsewhere else form.hidden
        if carries(fields, foreign=elsewhere):
            state, iss = returned(fields)
            return Response("form_post", target, state, iss, code_in(fields))
        if (found := in_address(target, own)) is not None:
            return found
    if reader.too_deep or carries(reader.loose, foreign=False):
        return Response("unreadable")
    for link in reader.leading:
        if (found := in_address(join(base, link), own)) is not None:
            return found
    scripted = [found for script in reader.scripts if (found := _in_script(script, own, base)) is not None]
    if scripted:
        return next((found for found in scripted if found.leads), scripted[0])
    for link in reader.parts:
        if (found := in_address(join(base, link), own)) is not None:
            return replace(found, leads=False)
    for link in reader.links:
        absolute = join(base, link)
        if foreign(absolute, own) and (found := in_address(absolute, own)) is not None:
            return replace(found, leads=False)
    return None


def in_json(data: bytes, own: str, address: str) -> Response | None:
    """The authorization response in a JSON document, or None: an address for a script to go to, or its parameters as members. Nobody is
    sent by us where a script would have gone."""
    try:
        text = data.decode(json.detect_encoding(data))
    except UnicodeDecodeError:
        return Response("unreadable")
    found = _in_script(text, own, address)
    if found is None and _KEYED.search(_ESCAPE.sub(_unescaped, text)):
        found = Response("unreadable")
    return replace(found, leads=False) if found is not None else None


def _in_script(text: str, own: str, base: str) -> Response | None:
    plain = _ESCAPE.sub(_unescaped, text)
    ways = _ways(text) if _IN_SCRIPT.search(plain) else set()
    stands = None
    for quoted in _QUOTED.finditer(plain):
        if _IN_SCRIPT.search(quoted[1]) and (found := in_address(join(base, quoted[1]), own)) is not None:
            if quoted[1] in ways:
                return found
            stands = stands or replace(found, leads=False)
    if stands is not None:
        return stands
    if ("postMessage" in plain or "authorization_response" in plain) and _KEYED.search(plain):
        answer = {name: said for name, value in _ANSWER.findall(text) if (said := _said(value)) is not None}
        origin = _TARGET_ORIGIN.search(plain)
        uri = answer.get("redirect_uri") or (origin[1] if origin else "")
        return Response("web_message" if uri else "unreadable", uri, answer.get("state"), answer.get("iss"), answer.get("code", ""))
    return Response("unreadable") if _IN_SCRIPT.search(plain) else None


def _ways(text: str) -> set[str]:
    """Where a script itself goes: not what a text within it says, whose quotes it would have to escape."""
    places = [q for q in _QUOTED.finditer(text) if _LEADS.search(text, max(0, q.start() - 100), q.start()) is not None]
    return {_ESCAPE.sub(_unescaped, place[1]) for place in places}


def _said(literal: str) -> str | None:
    """The text of a string in a script, None where it is written in a way that is not read here."""
    plain = f'"{_ESCAPE.sub(_unescaped, literal[1:-1])}"' if literal[0] == "'" else literal
    try:
        return str(json.loads(plain))
    except ValueError:
        return None


def _unescaped(match: re.Match[str]) -> str:
    number = match[1] or match[2] or match[3]
    return chr(min(int(number, 16), 0x10FFFF)) if number else "/"


@dataclass(slots=True)
class _Form:
    """hidden: fields that are sent without being shown; shown: the others."""

    action: str = ""
    hidden: list[tuple[str, str]] = field(default_factory=list)
    shown: list[tuple[str, str]] = field(default_factory=list)


class _Reader(HTMLParser):
    """forms: by their place. named: what `form=` attributes belong to, by id. loose: hidden fields outside of any form. leading: where the
    page goes by itself. parts: where its frames and buttons go. links: where a person may go from it. too_deep: pages within pages within
    pages."""

    def __init__(self, depth: int = 0) -> None:
        super().__init__(convert_charrefs=True)
        self.too_deep = depth > _MOST_WITHIN
        self._depth = depth
        self.forms: dict[int, _Form] = {}
        self.named: dict[str, _Form] = {}
        self.loose: list[tuple[str, str]] = []
        self.leading: list[str] = []
        self.parts: list[str] = []
        self.links: list[str] = []
        self.scripts: list[str] = []
        self.base = ""
        self._form: _Form | None = None
        self._script = False
        self._area: tuple[str, str | None] | None = None
        self._text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in reversed(attrs)}  # the first one counts
        self.scripts += [value for name, value in given.items() if name.startswith("on")]
        match tag:
            case "form":
                self._form = self.named.setdefault(given["id"], _Form()) if given.get("id") else _Form()
                self._form.action = given.get("action", "")
                self.forms[len(self.forms)] = self._form
            case "input" | "button" | "select" | "option" | "output":
                shown = tag == "input" and given.get("type", "text").lower() not in ("hidden", "submit", "image", "button")
                if given.get("name"):
                    self._field(given["name"], given.get("value", ""), given.get("form"), shown=shown)
                if "formaction" in given:
                    self.parts.append(given["formaction"])
            case "textarea":
                self._area, self._text = (given.get("name", ""), given.get("form")), []
            case "meta":
                if given.get("http-equiv", "").strip().lower() == "refresh":
                    self.leading.append(refresh_address(given.get("content", "")))
            case "base":
                self.base = self.base or given.get("href", "")
            case "script":
                self._script, self._text = True, []
                if given.get("src"):
                    self.links.append(given["src"])
            case "iframe" | "frame" | "embed" | "object":
                self.parts += [given[name] for name in ("src", "data") if given.get(name)]
                if given.get("srcdoc"):
                    self._inner(given["srcdoc"])
            case _:
                pass
        self.links += [value for name, value in given.items() if name in ("href", "xlink:href", "ping") or name.startswith("data-")]

    def handle_endtag(self, tag: str) -> None:
        if tag == "form":
            self._form = None
        elif tag == "script" and self._script:
            self._script = False
            self.scripts.append("".join(self._text))
        elif tag == "textarea" and self._area is not None:
            (name, form), self._area = self._area, None
            self._field(name, "".join(self._text), form, shown=False)

    def handle_data(self, data: str) -> None:
        if self._script or self._area is not None:
            self._text.append(data)

    def handle_comment(self, data: str) -> None:
        # Old browsers ran what stands in conditional comments, and whoever reads without a browser reads it all.
        if "<" in data:
            self._inner(data)

    def close(self) -> None:
        super().close()
        if self._script:
            self.scripts.append("".join(self._text))

    def _field(self, name: str, value: str, form: str | None, *, shown: bool) -> None:
        owner = self.named.setdefault(form, _Form()) if form else self._form
        if owner is not None:
            (owner.shown if shown else owner.hidden).append((name, value))
        elif not shown:
            self.loose.append((name, value))

    def _inner(self, text: str) -> None:
        if self.too_deep:
            return
        inner = _Reader(self._depth + 1)
        inner.feed(text)
        inner.close()
        self.too_deep |= inner.too_deep
        start = len(self.forms)
        self.forms.update({start + place: form for place, form in inner.forms.items()})
        for name, form in inner.named.items():
            self.named.setdefault(f"{name}/{len(self.named)}", form)
        self.loose += inner.loose
        self.parts += [*inner.leading, *inner.parts]
        self.links += inner.links
        self.scripts += inner.scripts
