"""Functions that misbehave, for the child processes of tests."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from penstock.errors import InvalidInput, OutOfRange


def die_by(name: str) -> None:
    """End this process with a signal."""
    os.kill(os.getpid(), getattr(signal, name))
    time.sleep(60)


def abort_with_words() -> None:
    """As a C++ runtime does: a line, then SIGABRT."""
    os.write(2, b"first line\nterminate called after throwing an instance of 'std::bad_alloc'\n")
    os.abort()


def hang_with_the_lock(pid_file: Path) -> None:
    """Never return and never let another thread of Python run, in native code."""
    pid_file.write_text(str(os.getpid()))
    ctypes.PyDLL(None).sleep(600)


def start_a_process(pid_file: Path) -> None:
    """Start a process and wait for it, which takes long."""
    child = subprocess.Popen(["sleep", "600"])
    pid_file.write_text(f"{os.getpid()} {child.pid}")
    child.wait()


def start_and_return(pid_file: Path) -> None:
    """Start a process in this group and one that leaves it, and leave them alone."""
    children = [subprocess.Popen(["sleep", "600"], start_new_session=new) for new in (False, True)]
    pid_file.write_text(" ".join(str(child.pid) for child in children))


def start_in_another_session(pid_file: Path) -> None:
    """Start a process that leaves the group, and hang."""
    child = subprocess.Popen(["sleep", "600"], start_new_session=True)
    pid_file.write_text(f"{os.getpid()} {child.pid}")
    time.sleep(600)


def take_memory(mebibytes: int) -> int:
    """Allocate so much, in a process of its own when it is a multiple of 3."""
    if mebibytes % 3 == 0:
        script = f"b = b'x' * ({mebibytes} << 20); import time; time.sleep(600)"
        return subprocess.run([sys.executable, "-c", script], check=False).returncode
    kept = [np.ones(1 << 20, np.uint8) for _ in range(mebibytes)]
    time.sleep(600)
    return len(kept)


def refuse(field: str) -> None:
    """Raise an error of Penstock that has more than its message."""
    raise OutOfRange(f"{field}: it is above 3", tensor=field, kind="above")


def refuse_plainly() -> None:
    """Raise an error of Penstock."""
    raise InvalidInput("x: it is wrong", field="x")


def fall_over(error: str) -> None:
    """Raise an error of Python by its name."""
    raise getattr(__builtins__, error, None) or {"MemoryError": MemoryError, "ValueError": ValueError}[error]("broken")


def read_input() -> str:
    """What a factory gets that asks the user."""
    return sys.stdin.read()


def chatter(lines: int) -> int:
    """Write more than a pipe holds to both outputs."""
    for number in range(lines):
        print("x" * 100, number)
        print("y" * 100, number, file=sys.stderr)
    return lines


def environment() -> dict[str, Any]:
    """What a child finds around it."""
    return {"variables": dict(os.environ), "path": sys.path, "group": os.getpgrp(), "pid": os.getpid()}


def echo(value: Any) -> Any:
    """The argument."""
    return value


class NotPlain:
    """Something that a child cannot hand back."""


def not_plain() -> Any:
    """Return what cannot be handed back."""
    return {"result": [NotPlain()]}


def remember(value: int | None = None, _kept: list[int] = []) -> int:  # noqa: B006  it is what lasts
    """The values of earlier calls in this process, added."""
    if value is not None:
        _kept.append(value)
    return sum(_kept)
