"""One run: a server, clients with known answers, and a schedule of faults."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import httpx
from fault_proxy import FaultProxy
from faults import BROKEN, FAULTS, GOOD, SLOWING, Step, schedule
from known_answers import drawn, known_requests
from live_servers import Process, children
from moved_clock import MovedClock, why_not
from postgres import Server
from routed_models import publish_version
from served_models import build_registry
from traffic import Client, Expectations, Ledger

from penstock.gateway.process.sockets import free_address
from penstock.registry.registry import Registry

DISK = "24m"
FOLLOW_S = 5.0
"""Servers follow an alias within a second; on a busy machine a little later."""
RECOVER_S = 90.0
"""How long a server may take, after the last fault, until all of it is well again."""
WORKERS = 2


class Options(NamedTuple):
    seed: int
    faults: int
    requests: int
    clients: int
    postgres: bool
    server: str
    kinds: tuple[str, ...]
    pause_s: float = 0.0


class Trial:
    """What the faults act on."""

    def __init__(self, root: Path, options: Options) -> None:
        self.options = options
        self.skipped: dict[str, str] = {}
        self.broken: list[str] = []
        """What was required and did not hold."""
        self.ledger = Ledger()
        self.admin_replies: Counter[str] = Counter()
        one = frozenset(("1.0",))
        self.expectations = Expectations({"vec": frozenset(("v2.0",)), "raw": one, "pic": one, "slow": one})
        self._ends = ExitStack()
        self._disk = root / "disk"
        self._disk.mkdir()
        self._over = threading.Event()
        self.lost_at = 0.0
        """When requests were lost last, with a worker or in the network."""
        self.clock = MovedClock(root / "clock")

    def __enter__(self) -> Self:
        with self._ends:
            self._mount()
            self._postgres = self._ends.enter_context(Server()) if self.options.postgres else None
            self._url = self._postgres.new_database() if self._postgres else None
            self.registry = build_registry(self._disk, self._url)
            with Registry(self.registry, self._url) as registry:
                publish_version(registry, self._disk, "v3.0", 3)
                publish_version(registry, self._disk, BROKEN, 5, broken=True)
                registry.set_alias("vec", "champion", "v2.0")
            self._pool = known_requests(self.registry, GOOD, self.options.seed)
            self.port = free_address("127.0.0.1", 0)[1]
            self.server = self._serve()
            self._ends.callback(MovedClock.forget, self.server.pid)
            self._ends.callback(self.server.end)
            self.proxy = self._ends.enter_context(FaultProxy(self.port, self.options.seed))
            self.server.wait_for()
            self._ends = self._ends.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._ends.close()

    def run(self) -> None:
        """Every fault of the schedule, and the requests meanwhile; then the server must be well again and end."""
        clients = [self._client(index) for index in range(self.options.clients)]
        for client in clients:
            client.start()
        steps = self.steps()
        for index, step in enumerate(steps):
            now = f"{datetime.now(UTC):%H:%M:%S.%f}"
            print(f"{now} {index + 1}/{len(steps)} {step.fault}: {self.ledger.sent} sent", file=sys.stderr, flush=True)
            self._run_step(step)
            self.ledger.fault = "none"
            due = self.options.requests * (index + 1) // len(steps)
            while self.ledger.sent < due and not any(client.error for client in clients):
                time.sleep(0.01)
        self._recover()
        self._over.set()
        for client in clients:
            client.join()
            if client.error is not None:
                raise client.error
        self._end()

    def steps(self) -> list[Step]:
        kinds = [each for each in self.options.kinds if each not in self.skipped]
        return schedule(self.options.seed, self.options.faults, kinds)

    # what faults do

    def hold(self, seconds: float) -> None:
        """Let requests meet the fault."""
        time.sleep(seconds)

    def hold_until(self, condition: Callable[[], object], otherwise: str) -> None:
        until = time.monotonic() + RECOVER_S
        while not condition():
            if time.monotonic() > until:
                self.broken.append(otherwise)
                return
            time.sleep(0.02)

    def await_those_of_the_last_loss(self) -> None:
        """A request may be lost once: the next worker dies when all that were sent before have been answered."""
        self.hold_until(
            lambda: not self.ledger.waits_since(self.lost_at), "requests that were sent again had no answer"
        )

    def kill(self, chance: random.Random, *, all_workers: bool = False) -> None:
        """SIGKILL to one worker, or to all at once."""
        self.await_those_of_the_last_loss()
        workers = children(self.server.pid)
        for pid in workers if all_workers or not workers else [chance.choice(workers)]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.lost_at = time.monotonic()

    def require(self, holds: bool, otherwise: str) -> None:
        if not holds:
            self.broken.append(otherwise)

    def admin(self, method: str, path: str, body: object) -> httpx.Response | None:
        """The reply of an admin route; None if there was none. Without a reason, it counts as not explained."""
        try:
            reply = httpx.request(method, f"{self.server.url}{path}", json=body, headers=self.server.auth, timeout=60.0)
        except httpx.TransportError as error:
            self.admin_replies[f"{method} {path}: {type(error).__name__}"] += 1
            return None
        self.admin_replies[f"{method} {path}: {reply.status_code}"] += 1
        explained = reply.status_code < 400 or (
            reply.headers.get("content-type") == "application/problem+json" and reply.json()["detail"]
        )
        self.require(bool(explained) and "Traceback" not in reply.text, f"{method} {path}: {reply.text[:300]}")
        self.require(reply.status_code != 500, f"{method} {path}: {reply.text[:300]}")
        return reply

    def move_alias(self, version: str) -> None:
        """Once it is in force everywhere, nothing else may answer."""
        self.expectations.expect_also("vec", frozenset((version,)))
        reply = self.admin("PUT", "/admin/models/vec/aliases/champion", {"version": version})
        if reply is not None and reply.status_code == 200 and not reply.json()["problem"]:
            self._settled("vec", frozenset((version,)))

    def remove_route(self) -> None:
        self.admin("DELETE", "/admin/routes/vec?why=chaos", None)

    def load(self, model: str) -> None:
        """Until it is served again by every process."""
        until = time.monotonic() + RECOVER_S
        while time.monotonic() < until:
            reply = self.admin("POST", "/admin/load", {"model": model})
            if reply is not None and reply.status_code == 200 and reply.json()["behind"] == 0:
                self.expectations.may_be_absent(model, not reply.json()["persisted"])
                return
            time.sleep(0.1)
        self.broken.append(f"{model} was not loaded again")

    @contextmanager
    def without_database(self) -> Iterator[None]:
        """SQLite's file is gone; PostgreSQL crashes and starts again."""
        if self._postgres is not None:
            self._postgres.crash()
            try:
                yield
            finally:
                self._postgres.start()
            return
        away = self.registry / "away.db"
        database = self.registry / "registry.db"
        moved = [
            (file, Path(f"{away}{file.name.removeprefix('registry.db')}"))
            for file in sorted(self.registry.glob("registry.db*"))
        ]
        for file, place in moved:
            with contextlib.suppress(FileNotFoundError):
                file.rename(place)
        try:
            yield
        finally:
            self.require(not database.exists(), "an empty database was made in place of the one that is gone")
            for file, place in moved:
                with contextlib.suppress(FileNotFoundError):
                    place.rename(file)

    @contextmanager
    def frozen_database(self) -> Iterator[None]:
        assert self._postgres is not None
        self._postgres.freeze()
        try:
            yield
        finally:
            self._postgres.thaw()

    # the run

    def _run_step(self, step: Step) -> None:
        self.ledger.fault = step.fault
        self.ledger.add(step.fault, "times")
        before = len(self.broken)
        FAULTS[step.fault](self, random.Random(step.seed))
        self.broken[before:] = [f"{step.fault}: {each}" for each in self.broken[before:]]

    def _settled(self, model: str, versions: frozenset[str]) -> None:
        """The expectation holds in a while, if no other one has come meanwhile."""
        mark = self.expectations.mark(model)

        def settle() -> None:
            if self.expectations.mark(model)[0] == mark[0]:
                self.expectations.expect(model, versions)

        timer = threading.Timer(FOLLOW_S, settle)
        timer.daemon = True
        timer.start()

    def _client(self, index: int) -> Client:
        """The first one is behind the proxy."""
        first = self.proxy.port if index == 0 else self.port
        draw = drawn(self._pool, self.options.seed, index)
        return Client(draw, (first, self.port), self.expectations, self.ledger, self._over, self.options.pause_s)

    def _serve(self) -> Process:
        arguments = ["--registry", str(self.registry), "--workers", str(WORKERS), "--server", self.options.server]
        environ = {"DATABASE_URL": self._url} if self._url else {}
        if SLOWING in self.options.kinds and SLOWING not in self.skipped:
            environ |= self.clock.environ
        return Process(self._disk, self.port, *arguments, PENSTOCK_LOG_LEVEL="warning", **environ)

    def _recover(self) -> None:
        """All workers are there, every process is ready, and every model answers right."""
        self.ledger.fault = "after the last"
        self.remove_route()
        self.hold_until(lambda: len(children(self.server.pid)) == WORKERS, "a worker was not replaced")
        self.hold_until(self._is_well, "the server did not become ready again")
        for model in ("raw", "pic", "slow"):
            self.load(model)
        self.move_alias("v2.0")
        self.hold(FOLLOW_S + 0.5)
        self.require(self._is_well(), "the server is not ready after the last fault")

    def _is_well(self) -> bool:
        """By several connections, which reach every process."""
        for _ in range(12):
            try:
                reply = httpx.get(f"{self.server.url}/health/ready", timeout=10)
            except httpx.TransportError:
                return False
            if reply.status_code != 200 or reply.json()["reasons"]:
                return False
        return True

    def _end(self) -> None:
        self.server.send()
        code, _, err = self.server.finish()
        self.require(code == 0, f"exit code {code}")
        lines = [json.loads(line) for line in err.splitlines() if line.startswith("{")]
        self.lines = [f"{line['timestamp'][11:23]} {line['event']} {line.get('pid', '')}" for line in lines]
        self.log = Counter(f"{line['level']}: {str(line['event'])[:110]}" for line in lines)
        self.tracebacks = [str(line["exception"]) for line in lines if "exception" in line]

    def _mount(self) -> None:
        """A small disk of its own in a mount namespace of this process; faults that cannot be are left out."""
        if not self.options.postgres:
            self.skipped["freeze the database"] = "SQLite has no server"
        if refusal := why_not():
            self.skipped[SLOWING] = refusal
        if refusal := _mount_small_disk(self._disk):
            self.skipped["fill the disk"] = refusal
        else:
            self._ends.callback(subprocess.run, ["umount", "-l", str(self._disk)], check=True)


def _mount_small_disk(place: Path) -> str:
    """Why it could not be done; the disk goes with this process."""
    if sys.platform != "linux":
        return "no mount namespaces on this system"
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(0x00020000):  # CLONE_NEWNS
        return f"no mount namespace: {os.strerror(ctypes.get_errno())}"
    for command in (
        ["mount", "--make-rprivate", "/"],
        ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", str(place)],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            return f"no file system can be mounted: {done.stderr.strip()}"
    return ""


def table(trial: Trial) -> list[list[Any]]:
    """A row for each fault, and one for all."""
    columns = ("times", "sent", "right", "refused", "transport failure", "unexplained", "lost", "wrong")
    counts = trial.ledger.counts
    faults = [each for each in ("none", *FAULTS, "after the last") if counts[each, "sent"] or counts[each, "times"]]
    slowest = trial.ledger.slowest
    rows = [[fault, *(counts[fault, column] for column in columns), slowest[fault]] for fault in faults]
    total = ["all", *(trial.ledger.total(column) for column in columns), max(slowest.values(), default=0)]
    return [["fault", *columns, "slowest ms"], *rows, total]
