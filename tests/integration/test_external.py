"""Pages of others (`kind: redirect`): there with a token, back with an answer, and on with the very request that was suspended."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from tests.support.external import CROSS, KYC, RULE, Page, Sent, arrive, sent
from tests.support.gateway import Browser, Clock
from tests.support.legacy import Client, Place, legacy

pytestmark = pytest.mark.asyncio

START = 1_800_000_000.0


@pytest.fixture
def clock() -> Clock:
    return Clock(START)


@pytest.fixture
def page(clock: Clock) -> Page:
    return Page(now=clock)


def settings(*rules: dict[str, Any], **kyc: Any) -> dict[str, Any]:
    from tests.support.legacy import CODE, HUMAN

    return {"rules": list(rules) or [RULE], "steps": {"kyc": {**KYC, **kyc}, "human": HUMAN, "code": CODE}}


@pytest.fixture
async def place(tmp_path: Path, clock: Clock) -> AsyncIterator[Place]:
    async with legacy(tmp_path, clock=clock, **settings()) as found:
        yield found


async def at_page(place: Place, path: str = "/vault", data: Any = None, *, client: Client | None = None) -> tuple[Client, Sent]:
    """A user who has logged in, asked for something, and stands at the page."""
    if client is None:
        client = place.client()
        await client.log_in()
    asked = await client.get(path) if data is None else await client.post(path, data)
    assert asked.status == 303, asked.text
    return client, sent(await client.get(asked.location))


def back(at: Sent, token: str | None = None, **more: str) -> dict[str, str]:
    return {"state": at.state, **({"token": token} if token is not None else {}), **more}


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_there_with_a_token_and_back_with_an_answer(place: Place, page: Page, clock: Clock, method: str) -> None:
    client, at = await at_page(place)
    assert at.url == "http://kyc.example.com/verify"
    assert set(at.fields) == {"tenant", "state", "session_token"}
    claims = at.claims()
    assert set(claims) == {"iss", "sub", "aud", "jti", "iat", "exp"}
    assert (claims["iss"], claims["sub"], claims["aud"]) == (place.gateway.base, "alice", "kyc")
    assert claims["exp"] - claims["iat"] == 900
    answer = back(at, page.answer(at))
    done = await client.post("/continue", answer) if method == "POST" else await client.get("/continue?" + urlencode(answer))
    assert (done.status, done.location) == (303, "/vault")
    assert (await client.get("/vault")).text == "done for alice"
    assert [s["step"] for s in (await client.proved())["steps"]] == ["kyc"]


async def test_a_suspended_post_is_sent_once_as_it_was(place: Place, page: Page) -> None:
    client, at = await at_page(place, "/vault/open", {"amount": "12"})
    done = await client.post("/continue", back(at, page.answer(at)))
    assert "stepup_resume=" in done.location
    assert (await client.get(done.location)).text == "done for alice"
    assert [p for p in place.app.posted if p[1] == "/vault/open"] == [("POST", "/vault/open", "alice", "amount=12")]
    assert (await client.get(done.location)).status == 410
