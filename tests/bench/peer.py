"""The measure: a reverse proxy as one writes it with aiohttp's server and ClientSession. Streams both ways, drops hop-by-hop headers.

It is an `aiohttp.web.Application` with an access log, as the gateway writes a line for each decision. `--bare` leaves out what costs
something and could be left out: router and access log. Neither has a cookie jar or decompression, and neither does what a gateway does.
"""

from __future__ import annotations

import argparse
import asyncio
import logging

import aiohttp
from aiohttp import web
from multidict import CIMultiDict
from yarl import URL

HOP_BY_HOP = frozenset({"connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"})


async def main(port: int, upstream: str, *, bare: bool) -> None:
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0),
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        timeout=aiohttp.ClientTimeout(total=60),
    ) as session:

        async def forward(request: web.BaseRequest) -> web.StreamResponse:
            headers = CIMultiDict((n, v) for n, v in request.headers.items() if n.lower() not in HOP_BY_HOP)
            headers["X-Forwarded-For"] = request.remote or ""
            url = URL(upstream + request.raw_path, encoded=True)
            body = request.content if request.body_exists else None
            async with session.request(request.method, url, headers=headers, data=body, allow_redirects=False) as answer:
                kept = CIMultiDict((n, v) for n, v in answer.headers.items() if n.lower() not in HOP_BY_HOP)
                response = web.StreamResponse(status=answer.status, reason=answer.reason, headers=kept)
                await response.prepare(request)
                async for piece in answer.content.iter_any():
                    await response.write(piece)
                await response.write_eof()
                return response

        if bare:
            server = await asyncio.get_running_loop().create_server(web.Server(forward, access_log=None), "127.0.0.1", port)
            await server.serve_forever()
        logging.basicConfig(level=logging.INFO)
        application = web.Application(client_max_size=1 << 40)
        application.router.add_route("*", "/{path:.*}", forward)
        runner = web.AppRunner(application)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        await asyncio.Event().wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("upstream")
    parser.add_argument("--bare", action="store_true")
    given = parser.parse_args()
    asyncio.run(main(given.port, given.upstream, bare=given.bare))
