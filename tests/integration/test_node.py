"""The provider that other tests rely on: authorization code with PKCE, `prompt=none`, refresh, the password grant; its start and end."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import aiohttp
import pytest
from yarl import URL

from tests.support.node import provider, start
from tests.support.process import is_alive

VERIFIER = "v" * 43
CHALLENGE = base64.urlsafe_b64encode(hashlib.sha256(VERIFIER.encode()).digest()).decode().rstrip("=")
CALLBACK = "http://127.0.0.1:1/cb"


def asking(url: str, **more: str) -> URL:
    query = {"client_id": "app", "response_type": "code", "scope": "openid offline_access", "redirect_uri": CALLBACK, "state": "s"}
    return URL(url + "/auth").with_query({**query, "code_challenge": CHALLENGE, "code_challenge_method": "S256", **more})


async def answered(session: aiohttp.ClientSession, url: URL) -> dict[str, list[str]]:
    """Parameters that come to the redirect URI, after as many redirects as it takes; nobody listens there."""
    while str(url.with_query(None)) != CALLBACK:
        async with session.get(url, allow_redirects=False) as answer:
            assert answer.status in (302, 303), await answer.text()
            url = answer.url.join(URL(answer.headers["Location"]))
    return parse_qs(urlsplit(str(url)).query)


async def test_login_code_silent_renewal_refresh_and_password() -> None:
    jar = aiohttp.CookieJar(unsafe=True)
    async with provider(redirect_uris=[CALLBACK]) as running, aiohttp.ClientSession(cookie_jar=jar) as session:
        assert (await answered(session, asking(running.url, prompt="none")))["error"] == ["login_required"]
        async with session.get(asking(running.url)) as page:
            assert "/interaction/" in page.url.path
        async with session.post(page.url, data={"login": "alice", "password": "wrong"}) as refused:
            assert refused.status == 403
        async with session.post(page.url, data={"login": "alice", "password": "right"}, allow_redirects=False) as done:
            back = page.url.join(URL(done.headers["Location"]))
        code = (await answered(session, back))["code"][0]
        given = {"client_id": "app", "grant_type": "authorization_code", "code": code, "redirect_uri": CALLBACK, "code_verifier": VERIFIER}
        async with session.post(running.url + "/token", data=given) as answer:
            tokens = await answer.json()
        assert {"access_token", "id_token", "refresh_token"} <= tokens.keys()
        assert "code" in await answered(session, asking(running.url, prompt="none"))
        renewed = {"client_id": "app", "grant_type": "refresh_token", "refresh_token": tokens["refresh_token"]}
        async with session.post(running.url + "/token", data=renewed) as answer:
            assert answer.status == 200
        direct = {"client_id": "app", "grant_type": "password", "username": "bob", "password": "right", "scope": "openid"}
        async with session.post(running.url + "/token", data=direct) as answer:
            assert "access_token" in await answer.json()


async def test_what_does_not_start_says_why_and_what_runs_is_ended(tmp_path: Path) -> None:
    script = tmp_path / "broken.cjs"
    script.write_text("require('express'); throw new Error('not today')")
    with pytest.raises(AssertionError, match="not today"):
        await start(script)
    async with provider() as running:
        assert is_alive(running.pid)
    assert not is_alive(running.pid)
