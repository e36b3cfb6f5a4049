"""Changes a password through the application's own form, as the user: fetch it, carry its hidden fields, send it, read the answer.

The cookies of the user's browser go to the configured origin and nowhere else; no redirect is followed. The first request changes nothing,
so a failure there is a plain refusal; when the second one breaks off nobody knows, and that is what the result says.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlencode, urljoin, urlsplit

import aiohttp
from yarl import URL

from gateway.policy.glob import path_glob
from gateway.spec.base import parse_origin
from gateway.steps.password_change.config import HttpBackendSpec
from gateway.steps.password_change.page_form import PageForm, find

MAX_PAGE = 1 << 20
Cookies = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Changed:
    """set_cookies: Set-Cookie values of both answers, in order."""

    set_cookies: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class WrongCurrent:
    """The application says that the current password is wrong."""


@dataclass(frozen=True, slots=True)
class NotAccepted:
    """The application did not accept the form and did not say why in words that we know."""

    private: str


@dataclass(frozen=True, slots=True)
class NoSession:
    """The application does not know the user: it did not show its form."""

    private: str


@dataclass(frozen=True, slots=True)
class Away:
    """Not reached, or broken; nothing was changed."""

    private: str


@dataclass(frozen=True, slots=True)
class Unclear:
    """The form was sent and no answer came."""

    private: str


Result = Changed | WrongCurrent | NotAccepted | NoSession | Away | Unclear


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    location: str | None
    set_cookies: tuple[bytes, ...]
    body: str


class HttpBackend:
    def __init__(self, spec: HttpBackendSpec) -> None:
        self._spec = spec
        self._origin = parse_origin("{0.scheme}://{0.netloc}".format(urlsplit(spec.url)))
        self._location = None if spec.success.location is None else tuple(path_glob(p) for p in spec.success.location)
        self._location_not = tuple(path_glob(p) for p in spec.success.location_not)

    async def change(self, cookies: Cookies, current: str, new: str) -> Result:
        timeout = aiohttp.ClientTimeout(total=self._spec.timeout)
        async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar(), timeout=timeout) as client:
            try:
                shown = await _ask(client, "GET", self._spec.url, cookies, self._origin)
            except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
                return Away(f"password form: {type(error).__name__}")
            form = self._form(shown)
            if not isinstance(form, PageForm):
                return form
            target = urljoin(self._spec.url, form.action)
            names = self._spec.fields
            filled = [*form.carried, (names.current, current), (names.new, new)]
            if names.confirm is not None:
                filled.append((names.confirm, new))
            kept = _merged(cookies, shown.set_cookies)
            try:
                answer = await _ask(client, "POST", target, kept, self._origin, body=urlencode(filled), referer=self._spec.url)
            except aiohttp.ClientConnectorError as error:
                return Away(f"password form, sending: {type(error).__name__}")
            except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
                return Unclear(f"password form, sent: {type(error).__name__}")
        return self._read(answer, shown, target)

    def _form(self, shown: _Answer) -> PageForm | NoSession | Away:
        if shown.status >= 500:
            return Away(f"password form: status {shown.status}")
        if shown.status != 200:
            return NoSession(f"password form: status {shown.status}")
        form = find(shown.body, self._spec.fields.all)
        if form is None:
            return NoSession("password form: no form with the configured fields")
        target = urlsplit(urljoin(self._spec.url, form.action))
        try:
            same = parse_origin(f"{target.scheme}://{target.netloc}") == self._origin
        except ValueError:
            same = False
        if not same or form.method != "post":
            return Away("password form: its action leads to another origin, or its method is not post")
        return form

    def _read(self, answer: _Answer, shown: _Answer, target: str) -> Result:
        success = self._spec.success
        if any(text in answer.body for text in self._spec.failure.wrong_current):
            return WrongCurrent()
        if answer.status >= 500 and answer.status not in success.status:
            return Unclear(f"password form, sent: status {answer.status}")
        path = None if answer.location is None else urlsplit(urljoin(target, answer.location)).path or "/"
        held = (
            answer.status in success.status
            and (self._location is None or (path is not None and any(g.matches(path) for g in self._location)))
            and (path is None or not any(g.matches(path) for g in self._location_not))
            and (success.text is None or success.text in answer.body)
        )
        if held:
            return Changed((*shown.set_cookies, *answer.set_cookies))
        return NotAccepted(f"password form, sent: status {answer.status}, not a success by the settings")


async def _ask(
    client: aiohttp.ClientSession,
    method: str,
    url: str,
    cookies: Cookies,
    origin: str,
    *,
    body: str | None = None,
    referer: str | None = None,
) -> _Answer:
    """One exchange, bounded in time by the client and in size here. Raises what aiohttp raises, and ValueError for an answer too large."""
    headers = {"Accept": "text/html,application/xhtml+xml;q=0.9,*/*;q=0.5", "User-Agent": "step-up-gateway"}
    if cookies:
        headers["Cookie"] = "; ".join(f"{name}={value}" for name, value in cookies)
    if body is not None:
        headers |= {"Content-Type": "application/x-www-form-urlencoded", "Origin": origin}
    if referer is not None:
        headers["Referer"] = referer
    data = None if body is None else body.encode("ascii")
    async with client.request(method, URL(url, encoded=True), headers=headers, data=data, allow_redirects=False) as response:
        page = await _bounded(response)
        set_cookies = tuple(value for name, value in response.raw_headers if name.lower() == b"set-cookie")
        return _Answer(response.status, response.headers.get("Location"), set_cookies, _decoded(page, response.charset))


async def _bounded(response: aiohttp.ClientResponse) -> bytes:
    page = bytearray()
    async for chunk in response.content.iter_chunked(65_536):
        page += chunk
        if len(page) > MAX_PAGE:
            raise ValueError("page too large")
    return bytes(page)


def _decoded(page: bytes, charset: str | None) -> str:
    try:
        return page.decode(charset or "utf-8", "replace")
    except LookupError:
        return page.decode("utf-8", "replace")


def _merged(cookies: Cookies, set_cookies: Sequence[bytes]) -> Cookies:
    """The browser's cookies as they stand after an answer; one with Max-Age=0 goes (RFC 6265 §5.3, the common part)."""
    fresh: dict[str, str | None] = {}
    for line in set_cookies:
        pair, *attributes = line.decode("latin-1").split(";")
        name, _, value = pair.partition("=")
        gone = any(a.strip().lower().replace(" ", "") == "max-age=0" for a in attributes)
        fresh[name.strip()] = None if gone else value.strip()
    kept = [(name, value) for name, value in cookies if name not in fresh]
    return (*kept, *((name, value) for name, value in fresh.items() if value is not None))
