"""Where rule functions run: away from the loop that serves requests, so that one that hangs holds up nobody but its own request.

All `async def` functions of a process share one event loop, on a thread of its own. A plain `def` gets a thread, and so may block; there
are only so many. Python cannot stop a thread: one that never ends is left alone, keeps its place, and does not keep the process from
ending. A loop that a function blocks is left alone too, and the next function gets a new one.
"""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

RuleFunction = Callable[..., Any]

ANSWERS_WITHIN: Final = 0.5
"""Seconds in which a loop that is not blocked says so."""
MOST_BLOCKED: Final = 4
"""Loops that may be left alone, blocked; after that no function runs before one of them is free again."""


@dataclass(frozen=True, slots=True)
class Returned:
    value: Any


@dataclass(frozen=True, slots=True)
class Raised:
    """Whatever it raised, SystemExit too."""

    error: BaseException


class TooLong(Exception):
    """It was not done in time. `str(error)` says what it was waiting for, if not for itself."""


class House:
    """threads: plain functions that may run at once. You must call `close()` after use."""

    def __init__(self, threads: int) -> None:
        self._free = asyncio.Semaphore(threads)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._blocked = 0

    async def call(self, function: RuleFunction, arguments: tuple[Any, ...], timeout: float) -> Returned | Raised:
        """Call a function, plain or not, and wait for it. Raises TooLong."""
        ends = asyncio.get_running_loop().time() + timeout
        if inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(getattr(function, "__call__", None)):  # noqa: B004
            return await self._on_loop(_awaited(function, arguments), timeout)
        done = await self._on_thread(function, arguments, timeout)
        if isinstance(done, Returned) and inspect.isawaitable(done.value):  # an `async def` behind a decorator
            return await self._on_loop(_awaited(lambda: done.value, ()), max(0.0, ends - asyncio.get_running_loop().time()))
        return done

    async def _on_loop(self, work: Coroutine[Any, Any, Returned | Raised], timeout: float) -> Returned | Raised:
        if self._blocked >= MOST_BLOCKED:
            work.close()
            raise TooLong(f"{MOST_BLOCKED} functions that block have taken every loop; write them as plain def")
        loop = self._open()
        future = asyncio.run_coroutine_threadsafe(work, loop)
        try:
            return await asyncio.wait_for(asyncio.wrap_future(future), timeout)
        except TimeoutError:
            if await self._is_blocked(loop):
                raise TooLong("it blocks the loop; write it as a plain def") from None
            raise TooLong from None

    async def _is_blocked(self, loop: asyncio.AbstractEventLoop) -> bool:
        """Whether the loop does not answer. Then it is left alone: it ends by itself when it is free again."""
        answered: Future[None] = Future()
        try:
            loop.call_soon_threadsafe(answered.set_result, None)
            await asyncio.wait_for(asyncio.wrap_future(answered), ANSWERS_WITHIN)
        except TimeoutError:
            pass
        except RuntimeError:  # closed
            return False
        else:
            return False
        if self._loop is loop:
            self._loop = None
            self._blocked += 1
            here = asyncio.get_running_loop()
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(self._freed, here, loop)
        return True

    def _freed(self, here: asyncio.AbstractEventLoop, loop: asyncio.AbstractEventLoop) -> None:
        """On a loop that was blocked, when it is free again."""
        loop.stop()
        with suppress(RuntimeError):
            here.call_soon_threadsafe(self._one_less)

    def _one_less(self) -> None:
        self._blocked -= 1

    def _open(self) -> asyncio.AbstractEventLoop:
        """The loop that functions share. It is made when it is first needed: a supervisor that forks has none."""
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            threading.Thread(target=_serve, args=(self._loop,), name="rule-functions", daemon=True).start()
        return self._loop

    async def _on_thread(self, function: RuleFunction, arguments: tuple[Any, ...], timeout: float) -> Returned | Raised:
        loop = asyncio.get_running_loop()
        ends = loop.time() + timeout
        try:
            await asyncio.wait_for(self._free.acquire(), timeout)
        except TimeoutError:
            raise TooLong("all threads are taken by functions that have not ended") from None
        future: asyncio.Future[Returned | Raised] = loop.create_future()

        def ended(outcome: Returned | Raised) -> None:
            self._free.release()
            if not future.done():
                future.set_result(outcome)

        def work() -> None:
            outcome = _called(function, arguments)
            with suppress(RuntimeError):  # the gateway has ended
                loop.call_soon_threadsafe(ended, outcome)

        threading.Thread(target=work, name="rule-function", daemon=True).start()
        try:
            return await asyncio.wait_for(future, max(0.0, ends - loop.time()))
        except TimeoutError:
            raise TooLong from None

    def close(self) -> None:
        if self._loop is not None:
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._loop.stop)
            self._loop = None


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
    finally:
        left = asyncio.all_tasks(loop)
        for task in left:
            task.cancel()
        if left:
            loop.run_until_complete(asyncio.wait(left, timeout=ANSWERS_WITHIN))
        loop.close()


def _called(function: RuleFunction, arguments: tuple[Any, ...]) -> Returned | Raised:
    try:
        return Returned(function(*arguments))
    except BaseException as error:  # noqa: BLE001 - whatever it is, it is the function's
        return Raised(error)


async def _awaited(function: RuleFunction, arguments: tuple[Any, ...]) -> Returned | Raised:
    try:
        return Returned(await function(*arguments))
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is not None and task.cancelling():  # by us: its time is over
            raise
        return Raised(error)
    except BaseException as error:  # noqa: BLE001 - whatever it is, it is the function's
        return Raised(error)
