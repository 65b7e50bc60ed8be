"""Structured logs: one event per line, JSON for machines, colours for people at a terminal."""

import logging
from datetime import UTC, datetime
from typing import TextIO

import structlog
from structlog.typing import EventDict, FilteringBoundLogger, Processor, WrappedLogger


def configure_logs(stream: TextIO, *, is_json: bool | None = None, level: int = logging.INFO) -> None:
    """Send the logs of this process to `stream`.

    is_json: None means colours when the stream is a terminal and JSON otherwise. What libraries write with `logging`
    comes out in the same form, from WARNING on.
    """
    if is_json is None:
        is_json = not stream.isatty()
    shared: list[Processor] = [structlog.contextvars.merge_contextvars, structlog.processors.add_log_level, _add_time]
    last: list[Processor] = (
        [structlog.processors.dict_tracebacks, structlog.processors.JSONRenderer()]
        if is_json
        else [structlog.dev.ConsoleRenderer(colors=stream.isatty())]
    )
    structlog.configure(
        processors=[*shared, *last],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(stream),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared, processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last]
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)


def open_logger(room: str) -> FilteringBoundLogger:
    """Return a logger whose events name the room that they come from."""
    logger: FilteringBoundLogger = structlog.get_logger(room=room)
    return logger


def _add_time(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Add the time of day, RFC 3339 with milliseconds, UTC."""
    event["time"] = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return event
