"""The keys that an identity provider, an outside issuer or a page publishes (RFC 7517): fetched when they are first needed, and kept."""

from __future__ import annotations

import asyncio
import json

import aiohttp
import jwt

from gateway.errors import StoreUnavailable
from gateway.identity.whoami import read_all
from gateway.tokens.foreign import usable_key

_REFETCH = 10.0  # seconds between two fetches that an unknown kid may cause
_RETRY = 2.0  # seconds between two fetches that fail: clients must not queue up behind a provider that is away
_MOST = 262_144  # bytes of a key set


class PublishedKeys:
    """One URL. refresh: seconds for which fetched keys are kept. timeout: bound on a fetch, seconds. fetched: when, since the epoch."""

    def __init__(self, url: str, *, refresh: float = 300.0, timeout: float = 3.0) -> None:
        self._url = url
        self._refresh = refresh
        self._timeout = timeout
        self._keys: dict[str, jwt.PyJWK] = {}
        self.fetched = float("-inf")
        self._tried = float("-inf")
        self._fault = ""
        self._lock = asyncio.Lock()

    def held(self, kid: str, now: float) -> jwt.PyJWK | None:
        """The key of that name if it is at hand and young enough: waits for nothing."""
        return self._keys.get(kid) if now < self.fetched + self._refresh else None

    async def key(self, kid: str, now: float) -> jwt.PyJWK | None:
        """The key of that name; an unknown name fetches the set again, at most every 10 s. Raises StoreUnavailable where keys cannot be had
        and those at hand are too old."""
        if (known := self.held(kid, now)) is not None:
            return known
        async with self._lock:
            stale = now >= self.fetched + self._refresh
            wanted = stale or (kid not in self._keys and now >= self.fetched + _REFETCH)
            if wanted and not (self._fault and now < self._tried + _RETRY):
                self._tried = now
                try:
                    self._keys, self.fetched, self._fault = await self._fetch(), now, ""
                except (aiohttp.ClientError, TimeoutError, ValueError, RecursionError) as error:
                    self._fault = type(error).__name__
            if self._fault and (kid not in self._keys or now >= self.fetched + 10 * self._refresh):
                raise StoreUnavailable(f"the keys of {self._url} cannot be had: {self._fault}")
        return self._keys.get(kid)

    async def _fetch(self) -> dict[str, jwt.PyJWK]:
        timeout = aiohttp.ClientTimeout(total=self._timeout)
        async with aiohttp.ClientSession(timeout=timeout) as session, session.get(self._url, allow_redirects=False) as answer:
            if answer.status != 200:
                raise ValueError(f"status {answer.status}")
            document = json.loads(await read_all(answer, _MOST))
        keys = document.get("keys", []) if isinstance(document, dict) else []
        return {entry["kid"]: key for entry in keys if isinstance(entry, dict) and (key := usable_key(entry)) is not None}
