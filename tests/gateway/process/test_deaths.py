"""Why a process has ended, in words."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from waiting import wait_until

from penstock.gateway.process.deaths import MemoryKills, is_stopped, why_it_ended


@pytest.mark.parametrize(
    ("exitcode", "memory_ran_out", "words"),
    [
        (0, False, "exit code 0"),
        (3, True, "exit code 3"),
        (-signal.SIGTERM, False, "it was ended by SIGTERM"),
        (-signal.SIGKILL, False, "killed by SIGKILL; as the kernel does when memory runs out"),
        (-signal.SIGKILL, True, "the kernel did it, since memory ran out"),
        (-signal.SIGSEGV, False, "native code crashed with SIGSEGV"),
        (-signal.SIGABRT, True, "native code crashed with SIGABRT"),
        (-77, False, "it was ended by signal 77"),
    ],
)
def test_an_exit_code_says_why(exitcode: int, memory_ran_out: bool, words: str) -> None:
    assert why_it_ended(exitcode, memory_ran_out).endswith(words)


def test_kills_of_the_kernel_are_counted_here_and_in_the_container(tmp_path: Path) -> None:
    vmstat, events = tmp_path / "vmstat", tmp_path / "memory.events"
    vmstat.write_text("pgfault 7\noom_kill 2\n")
    kills = MemoryKills(vmstat, tmp_path)
    assert not kills.new()
    events.write_text("oom 1\noom_kill 1\noom_group_kill 0\n")
    assert kills.new()
    assert not kills.new()
    vmstat.write_text("pgfault 9\noom_kill 3\n")
    assert kills.new()
    assert not MemoryKills(tmp_path / "none", tmp_path / "none").new()


def test_a_stopped_process_is_seen() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        assert not is_stopped(process.pid)
        os.kill(process.pid, signal.SIGSTOP)
        wait_until(lambda: is_stopped(process.pid))
        os.kill(process.pid, signal.SIGCONT)
        wait_until(lambda: not is_stopped(process.pid))
        process.kill()
    assert not is_stopped(process.pid)
