"""The worker processes of one model: kept running, asked one batch at a time each, replaced when they fail."""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from penstock.backends.base import Stop
from penstock.errors import (
    DeadlineExceeded,
    InferenceError,
    InvalidInput,
    ModelLoadError,
    ModelNotReady,
    OutOfMemory,
    WorkerDied,
)
from penstock.tensors import Arrays
from penstock.workers.frames import Message
from penstock.workers.process import Died, Hung, WorkerProcess, WorkerSpec
from penstock.workers.restarts import Restarts

log = logging.getLogger(__name__)

_MOST_DEATHS = 2
"""Of workers on one batch; then it is refused."""
_TIMES_SLOWER = 3.0
"""Than a slow run, before a run whose deadline has passed counts as hung."""
_FORGETTING = 0.95
_MOST_STALE = 10
"""Idle workers that turn out to be dead when one batch asks them."""
_LOOK_EVERY_S = 1.0
"""How often the memory of a worker is read at most."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How long workers may take, and when they are replaced by fresh ones (0: never)."""

    load_s: float = 300.0
    grace_s: float = 5.0
    max_rows: int = 0
    max_bytes: int = 0


class _WorkerError(Exception):
    """The traceback of a worker, as the cause of the error that it led to."""


class InputRefused(InvalidInput, InferenceError):
    """The code of the model raised InvalidInput: the fault of a caller, but a failed run in the trials of a load."""


