"""Asks an upstream who a session belongs to. Silence, an error or an odd answer is "nobody"."""

from __future__ import annotations

import json
from collections.abc import Mapping

import aiohttp

MOST = 65_536  # bytes of an answer


async def read_all(answer: aiohttp.ClientResponse, limit: int) -> bytes:
    """The whole body, which may come in pieces. Raises ValueError where it is longer than `limit` bytes."""
    raw = bytearray()
    async for piece in answer.content.iter_any():
        raw += piece
        if len(raw) > limit:
            raise ValueError(f"more than {limit} bytes")
    return bytes(raw)


class WhoAmI:
    """One configured URL. `field`: the JSON field with the user name, or None for the whole text."""

    def __init__(self, url: str, field: str | None, timeout: float) -> None:
        self._url = url
        self._field = field
        self._timeout = aiohttp.ClientTimeout(total=timeout)

    async def ask(self, cookies: Mapping[str, str]) -> str | None:
        """The user name, or None. Reads at most 64 KiB, follows no redirect, keeps no cookie."""
        sent = "; ".join(f"{name}={value}" for name, value in cookies.items())
        try:
            async with (
                aiohttp.ClientSession(timeout=self._timeout, cookie_jar=aiohttp.DummyCookieJar()) as session,
                session.get(self._url, headers={"Cookie": sent, "Accept": "application/json"}, allow_redirects=False) as answer,
            ):
                if answer.status != 200:
                    return None
                raw = await read_all(answer, MOST)
                if self._field is None:
                    name: object = raw.decode("utf-8", "replace").strip()
                else:
                    body = json.loads(raw)
                    name = body.get(self._field) if isinstance(body, Mapping) else None
        except (aiohttp.ClientError, TimeoutError, ValueError, RecursionError):
            return None
        return name if isinstance(name, str) and 0 < len(name) <= 256 and name.isprintable() else None
