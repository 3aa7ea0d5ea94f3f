"""Logs as JSON and as console lines."""

from __future__ import annotations

import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from penstock.monitor.logs import configure_logging
from penstock.settings import Settings

log = logging.getLogger("penstock.somewhere")


@pytest.fixture(autouse=True)
def loggers_as_they_were() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    libraries = {
        logger: (logger.handlers[:], logger.propagate)
        for logger in list(logging.Logger.manager.loggerDict.values())
        if isinstance(logger, logging.Logger)
    }
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    for logger, (own, propagate) in libraries.items():
        logger.handlers[:], logger.propagate = own, propagate
    logging.captureWarnings(False)


@pytest.fixture
def written() -> Callable[..., io.StringIO]:
    def configure(**settings: Any) -> io.StringIO:
        stream = io.StringIO()
        configure_logging(Settings(**settings), stream)
        return stream

    return configure


def test_a_record_is_one_json_object_with_its_fields(written: Callable[..., io.StringIO]) -> None:
    stream = written()
    log.info("loaded %s", "digits:v1.0", extra={"ms": 12.5, "request_id": "id-1"})
    (line,) = stream.getvalue().splitlines()
    record = json.loads(line)
    assert record.pop("timestamp").endswith("Z")
    assert record == {
        "event": "loaded digits:v1.0",
        "level": "info",
        "logger": "penstock.somewhere",
        "ms": 12.5,
        "request_id": "id-1",
    }


def test_a_traceback_is_part_of_its_record(written: Callable[..., io.StringIO]) -> None:
    stream = written()
    try:
        raise ZeroDivisionError("inside")
    except ZeroDivisionError:
        log.exception("it failed")
    (line,) = stream.getvalue().splitlines()
    assert "ZeroDivisionError: inside" in json.loads(line)["exception"]


def test_a_value_that_is_not_json_is_written_as_text(written: Callable[..., io.StringIO]) -> None:
    stream = written()
    log.info("odd", extra={"thing": object})
    assert "object" in json.loads(stream.getvalue())["thing"]


@pytest.mark.parametrize(("level", "count"), [("debug", 4), ("info", 3), ("warning", 2), ("error", 1)])
def test_records_below_the_level_are_dropped(written: Callable[..., io.StringIO], level: str, count: int) -> None:
    stream = written(log_level=level)
    for method in (log.debug, log.info, log.warning, log.error):
        method("x")
    assert len(stream.getvalue().splitlines()) == count


def test_libraries_log_only_warnings_and_errors(written: Callable[..., io.StringIO]) -> None:
    stream = written()
    logging.getLogger("alembic.runtime.migration").info("Running upgrade")
    logging.getLogger("alembic").warning("a warning")
    assert [json.loads(line)["event"] for line in stream.getvalue().splitlines()] == ["a warning"]


def test_a_library_that_brought_its_own_handler_writes_once_and_in_our_format(
    written: Callable[..., io.StringIO], capsys: pytest.CaptureFixture[str]
) -> None:
    library = logging.getLogger("a_library_with_its_own_handler")
    library.addHandler(logging.StreamHandler())
    library.propagate = False
    silent = logging.getLogger("a_library_with_a_null_handler")
    silent.addHandler(logging.NullHandler())
    silent.propagate = False
    stream = written()
    library.warning("a warning")
    silent.warning("kept silent by its owner")
    assert [json.loads(line)["event"] for line in stream.getvalue().splitlines()] == ["a warning"]
    assert capsys.readouterr().err == ""


def test_console_lines_in_a_file_have_no_colours(written: Callable[..., io.StringIO]) -> None:
    stream = written(log_format="console")
    log.warning("careful", extra={"model": "digits"})
    line = stream.getvalue()
    assert "careful" in line
    assert "model=digits" in line
    assert "\x1b" not in line


def test_configuring_twice_writes_once(written: Callable[..., io.StringIO]) -> None:
    first, second = written(), written()
    log.info("once")
    assert not first.getvalue()
    assert len(second.getvalue().splitlines()) == 1


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_secrets_are_redacted_in_every_part_of_a_record(written: Callable[..., io.StringIO], log_format: str) -> None:
    stream = written(log_format=log_format)
    try:
        raise ValueError("cannot greet ann@example.com")
    except ValueError:
        log.exception("for %s", "bob@example.org", extra={"to": ["eve@example.net"], "password": "hunter2"})
    text = stream.getvalue()
    for name in ("ann@", "bob@", "eve@", "hunter2"):
        assert name not in text
    assert "cannot greet [email]" in text
    assert "ValueError" in text


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_a_traceback_never_shows_the_values_of_variables(written: Callable[..., io.StringIO], log_format: str) -> None:
    stream = written(log_format=log_format)
    payload = ["a row of", "private data"]
    try:
        payload.index("missing")
    except ValueError:
        log.exception("it failed")
    assert "Traceback" in stream.getvalue()
    assert "data'" not in stream.getvalue()


def test_external_text_cannot_start_a_line_or_control_the_terminal(written: Callable[..., io.StringIO]) -> None:
    stream = written(log_format="console")
    log.warning("request", extra={"path": "/x\n2026 [error] forged\x1b[2J\r"})
    (line,) = stream.getvalue().splitlines()
    assert "\x1b" not in line
    assert "\\n2026 [error] forged" in line


def test_a_line_that_cannot_be_written_does_not_show_its_arguments(written: Callable[..., io.StringIO]) -> None:
    stream = written()
    log.warning("%d rows", "private data")
    assert "penstock.somewhere" in stream.getvalue()
    log.warning("%d rows", "private data")
    assert "private" not in stream.getvalue()


def test_warnings_of_python_are_records_too(written: Callable[..., io.StringIO]) -> None:
    logging.captureWarnings(False)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        stream = written()
        warnings.warn("ask ann@example.com", UserWarning, stacklevel=1)
    record = json.loads(stream.getvalue())
    assert record["logger"] == "py.warnings"
    assert "ask [email]" in record["event"]


def test_a_document_has_the_text_then_the_fields_then_the_time(written: Callable[..., io.StringIO]) -> None:
    stream = written()
    log.warning("%s is late", "digits", extra={"rows": 3, "shapes": {"x": [1, 2]}})
    fields = json.loads(stream.getvalue())
    assert list(fields) == ["event", "level", "logger", "rows", "shapes", "timestamp"]
    assert fields | {"timestamp": ""} == {
        "event": "digits is late",
        "level": "warning",
        "logger": "penstock.somewhere",
        "rows": 3,
        "shapes": {"x": [1, 2]},
        "timestamp": "",
    }
    assert fields["timestamp"].endswith("Z")


def test_a_console_line_has_its_fields_by_name_and_quotes_where_they_are_needed(
    written: Callable[..., io.StringIO],
) -> None:
    stream = written(log_format="console")
    log.info("loaded", extra={"version": "v1", "path": "/a b", "count": 2})
    line = stream.getvalue()
    assert "[info     ] loaded" in line
    assert line.endswith("[penstock.somewhere] count=2 path='/a b' version=v1\n")


def test_a_terminal_gets_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    configure_logging(Settings(log_format="console"), terminal)
    log.error("broken")
    assert "\x1b[31merror    \x1b[0m" in terminal.getvalue()