class WorkerPool:
    """Several workers of one model. Threads may call `run` at the same time; it waits for a worker that is free."""

    def __init__(self, spec: WorkerSpec, limits: Limits) -> None:
        self._spec = spec
        self._limits = limits
        self._changed = threading.Condition()
        self._idle: deque[WorkerProcess] = deque()
        self._all: set[WorkerProcess] = set()
        self._loading: set[WorkerProcess] = set()
        self._starting = 0
        self._restarts = Restarts()
        self._numbers = itertools.count(1)
        self._asked = itertools.count(1)
        self._slow_s = 0.0
        """About the longest of the last runs: a short deadline must not end a worker that is only slow."""
        self._closed = False

    # What is said about it

    @property
    def problem(self) -> str:
        """Why it answers nothing now, in one sentence; empty while it does."""
        with self._changed:
            return self._refusal() if self._restarts.open and not self._all else ""

    def _refusal(self) -> str:
        return f"its workers failed {self._restarts.failures} times in a row, the last one because {self._restarts.why}"

    def figures(self) -> dict[str, int]:
        """Workers that are ready, and failures since it was opened."""
        with self._changed:
            return {"ready": len(self._all), "failures": self._restarts.total}

    def pids(self) -> list[int]:
        """The ids of the workers that are ready."""
        with self._changed:
            return [process.pid for process in self._all]

    # Start and end

    def open(self) -> Mapping[str, Any]:
        """Start one worker, and the others once that has loaded the model; what the model declares.

        Raises ModelLoadError where it cannot be loaded.
        """
        try:
            process = WorkerProcess(self._spec, next(self._numbers))
        except Died as end:
            raise ModelLoadError(str(end)) from None
        declared = self._loaded(process)
        if isinstance(declared, str):
            process.close()
            raise ModelLoadError(declared)
        self._add(process)
        threading.Thread(target=self._watch, args=(process,), name="penstock-worker", daemon=True).start()
        for _ in range(self._spec.workers - 1):
            self._start()
        return declared

    def _start(self, instead_of: WorkerProcess | None = None) -> None:
        threading.Thread(target=self._keep, args=(instead_of,), name="penstock-worker", daemon=True).start()

    def _keep(self, instead_of: WorkerProcess | None) -> None:
        """Start a worker, as often as it takes, and another one when it has ended."""
        while (process := self._ready_worker()) is not None:
            self._add(process)
            if instead_of is not None:
                self._retire(instead_of)
                instead_of = None
            if not self._watch(process, again=False):
                return

    def _watch(self, process: WorkerProcess, *, again: bool = True) -> bool:
        """Wait for the end of a worker; False if no other is to be started in its place."""
        how = process.wait()
        with self._changed:
            self._all.discard(process)
            if process in self._idle:
                self._idle.remove(process)
            expected = self._closed or process.retired
            replaced = expected or process.recycling
            if not expected:
                self._restarts.failed(time.monotonic(), how)
            self._changed.notify_all()
        process.close()
        if not expected:
            log.warning("%s: worker %d died: %s", self._spec.model, process.number, how, extra=self._extra(process))
        if again and not replaced:
            self._start()
        return not replaced

    def _ready_worker(self) -> WorkerProcess | None:
        """A worker that has loaded the model, started when that is due; None once the pool is closed."""
        while self._may_start():
            try:
                process = WorkerProcess(self._spec, next(self._numbers))
                declared = self._loaded(process)
            except Died as end:
                process, declared = None, str(end)
            with self._changed:
                self._starting -= 1
                if not isinstance(declared, str) and not self._closed:
                    return process
                if not self._closed and isinstance(declared, str):
                    self._restarts.failed(time.monotonic(), declared)
                self._changed.notify_all()
            if process is not None:
                process.close()
        return None

    def _may_start(self) -> bool:
        """Wait until another worker is due; False once the pool is closed."""
        with self._changed:
            while not self._closed:
                due = self._restarts.due_in(time.monotonic(), self._starting)
                if due is not None and due <= 0:
                    self._starting += 1
                    return True
                self._changed.wait(due)
            return False

    def _loaded(self, process: WorkerProcess) -> Mapping[str, Any] | str:
        """What the model declares, once a worker has loaded it; else why it has not."""
        with self._changed:
            self._loading.add(process)
        try:
            reply = process.ask(Message("load", 0, self._spec.load), limit_s=self._limits.load_s)
        except Hung:
            process.kill()
            return (
                f"it took longer than {self._limits.load_s:g} s to load; raise `python_load_timeout_s` if that is right"
            )
        except Died as end:
            return f"its process died while it loaded: {end}"
        finally:
            with self._changed:
                self._loading.discard(process)
        if reply.kind == "loaded":
            return reply.fields
        if trace := reply.fields["trace"]:
            log.error("%s cannot be loaded by worker %d:\n%s", self._spec.model, process.number, trace)
        return str(reply.fields["message"])

    def _add(self, process: WorkerProcess) -> None:
        with self._changed:
            self._all.add(process)
            self._idle.append(process)
            self._changed.notify_all()
        log.debug("%s: worker %d is ready (process %d)", self._spec.model, process.number, process.pid)

    def _retire(self, process: WorkerProcess) -> None:
        """End a worker whose replacement is ready, after its batch."""
        with self._changed:
            process.retired = True
            self._all.discard(process)
            idle = process in self._idle
            if idle:
                self._idle.remove(process)
        if idle:
            process.close()

    def close(self) -> None:
        """End all workers. Safe to call twice."""
        with self._changed:
            self._closed = True
            idle, busy = list(self._idle), [*self._loading, *(self._all - set(self._idle))]
            self._idle.clear()
            self._changed.notify_all()
        for process in busy:  # what nobody waits for any more
            process.kill("the model was unloaded")
        for process in idle:
            process.let_go()
        for process in idle:
            process.close()

    # Runs

    def run(self, inputs: Arrays, rows: int, stop: Stop | None) -> Arrays:
        """The outputs of one batch. A batch whose worker dies runs once more, on another worker.

        Raises WorkerDied when that dies as well, or when a worker does not come back; ModelNotReady while the workers
        fail again and again; else the InferenceError or InvalidInput for what the model's code raised.
        """
        deaths = stale = 0
        while True:
            process = self._acquire(stop)
            try:
                reply = self._ask(process, inputs, rows, stop)
            except Died as end:
                if not end.asked and stale < _MOST_STALE:
                    stale += 1
                    continue
                deaths += 1
                if deaths == _MOST_DEATHS:
                    raise WorkerDied(
                        f"{deaths} workers died on this batch, so it is refused; the last one: {end}"
                    ) from None
                continue
            self._release(process, rows)
            return self._outputs(reply)

    def _ask(self, process: WorkerProcess, inputs: Arrays, rows: int, stop: Stop | None) -> Message:
        message = Message("run", next(self._asked), {"rows": rows}, inputs)
        grace_s, started = max(self._limits.grace_s, _TIMES_SLOWER * self._slow_s), time.monotonic()
        try:
            reply = process.ask(message, stop=stop, grace_s=grace_s)
            self._slow_s = max(time.monotonic() - started, _FORGETTING * self._slow_s)
            return reply
        except Hung:
            why = f"a run did not end within {grace_s:.3g} s after its deadline"
            process.kill(why)
            raise WorkerDied(f"{why}; its worker is replaced") from None
        except (TypeError, ValueError) as error:
            self._release(process, 0)
            raise InferenceError(f"the inputs cannot be sent to a worker: {error}") from None

    def _outputs(self, reply: Message) -> Arrays:
        with self._changed:
            self._restarts.answered()
        if reply.kind == "answer":
            return reply.arrays
        fields = reply.fields
        message, cause = str(fields["message"]), _WorkerError(f"\n{fields['trace']}") if fields["trace"] else None
        if fields["error"] == "InvalidInput":
            raise InputRefused(message, field=fields["field"] or None) from cause
        raise (OutOfMemory if fields["error"] == "OutOfMemory" else InferenceError)(message) from cause

    def _acquire(self, stop: Stop | None) -> WorkerProcess:
        """A worker that is free. Raises ModelNotReady or DeadlineExceeded."""
        if stop is not None:
            stop.how = self._look_again
        try:
            with self._changed:
                while True:
                    if self._closed:
                        raise ModelNotReady("the model is being unloaded; try again")
                    if stop is not None and stop.asked:
                        raise DeadlineExceeded("the deadline passed before a worker was free")
                    if self._idle:
                        return self._idle.popleft()
                    if self._restarts.open and not self._all:
                        why = InferenceError(self._refusal())  # for the log: it may hold what the model wrote
                        raise ModelNotReady(
                            f"{self._spec.model} is not ready: its workers fail again and again"
                        ) from why
                    self._changed.wait()
        finally:
            if stop is not None:
                stop.how = None

    def _look_again(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _release(self, process: WorkerProcess, rows: int) -> None:
        """A worker has answered; it is free, or has been replaced meanwhile."""
        process.rows += rows
        recycle = not process.recycling and self._is_worn(process)
        with self._changed:
            retired = process.retired or self._closed
            if recycle:
                process.recycling = True
            if not retired:
                self._idle.append(process)
                self._changed.notify()
        if retired:
            process.close()
        elif recycle:
            log.info("%s: worker %d is replaced by a fresh one", self._spec.model, process.number)
            self._start(instead_of=process)

    def _is_worn(self, process: WorkerProcess) -> bool:
        """True for a worker that has answered enough rows, or takes too much memory."""
        if self._limits.max_rows and process.rows >= self._limits.max_rows:
            return True
        now = time.monotonic()
        if not self._limits.max_bytes or now - process.looked_at < _LOOK_EVERY_S:
            return False
        process.looked_at = now
        return process.memory_bytes > self._limits.max_bytes

    def _extra(self, process: WorkerProcess) -> dict[str, Any]:
        return {"model": self._spec.model, "worker": process.number}
