"""The state store on Redis: one server, a master behind sentinels, or a cluster.

Every operation is one command or one script on one key, so that it is atomic and a cluster can place it. Expiry is judged against the
caller's `now` and the time stored with the value; a key's TTL only takes away what nobody can see any more. Nothing is retried. A write
whose answer did not come in time may still have happened. Durable means what the server makes of it: see `warnings`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import sha1
from importlib import import_module
from math import inf
from typing import Any, TypeVar, assert_never

from gateway.errors import Conflict, StoreUnavailable
from gateway.flow.ports import Count, Delete, Entry, Join, Leave, Put, Revocation, Write
from gateway.stores.deadline import Bounded
from gateway.stores.redis_wire import STALL, NoScript, RedisFault, RedisWire
from gateway.stores.urls import redis_url

T = TypeVar("T")

_PREFIX = b"stepup:"
_SLACK = 300.0
"""Keys stay this long after their expiry, in seconds: a caller whose clock is behind still sees what is alive for it."""
_UNDER_WAY = 64
"""Calls under way at a time; further ones wait their turn within their deadline."""
_FOREVER = 10 * 365 * 86_400.0  # further away than this: no TTL


@dataclass(frozen=True, slots=True)
class _Script:
    """Lua for one key. `sha` is how Redis names it (EVALSHA)."""

    text: str
    sha: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "sha", sha1(self.text.encode(), usedforsecurity=False).hexdigest())


# ARGV: version, value, expires, now, TTL in ms (0: none)
_PUT = _Script("""
local found = redis.call('HMGET', KEYS[1], 'version', 'expires')
local version = 0
if found[1] and tonumber(found[2]) > tonumber(ARGV[4]) then version = tonumber(found[1]) end
if version ~= tonumber(ARGV[1]) then return -1 end
redis.call('HSET', KEYS[1], 'value', ARGV[2], 'version', version + 1, 'expires', ARGV[3])
if ARGV[5] == '0' then redis.call('PERSIST', KEYS[1]) else redis.call('PEXPIRE', KEYS[1], ARGV[5]) end
return version + 1
""")

# ARGV: by, expires, now, TTL in ms (0: none)
_COUNT = _Script("""
local found = redis.call('HMGET', KEYS[1], 'value', 'expires')
local live = found[1] and tonumber(found[2]) > tonumber(ARGV[3])
local value = math.max(0, (live and tonumber(found[1]) or 0) + tonumber(ARGV[1]))
if live then
  redis.call('HSET', KEYS[1], 'value', value)
elseif value > 0 then
  redis.call('HSET', KEYS[1], 'value', value, 'expires', ARGV[2])
  if ARGV[4] == '0' then redis.call('PERSIST', KEYS[1]) else redis.call('PEXPIRE', KEYS[1], ARGV[4]) end
end
return value
""")

# ARGV: member, cap, expires, now, slack, longest TTL in s. The key lives as long as its last member.
_JOIN = _Script("""
local now = tonumber(ARGV[4])
local old = redis.call('ZSCORE', KEYS[1], ARGV[1])
if not (old and tonumber(old) > now) and redis.call('ZCOUNT', KEYS[1], '(' .. ARGV[4], '+inf') >= tonumber(ARGV[2]) then return 0 end
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('%.17g', now - tonumber(ARGV[5])))
redis.call('ZADD', KEYS[1], ARGV[3], ARGV[1])
local last = redis.call('ZREVRANGE', KEYS[1], 0, 0, 'WITHSCORES')
local ttl = math.max(0, tonumber(last[2]) - now) + tonumber(ARGV[5])
if ttl > tonumber(ARGV[6]) then redis.call('PERSIST', KEYS[1]) else redis.call('PEXPIRE', KEYS[1], string.format('%.0f', ttl * 1000)) end
return 1
""")

# ARGV: sid, until, now, slack. Members are "cursor:until:sid" with the cursor as score, and "#" with the last cursor, negative and so out
# of their way. Cursors follow the clock (ms): a feed that was lost and begins anew goes on after what its readers
# have already seen.
_REVOKE = _Script("""
local now = tonumber(ARGV[3])
local head = redis.call('ZSCORE', KEYS[1], '#')
local cursor = math.max((head and -tonumber(head) or 0) + 1, math.floor(now * 1000))
local text = string.format('%.0f', cursor)
redis.call('ZADD', KEYS[1], '-' .. text, '#', text, text .. ':' .. ARGV[2] .. ':' .. ARGV[1])
for _, member in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], 1, '+inf', 'LIMIT', 0, 32)) do
  if tonumber(string.match(member, ':([^:]*):')) <= now - tonumber(ARGV[4]) then redis.call('ZREM', KEYS[1], member) end
