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
from collections.abc import Callable, Sequence
from contextlib import suppress
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from penstock.backends.devices import require_hardware, worker_count
from penstock.errors import PenstockError
from penstock.gateway.process.channel import Channel, Place
from penstock.gateway.process.reload import Change, Reload
from penstock.gateway.process.sockets import close_sockets, free_address, listening_sockets
from penstock.monitor.logs import configure_logging
from penstock.settings import Settings

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

log = logging.getLogger(__name__)


def serve(settings: Settings, refs: Sequence[str] = (), read: Callable[[], Settings] | None = None) -> int:
    """Serve until a signal comes, then finish the requests in flight; the exit code.

    It listens at once and loads the models meanwhile. `read` makes the settings again at SIGHUP, in every process: it
    is pickled for that; without it only the files that the settings name are read again. Raises PenstockError if it
    cannot start: a port in use, a model that was named and cannot be served.
    """
    configure_logging(settings)
    forbid_core_dumps()
    require_hardware(settings.device)
    reload = Reload(read or partial(_unchanged, settings), settings)
    if settings.uds is None:
        host, port = free_address(settings.host, settings.port)
        settings = settings.model_copy(update={"host": host, "port": port})
    count = worker_count(settings.workers)
    if count == 1:
        from penstock.gateway.process.server import run

        return run(settings, refs, reload)
    log.info("%d server processes (workers is %s)", count, settings.workers)
    from penstock.gateway.process.supervisor import supervise  # one process needs no multiprocessing

    gc.enable()
    main = partial(_worker_main, deepcopy(reload))
    reload.add(certificates_can_be_used)
    if settings.server == "granian":
        return supervise(settings, refs, main, reload)
    sockets = listening_sockets(settings.host, settings.port, uds=settings.uds, count=count)
    try:
        return supervise(settings, refs, main, reload, sockets)
    finally:
        close_sockets(sockets)


def forbid_core_dumps() -> None:
    """A crash of this process, or of one that it starts, writes no copy of its memory, which holds keys and inputs."""
    with suppress(ImportError, OSError, ValueError):  # not on Windows
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))


def certificates_can_be_used(settings: Settings) -> Change:
    """For a process that has others use them. Raises ConfigError."""
    from penstock.gateway.process.h1.tls import tls_of

    tls_of(settings)
    return lambda: None


def _unchanged(settings: Settings) -> Settings:
    return settings


def _worker_main(reload: Reload, settings: Settings, refs: tuple[str, ...], place: Place, pipe: Connection) -> None:
    """One server in a child process. Ctrl-C reaches the whole process group, so only the parent's SIGTERM counts."""
    gc.disable()  # until all is imported
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for signum in (signal.SIGHUP, signal.SIGUSR1):  # the parent passes them on to those that are ready
        signal.signal(signum, signal.SIG_IGN)
    configure_logging(settings)
    _exit_with_parent(place.directory)
    from penstock.gateway.process.server import run

    channel = Channel(pipe, place)
    try:
        sys.exit(run(settings, refs, reload, channel))
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
