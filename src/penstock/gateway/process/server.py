"""Runs the gateway under its HTTP server in one process: the signals, the start and the drain."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import AsyncIterator, Sequence
from functools import partial
from typing import Any, TypeAlias

from penstock.errors import ConfigError
from penstock.gateway.gateway import Gateway
from penstock.gateway.middleware import build_gateway
from penstock.gateway.process.channel import Channel
from penstock.gateway.process.h1.listener import Listener, listen
from penstock.gateway.process.h1.places import most_connections
from penstock.gateway.process.notify import Notifier
from penstock.gateway.process.reload import Reload
from penstock.gateway.process.rsgi import RsgiApp
from penstock.gateway.process.sockets import BACKLOG, close_sockets, listening_sockets
from penstock.gateway.process.watchdog import Watchdog, end_at_second
from penstock.gateway.service import Service
from penstock.gateway.worker_group import WorkerGroup
from penstock.settings import Settings

Task: TypeAlias = asyncio.Task[Any]

log = logging.getLogger(__name__)

GRANIAN_HEAD = 128 * 1024
"""Bytes of the head of a request under Granian."""
CLOSE_S = 1.0
"""How long connections may take to close after the last reply."""
SWITCH_S = 0.001
"""How long a thread may keep the interpreter's lock from the event loop, unless native code keeps it longer."""
YOUNG_OBJECTS = 10_000
"""New objects between two searches for garbage that refers to itself: the requests of a few turns, which have none."""
EXIT_S = 15.0
"""How much longer than the drain the process may take to exit."""


def run(settings: Settings, refs: Sequence[str], reload: Reload, channel: Channel | None = None) -> int:
    """One server in this process, on an address that was checked before; `channel` leads to its supervisor, if any.

    The process must end when this returns.
    """
    import uvloop

    gc.freeze()  # what was imported stays; it would be searched again and again
    gc.enable()
    sys.setswitchinterval(SWITCH_S)
    gc.set_threshold(YOUNG_OBJECTS)
    told: Notifier | Channel = Notifier() if channel is None else channel
    watchdog = Watchdog(settings.hang_timeout_s, settings.drain_timeout_s, told.alive)
    try:
        code = uvloop.run(Server(settings, refs, told, watchdog, reload).run())
    except BaseException:
        watchdog.stop()  # the caller reports the error
        raise
    if _still_working():
        _exit_now(code)  # native code that runs while the process takes itself apart would abort it
    return code


class Server:
    """One process: the gateway under its HTTP server, from start to drain."""

    def __init__(
        self,
        settings: Settings,
        refs: Sequence[str],
        told: Notifier | Channel,
        watchdog: Watchdog,
        reload: Reload,
    ) -> None:
        """`told`: the service manager, or the supervisor that tells it."""
        self._settings = settings
        self._refs = refs
        self._channel = told if isinstance(told, Channel) else None
        self._notifier = told if isinstance(told, Notifier) else None
        self._workers = None if self._channel is None else WorkerGroup(self._channel.place.directory)
        self._reload = reload
        self._stop = asyncio.Event()
        self._watchdog = watchdog

    async def run(self) -> int:
        """Serve until stopped; the exit code. Raises the PenstockError of a model that was named."""
        self._watchdog.start()
        self._watchdog.show_stacks_at(signal.SIGUSR1)
        for signum in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(signum, self._on_signal, signum)
            if self._workers is None:
                end_at_second(signum)
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._read_again)
        service = Service(self._settings, workers=self._workers)
        self._watchdog.abandoned_run = service.engine.abandoned_run
        gateway = build_gateway(service, listener=self._settings.host)
        loading = asyncio.create_task(self._load(service), name="penstock-load")
        stopped = asyncio.create_task(self._stop.wait(), name="penstock-stop")
        try:
            await self._until_needed(loading, stopped)
            async with _sharing(service):
                await self._until_accepting(loading, stopped)
                async with _listening(gateway, self._settings, self._channel, self._reload) as listening:
                    await self._until_stopped(loading, listening, stopped)
                    await self._drain(gateway, loading)
        finally:
            loading.cancel()
            stopped.cancel()
            self._watchdog.end_within(EXIT_S)
            await asyncio.wait((loading, stopped))
            await gateway.close()
        return 0

    async def _load(self, service: Service) -> None:
        await service.start(self._refs)
        if self._channel is not None and self._workers is not None:
            # whoever changes something sees from now on that this process has to follow, and what came before is here
            await asyncio.to_thread(self._workers.publish, service.figures)
            await service.reconcile()
            self._channel.loaded(complete=service.engine.complete)
            service.on_models_changed.append(partial(_tell_state, self._channel, service))
        if self._notifier is not None:
            self._notifier.ready(f"serving on {_url(self._settings)}")
        log.info("ready", extra={"models": [model.key for model in service.engine.loaded()]})

    async def _until_needed(self, loading: Task, stopped: Task) -> None:
        """The other processes of a group take the requests until this one has loaded its models."""
        if self._channel is not None:
            self._channel.follow()
            await _first(loading, stopped)

    async def _until_accepting(self, loading: Task, stopped: Task) -> None:
        """They go on doing so while one of them serves every model and this one cannot."""
        if self._channel is None or stopped.done() or loading.exception() is not None:
            return
        accepting = asyncio.create_task(self._channel.until_it_accepts(), name="penstock-accept")
        try:
            await _first(accepting, stopped)
        finally:
            accepting.cancel()

    async def _until_stopped(self, loading: Task, listening: Task, stopped: Task) -> None:
        await _first(loading, listening, stopped)
        if loading.done():
            loading.result()
            await _first(listening, stopped)
        if not stopped.done():
            listening.result()
            raise ConfigError(f"the server could not listen on {_url(self._settings)}")

    async def _drain(self, gateway: Gateway, loading: Task) -> None:
        log.info("draining", extra={"inflight": len(gateway.inflight)})
        if self._channel is not None:
            self._channel.draining()
        if self._notifier is not None:
            self._notifier.stopping(self._ends_within_s)
        gateway.service.begin_drain()
        await asyncio.sleep(self._settings.drain_grace_s)
        in_time = await gateway.drain(self._settings.drain_timeout_s)
        if not in_time:
            log.warning("requests that took longer than the drain time-out were cancelled")
            await asyncio.sleep(0.05)  # for their replies to be sent
        if not (in_time and loading.done()):
            _exit_now(0)  # a thread that still runs or loads a model would delay the exit

    @property
    def _ends_within_s(self) -> float:
        return self._settings.drain_grace_s + self._settings.drain_timeout_s + EXIT_S

    def _read_again(self) -> None:
        if self._notifier is None:
            self._reload()
            return
        self._notifier.reloading()
        done = self._reload()
        at = f"serving on {_url(self._settings)}"
        self._notifier.ready(at if done else f"{at}; the settings could not be read again")

    def _on_signal(self, signum: int) -> None:
        if not self._stop.is_set():
            self._watchdog.end_within(self._ends_within_s)
            self._stop.set()
        elif self._workers is None:  # a second signal to several processes: their parent kills them
            _exit_now(128 + signum)


