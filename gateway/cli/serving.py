"""Runs a gateway until a signal: start, reload on SIGHUP or a changed file, drain, stop."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import structlog

from gateway.app import REGISTRY, GatewayApp
from gateway.cli.common import Signals
from gateway.settings.load import Loaded, Problems, load
from gateway.settings.watch import changes

log = structlog.get_logger(__name__)


async def serve_until_signal(app: GatewayApp, config: Path, loaded: Loaded, signals: Signals) -> None:
    """Returns when SIGINT or SIGTERM came and running requests have ended (or `limits.drain` is over)."""
    watcher = asyncio.create_task(_watch(app, config, signals))
    reloader = asyncio.create_task(_reload(app, config, signals))
    try:
        await signals.stop.wait()
    finally:
        for task in (watcher, reloader):
            task.cancel()
        await asyncio.gather(watcher, reloader, return_exceptions=True)
        await app.close(drain=loaded.spec.limits.drain)


async def _watch(app: GatewayApp, config: Path, signals: Signals) -> None:
    """Every change of a file that the configuration was read from asks for a reload."""
    async for _ in changes(lambda: (config, *app.live.loaded.files)):
        signals.reload.set()


async def _reload(app: GatewayApp, config: Path, signals: Signals) -> None:
    while True:
        await signals.reload.wait()
        signals.reload.clear()
        found = await asyncio.to_thread(load, config, environ=os.environ, kinds=REGISTRY)
        if isinstance(found, Problems):
            app.metrics.reloads.labels("refused").inc()
            for mistake in found.mistakes:
                log.error("reload refused; the running configuration stays", mistake=str(mistake))
            continue
        if found.version == app.live.loaded.version:
            continue
        waiting = await app.reload(found)
        log.info("reloaded", version=found.version, rules=len(found.ruleset.rules))
        if waiting:
            log.warning("these settings take effect at the next start", settings=", ".join(waiting))
