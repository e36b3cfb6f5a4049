"""Logs on standard error: one line per decision, one per outcome of a step. No line holds a state, code, token, cookie, body or query.

An event is always exactly one line, or one line and a traceback below it: whatever a client sent stands in it escaped.
"""

from __future__ import annotations

import json
import logging
import sys
from typing import Any, TextIO

import structlog
from structlog.typing import EventDict, WrappedLogger

from gateway.spec.sections import LogSpec

_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


def configure(spec: LogSpec, stream: TextIO | None = None, *, worker: str | None = None) -> None:
    """Set structlog up for the process, and send what libraries log through `logging` to the same place.

    worker: its number, where there are several; every line has it. An event is one write, so that lines of several processes are not torn.
    """
    out = stream or sys.stderr
    stamp = (structlog.stdlib.add_log_level, structlog.processors.TimeStamper(fmt="iso", utc=True), _one_line, *_named(worker))
    structlog.configure(
        processors=[*stamp, structlog.processors.format_exc_info, _renderer(spec, out)],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[spec.level]),
        logger_factory=structlog.WriteLoggerFactory(out),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(out)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=stamp,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                _renderer(spec, out),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(max(_LEVELS[spec.level], logging.WARNING))


def _named(worker: str | None) -> tuple[Any, ...]:
    def name(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        event["worker"] = worker
        return event

    return () if worker is None else (name,)


def _renderer(spec: LogSpec, out: TextIO) -> Any:
    if spec.format == "json":
        return structlog.processors.JSONRenderer(serializer=_serialize)
    # A plain traceback: prettier ones show local variables, and these hold passwords and codes.
    return structlog.dev.ConsoleRenderer(colors=out.isatty(), sort_keys=False, exception_formatter=structlog.dev.plain_traceback)


_encode = json.JSONEncoder(default=repr).encode


def _serialize(event: EventDict, **_: Any) -> str:
    """By one encoder; `json.dumps` with a `default` makes one for each line."""
    return _encode(event)


def _one_line(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Escapes what could end a line or move a terminal's cursor."""
    for name, value in event.items():
        if isinstance(value, str) and not value.isprintable():
            event[name] = value.encode("unicode_escape").decode("ascii")
    return event
