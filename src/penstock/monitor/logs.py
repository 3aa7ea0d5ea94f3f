"""Structured logs: every record as one JSON object per line, or as a readable line, on standard error."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import MutableMapping
from typing import Any, TextIO

import structlog

from penstock.errors import worded
from penstock.monitor.redaction import redact_also, scrub_field
from penstock.settings import Settings

_CHATTY = ("alembic", "asyncio", "httpx", "PIL")
"""Libraries whose info messages are of no use to an operator."""

_OURS = frozenset({"level", "logger", "timestamp", "exc_info", "method", "status"})
"""Fields that never hold external data."""
_OURS_OF_ACCESS = _OURS | {"event", "outcome", "outcomes", "variant", "shapes", "dtypes"}
_SEVERAL_LINES = frozenset({"exception", "stack"})
_CONTROL = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160))} | {10: "\\n", 13: "\\r", 9: "\t"}


def configure_logging(settings: Settings, stream: TextIO | None = None) -> None:
    """Send the records of all loggers to `stream` (standard error), with the format and level of the settings.

    Replaces the handlers of the root logger and those with which a library writes to a stream of its own, and captures
    Python's warnings. Values passed as `extra` become fields of
    the record. All text is redacted with `scrub`.
    """
    redact_also(settings.redact_patterns)
    handler = _Handler(stream or sys.stderr)
    handler.setFormatter(_formatter(settings.log_format, handler.stream))
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
    root.addHandler(handler)
    _take_over_libraries()
    level = settings.log_level.upper()
    root.setLevel(level)
    quiet = max(logging.getLevelName(level), logging.WARNING)
    for name in _CHATTY:
        logging.getLogger(name).setLevel(quiet)
    logging.captureWarnings(True)


def _take_over_libraries() -> None:
    """Let libraries that brought a stream handler of their own (MLflow does for Alembic too) use the root logger's."""
    for logger in logging.Logger.manager.loggerDict.values():
        if isinstance(logger, logging.PlaceHolder):
            continue
        own = [handler for handler in logger.handlers if type(handler) is logging.StreamHandler]
        for handler in own:
            logger.removeHandler(handler)
        if own:
            logger.propagate = True


class _Handler(logging.StreamHandler[TextIO]):
    def handleError(self, record: logging.LogRecord) -> None:
        """Report a line that cannot be written, without its arguments, which may be user data."""
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.write(f"penstock: a log line of {record.name} ({record.filename}:{record.lineno}) was lost\n")


def _formatter(log_format: str, stream: TextIO) -> logging.Formatter:
    shared: list[Any] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    # Format the traceback here: the console renderer would print local variables, and with them payloads
    clean: list[Any] = [structlog.processors.format_exc_info, _in_words_of_settings, scrub_record]
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


def _in_words_of_settings(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Name options as the operator sets them."""
    if isinstance(event.get("event"), str):
        event["event"] = worded(event["event"], "server")
    return event


def scrub_record(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """A structlog processor: redact personal data and credentials in all fields."""
    ours = _OURS_OF_ACCESS if event.get("logger") == "penstock.access" else _OURS
    for name, value in event.items():
        if name not in ours and type(value) not in (int, float, bool):
            event[name] = scrub_field(name, value)
    return event


def _one_line(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Escape control characters, so that no external text can start a new line or control the terminal."""
    for name, value in event.items():
        if isinstance(value, str) and name not in _SEVERAL_LINES:
            event[name] = value.translate(_CONTROL)
    return event


def _to_json(event: MutableMapping[str, Any], **_: Any) -> str:
    import orjson

    return orjson.dumps(event, default=str, option=orjson.OPT_NON_STR_KEYS).decode("utf-8")
