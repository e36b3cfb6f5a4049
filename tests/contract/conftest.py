"""What several suites here start: a gateway of each lane, in front of the strict upstream."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.support.lanes import LANES
from tests.support.smuggling import RULES
from tests.support.wire import Wire, wired


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=LANES)
async def wire(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Wire]:
    # Nothing waits for the first two: who waits for bytes that no case sends is told so by a 408 that no case expects.
    limits = {"head_timeout": "2s", "body_idle_timeout": "2s", "keepalive": "300ms"}
    async with wired(
        LANES[request.param], tmp_path_factory.mktemp("wire"), rules=RULES, limits=limits, transactions={"max_per_address": 100_000}
    ) as made:
        yield made
