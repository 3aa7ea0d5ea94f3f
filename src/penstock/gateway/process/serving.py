"""Starts the server: in this process, or in several that a supervisor keeps running.

Only what the supervisor needs is imported here, since its workers import the rest themselves.
"""

from __future__ import annotations

import gc
import logging
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from penstock.backends.devices import require_hardware, worker_count
from penstock.errors import PenstockError
from penstock.gateway.process.channel import Channel, Place
from penstock.gateway.process.sockets import close_sockets, free_address, listening_sockets
from penstock.monitor.logs import configure_logging
from penstock.settings import Settings

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

log = logging.getLogger(__name__)


def serve(settings: Settings, refs: Sequence[str] = ()) -> int:
    """Serve until a signal comes, then finish the requests in flight; the exit code.

    It listens at once and loads the models meanwhile. Raises PenstockError if it cannot start: a port in use, a model
    that was named and cannot be served.
    """
    configure_logging(settings)
    forbid_core_dumps()
    require_hardware(settings.device)
    if settings.uds is None:
        host, port = free_address(settings.host, settings.port)
        settings = settings.model_copy(update={"host": host, "port": port})
    count = worker_count(settings.workers)
    if count == 1:
        from penstock.gateway.process.server import run

        return run(settings, refs)
    log.info("%d server processes (workers is %s)", count, settings.workers)
    from penstock.gateway.process.supervisor import supervise  # one process needs no multiprocessing

    gc.enable()
    if settings.server == "granian":
        return supervise(settings, refs, _worker_main)
    sockets = listening_sockets(settings.host, settings.port, uds=settings.uds, count=count)
    try:
        return supervise(settings, refs, _worker_main, sockets)
    finally:
        close_sockets(sockets)


def forbid_core_dumps() -> None:
    """A crash of this process, or of one that it starts, writes no copy of its memory, which holds keys and inputs."""
    with suppress(ImportError, OSError, ValueError):  # not on Windows
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))


def _worker_main(settings: Settings, refs: tuple[str, ...], place: Place, pipe: Connection) -> None:
    """One server in a child process. Ctrl-C reaches the whole process group, so only the parent's SIGTERM counts."""
    gc.disable()  # until all is imported
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # the parent passes it on to those that have a use for it
    configure_logging(settings)
    _exit_with_parent(place.directory)
    from penstock.gateway.process.server import run

    channel = Channel(pipe, place)
    try:
        sys.exit(run(settings, refs, channel))
    except PenstockError as error:
        channel.failed(str(error))
        sys.exit(1)


def _exit_with_parent(directory: Path) -> None:
    """Exit and remove the shared directory when the parent was killed, which it can do neither for itself."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        shutil.rmtree(directory, ignore_errors=True)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="penstock-orphan", daemon=True).start()
