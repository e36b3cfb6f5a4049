"""The lanes are tested on the event loop that `gateway run` has, TLS and the rest on asyncio's own, which it falls back to."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import uvloop


@pytest.hookimpl
def pytest_asyncio_loop_factories(item: pytest.Item) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    if Path(item.path).name.startswith("test_lanes") and "tls" not in item.path.name:
        return {"uvloop": uvloop.new_event_loop}
    return {"asyncio": asyncio.new_event_loop}
