"""From a URL to a redis-py client that fails fast. Nothing is retried: a repeated write could count twice, and callers wait 250 ms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from redis.asyncio import Redis, RedisCluster
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff
from redis.exceptions import ResponseError

from gateway.stores.urls import RedisUrl

CONNECTIONS = 64
"""Calls under way at a time; further ones wait their turn within their deadline."""


class RedisClient:
    """One server, a master with its sentinels, or a cluster: what the state store uses of them. You must await `close()` after use."""

    def __init__(self, client: Any, *others: Any) -> None:
        self._client = client  # Any: redis-py's execute_command is untyped
        self._others = others

    async def run(self, *arguments: Any) -> Any:
        """One command; redis-py's exceptions come out as they are."""
        return await self._client.execute_command(*arguments)

    async def run_all(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Several commands, in order, by one round trip where there is one server. Answers that are errors are among the answers."""
        if isinstance(self._client, RedisCluster):
            answers: list[Any] = []
            for command in commands:
                try:
                    answers.append(await self.run(*command))
                except ResponseError as error:
                    answers.append(error)
            return answers
        pipeline = self._client.pipeline(transaction=False)
        for command in commands:
            pipeline.execute_command(*command)
        return list(await pipeline.execute(raise_on_error=False))

    async def info(self, section: str) -> list[Mapping[str, Any]]:
        """A section of INFO, from every server that takes writes."""
        if isinstance(self._client, RedisCluster):
            await self._client.initialize()
            nodes = self._client.get_primaries()
            return [await self._client.execute_command("INFO", section, target_nodes=node) for node in nodes]
        return [await self._client.execute_command("INFO", section)]

    async def close(self) -> None:
        """Close every connection."""
        for client in (self._client, *self._others):
            await client.aclose()


def connect(url: RedisUrl, *, deadline: float) -> RedisClient:
    """A client; no connection is made before the first command. `deadline` (seconds) bounds connecting, and each read of a sentinel or a
    cluster, so that there is time to ask another. One server needs no such bound: its caller cancels what takes too long, and redis-py's
    own costs a third of a command."""
    bounds: dict[str, Any] = {
        "socket_connect_timeout": deadline,
        "socket_timeout": deadline,
        "retry": Retry(NoBackoff(), 0),
        "protocol": 2,  # with RESP 3 redis-py subscribes to maintenance messages, and no longer notices that an idle connection was closed
    }
    options = bounds | {"username": url.username, "password": url.password, "max_connections": CONNECTIONS + 1}
    if url.scheme == "redis+cluster":
        nodes = [ClusterNode(host, port) for host, port in url.nodes]
        return RedisClient(RedisCluster(startup_nodes=nodes, require_full_coverage=False, **options))
    if url.scheme == "redis+sentinel":
        # A sentinel that hangs must leave time to ask the next one, and then the master.
        share = deadline / (len(url.nodes) + 1)
        sentinels: Any = Sentinel  # untyped in redis-py
        watch = sentinels(list(url.nodes), sentinel_kwargs=bounds | {"socket_connect_timeout": share, "socket_timeout": share})
        return RedisClient(watch.master_for(url.master, db=url.db, **options), watch)
    host, port = url.nodes[0]
    options |= {"socket_timeout": None}
    if url.scheme == "rediss":
        options |= {"ssl": True, "ssl_ca_certs": url.ca_file, "ssl_check_hostname": True}
    return RedisClient(Redis(host=host, port=port, db=url.db, **options))