async def _tell_state(channel: Channel, service: Service) -> None:
    channel.loaded(complete=service.engine.complete)


async def _first(*tasks: Task) -> None:
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)


@contextlib.asynccontextmanager
async def _listening(
    gateway: Gateway, settings: Settings, channel: Channel | None, reload: Reload
) -> AsyncIterator[Task]:
    """Run the HTTP server; yields a task that ends without cancellation only on an error."""
    own = _h1(gateway, settings, channel, reload)
    async with _granian(gateway, settings) if settings.server == "granian" else own as task:
        log.info("listening on %s (%s)", _url(settings), gateway.service.admin_key.prepare())
        yield task


@contextlib.asynccontextmanager
async def _h1(gateway: Gateway, settings: Settings, channel: Channel | None, reload: Reload) -> AsyncIterator[Task]:
    own = None if channel is None else channel.place.own
    with contextlib.ExitStack() as ending:
        if own is not None:
            sock = ending.enter_context(own)  # its path, if it has one, belongs to the supervisor
        else:
            (sock,) = listening_sockets(settings.host, settings.port, uds=settings.uds)
            ending.callback(close_sockets, [sock])
        listener = listen(gateway, settings, sock)
        if listener.tls is not None:
            reload.add(listener.tls.again)
        if channel is not None:
            channel.on_sockets(partial(_serve, listener, gateway.service))
        forever = asyncio.create_task(asyncio.Event().wait(), name="penstock-listen")
        try:
            yield forever
        finally:
            forever.cancel()
            await listener.close(CLOSE_S)
            if channel is not None:
                channel.place.close()


def _serve(listener: Listener, service: Service, socks: list[socket.socket]) -> None:
    service.stands_aside = not socks
    listener.serve(socks)


@contextlib.asynccontextmanager
async def _granian(gateway: Gateway, settings: Settings) -> AsyncIterator[Task]:
    granian = granian_server(gateway, settings)
    task = asyncio.create_task(granian.serve(), name="penstock-listen")
    try:
        yield task
    finally:
        granian.stop()
        await asyncio.wait((task,), timeout=CLOSE_S)


@contextlib.asynccontextmanager
async def _sharing(service: Service) -> AsyncIterator[None]:
    """Share the figures of this process with the others of its group meanwhile."""
    if service.workers is None:
        yield
        return
    sharing = asyncio.create_task(service.workers.share(service.figures), name="penstock-share")
    try:
        yield
    finally:
        sharing.cancel()
        await asyncio.wait((sharing,))


def granian_server(gateway: Gateway, settings: Settings) -> Any:
    """Granian's embedded server in front of the gateway, on the address of the settings; `serve()` runs it."""
    from granian.constants import HTTPModes, Interfaces, SSLProtocols
    from granian.http import HTTP1Settings
    from granian.server.embed import Server as Granian

    return Granian(
        RsgiApp(gateway),
        address=settings.host,
        port=settings.port,
        uds=settings.uds,
        interface=Interfaces.RSGI,
        http=HTTPModes.auto,
        http1_settings=HTTP1Settings(
            header_read_timeout=round(settings.header_timeout_s * 1000), max_buffer_size=GRANIAN_HEAD
        ),
        websockets=False,
        log_enabled=False,
        backlog=BACKLOG,
        ssl_cert=settings.tls_cert,
        ssl_key=settings.tls_key or settings.tls_cert,
        ssl_protocol_min=SSLProtocols.tls12,
        ssl_ca=settings.tls_client_ca,
        ssl_client_verify=settings.tls_client_ca is not None,
        backpressure=most_connections(settings.max_connections),
    )


def _still_working() -> bool:
    """True if a thread of this package has not ended, such as one in a run that never returns."""
    until = time.monotonic() + CLOSE_S
    threads = [
        thread
        for thread in threading.enumerate()
        if thread.name.startswith(("penstock-run", "penstock-task", "penstock-lo"))
    ]
    for thread in threads:
        thread.join(max(0.0, until - time.monotonic()))
    return any(thread.is_alive() for thread in threads)


def _url(settings: Settings) -> str:
    if settings.uds is not None:
        return f"unix:{settings.uds}"
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return f"http{'' if settings.tls_cert is None else 's'}://{host}:{settings.port}"


def _exit_now(code: int) -> None:
    """Exit without waiting for threads that may never end."""
    logging.shutdown()
    sys.stdout.flush()
    os._exit(code)
