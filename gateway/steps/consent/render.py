"""Markdown (CommonMark, and tables) to HTML, once, when the settings are read. Nothing in a document can act: no HTML of its own, no
pictures, and links only to where a link may lead. What cannot be shown is a mistake with its line, never left out in silence."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterator

from markdown_it import MarkdownIt
from markdown_it.token import Token

from gateway.spec.base import TextMistake
from gateway.steps.consent.document import Document

LARGEST = 262_144
_SAFE = re.compile(r"https?://[^/]|mailto:|tel:|/(?![/\\])", re.IGNORECASE)
_DEEPEST = 6


def render(data: bytes) -> Document | tuple[TextMistake, ...]:
    """The document in a file's bytes, or all that is wrong with it."""
    if len(data) > LARGEST:
        return (TextMistake(1, 1, f"the document is larger than {LARGEST // 1024} KiB"),)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        return (TextMistake(*_place(data[: error.start].decode("utf-8", "replace")), "the document is not UTF-8"),)
    mistakes = list(_unseen(text))
    # HTML is recognized, so that it can be told; every link is taken for one, so that it can be judged.
    markdown = MarkdownIt("commonmark", {"html": True}).enable("table")
    markdown.validateLink = lambda url: True  # type: ignore[method-assign]  # noqa: ARG005 - the name it is called by
    tokens = markdown.parse(text)
    for token in tokens:
        mistakes += _mistakes(token)
    if not tokens:
        mistakes.append(TextMistake(1, 1, "the document is empty"))
    if mistakes:
        return tuple(sorted(set(mistakes), key=lambda m: (m.line, m.column)))
    title = ""
    if tokens[0].type == "heading_open" and tokens[0].tag == "h1":
        title = "".join(child.content for child in tokens[1].children or () if child.type in ("text", "code_inline")).strip()
        tokens = tokens[3:]
    headings = [token for token in tokens if token.type in ("heading_open", "heading_close")]
    if not title or any(token.tag == "h1" for token in headings):  # the page's own heading is the one h1
        for token in headings:
            token.tag = f"h{min(_DEEPEST, int(token.tag[1:]) + 1)}"
    return Document(title, markdown.renderer.render(tokens, markdown.options, {}), text, hashlib.sha256(data).hexdigest())


def _place(before: str) -> tuple[int, int]:
    return before.count("\n") + 1, len(before) - (before.rfind("\n") + 1) + 1


def _unseen(text: str) -> Iterator[TextMistake]:
    for match in re.finditer(r"[^\n\r\t\x20-\x7e]", text):
        if unicodedata.category(match[0]) == "Cc":
            yield TextMistake(*_place(text[: match.start()]), f"a control character (U+{ord(match[0]):04X})")


def _mistakes(token: Token) -> Iterator[TextMistake]:
    line = (token.map or [0])[0] + 1
    if token.type == "html_block":
        yield TextMistake(line, 1, "HTML is not shown; write it in Markdown")
    for child in token.children or ():
        match child.type:
            case "softbreak" | "hardbreak":
                line += 1
            case "html_inline":
                yield TextMistake(line, 1, "HTML is not shown; write it in Markdown")
            case "image":
                yield TextMistake(line, 1, "pictures are not shown; write a link to it")
            case "link_open" if not _SAFE.match(str(child.attrGet("href") or "")):
                yield TextMistake(line, 1, "a link leads to https://…, http://…, mailto:…, tel:… or a path that begins with /")
