"""Servers for tests: the gateway in a thread of this process, or `penstock serve` in a separate process."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import httpx
import uvicorn
import uvloop
from waiting import LONG_S

from penstock.backends.devices import usable_cores
from penstock.gateway.gateway import Gateway
from penstock.gateway.http import Protocol
from penstock.gateway.middleware import build_gateway
from penstock.gateway.native.routes import NATIVE
from penstock.gateway.process.asgi import AsgiApp, create_app
from penstock.gateway.process.h1.listener import Listener, listen
from penstock.gateway.process.server import granian_server
from penstock.gateway.process.sockets import free_address, tcp_socket
from penstock.gateway.service import Service
from penstock.registry.admin_key import key_file, read_key
from penstock.settings import Settings

REFS = ("vec", "pic", "raw", "slow")


class Live:
    """A server in a thread of this process, with access to its gateway."""

    def __init__(
        self,
        kind: str,
        settings: Settings,
        refs: tuple[str, ...] = REFS,
        protocols: tuple[Protocol, ...] = (NATIVE,),
    ) -> None:
        """`kind`: `h1` (the built-in server), `rsgi` (Granian), `asgi` (Uvicorn with FastAPI) or `plain-asgi`
        (Uvicorn without).
        """
        self.kind = kind
        self._protocols = protocols
        _, port = free_address("127.0.0.1", 0)
        # all threads for each run: one run at a time, so that a slow one fills the queue behind it
        update = {"host": "127.0.0.1", "port": port, "threads": usable_cores()}
        self.settings = settings.model_copy(update=update)
        self.url = f"http://127.0.0.1:{port}"
        self.port = port
        self.gateway: Gateway = None  # type: ignore[assignment]  # the thread makes it
        self.service: Service = None  # type: ignore[assignment]
        self.listener: Listener = None  # type: ignore[assignment]
        self.loop: asyncio.AbstractEventLoop = None  # type: ignore[assignment]
        self._refs = refs
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Live:
        self._thread.start()
        self.http = httpx.Client(base_url=self.url, timeout=LONG_S)
        until = time.monotonic() + LONG_S
        while time.monotonic() < until:
            assert self._failure is None, self._failure
            if self.settings.tls_cert is not None and self.service is not None and self.service.started:
                return self
            try:
                if self.settings.tls_cert is None and self.http.get("/health/startup").status_code == 200:
                    return self
            except httpx.TransportError:
                pass
            time.sleep(0.02)
        raise AssertionError("the server did not start")

    def __exit__(self, *_: object) -> None:
        self.http.close()
        self.loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(LONG_S)
        assert not self._thread.is_alive()

    def call(self, work: Callable[[], Any]) -> Any:
        """Run a coroutine function on the server's loop."""
        return asyncio.run_coroutine_threadsafe(work(), self.loop).result(LONG_S)

    def _run(self) -> None:
        try:
            uvloop.run({"h1": self._h1, "rsgi": self._granian}.get(self.kind, self._uvicorn)())
        except BaseException as error:
            self._failure = error

    async def _h1(self) -> None:
        self.loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        self.service = Service(self.settings)
        self.gateway = build_gateway(self.service, listener=self.settings.host, protocols=self._protocols)
        with tcp_socket(self.settings.host, self.settings.port, shared=True) as sock:
            self.listener = listen(self.gateway, self.settings, sock)
            await self.service.start(self._refs)
            await self._stop.wait()
            await self.listener.close(1.0)
        await self.gateway.close()

    async def _granian(self) -> None:
        self.loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        self.service = Service(self.settings)
        self.gateway = build_gateway(self.service, listener=self.settings.host, protocols=self._protocols)
        server = granian_server(self.gateway, self.settings)
        listening = asyncio.create_task(server.serve())
        await self.service.start(self._refs)
        await self._stop.wait()
        server.stop()
        await asyncio.wait((listening,), timeout=5)
        await self.gateway.close()

    async def _uvicorn(self) -> None:
        self.loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        app: Any
        if self.kind == "asgi":
            app = create_app(self.settings, self._refs)
            self.gateway = app.state.gateway
        else:
            app = AsgiApp(self.settings, self._refs, protocols=self._protocols)
            self.gateway = app.gateway
        self.service = self.gateway.service
        server = uvicorn.Server(uvicorn.Config(app, port=self.port, log_config=None, lifespan="on", ws="none"))
        serving = asyncio.create_task(server.serve())
        await self._stop.wait()
        server.should_exit = True
        await asyncio.wait((serving,), timeout=5)


