"""Structured logs: every logger's records as one JSON object a line, or as lines for people, on standard error."""

from __future__ import annotations

import logging
import sys
from collections.abc import MutableMapping
from typing import Any, TextIO

import structlog

from penstock.settings import Settings

_CHATTY = ("alembic", "asyncio", "httpx", "PIL")
"""Libraries whose information is no news to an operator."""


def configure_logging(settings: Settings, stream: TextIO | None = None) -> None:
    """Send what all loggers say to `stream` (standard error), in the format and from the level of the settings.

    Replaces the handlers of the root logger. What a caller passes as `extra` becomes fields of the record.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(_formatter(settings.log_format, handler.stream))
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
    root.addHandler(handler)
    level = settings.log_level.upper()
    root.setLevel(level)
    quiet = max(logging.getLevelName(level), logging.WARNING)
    for name in _CHATTY:
        logging.getLogger(name).setLevel(quiet)


def _formatter(log_format: str, stream: TextIO) -> logging.Formatter:
    shared: list[Any] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if log_format == "console":
        last: list[Any] = [structlog.dev.ConsoleRenderer(colors=stream.isatty())]
    else:
        last = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(serializer=_to_json)]
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared, processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last]
    )


def _to_json(event: MutableMapping[str, Any], **_: Any) -> str:
    import orjson

    return orjson.dumps(event, default=str, option=orjson.OPT_NON_STR_KEYS).decode()
