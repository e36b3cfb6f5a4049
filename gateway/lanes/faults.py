"""What a request is answered with that cannot be carried to its end, and what is noted of it. The same in both lanes."""

from __future__ import annotations

from aiohttp import web

from gateway.errors import (
    BodyTooLarge,
    ClientGone,
    GatewayError,
    StoreUnavailable,
    UpstreamBusy,
    UpstreamFault,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from gateway.flow.asked import Asked
from gateway.flow.trail import Trail
from gateway.lanes.answers import Answers
from gateway.lanes.body import BodyTimeout
from gateway.spec.sections import LimitsSpec


def refusal(error: GatewayError, asked: Asked, upstream: str, *, answers: Answers, trail: Trail, limits: LimitsSpec) -> web.Response:
    """Note the fault and make its answer, for whoever can still be answered. upstream: its name, "" for none."""
    request_id = asked.request_id
    match error:
        case StoreUnavailable():
            trail.event("refused", request_id=request_id, kind="store_down", reason=str(error))
            return answers.refusal(asked, "store_down", retry_after=5)
        case BodyTooLarge():
            trail.event("refused", request_id=request_id, kind="too_large", reason=str(error))
            return answers.refusal(asked, "too_large", limit=limits.max_upload)
        case BodyTimeout():
            trail.event("refused", request_id=request_id, kind="body_timeout", reason=str(error))
            return answers.bare(408, "body_timeout", request_id)
        case ClientGone():
            trail.event("client gone", request_id=request_id, reason=str(error))
            return answers.bare(400, "client_gone", request_id)
        case UpstreamFault():
            kind = _kind(error)
            trail.event("upstream fault", request_id=request_id, upstream=upstream, kind=kind, reason=str(error))
            return answers.refusal(asked, kind, detail=_words(error))
        case _:
            return answers.refusal(asked, "internal")


def _kind(error: UpstreamFault) -> str:
    match error:
        case UpstreamTimeout():
            return "upstream_timeout"
        case UpstreamBusy():
            return "upstream_busy"
        case _:
            return "upstream_down"


def _words(error: UpstreamFault) -> str:
    """What a script is told: which kind of fault, nothing of where."""
    if isinstance(error, UpstreamTimeout):
        return "The application did not answer in time."
    if isinstance(error, UpstreamBusy):
        return "The application is too busy. Nothing was sent to it."
    if isinstance(error, UpstreamUnreachable):
        return "The application cannot be reached. Nothing was sent to it."
    return "The application broke off its answer."
