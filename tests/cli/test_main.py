"""The command itself: help, exit codes, and errors as one sentence."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from waiting import LONG_S

import penstock as package
from penstock.cli.main import run
from penstock.errors import ConfigError, InvalidInput

COMMAND = [sys.executable, "-m", "penstock.cli.main"]


def test_the_version_is_printed(penstock: Callable[..., Any]) -> None:
    done = penstock("--version")
    assert (done.code, done.out) == (0, f"penstock {package.__version__}\n")


@pytest.mark.parametrize("args", [[], ["models"], ["config"]])
def test_a_group_alone_shows_its_commands(penstock: Callable[..., Any], args: list[str]) -> None:
    done = penstock(*args)
    assert "Usage" in done.out + done.err
    assert done.code in (0, 2)


@pytest.mark.parametrize(
    "args", [["serv"], ["models", "shwo"], ["predict"], ["serve", "--port", "abc"], ["models", "publish"]]
)
def test_a_usage_error_is_exit_code_two(penstock: Callable[..., Any], args: list[str]) -> None:
    done = penstock(*args)
    assert done.code == 2
    assert done.out == ""
    assert "Usage" in done.err


def test_a_misspelt_command_names_the_nearest_one(penstock: Callable[..., Any]) -> None:
    assert "'serve'" in penstock("serv").err


def test_help_and_completion_load_nothing_that_takes_long() -> None:
    slow = ("torch", "onnxruntime", "numpy", "pydantic", "sqlalchemy", "fastapi", "granian", "httpx", "rich")
    code = f"import sys; from penstock.cli.main import app; print(*[name for name in {slow!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (InvalidInput("input_data: 3 numbers given, the model takes 784"), "input_data: 3 numbers given"),
        (ConfigError("PENSTOCK_PROT in the environment is not a setting"), "PENSTOCK_PROT"),
        (
            OSError(28, "No space left on device", "registry/m"),
            "the disk that holds registry/m is full; free space on it",
        ),
        (OSError(20, "Not a directory", "registry/m"), "registry/m: Not a directory"),
        (MemoryError(), "out of memory"),
    ],
)
def test_an_expected_error_is_one_sentence_and_exit_code_one(
    capsys: pytest.CaptureFixture[str], error: Exception, sentence: str
) -> None:
    def fail() -> None:
        raise error

    assert run(fail) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"penstock: {sentence}")
    assert err.count("\n") == 1


def test_an_unexpected_error_is_one_sentence_that_names_the_debug_option(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(lambda: 1 // 0) == 1
    err = capsys.readouterr().err
    assert err.startswith("penstock: unexpected ZeroDivisionError")
    assert "PENSTOCK_LOG_LEVEL=debug" in err
    assert "Traceback" not in err

    monkeypatch.setenv("PENSTOCK_LOG_LEVEL", "debug")
    assert run(lambda: 1 // 0) == 1
    assert "Traceback" in capsys.readouterr().err


def test_an_interrupted_command_ends_with_130_and_without_a_traceback(tmp_path: Path) -> None:
    source = tmp_path / "source"
    os.mkfifo(source)
    process = subprocess.Popen(
        [*COMMAND, "predict", "digits", str(source)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    with source.open("wb"):  # opens when the command waits for its input
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=LONG_S)
    assert (process.returncode, out) == (130, b"")
    assert b"Traceback" not in err


@pytest.mark.parametrize("args", [["config", "show", "--json"], ["config", "show"], ["--help"]])
def test_a_closed_pipe_is_not_an_error(args: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run([*COMMAND, *args], stdout=writer, stderr=subprocess.PIPE, timeout=LONG_S)
    finally:
        os.close(writer)
    assert done.stderr == b""
    assert done.returncode == 1


def test_the_command_runs_as_a_module() -> None:
    done = subprocess.run([sys.executable, "-m", "penstock", "--version"], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, f"penstock {package.__version__}\n")
