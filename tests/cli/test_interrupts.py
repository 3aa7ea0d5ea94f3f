"""Ctrl-C at any instant: exit code 130 and no traceback."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from linear_models import linear
from waiting import LONG_S

GUARDED = "| penstock.cli.interrupts\n"
"""The line of `-X importtime` after which an interruption is expected to be handled."""


def interrupted(command: list[str], seed: int, place: Path) -> tuple[int, str]:
    """Exit code and messages of a command that is interrupted at some instant of its first two seconds."""
    program = [sys.executable, "-X", "importtime", "-m", *command]
    with subprocess.Popen(program, cwd=place, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        while not (line := process.stderr.readline()).endswith(GUARDED):
            assert line, process.wait()
        time.sleep(random.Random(seed).random() ** 2 * 2)
        process.send_signal(signal.SIGINT)
        try:
            _, messages = process.communicate(timeout=LONG_S)
        finally:
            process.kill()  # one that does not end must not be waited for
    lines = messages.splitlines(keepends=True)
    return process.returncode, "".join(line for line in lines if not line.startswith("import time:"))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("command", [["models", "list"], ["serve", "vec.onnx", "--port", "0", "--log-level", "error"]])
def test_a_command_ends_without_a_traceback(tmp_path: Path, command: list[str], seed: int) -> None:
    linear(tmp_path / "vec.onnx")
    code, messages = interrupted(["penstock", *command], seed, tmp_path)
    assert code in (130, 0)  # the command had ended, or the server was ready and has drained
    assert "Traceback" not in messages
    assert "KeyboardInterrupt" not in messages


def test_an_interruption_inside_code_that_is_made_at_run_time_ends_with_its_own_exit_code(tmp_path: Path) -> None:
    program = """
import os, signal
from penstock.cli import interrupts
interrupts.guard()
from penstock.cli.main import run
def command():
    exec("os.kill(os.getpid(), signal.SIGINT)")
if run(command) == interrupts.INTERRUPTED:
    print("in order", flush=False)
    interrupts.leave()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=LONG_S, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "in order\n", "")
