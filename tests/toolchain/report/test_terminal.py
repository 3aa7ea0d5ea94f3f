"""Progress: a live table in a terminal, plain lines elsewhere."""

from __future__ import annotations

import io
import os
import pty
import re
import select
from pathlib import Path

import pytest

from penstock.toolchain.report.terminal import SILENT, Progress, progress

COLUMNS = ("name", "status", "p50 ms")


class Terminal:
    """The text that was written to a pseudo terminal."""

    def __init__(self) -> None:
        self._main, side = pty.openpty()
        self.stream = os.fdopen(side, "w", encoding="utf-8")

    def written(self) -> str:
        text = b""
        while select.select([self._main], [], [], 0.3)[0]:
            text += os.read(self._main, 65536)
        return text.decode()

    def close(self) -> None:
        self.stream.close()
        os.close(self._main)


def report(to: Progress) -> None:
    to.step("trying onnx-int8", 1, 4)
    to.row("onnx-int8", "kept", 0.1234)
    to.row("odd\x1b[2Jname", "failed", None)
    to.note("the machine is busy")


def test_without_a_terminal_each_report_is_one_plain_line() -> None:
    stream = io.StringIO()
    with progress("Optimizing", COLUMNS, stream) as to:
        report(to)
    lines = [re.sub(r"^\[ *[0-9.]+ s\] ", "", line) for line in stream.getvalue().splitlines()]
    assert lines == [
        "1/4 trying onnx-int8",
        "onnx-int8: status kept, p50 ms 0.123",
        r"odd\x1b[2Jname: status failed",
        "the machine is busy",
    ]


def test_in_a_terminal_a_table_shows_the_rows_and_what_happens_now(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    terminal = Terminal()
    try:
        with progress("Optimizing digits", COLUMNS, terminal.stream) as to:
            report(to)
        text = terminal.written()
    finally:
        terminal.close()
    for part in ("Optimizing digits", "p50 ms", "onnx-int8", "0.123", "1/4 trying onnx-int8", "the machine is busy"):
        assert part in text
    assert r"odd\x1b[2Jname" in text


def test_without_ticking_nothing_is_drawn_between_reports(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    terminal = Terminal()
    try:
        with progress("Tuning", COLUMNS, terminal.stream, ticking=False) as to:
            to.step("first")
            drawn = terminal.written()
            assert "first" in drawn
            assert terminal.written() == ""  # it waits for longer than a tick
            report(to)
            assert "onnx-int8" in terminal.written()
    finally:
        terminal.close()


def test_a_silent_progress_takes_everything(capfd: pytest.CaptureFixture[str]) -> None:
    report(SILENT)
    assert capfd.readouterr() == ("", "")


def test_an_error_inside_passes_through() -> None:
    with pytest.raises(KeyError), progress("x", COLUMNS, io.StringIO()):
        raise KeyError(Path("x"))
