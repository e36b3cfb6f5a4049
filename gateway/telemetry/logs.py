"""Logs on standard error: one line per decision, one per outcome of a step. No line holds a state, code, token, cookie, body or query.

An event is always exactly one line, or one line and a traceback below it: whatever a client sent stands in it escaped.
"""

from __future__ import annotations

import json
import logging
import sys
from typing import Any, ClassVar, TextIO, cast

import structlog
from structlog.typing import EventDict, WrappedLogger

from gateway.spec.sections import LogSpec
from gateway.telemetry.lines import FILLED, Lines, Template

_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


class _Present:
    """How this process logs at present."""

    lines: Lines | None = None
    renderer: Any = None
    processors: ClassVar[list[Any]] = []
    worker: str | None = None


def configure(spec: LogSpec, stream: TextIO | None = None, *, worker: str | None = None) -> None:
    """Set structlog up for the process, and send what libraries log through `logging` to the same place.

    worker: its number, where there are several; every line has it. An event is one write, so that lines of several processes are not torn.
    """
    out = cast("TextIO", Lines(stream or sys.stderr))
    _Present.worker = worker
    stamp = (structlog.stdlib.add_log_level, structlog.processors.TimeStamper(fmt="iso", utc=True), _one_line, _named)
    _Present.lines = cast("Lines", out) if _LEVELS[spec.level] <= logging.INFO else None
    _Present.renderer = _renderer(spec, out)
    _Present.processors = [*stamp, structlog.processors.format_exc_info, _Present.renderer]
    structlog.configure(
        processors=_Present.processors,
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


def _named(_logger: WrappedLogger | None, _method: str, event: EventDict) -> EventDict:
    """With the worker's number, if it has one."""
    if _Present.worker is not None:
        event["worker"] = _Present.worker
    return event


def template(event: str, **fields: Any) -> tuple[Template, Lines] | None:
    """A line at level info with the holes of `lines.FILLED`, and where it goes. None where this process does not log that way (a test that
    captures events, or no configuration yet), or not at that level."""
    if not templated() or structlog.get_config()["processors"] is not _Present.processors:
        return None
    request_id, method, path, timestamp = FILLED
    known = {"request_id": request_id, **fields, "method": method, "path": path}
    order = ("request_id", "decision", "rules", "reason", "method", "path", "upstream", "subject")
    entry: EventDict = {name: known[name] for name in order} | {"event": event, "level": "info", "timestamp": timestamp}
    rendered = _Present.renderer(None, "info", _named(None, "info", _one_line(None, "info", entry)))
    try:
        return Template(str(rendered)), cast("Lines", _Present.lines)
    except ValueError:
        return None


def templated() -> bool:
    """Lines may be filled in and written past structlog: what it would do to them is what was configured here."""
    return _Present.lines is not None and _Present.processors[-1] is _Present.renderer


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
