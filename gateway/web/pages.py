"""Every page of ours, from values to bytes. Pure but for reading templates at start: no clock, no randomness, no request.

Whatever came from a user or an application goes through autoescaping, and where it is shown as itself through `visible`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from jinja2 import ChoiceLoader, Environment, FileSystemLoader, PrefixLoader, StrictUndefined

from gateway.flow.step import View
from gateway.spec.sections import ThemeSpec
from gateway.web.csp import handback_headers, page_headers
from gateway.web.page import Page, safe_href, visible
from gateway.web.preview import preview
from gateway.web.static import Static
from gateway.web.texts import TEXTS, Kind, wait_text
from gateway.web.theme import load_theme

TEMPLATES = Path(__file__).parent / "templates"
TOKEN_FIELD = "stepup_token"  # noqa: S105 - the name of the hidden field, not a secret
DEFAULT_WAIT = 5


@dataclass(frozen=True, slots=True)
class Shown:
    """What every page needs. nonce: fresh, from the caller's entropy. request_id: as in the log."""

    nonce: str
    request_id: str


@dataclass(frozen=True, slots=True)
class Behalf:
    """The client of a token endpoint that somebody does steps for. client: its id. user: the name that it wants to sign in, "" for none.
    action: what it does, from `ACTIONS`."""

    client: str
    user: str
    action: str


ACTIONS: Mapping[str, str] = {
    "oauth2-password": "sign in with a password",
    "oauth2-resource-owner": "sign in with a password",
    "oauth2-refresh-token": "stay signed in",
}
"""What a call of a token endpoint does, by flow.protocol, after "wants to"."""


@dataclass(frozen=True, slots=True)
class Suspended:
    """The request that waits. target: as sent (path and query). host: with port, as in the address bar. behalf: who waits for it,
    where that is not this browser."""

    method: str
    target: str
    host: str
    behalf: Behalf | None = None

    @property
    def path(self) -> str:
        """The path alone: a query is long, and may hold what an onlooker should not read."""
        return visible(self.target.partition("?")[0], 160)


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why an answer was refused: a step's `Refused` as its page shows it. retry_after: seconds.

    action: the one that has to wait so long ("resend"); everything else on the page stays open. None: it is the answer that waits.
    errors: what is wrong, by field, where that is known of several; `field` and `message` are the first.
    """

    code: str
    message: str
    field: str | None = None
    retry_after: int | None = None
    action: str | None = None
    errors: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Way:
    """A way on: a link, or a form with hidden fields where method is "post". label: None takes the page's own wording."""

    href: str
    label: str | None = None
    method: Literal["get", "post"] = "get"
    fields: tuple[tuple[str, str], ...] = ()
    top: bool = False


@dataclass(frozen=True, slots=True)
class Proved:
    """A line of the pass page. ago: "2 minutes ago". left: how much longer it counts, "3 minutes"; None: as long as the pass."""

    title: str
    ago: str
    left: str | None = None


@dataclass(frozen=True, slots=True)
class Letter:
    """A message in the demo's mailbox."""

    to: str
    subject: str
    text: str


