"""From `stores: {state: …}` to a state store. The only file here that names the backends."""

from __future__ import annotations

from importlib import import_module
from typing import Any, Protocol

from gateway.flow.ports import StateStore
from gateway.stores.state_sqlite import SqliteState
from gateway.stores.urls import check_records_url, check_url, resolve_url, sqlite_path

__all__ = ["StateBackend", "check_records_url", "check_url", "open_state", "resolve_url"]


class StateBackend(StateStore, Protocol):
    """A state store, as its owner sees it."""

    async def warnings(self) -> list[str]:
        """What an operator should know about this store; each a sentence. Raises StoreUnavailable."""


async def open_state(url: str, *, redis_deadline: float, sqlite_deadline: float) -> StateBackend:
    """The store that an absolute URL names (see resolve_url); deadlines in seconds. You must await its `close()`.

    Nothing is opened before the first call: a gateway can start while its store is away. Raises ValueError with what check_url says.
    """
    wrong = check_url(url)
    if wrong is not None:
        raise ValueError(wrong)
    if url.startswith("sqlite:"):
        return SqliteState(sqlite_path(url), deadline=sqlite_deadline)
    module: Any = import_module("gateway.stores.state_redis")  # see gateway/lean.py
    store: StateBackend = module.RedisState(url, deadline=redis_deadline)
    return store
