"""Runs a gateway until a signal: reload on SIGHUP or a changed file, drain, stop."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import structlog

from gateway.app import REGISTRY, GatewayApp
from gateway.cli.common import Signals
from gateway.settings.load import Problems, load
from gateway.settings.watch import changes

log = structlog.get_logger(__name__)


async def serve_until_signal(app: GatewayApp, config: Path, signals: Signals, *, drain: float) -> None:
    """Returns when SIGINT or SIGTERM came and running requests have ended, or `drain` seconds are over."""
    tasks = [asyncio.create_task(work) for work in (_watch(app, config, signals), _reload(app, config, signals))]
    try:
        await signals.stop.wait()
        log.info("stopping", drain=drain, connections=app.public.connections)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await app.close(drain=drain)


async def _watch(app: GatewayApp, config: Path, signals: Signals) -> None:
    """Every change of a file that the configuration was read from asks for a reload."""
    try:
        async for _ in changes(lambda: (config, *app.live.loaded.files)):
            signals.reload.set()
    except Exception:  # the system may have no watches left; that must neither end the gateway nor be kept secret
        log.exception("files are not watched any more; send SIGHUP to reload")


async def _reload(app: GatewayApp, config: Path, signals: Signals) -> None:
    while True:
        await signals.reload.wait()
        signals.reload.clear()
        try:
            await _adopt(app, config)
        except Exception:  # whatever it is, the next reload may be a good one
            app.metrics.reloads.labels("refused").inc()
            log.exception("reload refused; the running configuration stays")


async def _adopt(app: GatewayApp, config: Path) -> None:
    found = await asyncio.to_thread(load, config, environ=os.environ, kinds=REGISTRY)
    if isinstance(found, Problems):
        app.metrics.reloads.labels("refused").inc()
        for mistake in found.mistakes:
            log.error("reload refused; the running configuration stays", mistake=str(mistake))
        return
    waiting = await app.reload(found)
    log.info("reloaded", version=found.version, rules=len(found.ruleset.rules))
    if waiting:
        log.warning("these settings take effect at the next start", settings=", ".join(waiting))
