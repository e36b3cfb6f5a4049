"""Answers of a provider that no provider should give: whatever they look like, no code leaves while a rule is unmet."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from tests.support.gateway import SCRIPT
from tests.support.ports import free_port
from tests.support.provider import FRAME, HUMAN, OAUTH, Identity, before

CB = "https://app.example.com/cb"
FORM = (
    f'<form method="post" action="{CB}"><input type="hidden" name="code" value="SECRET"><input type="hidden" name="state" value="s"></form>'
)
SILENT = "/auth?prompt=none&state=s"

Answering = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def answering(folder: Path, answer: Answering, **changes: Any) -> AsyncIterator[Identity]:
    """A gateway before an upstream that answers everything in one way."""
    runner = web.ServerRunner(web.Server(answer), shutdown_timeout=0.1)
    await runner.setup()
    port = free_port()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        async with before(folder, f"http://127.0.0.1:{port}", **changes) as found:
            yield found
    finally:
        await runner.cleanup()


def always(status: int = 200, body: bytes | str = "", **headers: str) -> Answering:
    async def answer(_: web.BaseRequest) -> web.StreamResponse:
        data = body.encode() if isinstance(body, str) else body
        fields = {name.replace("_", "-"): value for name, value in headers.items()}
        return web.Response(status=status, body=data, headers={"Content-Type": "text/html; charset=utf-8", **fields})

    return answer


ANSWERS = [
    always(302, Location=CB + "?code=SECRET&state=s"),
    always(201, Location=CB + "?code=SECRET&state=s"),
    always(200, Location=CB + "?code=SECRET&state=s"),
    always(307, Location=CB + "#access_token=SECRET&state=s"),
    always(200, Refresh=f"0; url={CB}?code=SECRET&state=s"),
    always(200, Content_Location=CB + "?code=SECRET"),
    always(302, "moved", Location="https://app.example.com/cb?%63ode=SECRET"),
    always(302, FORM, Location="/elsewhere"),
    always(200, FORM),
    always(400, FORM),
    always(200, FORM, Content_Type=""),
    always(200, FORM, Content_Type="application/xhtml+xml"),
    always(200, FORM.encode("utf-16"), Content_Type="text/html; charset=utf-16"),
    always(200, FORM, Content_Type="text/html; charset=utf-7"),
    always(200, gzip.compress(FORM.encode()), Content_Encoding="gzip"),
    always(200, gzip.compress(b"nothing to see"), Content_Encoding="gzip"),
    always(206, "SECRET", Content_Range="bytes 1-6/99"),
    always(200, " " * 5000 + FORM),
    always(200, f'<script>location = "{CB}?code=SECRET"</script>'),
]


async def test_no_answer_with_a_code_leaves_in_whatever_dress(tmp_path: Path) -> None:
    current = ANSWERS[0]

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        return await current(request)

    async with answering(tmp_path, answer, oauth={**OAUTH, "max_answer": 4096}) as there:
        for number, current in enumerate(ANSWERS):  # noqa: B007 - `answer` reads it
            for path in (SILENT, "/auth?state=s", "/auth/uid", "/login", "/AUTH?state=s", "/auth/", "/%61uth", "//auth"):
                for method, headers in (("GET", FRAME), ("POST", SCRIPT), ("GET", {}), ("HEAD", {})):
                    browser = there.browser()
                    reply = await browser.request(method, path, headers=headers)
                    await browser.session.close()
                    told = f"{number} {method} {path} {headers}: {reply.status} {dict(reply.headers)} {reply.text[:300]}"
                    assert "SECRET" not in str(reply.headers) + reply.text, told
                    assert "nothing to see" not in reply.text, told
                    assert reply.status in (200, 302, 303, 400, 401, 403) or method == "HEAD", told


async def test_a_range_and_an_encoding_are_not_asked_for(tmp_path: Path) -> None:
    seen: list[web.BaseRequest] = []

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        seen.append(request)
        return web.Response(text="fine", content_type="text/html")

    async with answering(tmp_path, answer) as there:
        headers = {"Range": "bytes=0-9", "If-Range": '"x"', "Accept-Encoding": "br, gzip"}
        reply = await there.browser().get("/login", headers=headers)
        assert reply.text == "fine"
    assert {"Range", "If-Range", "Accept-Encoding"}.isdisjoint(seen[0].headers)


async def test_pages_and_everything_else_pass_whole(tmp_path: Path) -> None:
    page = "<p>" + "x" * 3000
    async with answering(tmp_path, always(200, page, Set_Cookie="a=b")) as there:
        reply = await there.browser().get("/login")
        assert (reply.status, reply.text, reply.headers["Set-Cookie"]) == (200, page, "a=b")
        assert await there.metric('stepup_held_bytes_total{upstream="idp"}') == len(page)
    async with answering(tmp_path, always(200, b"\0" * 100_000, Content_Type="image/png")) as there:
        assert len((await there.browser().get("/logo.png")).body) == 100_000
        assert await there.metric('stepup_held_bytes_total{upstream="idp"}') == 0


async def test_a_page_that_does_not_end_in_time_is_given_up(tmp_path: Path) -> None:
    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/html"})
        await response.prepare(request)
        await response.write(b"<p>")
        await asyncio.Event().wait()
        return response

    async with answering(tmp_path, answer, oauth={**OAUTH, "answer_timeout": "200ms"}) as there:
        assert (await there.browser().get("/login")).status == 504


async def test_a_page_that_is_too_large_passes_where_nothing_is_unmet(tmp_path: Path) -> None:
    rule = {**HUMAN, "match": {"path": "/auth", "network": "10.0.0.0/8"}}
    large = FORM + " " * 9000
    async with answering(tmp_path, always(200, large), rules=[rule], oauth={**OAUTH, "max_answer": 4096}) as there:
        reply = await there.browser().get("/auth?state=s")
        assert reply.text == large


async def test_without_a_rule_on_the_authorize_path_nothing_is_held(tmp_path: Path) -> None:
    rule = {**HUMAN, "match": {"path": "/account"}}
    async with answering(tmp_path, always(200, gzip.compress(FORM.encode()), Content_Encoding="gzip"), rules=[rule]) as there:
        assert (await there.browser().get("/auth")).status == 200
        assert await there.metric('stepup_held_bytes_total{upstream="idp"}') == 0


async def test_a_redirect_uri_that_a_browser_would_run_is_not_used(tmp_path: Path) -> None:
    async with answering(tmp_path, always(302, Location="javascript:alert(1)//?code=SECRET")) as there:
        reply = await there.browser().get(SILENT)
        assert reply.status == 403
        assert "Location" not in reply.headers


@pytest.mark.parametrize(
    "answer",
    [
        always(200, '{"redirect_uri": "https://app.example.com/cb?code=SECRET&state=s"}', Content_Type="application/json"),
        always(200, '{"redirect_uri": "https:\\/\\/a.example\\/cb\\u003fcode=SECRET"}', Content_Type="application/json;charset=UTF-8"),
        always(200, '{"redirect_uri": {"action": "post", "body": {"code": "SECRET"}}}', Content_Type="application/hal+json"),
        always(201, '{"access_token":"SECRET"}'.encode("utf-16"), Content_Type="application/json"),
        always(200, gzip.compress(b'{"code": "SECRET"}'), Content_Type="application/json", Content_Encoding="gzip"),
        always(200, '{"x": "' + "x" * 5000 + '", "code": "SECRET"}', Content_Type="application/json"),
    ],
)  # fmt: skip
async def test_an_authorize_path_that_answers_by_json_gives_no_code_either(tmp_path: Path, answer: Answering) -> None:
    async with answering(tmp_path, answer, oauth={**OAUTH, "max_answer": 4096}) as there:
        for method, headers in (("GET", {}), ("GET", SCRIPT), ("POST", SCRIPT)):
            reply = await there.browser().request(method, "/auth?client_id=app&response_type=code&state=s", headers=headers)
            assert b"SECRET" not in reply.body, (method, headers)
            assert b"S\0E" not in reply.body, (method, headers)
            assert reply.body[:2] != b"\x1f\x8b"


async def test_json_without_a_code_passes_at_the_authorize_path(tmp_path: Path) -> None:
    for status, text in ((200, '{"client": "app", "scopes": ["openid"], "decode": "x"}'), (400, '{"code": "invalid_request"}')):
        async with answering(tmp_path, always(status, text, Content_Type="application/json")) as there:
            reply = await there.browser().get("/auth?state=s", headers=SCRIPT)
            assert (reply.status, reply.text) == (status, text)


async def test_what_somebody_has_written_on_a_page_of_the_providers_sends_nobody_there(tmp_path: Path) -> None:
    """An answer's redirect URI is where the answer itself leads, not what stands on it."""
    for page in (
        '<p>eve: <a href="https://evil.example/?code=1">a bargain</a></p>',
        '<script>comments = [{"by": "eve", "text": "https://evil.example/?code=1"}]</script>',
        '<div data-link="https://evil.example/?code=1"></div>',
        '<iframe src="https://evil.example/?code=1"></iframe>',
    ):
        async with answering(tmp_path, always(200, page)) as there:
            for path in ("/posts", "/auth?redirect_uri=https%3A%2F%2Fevil.example%2F", SILENT):
                reply = await there.browser().get(path)
                assert not reply.headers.get("Location", "").startswith("https://evil"), (path, page)
                assert "https://evil" not in reply.text, (path, page)


async def test_the_store_is_away_and_nothing_leaves(tmp_path: Path) -> None:
    async with answering(tmp_path, always(302, Location=CB + "?code=SECRET&state=s")) as there:
        await there.app.state.close()
        reply = await there.browser().get("/auth?state=s")
        assert reply.status == 503
        assert "SECRET" not in str(reply.headers)