class Pages:
    """Renders with one theme. After a reload with another theme or other steps, make a new one.

    steps: kind of step to its folder, which holds `page.html`. mailbox_url: where the demo's mail can be read, None outside the demo.
    Raises OSError or ValueError for an unusable logo.
    """

    def __init__(self, theme: ThemeSpec, static: Static, steps: Mapping[str, Path], *, prefix: str, mailbox_url: str | None = None) -> None:
        self._env = Environment(
            autoescape=True,
            undefined=StrictUndefined,
            auto_reload=False,
            trim_blocks=True,
            lstrip_blocks=True,
            loader=ChoiceLoader(
                [FileSystemLoader(TEMPLATES), PrefixLoader({kind: FileSystemLoader(folder) for kind, folder in steps.items()})]
            ),
        )
        self._env.globals.update(
            theme=load_theme(theme),
            static=static.url,
            prefix=prefix,
            mailbox_url=mailbox_url,
            token_field=TOKEN_FIELD,
        )
        self._env.filters.update(visible=visible, href=safe_href)
        self._static = static

    def step(
        self,
        shown: Shown,
        *,
        kind: str,
        view: View,
        action: str,
        token: str,
        suspended: Suspended,
        index: int,
        total: int,
        expires_in: int,
        trouble: Trouble | None = None,
        status: int = 200,
        next_origins: Iterable[str] = (),
    ) -> Page:
        """The interstitial of one step.

        action: relative URL of the transaction. token: the form's hidden token. index: of the step, from 1. expires_in: seconds.
        status: 200, or what the refusal in `trouble` calls for. next_origins: see `csp.policy`.
        """
        named = {f.name: f.label for f in view.fields if f.type != "hidden"}
        page = self._render(
            f"{kind}/page.html",
            shown,
            status=status,
            next_origins=next_origins,
            view=view,
            error=trouble,
            error_label=named.get(trouble.field) if trouble and trouble.field else None,
            several=len(named) > 1,
            wrong=[(name, label) for name, label in named.items() if trouble and name in trouble.errors],
            action=action,
            token=token,
            suspended=suspended,
            index=index,
            total=total,
            expires_in=expires_in,
            expires_text=wait_text(expires_in),
            wait=wait_text(trouble.retry_after) if trouble and trouble.retry_after else None,
        )
        return _with_retry(page, trouble.retry_after if trouble else None)

    def framed(self, shown: Shown, *, href: str, suspended: Suspended) -> Page:
        """What a frame gets instead of an interstitial: one link that opens the page at the top. Shown by our own origin only."""
        return self._render("framed.html", shown, framed=True, link=href, suspended=suspended)

    def confirm(
        self,
        shown: Shown,
        *,
        action: str,
        token: str,
        suspended: Suspended,
        content_type: str,
        body: bytes,
        foreign: bool,
        came_from: str | None = None,
        index: int = 1,
        total: int = 1,
        next_origins: Iterable[str] = (),
    ) -> Page:
        """What will be sent, before it is. `action` gets `action=send` or `action=cancel`. index, total: as for `step`.

        foreign: the request did not come from the application's own pages. came_from: the origin that it came from, where known.
        """
        return self._render(
            "confirm.html",
            shown,
            next_origins=next_origins,
            action=action,
            token=token,
            suspended=suspended,
            preview=preview(content_type, body),
            foreign=foreign,
            came_from=came_from,
            index=index,
            total=total,
        )

    def send(
        self, shown: Shown, url: str, fields: Sequence[tuple[str, str]], *, method: Literal["get", "post"] = "post", where: str = "",
        next_origins: Iterable[str] = (),
    ) -> Page:  # fmt: skip
        """A form that sends itself to `url`, or by its button where no script runs.

        url: http or https, from the configuration or from a rule; or a path of our own origin. where: the host, for people; the URL's
        unless given. next_origins: where that redirects to, beside itself and us. Raises ValueError for another URL.
        """
        parts = urlsplit(url)
        if (parts.scheme not in ("http", "https") or not parts.netloc) and not _own_path(url):
            raise ValueError("a form is sent to http:// or https:// only")
        host = parts.netloc.rpartition("@")[2]
        origins = (*((f"{parts.scheme}://{host}",) if host else ()), *next_origins)
        return self._render("send.html", shown, next_origins=origins, url=url, fields=list(fields), method=method, host=where or host)

    def message(
        self,
        shown: Shown,
        kind: Kind,
        *,
        primary: Way | None = None,
        secondary: Way | None = None,
        message: str = "",
        detail: str = "",
        retry_after: int | None = None,
        status: int | None = None,
        suspended: Suspended | None = None,
        next_origins: Iterable[str] = (),
        framed: bool = False,
    ) -> Page:
        """Every other page. message: a rule's or a step's public words. detail: what whoever wrote the page before this one must know.
        retry_after: seconds; also sent as a header.

        status: where it differs from the kind's own (a rule's `deny.status`). Always offers a way on.
        """
        text = TEXTS[kind]
        code = text.status if status is None else status
        if retry_after is None and code in (429, 503):
            retry_after = DEFAULT_WAIT
        words = {"message": message or "This request is not allowed.", "wait": wait_text(retry_after or DEFAULT_WAIT)}
        way = primary or Way(text.href)
        page = self._render(
            "message.html",
            shown,
            status=code,
            next_origins=next_origins,
            framed=framed,
            title=text.title,
            tone=text.tone,
            paragraphs=[
                *(visible(paragraph.format_map(words), 1000) for paragraph in text.paragraphs),
                *filter(None, [visible(detail, 1000)]),
            ],
            primary=way,
            primary_label=way.label or text.way,
            secondary=secondary,
            retry_after=retry_after,
            suspended=suspended,
        )
        return _with_retry(page, retry_after)

    def proved(self, shown: Shown, *, subject: str, proofs: Sequence[Proved], ends: str, action: str, token: str) -> Page:
        """`GET <prefix>/pass`: what this browser has proved. subject: "" for nobody. ends: how much longer the pass can last, "3 hours".

        action: where the button that forgets it posts to.
        """
        return self._render("pass.html", shown, subject=subject, proofs=proofs, ends=ends, action=action, token=token)

    def handed_back(self, shown: Shown, uri: str, fields: Sequence[tuple[str, str]], *, message: bool) -> Page:
        """An authorization error on its way to a client: by a form that sends itself, or as a message to the page that opened or frames
        this one. uri: the redirect URI that the provider chose, http or https. Raises ValueError for another."""
        parts = urlsplit(uri)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise ValueError("a form is sent to http:// or https:// only")
        host = parts.netloc.rpartition("@")[2]
        page = self._render("handback.html", shown, uri=uri, fields=fields, host=host, message=message)
        return Page(page.status, handback_headers(shown.nonce, f"{parts.scheme}://{host}"), page.body)

    def mailbox(self, shown: Shown, letters: Sequence[Letter]) -> Page:
        """The demo's mail, in the order given. The admin listener serves no assets, so the style stands in the page."""
        style = self._static.body("stepup.css").decode("utf-8")
        return self._render("mailbox.html", shown, letters=letters, style=style)

    def _render(
        self, template: str, shown: Shown, *, status: int = 200, next_origins: Iterable[str] = (), framed: bool = False, **values: Any
    ) -> Page:
        html = self._env.get_template(template).render(nonce=shown.nonce, request_id=shown.request_id, status=status, **values)
        return Page(status, page_headers(shown.nonce, next_origins=next_origins, framed=framed), html.encode("utf-8"))


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def _own_path(url: str) -> bool:
    return url.startswith("/") and not url.startswith(("//", "/\\"))


def _with_retry(page: Page, retry_after: int | None) -> Page:
    if retry_after is None:
        return page
    return Page(page.status, (*page.headers, ("Retry-After", str(retry_after))), page.body)
