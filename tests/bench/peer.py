"""The measure: a reverse proxy as one writes it with aiohttp's server and ClientSession. Streams both ways, drops hop-by-hop headers.

It has no router, no access log, no cookie jar and no decompression, which would slow it down; and nothing that a gateway does.
"""

from __future__ import annotations

import argparse
import asyncio

import aiohttp
from aiohttp import web
from multidict import CIMultiDict
from yarl import URL

HOP_BY_HOP = frozenset({"connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"})


async def main(port: int, upstream: str) -> None:
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0), cookie_jar=aiohttp.DummyCookieJar(), auto_decompress=False, timeout=aiohttp.ClientTimeout(total=60)
    ) as session:  # fmt: skip

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

        server = await asyncio.get_running_loop().create_server(web.Server(forward, access_log=None), "127.0.0.1", port)  # type: ignore[arg-type]
        await server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("upstream")
    given = parser.parse_args()
    asyncio.run(main(given.port, given.upstream))