class Process:
    """`penstock serve` in a separate process."""

    def __init__(self, directory: Path, port: int, *arguments: str, files: int = 0, **environ: str) -> None:
        """With `files`, it may open so many files and no more."""
        most = (files, files) if files else resource.getrlimit(resource.RLIMIT_NOFILE)
        clean = {k: v for k, v in os.environ.items() if not k.startswith("PENSTOCK_")}
        self.url = f"http://127.0.0.1:{port}"
        self._popen = subprocess.Popen(
            [sys.executable, "-m", "penstock.cli.main", "serve", "--port", str(port), *arguments],
            cwd=directory,
            env={**clean, **environ},
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, most),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.pid = self._popen.pid
        self._out, self._err = Drained(self._popen.stdout), Drained(self._popen.stderr)
        registry = arguments[arguments.index("--registry") + 1] if "--registry" in arguments else "registry"
        self._key_file = key_file(directory / registry, environ.get("DATABASE_URL"))

    @property
    def auth(self) -> dict[str, str]:
        """The header with the admin key that the server generated and keeps."""
        return {"Authorization": f"Bearer {read_key(self._key_file)}"}

    def wait_for(self, path: str = "/health/ready", status: int = 200, timeout_s: float = LONG_S) -> httpx.Response:
        until = time.monotonic() + timeout_s
        while time.monotonic() < until:
            assert self._popen.poll() is None, (self._out.all(), self._err.all())
            try:
                response = httpx.get(self.url + path)
                if response.status_code == status:
                    return response
            except httpx.TransportError:
                pass
            time.sleep(0.02)
        raise AssertionError(f"{path} never answered {status}")

    @property
    def log(self) -> str:
        """What it has written to standard error so far."""
        return self._err.so_far

    def send(self, signum: int = signal.SIGTERM) -> None:
        self._popen.send_signal(signum)

    def finish(self, timeout_s: float = LONG_S) -> tuple[int, str, str]:
        """Exit code, standard output, standard error, once its workers have ended too."""
        code = self._popen.wait(timeout_s)
        return code, self._out.all(timeout_s), self._err.all(timeout_s)

    def end(self) -> None:
        """Kill it, and its workers, which may be stopped."""
        if self._popen.poll() is None:
            workers = children(self.pid)
            self._popen.kill()
            for worker in workers:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(worker, signal.SIGKILL)
        self._popen.wait(LONG_S)
        self._out.all()
        self._err.all()


class Drained:
    """A pipe that is read all the time: what writes to it never waits."""

    def __init__(self, pipe: IO[str] | None) -> None:
        assert pipe is not None
        self._pipe, self._lines = pipe, list[str]()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    @property
    def so_far(self) -> str:
        """What was written until now."""
        return "".join(list(self._lines))

    def all(self, timeout_s: float = LONG_S) -> str:
        """What was written until every process that has the pipe ended."""
        self._thread.join(timeout_s)
        assert not self._thread.is_alive(), ["a process has not ended", *self._lines[-20:]]
        return "".join(self._lines)

    def _read(self) -> None:
        with self._pipe:
            for line in self._pipe:
                self._lines.append(line)


def children(pid: int) -> list[int]:
    """Worker processes, without the helper process of multiprocessing."""
    found = []
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split():
        with contextlib.suppress(FileNotFoundError):  # it ended meanwhile
            if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes():
                found.append(int(child))
    return found
