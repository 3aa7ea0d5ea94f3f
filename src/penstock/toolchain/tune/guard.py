"""Runs a command until it ends, or until the process that started this one is gone: then the command is ended too.

A server that `penstock tune` started must not stay behind when tune is killed and can clean up nothing itself. Its
standard input is a pipe whose other end only tune holds, and the system closes that end however tune ends.

    python -m penstock.toolchain.tune.guard GRACE_S DIRECTORY COMMAND …

The directory, with files of the command, is then removed as well.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import subprocess
import sys
from types import FrameType

_LOOK_S = 0.1


def main() -> int:
    """Run the command of the arguments; its exit code."""
    grace_s, directory, command = float(sys.argv[1]), sys.argv[2], sys.argv[3:]
    signal.signal(signal.SIGTERM, _leave)
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    with contextlib.suppress(KeyboardInterrupt):
        while process.poll() is None and not _alone():
            continue
    if process.poll() is None:  # else its starter reads there why it ended
        shutil.rmtree(directory, ignore_errors=True)
    return _end(process, grace_s)


def _leave(signum: int, frame: FrameType | None) -> None:  # noqa: ARG001  what signal handlers receive
    raise KeyboardInterrupt


def _alone() -> bool:
    """True if the other end of standard input is closed; takes a moment to say no."""
    ready, _, _ = select.select([sys.stdin], [], [], _LOOK_S)
    return bool(ready) and not os.read(sys.stdin.fileno(), 1)


def _end(process: subprocess.Popen[bytes], grace_s: float) -> int:
    """End a command that still runs: politely first, then it and everything that it started."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(grace_s)
        except subprocess.TimeoutExpired:
            os.killpg(0, signal.SIGKILL)  # the group is this process's own
    return process.wait()


if __name__ == "__main__":
    sys.exit(main())
