"""Log lines on standard error: plain where nobody watches, escaped always."""

from __future__ import annotations

import logging
import sys
from typing import Any

import structlog

from stream_curate.printable import printable


def configure_logs(*, verbose: bool = False) -> None:
    """Send log lines to standard error, with the time in UTC."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
            _escape_values,
            structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), timestamp_key="time", pad_event_to=0),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG if verbose else logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )


def _escape_values(logger: Any, method: str, event: Any) -> Any:
    """What the crawl brought can hold control characters; none reaches a terminal."""
    return {key: printable(value) if isinstance(value, str) else value for key, value in event.items()}
