"""`make soak`: every part, or those that are named; a line each. The exit code is 1 when one of them failed.

    python -m tests.soak [large|idle|events|multipart|slow_reader|slow_writer|reload|upstream_killed|websocket]…

`SOAK_LANE=slow` sends everything through the slow lane.
"""

from __future__ import annotations

import asyncio
import sys
import traceback

from tests.soak.parts import PARTS

BOUND = 600.0  # seconds for a part


async def _within(name: str) -> str:
    async with asyncio.timeout(BOUND):
        return await PARTS[name]()


def main() -> int:
    failed = 0
    for name in sys.argv[1:] or PARTS:
        try:
            print(f"soak: {name}: {asyncio.run(_within(name))}", flush=True)
        except Exception as error:  # noqa: BLE001 -- the other parts go on
            failed = 1
            traceback.print_exc()
            print(f"soak: {name}: FAILED: {type(error).__name__}: {str(error)[:500]}", flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(main())
