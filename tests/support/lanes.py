"""Every lane, as a way to start a whole gateway. A suite that is parametrized with LANES says what all of them must do."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from functools import partial

from gateway.spec.sections import GatewaySpec
from tests.support.front import Front, fronting

Start = Callable[..., AbstractAsyncContextManager[Front]]


def _with(lane: str) -> Start:
    """A gateway with this setting, where there is one."""
    return partial(fronting, lane=lane) if "lane" in GatewaySpec.model_fields else fronting


LANES: Mapping[str, Start] = {"slow": _with("slow")}
if "lane" in GatewaySpec.model_fields:
    LANES = {**LANES, "fast": _with("auto")}
