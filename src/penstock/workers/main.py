"""A worker: `python -m penstock.workers.main CHANNEL LIFELINE`, started by its server and ended with it.

CHANNEL is a socket that it reads messages from and answers on. LIFELINE is the end of a pipe that the server holds
open: when the server is gone, the kernel ends this process and what it has started, whatever they are doing.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import socket
import sys
from pathlib import Path
from typing import Any

from penstock.workers.channel import Channel, ChannelClosed
from penstock.workers.frames import Message
from penstock.workers.user_class import Fault, UserClass, fault_of


def main(channel: str, lifeline: str) -> None:
    """Load what the first message names, then answer the others until the server closes the channel."""
    _end_with_server(int(lifeline))
    _be_the_first_to_go()
    connected = Channel(socket.socket(fileno=int(channel)))
    with contextlib.suppress(ChannelClosed):
        _answer(connected)
    sys.stdout.flush()


def _end_with_server(lifeline: int) -> None:
    """Let the kernel send SIGIO, which ends a process, to this group when the other end of the pipe is closed.

    A thread that watches the server could not run while native code holds Python's lock.
    """
    fcntl.fcntl(lifeline, fcntl.F_SETOWN, -os.getpgrp())
    fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC)
    watch = select.poll()
    watch.register(lifeline, select.POLLIN)
    if watch.poll(0):  # closed before anybody would be told
        sys.exit(1)


def _be_the_first_to_go() -> None:
    """When the machine runs out of memory, Linux ends this process and not the server."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


def _answer(channel: Channel) -> None:
    asked = channel.receive()
    try:
        model = UserClass.load(asked.fields["target"], asked.fields["python_path"])
    except Fault as fault:
        channel.send(_failed(asked, fault))
        return
    channel.send(Message("loaded", asked.number, model.declared))
    while True:
        asked = channel.receive()
        channel.send(_run(model, asked))


def _run(model: UserClass, asked: Message) -> Message:
    """The reply to a batch: the outputs, or what is wrong with them."""
    try:
        return Message("answer", asked.number, {}, model.predict(asked.arrays, int(asked.fields["rows"])))
    except Fault as fault:
        return _failed(asked, fault)
    except BaseException as error:  # sys.exit() and whatever else a user's code may raise
        return _failed(asked, fault_of(error, f"{model.name}.predict raised"))


def _failed(asked: Message, fault: Fault) -> Message:
    fields: dict[str, Any] = {"error": fault.kind, "message": str(fault), "field": fault.field, "trace": fault.trace}
    return Message("failed", asked.number, fields)


if __name__ == "__main__":
    main(*sys.argv[1:])
