"""A bound on waiting that holds whatever is waited for. A library that is slow to notice its cancellation is left to notice it alone."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

_LAST = 5.0  # seconds that closing waits for what was left


class Bounded:
    """Runs coroutines as tasks of their own. You must await `drained()` before closing what they use."""

    def __init__(self) -> None:
        self._left: set[asyncio.Task[Any]] = set()

    async def run(self, work: Coroutine[Any, Any, T], seconds: float) -> T:
        """What `work` returns or raises; after `seconds` it is cancelled and TimeoutError raised at once, without waiting for its end."""
        task = asyncio.create_task(work)
        try:
            await asyncio.wait({task}, timeout=seconds)
            if not task.done():
                raise TimeoutError
            return task.result()
        finally:
            if not task.done():  # out of time, or our caller was cancelled
                task.cancel()
                self._left.add(task)
                task.add_done_callback(self._forget)

    async def drained(self) -> None:
        """Wait for what was left, within reason."""
        if self._left:
            await asyncio.wait(self._left, timeout=_LAST)

    def _forget(self, task: asyncio.Task[Any]) -> None:
        self._left.discard(task)
        if not task.cancelled():
            task.exception()  # seen; the caller was told something else long ago
