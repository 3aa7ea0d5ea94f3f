"""Logs as machines and as people read them."""

from __future__ import annotations

import io
import json
import logging
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
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


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


def test_a_traceback_stays_in_its_line(written: Callable[..., io.StringIO]) -> None:
    stream = written()
    try:
        raise ZeroDivisionError("inside")
    except ZeroDivisionError:
        log.exception("it failed")
    (line,) = stream.getvalue().splitlines()
    assert "ZeroDivisionError: inside" in json.loads(line)["exception"]


def test_a_value_that_is_no_json_is_written_as_text(written: Callable[..., io.StringIO]) -> None:
    stream = written()
    log.info("odd", extra={"thing": object})
    assert "object" in json.loads(stream.getvalue())["thing"]


@pytest.mark.parametrize(("level", "count"), [("debug", 4), ("info", 3), ("warning", 2), ("error", 1)])
def test_the_level_counts(written: Callable[..., io.StringIO], level: str, count: int) -> None:
    stream = written(log_level=level)
    for method in (log.debug, log.info, log.warning, log.error):
        method("x")
    assert len(stream.getvalue().splitlines()) == count


def test_libraries_only_speak_up_when_something_is_wrong(written: Callable[..., io.StringIO]) -> None:
    stream = written()
    logging.getLogger("alembic.runtime.migration").info("Running upgrade")
    logging.getLogger("alembic").warning("a warning")
    assert [json.loads(line)["event"] for line in stream.getvalue().splitlines()] == ["a warning"]


def test_people_get_lines_without_colours_in_a_file(written: Callable[..., io.StringIO]) -> None:
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
