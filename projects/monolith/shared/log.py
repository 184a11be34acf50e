"""The only module that sets up logging."""

import logging
import sys
from typing import TextIO

import structlog
from structlog.typing import EventDict, Processor

from shared.errors import AuditError


def _event_first(_logger: object, _name: str, event: EventDict) -> EventDict:
    first = ("timestamp", "level", "event")
    return {key: event.pop(key) for key in first if key in event} | dict(event)


_SHARED: list[Processor] = [
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_log_level,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
    structlog.processors.format_exc_info,  # plain: a rich traceback would print locals
    _event_first,
]


def set_up(stream: TextIO | None = None) -> None:
    """
    Send every log line, ours and the libraries', to standard error.

    A terminal gets text, anything else one JSON object a line. A line of ours
    that cannot be written raises OSError.

    Raises:
        AuditError: there is no standard error.
    """
    stream = stream or sys.stderr
    if stream is None:
        raise AuditError(reason="standard error is closed")
    renderer: Processor = structlog.processors.JSONRenderer()
    if stream.isatty():
        renderer = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
    structlog.configure(
        processors=[*_SHARED, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.WriteLoggerFactory(stream),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*_SHARED, structlog.stdlib.add_logger_name],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    logging.basicConfig(handlers=[handler], level=logging.INFO, force=True)
