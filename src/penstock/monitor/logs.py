"""Structured logs: every record as one JSON object per line, or as a readable line, on standard error."""

from __future__ import annotations

import contextlib
import logging
import re
import sys
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, Protocol, TextIO, TypeAlias

from penstock.errors import worded
from penstock.monitor.log_stream import LogStream
from penstock.monitor.redaction import redact_also, scrub_field
from penstock.monitor.traces.context import parent_of
from penstock.settings import Settings

Fields: TypeAlias = dict[str, Any]


class Request(Protocol):
    """The request in whose course a record is made."""

    request_id: str
    trace: Any
    header: Callable[[str], str | None]
    header_values: Callable[[str], Sequence[str]]


current_request: ContextVar[Request | None] = ContextVar("penstock_request", default=None)
"""Set where a request has a task of its own: every record that is made in it names the request."""

_CHATTY = ("alembic", "asyncio", "httpx", "PIL")
"""Libraries whose info messages are of no use to an operator."""

_OURS = frozenset({"level", "logger", "timestamp", "exc_info", "method", "status"})
"""Fields that never hold external data."""
_OURS_OF_ACCESS = _OURS | {"event", "outcome", "outcomes", "variant", "shapes", "dtypes"}
_SEVERAL_LINES = frozenset({"exception"})
_STANDARD = frozenset({*logging.makeLogRecord({}).__dict__, "message", "asctime"})
"""What every record has; the others were given as `extra`."""
_NEEDS_QUOTES = re.compile(r"[\s=\"']")
_COLOURS = {"debug": 32, "info": 32, "warning": 33}
"""By level, as codes of terminals; red for the others."""
_CONTROL = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160))} | {10: "\\n", 13: "\\r", 9: "\t"}


def configure_logging(settings: Settings, stream: TextIO | None = None) -> None:
    """Send the records of all loggers to `stream` (standard error), with the format and level of the settings.

    Replaces the handlers of the root logger and those with which a library writes to a stream of its own, and captures
    Python's warnings. Values passed as `extra` become fields of
    the record. All text is redacted with `scrub`.
    """
    redact_also(settings.redact_patterns)
    stream = stream or sys.stderr
    handler = _Handler(stream)
    handler.setFormatter(_formatter(settings.log_format, stream))
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
    root.addHandler(handler)
    _take_over_libraries()
    set_log_level(settings.log_level)
    logging.captureWarnings(True)


def set_log_level(level: str) -> None:
    """Write records of this level and above: of our loggers, and of most libraries."""
    root = logging.getLogger()
    root.setLevel(level.upper())
    for name in _CHATTY:
        logging.getLogger(name).setLevel(max(root.level, logging.WARNING))


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


class _Handler(logging.Handler):
    """Writes lines without waiting for whoever reads them."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._lines = LogStream(stream)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._lines.write(self.format(record) + "\n")
        except Exception:  # a record that cannot be formatted, or a stream that is closed
            self.handleError(record)

    def flush(self) -> None:
        self._lines.flush()

    def handleError(self, record: logging.LogRecord) -> None:
        """Report a line that cannot be written, without its arguments, which may be user data."""
        with contextlib.suppress(OSError, ValueError):
            self._lines.write(f"penstock: a log line of {record.name} ({record.filename}:{record.lineno}) was lost\n")


def _formatter(log_format: str, stream: TextIO) -> logging.Formatter:
    return _Lines(colours=stream.isatty()) if log_format == "console" else _Documents()


class _Documents(logging.Formatter):
    """One JSON object per record."""

    def format(self, record: logging.LogRecord) -> str:
        """The record on one line."""
        return _to_json(self.fields(record))

    def fields(self, record: logging.LogRecord) -> Fields:
        """What is written of a record: its text, then `extra`, redacted."""
        fields: Fields = {"event": worded(record.getMessage(), "server")}  # options as the operator sets them
        if record.stack_info:
            fields["stack_info"] = record.stack_info
        fields |= {"level": record.levelname.lower(), "logger": record.name}
        request = current_request.get()
        if request is not None:
            fields |= request_fields(request)
        fields |= {name: value for name, value in record.__dict__.items() if name not in _STANDARD}
        fields["timestamp"] = _utc(record.created)
        if record.exc_info:  # formatted here: a renderer could print local variables, and with them payloads
            fields["exception"] = self.formatException(record.exc_info)
        return scrub_record(fields)


class _Lines(_Documents):
    """A readable line per record, followed by its traceback."""

    def __init__(self, *, colours: bool) -> None:
        super().__init__()
        self._colours = colours

    def format(self, record: logging.LogRecord) -> str:
        """The record on one line: time, level, text, logger, and the other fields by name."""
        fields = _one_line(self.fields(record))
        time, level = fields.pop("timestamp"), str(fields.pop("level"))
        event, logger, trace = fields.pop("event"), fields.pop("logger"), fields.pop("exception", None)
        shown = " ".join(
            f"{self._in(36, name)}={self._in(35, _value(value))}" for name, value in sorted(fields.items())
        )
        level = self._in(_COLOURS.get(level, 31), f"{level:<9}")
        line = f"{self._in(2, time)} [{level}] {self._in(1, f'{event:<30}')} [{self._in(34, logger)}] {shown}"
        return line.rstrip() + (f"\n{trace}" if trace else "")

    def _in(self, code: int, text: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self._colours else text


def request_fields(request: Request) -> Fields:
    """The fields by which the records of a request are joined, with each other and with its trace."""
    trace = request.trace
    if trace is None and request.header("traceparent") is not None:  # one that is not sampled
        trace = parent_of(request.header_values("traceparent"))
    return {"request_id": request.request_id, **({} if trace is None else {"trace_id": trace.trace_id})}


def _utc(created: float) -> str:
    return datetime.fromtimestamp(created, UTC).isoformat(timespec="microseconds").removesuffix("+00:00") + "Z"


def _value(value: object) -> str:
    plain = isinstance(value, str) and not _NEEDS_QUOTES.search(value)
    return str(value) if plain else repr(value)


def scrub_record(event: Fields) -> Fields:
    """The fields of a record, with personal data and credentials redacted in all of them."""
    ours = _OURS_OF_ACCESS if event.get("logger") == "penstock.access" else _OURS
    for name, value in event.items():
        if name not in ours and type(value) not in (int, float, bool):
            event[name] = scrub_field(name, value)
    return event


def _one_line(event: Fields) -> Fields:
    """Escape control characters, so that no external text can start a new line or control the terminal."""
    for name, value in event.items():
        if isinstance(value, str) and name not in _SEVERAL_LINES:
            event[name] = value.translate(_CONTROL)
    return event


def _to_json(event: Fields) -> str:
    import orjson

    return orjson.dumps(event, default=str, option=orjson.OPT_NON_STR_KEYS).decode("utf-8")
