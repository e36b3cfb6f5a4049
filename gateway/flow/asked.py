"""One request at the gateway: its head, its name in the logs, and the time it is judged at."""

from __future__ import annotations

from dataclasses import dataclass

from gateway.wire.head import RequestHead


@dataclass(frozen=True, slots=True)
class Asked:
    """request_id stands on the page and in the log alike. now: seconds since the epoch, one value for the whole request."""

    head: RequestHead
    request_id: str
    now: float
