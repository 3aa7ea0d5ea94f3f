"""Structured logs: every logger's records as one JSON object a line, or as lines for people, on standard error."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import MutableMapping
from typing import Any, TextIO

import structlog

from penstock.monitor.redaction import scrub_field
from penstock.settings import Settings

_CHATTY = ("alembic", "asyncio", "httpx", "PIL")
"""Libraries whose information is no news to an operator."""

_OURS = frozenset({"level", "logger", "timestamp", "exc_info", "method", "status"})
"""Fields that hold nothing from outside."""
_OURS_OF_ACCESS = _OURS | {"event", "outcome", "outcomes", "variant", "shapes", "dtypes"}
_SEVERAL_LINES = frozenset({"exception", "stack"})
_CONTROL = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160))} | {10: "\\n", 13: "\\r", 9: "\t"}


def configure_logging(settings: Settings, stream: TextIO | None = None) -> None:
    """Send what all loggers say to `stream` (standard error), in the format and from the level of the settings.

    Replaces the handlers of the root logger; Python's warnings come the same way. What a caller passes as `extra`
    becomes fields of the record. Whatever the text, `scrub` has been over it.
    """
    handler = _Handler(stream or sys.stderr)
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
    logging.captureWarnings(True)


class _Handler(logging.StreamHandler[TextIO]):
    def handleError(self, record: logging.LogRecord) -> None:
        """A line that cannot be written is told without its arguments, which may be anybody's data."""
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.write(f"penstock: a log line of {record.name} ({record.filename}:{record.lineno}) was lost\n")


def _formatter(log_format: str, stream: TextIO) -> logging.Formatter:
    shared: list[Any] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    # The traceback becomes text here: the renderer for people would print local variables, and so payloads, with it
    clean: list[Any] = [structlog.processors.format_exc_info, scrub_record]
    if log_format == "console":
        colours = stream.isatty()
        plain = structlog.dev.plain_traceback
        last: list[Any] = [_one_line, structlog.dev.ConsoleRenderer(colors=colours, exception_formatter=plain)]
    else:
        last = [structlog.processors.JSONRenderer(serializer=_to_json)]
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *clean, *last],
    )


def scrub_record(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """A structlog processor: every field without e-mail addresses, phone numbers, tokens, card numbers, secrets."""
    ours = _OURS_OF_ACCESS if event.get("logger") == "penstock.access" else _OURS
    for name, value in event.items():
        if name not in ours and type(value) not in (int, float, bool):
            event[name] = scrub_field(name, value)
    return event


def _one_line(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """No text from outside can begin a line of its own or steer a terminal."""
    for name, value in event.items():
        if isinstance(value, str) and name not in _SEVERAL_LINES:
            event[name] = value.translate(_CONTROL)
    return event


def _to_json(event: MutableMapping[str, Any], **_: Any) -> str:
    import orjson

    return orjson.dumps(event, default=str, option=orjson.OPT_NON_STR_KEYS).decode("utf-8")
