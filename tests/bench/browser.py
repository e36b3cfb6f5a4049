"""What is sent: navigations of many browsers, written out before anything is measured, so that a load generator only copies bytes.

A visitor has one browser and one cookie, as in life, and sends the same header fields again and again; the next request is another
visitor's. No two requests of a file are the same, so no cache of whole requests helps. `strangers` never come twice: what is kept for a
visitor does not help either.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

COUNT = 8_000
PATHS, VISITORS = 401, 307
_VERSIONS, _LANGUAGES = range(120, 143), ("de-DE,de;q=0.9", "en-US,en;q=0.9", "fr-FR,fr;q=0.9,en;q=0.8", "pl-PL,pl;q=0.9", "tr-TR,tr;q=0.9")
_SYSTEMS = (("X11; Linux x86_64", "Linux"), ("Windows NT 10.0; Win64; x64", "Windows"), ("Macintosh; Intel Mac OS X 10_15_7", "macOS"))


def fields(number: int = 0) -> tuple[str, ...]:
    """What the Chromium of visitor `number` sends with a navigation; with Host 14 fields. The cookie is the 15th."""
    chromium, (system, platform) = _VERSIONS[number % len(_VERSIONS)], _SYSTEMS[number % len(_SYSTEMS)]
    return (
        "Connection: keep-alive",
        "Cache-Control: max-age=0",
        f'sec-ch-ua: "Chromium";v="{chromium}", "Not:A-Brand";v="24", "Google Chrome";v="{chromium}"',
        "sec-ch-ua-mobile: ?0",
        f'sec-ch-ua-platform: "{platform}"',
        "Upgrade-Insecure-Requests: 1",
        f"User-Agent: Mozilla/5.0 ({system}) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/{chromium}.0.0.0 Safari/537.36",
        "Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8",
        "Sec-Fetch-Site: same-origin",
        "Sec-Fetch-Mode: navigate",
        "Sec-Fetch-User: ?1",
        "Sec-Fetch-Dest: document",
        f"Accept-Language: {_LANGUAGES[number % len(_LANGUAGES)]}",
    )


def cookie(number: int = 0) -> str:
    """What an application and its analytics leave with visitor `number`."""
    return f"theme=dark; _ga=GA1.1.{1234500000 + number}.1700000000; consent=a1b2c3"


def page(number: int) -> str:
    """A path that no rule is about."""
    return f"/account/{number}/statement?tab=ledger"


def get(host: str, target: str, *, visitor: int = 0, cookies: str = "", more: Sequence[str] = ()) -> bytes:
    """One GET. cookies: what stands before those that everybody has; more: further fields."""
    both = f"{cookies}; {cookie(visitor)}" if cookies else cookie(visitor)
    return "\r\n".join((f"GET {target} HTTP/1.1", f"Host: {host}", *fields(visitor), *more, f"Cookie: {both}", "", "")).encode()


def write(
    file: Path,
    host: str,
    *,
    path: Callable[[int], str] = page,
    cookies: Sequence[str] = ("",),
    more: Callable[[int], Sequence[str]] = lambda _: (),
    strangers: bool = False,
) -> Path:
    """A file of COUNT GETs. path: of a number below PATHS; cookies: each visitor has one of them; more: further fields for the number of
    the path."""
    texts = []
    for number in range(COUNT):
        visitor, place = number if strangers else number % VISITORS, number % PATHS
        texts.append(get(host, path(place), visitor=visitor, cookies=cookies[visitor % len(cookies)], more=more(place)))
    file.write_bytes(b"".join(texts))
    return file
