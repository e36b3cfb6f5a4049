"""Where a person came from and where they go on. Every address here is a path on the same origin, never a parameter's word."""

from __future__ import annotations

from urllib.parse import urlsplit

from gateway.wire.head import RequestHead


def came_from(head: RequestHead, prefix: str, continue_path: str) -> str:
    """The path (and query) of the page a request came from, "/" where that is not on this origin, or one of our own pages."""
    referer = head.get("referer")
    if not referer:
        return "/"
    try:
        parts = urlsplit(referer)
    except ValueError:  # `http://[`: no address at all
        return "/"
    if f"{parts.scheme}://{parts.netloc}".lower() != head.origin:
        return "/"
    return local(parts.path + (f"?{parts.query}" if parts.query else ""), prefix, continue_path)


def local(path: str, prefix: str, continue_path: str) -> str:
    """A path that stays on this origin and is not ours, else "/"."""
    if not path.startswith("/") or path[:2] in ("//", "/\\") or not path.isascii() or not path.isprintable() or " " in path:
        return "/"
    bare = path.partition("?")[0]
    ours = bare in (continue_path, prefix) or bare.startswith(prefix + "/") or "stepup_resume=" in path
    return "/" if ours else path
