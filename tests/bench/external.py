"""How long a whole way over a page of others takes: python -m tests.bench.external

One browser, one flow after the other, the gateway in a process of its own with its state in SQLite. The page's part is done here: it
verifies the token and signs an answer. A flow is: ask, transaction's page, (page), back to /continue, ticket, the application's answer.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import aiohttp

from tests.support.external import KYC, Page, sent
from tests.support.gateway import NAVIGATION, Browser, Reply
from tests.support.process import outside

FLOWS = 200
RULE = {"name": "kyc", "match": {"path": "/transfer"}, "require": "kyc", "max_age": "once"}


async def flow(browser: Browser, stranger: aiohttp.ClientSession, *, across: bool, send: str) -> None:
    """across: the answer is posted without our cookies, and fetched back."""
    asked = await browser.get("/transfer")
    at = sent(await browser.get(asked.location))
    answer = {"state": at.state, "token": Page().answer(at)}
    if across:
        async with stranger.post(browser.base + "/continue", data=answer, headers=dict(NAVIGATION), allow_redirects=False) as posted:
            back: Reply = await browser.get(posted.headers["Location"])
    else:
        back = await browser.post("/continue", answer)
    done = await browser.get(back.location)
    assert (done.status, send) == (200, send), done.text


async def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        for send in ("query", "form_post"):
            step = {**KYC, "send": send}
            changes: dict[str, Any] = {"rules": [RULE], "steps": {"kyc": step}}
            async with (
                outside(Path(folder) / send, **changes) as gateway,
                aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as no_jar,
            ):
                browser = gateway.browser()
                assert (await browser.post("/login", {"username": "alice", "password": "wonderland"})).status in (302, 303)
                for across in (False, True):
                    took = []
                    for _ in range(FLOWS):
                        began = time.perf_counter()
                        await flow(browser, no_jar, across=across, send=send)
                        took.append((time.perf_counter() - began) * 1000)
                    ordered = sorted(took)
                    where = "across sites (parked)" if across else "same site"
                    middle, late = statistics.median(took), ordered[int(FLOWS * 0.99) - 1]
                    print(f"{send:9} {where:22} least {ordered[0]:5.1f} ms  median {middle:5.1f} ms  p99 {late:5.1f} ms")


if __name__ == "__main__":
    asyncio.run(main())
