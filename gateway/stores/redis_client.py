"""Sentinels and clusters by redis-py, so that it fails fast. Nothing is retried: a repeated write could count twice, and callers wait
250 ms.

A single server is talked to by redis_wire, and this module is not loaded then.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from redis.asyncio import RedisCluster
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, RedisClusterException, RedisError, ResponseError

from gateway.stores.redis_wire import Command, NoScript, RedisFault
from gateway.stores.urls import RedisUrl


class RedisClient:
    """A master with its sentinels, or a cluster: what the state store uses of them. You must await `close()` after use."""

    prompt: Final = False
    """redis-py may take its time to notice that it was cancelled."""

    def __init__(self, client: Any, *others: Any) -> None:
        self._client = client  # Any: redis-py's execute_command is untyped
        self._others = others

    async def run(self, *command: Any) -> Any:
        """One command's answer. Raises RedisFault, NoScript, OSError, TimeoutError."""
        try:
            return await self._client.execute_command(*command)
        except (RedisError, RedisClusterException) as error:
            raise _translated(error) from error

    async def run_all(self, commands: Sequence[Command]) -> list[Any]:
        """Several commands, in order, by one round trip where there is one server. Refusals are among the answers, as RedisFault."""
        if isinstance(self._client, RedisCluster):
            return [await self._answer(command) for command in commands]
        pipeline = self._client.pipeline(transaction=False)
        for command in commands:
            pipeline.execute_command(*command)
        try:
            answers = await pipeline.execute(raise_on_error=False)
        except RedisError as error:
            raise _translated(error) from error
        return [_translated(answer) if isinstance(answer, Exception) else answer for answer in answers]

    async def info(self, section: str) -> list[Mapping[str, Any]]:
        """A section of INFO, from every server that takes writes."""
        if isinstance(self._client, RedisCluster):
            try:
                await self._client.initialize()
            except (RedisError, RedisClusterException) as error:
                raise _translated(error) from error
            nodes = self._client.get_primaries()
            return [await self._client.execute_command("INFO", section, target_nodes=node) for node in nodes]
        return [await self.run("INFO", section)]

    async def close(self) -> None:
        """Close every connection."""
        for client in (self._client, *self._others):
            await client.aclose()

    async def _answer(self, command: Command) -> Any:
        try:
            return await self._client.execute_command(*command)
        except ResponseError as error:
            return _translated(error)
        except (RedisError, RedisClusterException) as error:
            raise _translated(error) from error


def _translated(error: Exception) -> RedisFault:
    return NoScript(str(error)) if isinstance(error, NoScriptError) else RedisFault(str(error))


def connect(url: RedisUrl, *, deadline: float, most: int) -> RedisClient:
    """A client; no connection is made before the first command. `deadline` (seconds) bounds connecting and each read."""
    bounds: dict[str, Any] = {
        "socket_connect_timeout": deadline,
        "socket_timeout": deadline,
        "retry": Retry(NoBackoff(), 0),
        "protocol": 2,  # with RESP 3 redis-py subscribes to maintenance messages, and no longer notices that an idle connection was closed
    }
    options = bounds | {"username": url.username, "password": url.password, "max_connections": most + 1}
    if url.scheme == "redis+cluster":
        nodes = [ClusterNode(host, port) for host, port in url.nodes]
        return RedisClient(RedisCluster(startup_nodes=nodes, require_full_coverage=False, **options))
    # A sentinel that hangs must leave time to ask the next one, and then the master.
    share = deadline / (len(url.nodes) + 1)
    sentinels: Any = Sentinel  # untyped in redis-py
    watch = sentinels(list(url.nodes), sentinel_kwargs=bounds | {"socket_connect_timeout": share, "socket_timeout": share})
    return RedisClient(watch.master_for(url.master, db=url.db, **options), watch)