end
return 1
""")


class RedisState:
    """flow.ports.StateStore on Redis, by a URL as in stores.urls. No I/O happens before the first call. You must await `close()` after use.

    Every call ends within `deadline` seconds, with StoreUnavailable if Redis has not answered; the next call tries again on a fresh
    connection. Raises ValueError on a malformed URL.
    """

    def __init__(self, url: str, *, deadline: float = 0.25) -> None:
        parsed = redis_url(url)
        self._where = parsed.where()
        self._deadline = deadline
        if parsed.scheme in {"redis", "rediss"}:
            self._client: Any = RedisWire(parsed, deadline=deadline)
        else:
            self._client = import_module("gateway.stores.redis_client").connect(parsed, deadline=deadline, most=_UNDER_WAY)
        self._turns = asyncio.Semaphore(_UNDER_WAY)
        self._bounded = Bounded()
        self._closed = False

    async def get(self, space: str, key: str, now: float) -> Entry | None:
        """The live entry, or None."""
        value, version, expires = await self._call(
            lambda: self._client.run("HMGET", _name("entry", space, key), "value", "version", "expires")
        )
        if value is None or float(expires) <= now:
            return None
        return Entry(value=value, version=int(version))

    async def put(self, space: str, key: str, value: bytes, *, version: int, expires: float, now: float) -> int:
        """Conditional write; see the protocol. Raises Conflict."""
        write = Put(space, key, value, version, expires)
        written = _result(write, await self._sent(_command(write, now)))
        if isinstance(written, Conflict):
            raise written
        return int(written)

    async def delete(self, space: str, key: str) -> None:
        """Remove an entry, if there is one."""
        await self._sent(_command(Delete(space, key), 0.0))

    async def count(self, space: str, key: str, *, by: int, expires: float, now: float) -> int:
        """Add to a counter; see the protocol. A counter that would start at 0 or below is not made."""
        return int(await self._sent(_command(Count(space, key, by, expires), now)))

    async def join(self, space: str, group: str, member: str, *, cap: int, expires: float, now: float) -> bool:
        """Put a member into a group; see the protocol. One that is in already stays, with the new `expires`, whatever the cap."""
        return bool(await self._sent(_command(Join(space, group, member, cap, expires), now)))

    async def leave(self, space: str, group: str, member: str) -> None:
        """Take a member out of a group, if it is in."""
        await self._sent(_command(Leave(space, group, member), 0.0))

    async def together(self, writes: Sequence[Write], now: float) -> Sequence[Any]:
        """See the protocol. One pipeline; in a cluster one command after the other, for their keys live on different servers."""
        commands = [_command(write, now) for write in writes]

        async def run() -> list[Any]:
            answers: list[Any] = await self._client.run_all([command.short for command in commands])
            for index, answer in enumerate(answers):
                if isinstance(answer, NoScript):  # see _sent
                    answers[index] = await self._client.run(*commands[index].whole)
                elif isinstance(answer, Exception):
                    raise answer
            return answers

        answers = await self._call(run)
        return [_result(write, answer) for write, answer in zip(writes, answers, strict=True)]

    async def revoke(self, sid: str, *, until: float, now: float) -> None:
        """Append to the feed."""
        await self._sent(_scripted(_REVOKE, _FEED, _raw(sid), _time(until), _time(now), _time(_SLACK)))

    async def revocations(self, after: int, now: float) -> Sequence[Revocation]:
        """Live revocations after a cursor, in order."""
        members = await self._call(lambda: self._client.run("ZRANGEBYSCORE", _FEED, f"({max(after, 0)}", "+inf"))
        found = []
        for member in members:
            cursor, until, sid = member.split(b":", 2)
            if float(until) > now:
                found.append(Revocation(cursor=int(cursor), sid=sid.decode("utf-8", "surrogatepass"), until=float(until)))
        return found

    async def warnings(self) -> list[str]:
        """What an operator should know about this server; each a sentence. Raises StoreUnavailable."""
        memory = await self._call(lambda: self._client.info("memory"))
        persistence = await self._call(lambda: self._client.info("persistence"))
        found = [
            f"{self._where}: maxmemory-policy is {policy}, so Redis may throw away suspended requests, used codes and revocations when "
            "memory runs short; set maxmemory-policy noeviction"
            for policy in sorted({line["maxmemory_policy"] for line in memory} - {"noeviction"})
        ]
        if not all(line["aof_enabled"] for line in persistence):
            found.append(
                f"{self._where}: no append-only file, so a restart of Redis loses suspended requests and revocations; set appendonly yes"
            )
        return found

    async def close(self) -> None:
        """Close every connection."""
        self._closed = True
        await self._bounded.drained()
        await self._client.close()

    async def _sent(self, command: _Command) -> Any:
        async def run() -> Any:
            try:
                return await self._client.run(*command.short)
            except NoScript:  # it did not run: Redis was restarted, or never saw it; EVAL makes it known as well
                return await self._client.run(*command.whole)

        return await self._call(run)

    async def _turn(self, run: Callable[[], Awaitable[T]], due: float) -> T:
        async with self._turns:
            if asyncio.get_running_loop().time() >= due:
                raise TimeoutError  # the caller is told that it failed: send nothing
            return await run()

    async def _call(self, run: Callable[[], Awaitable[T]]) -> T:
        """The edge: a bound on the time, and Redis' exceptions as ours."""
        if self._closed:
            raise StoreUnavailable(f"{self._where}: the store was closed")
        try:
            loop = asyncio.get_running_loop()
            due = loop.time() + self._deadline
            work = self._turn(run, due)
            if not self._client.prompt:
                return await self._bounded.run(work, self._deadline)
            async with asyncio.timeout(None) as bound:
                timer = loop.call_at(due, _expire, loop, bound, due + STALL)
                try:
                    return await work
                finally:
                    timer.cancel()
        except TimeoutError as error:
            raise StoreUnavailable(f"{self._where}: no answer within {self._deadline * 1000:.0f} ms") from error
        except (RedisFault, OSError) as error:
            raise StoreUnavailable(f"{self._where}: {error}") from error


