"""The process of a sandbox: `python -m penstock.toolchain.bench.isolation.child REPLIES LIFELINE`.

It reads calls from standard input and writes a frame per call to the descriptor REPLIES. LIFELINE is the end of a pipe
that its parent holds open: when the parent is gone, the kernel ends this process and those that it started.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pickle
import struct
import sys
from pathlib import Path
from typing import Any, BinaryIO

LENGTH = struct.Struct("<Q")
"""Before each message in both directions: its length."""


def main(replies: str, lifeline: str) -> None:
    """Answer calls until the parent closes standard input."""
    _end_with_parent(int(lifeline))
    _be_the_first_to_go()
    calls = _detached_input()
    with os.fdopen(int(replies), "wb", buffering=0) as out:
        while (message := _read(calls)) is not None:
            reply = _answer(message)
            _write(out, LENGTH.pack(len(reply)))
            _write(out, reply)


def _end_with_parent(lifeline: int) -> None:
    """Let the kernel send SIGIO, which ends a process, to this group when the other end of the pipe is closed.

    A thread that watches the parent could not run while native code holds Python's lock.
    """
    fcntl.fcntl(lifeline, fcntl.F_SETOWN, -os.getpgrp())
    fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC)


def _be_the_first_to_go() -> None:
    """When the machine runs out of memory, Linux ends this process and no other."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


def _detached_input() -> BinaryIO:
    """Standard input, out of the reach of code that calls `input()`."""
    calls = os.fdopen(os.dup(0), "rb")
    empty = os.open(os.devnull, os.O_RDONLY)
    os.dup2(empty, 0)
    os.close(empty)
    return calls


def _read(calls: BinaryIO) -> bytes | None:
    head = calls.read(LENGTH.size)
    if len(head) < LENGTH.size:
        return None
    return calls.read(LENGTH.unpack(head)[0])


def _write(out: Any, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[out.write(view) :]


def _answer(message: bytes) -> bytes:
    """The frame for one call: its result, or the error and whether it is one of Penstock's."""
    from penstock.errors import PenstockError, type_and_message
    from penstock.toolchain.bench.isolation.frames import encode

    try:
        return encode({"result": _called(*pickle.loads(message))})  # noqa: S301  written by the parent  # nosec B301
    except PenstockError as error:
        return encode({"error": type(error).__name__, "message": str(error)})
    except MemoryError:
        return encode({"error": "MemoryError", "message": "it ran out of memory"})
    except BaseException as error:  # `exit()` and what else a user's code may raise
        return encode({"error": None, "message": type_and_message(error)})


def _called(target: str, args: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
    from penstock.libraries import import_attribute

    return import_attribute(target)(*args, **keywords)


if __name__ == "__main__":
    main(*sys.argv[1:])
