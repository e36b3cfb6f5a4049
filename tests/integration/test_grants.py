"""Token endpoints behind the gateway: a small provider, a client without cookies, a browser that helps. Every server here is real."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web

from tests.support.gateway import Clock
from tests.support.oauth import REALM, Before, basic, gateway_before, hidden

PASSWORD = {"grant_type": "password", "client_id": "spa", "username": "alice", "password": "wonderland", "scope": "openid"}


@pytest.fixture
async def idp(tmp_path: Path) -> AsyncIterator[Before]:
    async with gateway_before(tmp_path, clock=Clock(1_800_000_000.0)) as found:
        yield found


async def test_a_password_grant_waits_for_its_step_and_goes_through_once(idp: Before) -> None:
    client = idp.client()
    asked = await client.call(PASSWORD)
    assert asked.status == 403
    assert asked.headers["Cache-Control"] == "no-store"
    assert asked.json["error"] == "interaction_required"
    assert asked.json["state"].startswith("su_")
    assert asked.json["step_up_url"] == f"{idp.base}/.stepup/t/{asked.json['state']}"
    assert asked.json["steps"] == ["code"]
    assert 0 < asked.json["expires_in"] <= 600
    assert "access_token" not in asked.text
    token = await idp.passed(client, asked)
    done = await client.call({**PASSWORD, "stepup_token": token})
    assert done.status == 200, done.text
    assert done.json["for"] == "alice"
    assert done.headers["X-Provider"] == "small"
    again = await client.call({**PASSWORD, "stepup_token": token})
    assert (again.status, again.json["error"]) == (400, "invalid_request")