def _expire(loop: asyncio.AbstractEventLoop, bound: asyncio.Timeout, late: float) -> None:
    """The deadline has passed. Where the whole process was stopped meanwhile, what has come is read first."""
    if loop.time() > late:
        loop.call_later(STALL, _expire, loop, bound, inf)
    else:
        with suppress(RuntimeError):  # the call has ended
            bound.reschedule(loop.time())


@dataclass(frozen=True, slots=True)
class _Command:
    """Its arguments as sent; `whole` names no script that Redis may not know."""

    short: tuple[Any, ...]
    whole: tuple[Any, ...]


def _scripted(script: _Script, *arguments: Any) -> _Command:
    return _Command(("EVALSHA", script.sha, 1, *arguments), ("EVAL", script.text, 1, *arguments))


def _command(write: Write, now: float) -> _Command:
    match write:
        case Put():
            name = _name("entry", write.space, write.key)
            return _scripted(_PUT, name, write.version, write.value, _time(write.expires), _time(now), _ttl(write.expires, now))
        case Count():
            name = _name("counter", write.space, write.key)
            return _scripted(_COUNT, name, write.by, _time(write.expires), _time(now), _ttl(write.expires, now))
        case Join():
            name = _name("group", write.space, write.group)
            times = (_time(write.expires), _time(now), _time(_SLACK), _time(_FOREVER))
            return _scripted(_JOIN, name, _raw(write.member), write.cap, *times)
        case Delete():
            plain: tuple[Any, ...] = ("DEL", _name("entry", write.space, write.key))
        case Leave():
            plain = ("ZREM", _name("group", write.space, write.group), _raw(write.member))
        case _:
            assert_never(write)
    return _Command(plain, plain)


def _result(write: Write, answer: Any) -> Any:
    match write:
        case Put():
            return Conflict(f"{write.space}: not at version {write.version}") if answer == -1 else int(answer)
        case Count():
            return int(answer)
        case Join():
            return bool(answer)
        case _:
            return None


def _name(kind: str, space: str, key: str) -> bytes:
    """One name for each (kind, space, key): the space is ours and short, its separator is escaped."""
    return _PREFIX + f"{kind}:".encode() + _raw(space.replace("%", "%25").replace(":", "%3A")) + b":" + _raw(key)


_FEED = _PREFIX + b"revocations"


def _raw(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _time(seconds: float) -> str:
    return repr(float(seconds))  # the shortest text that reads back as the same number, here and in Lua


def _ttl(expires: float, now: float) -> int:
    rest = max(0.0, expires - now) + _SLACK
    return 0 if rest > _FOREVER else int(rest * 1000)
