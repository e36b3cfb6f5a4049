"""Assets of the pages: read once at start, found by dictionary, so that no path is ever built from a request."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from gateway.web.csp import ASSET_POLICY
from gateway.web.page import Page

HERE = Path(__file__).parent / "static"

KEPT = "public, max-age=31536000, immutable"
TAG = "stepup.js"
LASTING = frozenset({TAG, "stepup-dialog.css"})
"""Assets that applications name in their own pages: found without a hash too, for as long as there is a gateway."""

_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".png": "image/png",
    ".svg": "image/svg+xml",
}


@dataclass(frozen=True, slots=True)
class Asset:
    """etag: strong, with its quotes (RFC 9110 §8.8.3)."""

    body: bytes
    content_type: str
    etag: str


class Static:
    """Our own assets by their file name (`stepup.css`), and those of `folders` as `<key>/<file>` (`captcha/captcha.js`).

    One hash over all of them stands in every URL, so that a script finds its neighbours (workers, imports) by a relative URL.
    What is `LASTING` has a URL without a hash beside it, which is asked for anew each time, and by pages of other origins too.
    Only scripts, styles and images are served, whatever else lies in a folder. Raises OSError where a file cannot be read.
    """

    def __init__(self, prefix: str, folders: Mapping[str, Path]) -> None:
        assets: dict[str, Asset] = {}
        for key, folder in (("", HERE), *sorted(folders.items())):
            for file in sorted(folder.rglob("*")):
                if file.suffix not in _TYPES or not file.is_file():
                    continue
                body = file.read_bytes()
                name = "/".join(filter(None, (key, file.relative_to(folder).as_posix())))
                assets[name] = Asset(body, _TYPES[file.suffix], f'"{hashlib.sha256(body).hexdigest()[:32]}"')
        self._assets = assets
        listing = "\n".join(f"{name} {asset.etag}" for name, asset in sorted(assets.items()))
        self.version = hashlib.sha256(listing.encode()).hexdigest()[:12]
        self.root = f"{prefix}/static/"

    def url(self, name: str) -> str:
        """The URL path of an asset. Raises KeyError for a name that does not exist: a template's mistake."""
        if name not in self._assets:
            raise KeyError(f"no asset named {name!r}; there are {', '.join(sorted(self._assets))}")
        return f"{self.root}{self.version}/{name}"

    def body(self, name: str) -> bytes:
        """The bytes of an asset. Raises KeyError."""
        return self._assets[name].body

    def respond(self, rest: str, if_none_match: str | None = None) -> Page | None:
        """The answer to GET or HEAD for what follows `root` in a URL path; None when there is no such asset.

        A hash of another gateway's version gets our asset all the same, uncached: while versions roll out behind one
        balancer, pages of one ask the other for their assets.
        """
        version, _, name = rest.partition("/")
        lasting = rest in LASTING
        asset = self._assets.get(rest if lasting else name)
        if asset is None:
            return None
        headers = (
            ("Cache-Control", "private, no-cache" if lasting else KEPT if version == self.version else "no-cache"),
            ("ETag", asset.etag),
            ("X-Content-Type-Options", "nosniff"),
            ("Cross-Origin-Resource-Policy", "cross-origin" if lasting else "same-origin"),
        )
        if if_none_match is not None and names_etag(if_none_match, asset.etag):
            return Page(304, headers, b"")
        return Page(200, (("Content-Type", asset.content_type), ("Content-Security-Policy", ASSET_POLICY), *headers), asset.body)


def names_etag(if_none_match: str, etag: str) -> bool:
    """RFC 9110 §13.1.2: weak comparison against a list, or `*`."""
    tags = (tag.strip().removeprefix("W/") for tag in if_none_match.split(","))
    return any(tag in ("*", etag) for tag in tags)
