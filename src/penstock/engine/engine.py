"""The one protocol-free front door: REST, gRPC, the CLI and Python all come through `InferenceEngine.predict`."""

from __future__ import annotations

import asyncio
import functools
import logging
import math
import time
from collections.abc import Awaitable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from penstock.engine.batching.batcher import Batched, Preempted
from penstock.engine.cache import PredictionCache
from penstock.engine.config import InferenceConfig
from penstock.engine.deployment import Served
from penstock.engine.loading.loaded_model import LoadedModel
from penstock.engine.loading.manager import ModelManager
from penstock.engine.observation import Observation, Observer, Prediction, outcome_of
from penstock.engine.statistics import ModelStats
from penstock.engine.tasks.ranges import Flag
from penstock.engine.tasks.task_runner import TaskRunner
from penstock.errors import (
    DeadlineExceeded,
    ModelNotReady,
    OutOfRange,
    PenstockError,
)
from penstock.options import EngineOptions
from penstock.registry.registry import Registry
from penstock.tasks.base import TimedResponse
from penstock.tensors import Arrays

log = logging.getLogger(__name__)
T = TypeVar("T")


class InferenceEngine:
    """Predictions for many callers: finds the version, batches, keeps deadlines, counts.

    Use it from one event loop or from several; `await start()` loads what it should serve, `await close()` ends it.
    """

    def __init__(
        self,
        config: EngineOptions | None = None,
        *,
        registry: Registry | Path | str | None = None,
        observers: Iterable[Observer] = (),
    ) -> None:
        """`observers` are called with an Observation after every request, on the event loop: be quick."""
        self.config: EngineOptions = config or InferenceConfig()
        self.manager = ModelManager(registry, self.config, attach=True)
        self.registry = self.manager.registry
        self.observers: list[Observer] = list(observers)
        self.served = Served(self.manager, default_ref=self.config.default_ref, most_at_start=self.config.max_models)
        self._timeout_s = self.config.request_timeout_ms / 1000
        cached = self.config.cache_size or self.config.cache_bytes
        self._cache = PredictionCache(self.config.cache_size, self.config.cache_bytes) if cached else None
        self._started = False
        self._draining = False
        self._inflight = 0
        self._stats: dict[tuple[str, str], ModelStats] = {}
        self._since = time.monotonic()

    # Life

    async def start(self, refs: Sequence[str] = (), *, strict: bool = True) -> None:
        """Load, warm and prove the models to serve: `refs` and the default, or else the whole registry.

        With any of them named, nothing else is served. One that is not in the registry but ships in an installed
        package is published first. Of a whole registry, as many as `max_models` are loaded now and the others when
        they are asked for. `strict` raises the first error; otherwise `ready()` tells it and the others are served.
        """
        await self.served.start(refs, strict=strict)
        self._started = True

    async def close(self) -> None:
        """Unload everything. Waiting requests get ModelNotReady."""
        self._draining = True
        await self.served.close()

    def begin_drain(self) -> None:
        """Refuse new requests from now on; those inside are finished."""
        self._draining = True

    def end_drain(self) -> None:
        """Take requests again."""
        self._draining = False

    async def drain(self, timeout_s: float) -> bool:
        """Wait until no request is inside; False when that took longer than `timeout_s`."""
        self.begin_drain()
        until = time.monotonic() + timeout_s
        while self._inflight:
            if time.monotonic() >= until:
                return False
            await asyncio.sleep(0.01)
        return True

    # Which model answers

    @property
    def default_ref(self) -> str | None:
        """What answers where a caller names no model."""
        return self.served.default_ref

    async def model(self, ref: str | None = None) -> LoadedModel:
        """The model for a reference, loaded now if it was not. Raises ModelNotFound or ModelLoadError."""
        return await self.served.model(ref)

    def routed(self, ref: str | None) -> LoadedModel | None:
        """The model a reference led to before; None = the default."""
        return self.served.routed(ref)

    def default(self) -> LoadedModel | None:
        """The loaded model that answers where a caller names none."""
        return self.served.routed(None)

    def loaded(self) -> list[LoadedModel]:
        """Every loaded model, least recently used first."""
        return self.manager.models()

    async def reconcile(self) -> None:
        """Follow the registry: load what an alias or a version means now, then let go of what it meant before."""
        await self.served.reconcile()

    # Answering

    def admit(self, ref: str | None = None, priority: int = 0) -> None:
        """Refuse now, at no cost, what `predict` would refuse: raises ModelNotReady or Overloaded."""
        self._check_not_draining()
        model = self.served.routed(ref)
        if model is not None:
            model.batcher.admit(1, priority)
            model.runner.pool.admit()

    def _check_not_draining(self) -> None:
        if self._draining:
            raise ModelNotReady("the server takes no more requests; ask another replica", retry_after_s=1.0)

    async def predict(
        self,
        request: Any,
        *,
        ref: str | None = None,
        task: str | None = None,
        deadline: float | None = None,
        request_id: str = "",
        in_thread: bool = False,
        wait_for_capacity: bool = False,
        priority: int = 0,
    ) -> Prediction:
        """The answer of the model `ref` (None = the default) to one request.

        `request` is the Request of `task` (by default the model's first) or anything its `coerce` takes. `deadline` is
        absolute, in `time.monotonic()` seconds. `in_thread` prepares and finishes in a thread, for large requests.
        `wait_for_capacity` waits for room in a full queue instead of being refused. A higher `priority` goes first, and
        evicts a lower one from a full queue. Raises InvalidInput, ModelNotFound, ModelNotReady, Overloaded,
        DeadlineExceeded or InferenceError.
        """
        # One coroutine from here to the batcher: every request comes this way, and each more costs half a microsecond.
        started, asked, model = time.monotonic(), deadline, None
        deadline = started + self._timeout_s if deadline is None else deadline
        self._inflight += 1
        try:
            self._check_not_draining()
            model = self.served.routed(ref)
            if model is None or not self.manager.hold(model):
                model = None
                model = await _by(deadline, self._hold(ref))
            if model.batcher.timeout_s is not None:
                deadline = min(asked or math.inf, started + model.batcher.timeout_s)
            runner = model.runner if task is None else model.runner_for(task)
            in_thread = in_thread or not runner.inline
            if in_thread:
                request, arrays, rows = await _prepare_in_thread(runner, request, deadline)
            else:
                request, arrays, rows = runner.prepare(request)
            flags = runner.watch.inputs(arrays) if runner.watch is not None else ()
            prepared = time.monotonic()
            if prepared >= deadline:
                raise DeadlineExceeded("the deadline passed before the request reached the model; the work was dropped")
            if wait_for_capacity:
                await model.batcher.wait_for_capacity(arrays, deadline)
            if self._cache is not None:
                batched = await self._run_cached(model, arrays, deadline, priority, runner if in_thread else None)
            else:
                batched = await model.batcher.submit(arrays, deadline, priority)
            answered = time.monotonic()
            flags += runner.watch.outputs(batched.outputs) if runner.watch is not None else ()
            finish = functools.partial(runner.finish, batched.outputs, request)
            response = await runner.pool.run(finish, deadline, admitted=True) if in_thread else finish()
            return self._done(model, response, batched, arrays, rows, (started, prepared, answered), request_id, flags)
        except (asyncio.CancelledError, PenstockError) as error:
            self._observe_failure(model, error, started, request_id)
            raise
        finally:
            self._inflight -= 1
            if model is not None:
                self.manager.release(model)

    async def _hold(self, ref: str | None) -> LoadedModel:
        """The slow way to a model that is held: it is not loaded yet, or was unloaded just now."""
        while True:
            model = await self.model(ref)
            if self.manager.hold(model):
                return model

    async def _run_cached(
        self, model: LoadedModel, arrays: Arrays, deadline: float, priority: int, keyed_by: TaskRunner | None
    ) -> Batched[Arrays]:
        """As the batcher, for equal inputs from the cache; `keyed_by` makes the digest of large ones in a thread."""
        cache = self._cache
        assert cache is not None
        identity = model.cache_identity
        if not model.at_close:
            model.at_close.append(functools.partial(cache.forget, identity))
        if keyed_by is None:
            key = cache.key(identity, arrays)
        else:
            key = await keyed_by.pool.run(functools.partial(cache.key, identity, arrays), deadline, admitted=True)
        return await cache.outputs(identity, key, deadline, lambda: model.batcher.submit(arrays, deadline, priority))

    def _done(
        self,
        model: LoadedModel,
        response: Any,
        batched: Batched[Arrays],
        arrays: Arrays,
        rows: int,
        marks: tuple[float, float, float],
        request_id: str,
        flags: tuple[Flag, ...],
    ) -> Prediction:
        started, prepared, answered = marks
        ended = time.monotonic()
        pre_ms, post_ms, total_ms = (prepared - started) * 1e3, (ended - answered) * 1e3, (ended - started) * 1e3
        queue_ms, run_ms = batched.queue_s * 1e3, batched.run_s * 1e3
        if isinstance(response, TimedResponse):
            response.stamp(model.version, pre_ms, run_ms, post_ms)
        batch_rows, name, version, variant = batched.batch_rows, model.name, model.version, model.variant
        times = (pre_ms, queue_ms, run_ms, post_ms, total_ms)
        self._observe(Observation(name, version, variant, "ok", rows, batch_rows, *times, request_id, arrays, flags))
        return Prediction(response, name, version, variant, batch_rows, *times, flags)

    async def predict_batch(
        self,
        requests: Iterable[Any],
        *,
        ref: str | None = None,
        task: str | None = None,
        deadline: float | None = None,
        request_id: str = "",
        priority: int = 0,
    ) -> list[Prediction | PenstockError]:
        """One result per request, in order: its prediction or its own error. It waits for room and refuses no item."""
        if deadline is None:
            model = self.served.routed(ref)
            own_s = model.batcher.timeout_s if model is not None else None
            deadline = time.monotonic() + (own_s or self._timeout_s)
        waiting = enumerate(requests)
        results: dict[int, Prediction | PenstockError] = {}

        async def work() -> None:
            for index, request in waiting:
                while index not in results:
                    try:
                        results[index] = await self.predict(
                            request,
                            ref=ref,
                            task=task,
                            deadline=deadline,
                            request_id=request_id,
                            wait_for_capacity=True,
                            priority=priority,
                        )
                    except Preempted:
                        continue  # to wait for room again, up to the deadline
                    except PenstockError as error:
                        results[index] = error

        await asyncio.gather(*(work() for _ in range(2 * self.config.batch_size)))
        return [results[index] for index in range(len(results))]

    # Watching

    def _observe_failure(
        self, model: LoadedModel | None, error: BaseException, started: float, request_id: str
    ) -> None:
        # A name that was not found is the client's word: as a label it would grow without bound.
        name, version, variant = (model.name, model.version, model.variant) if model else ("", "", "")
        times = (0.0, 0.0, 0.0, 0.0, (time.monotonic() - started) * 1e3)
        outcome, flags = outcome_of(error), _flags_of(error)
        self._observe(Observation(name, version, variant, outcome, 0, 0, *times, request_id, None, flags))

    def _observe(self, observation: Observation) -> None:
        key = (observation.model, observation.version)
        stats = self._stats.get(key)
        if stats is None:
            stats = self._stats[key] = ModelStats()
        stats.add(observation)
        for observer in self.observers:
            try:
                observer(observation)
            except Exception:
                log.exception("an observer failed; the request was answered all the same")

    def refused(self, ref: str | None, error: PenstockError, request_id: str = "") -> None:
        """Count a request that was turned away before `predict` saw it (by `admit`, or for its form)."""
        self._observe_failure(self.routed(ref), error, time.monotonic(), request_id)

    def ready(self) -> tuple[bool, list[str]]:
        """Whether every model that should be served answers, and why not."""
        if self._draining:
            return False, ["the server takes no more requests: it is being drained or is shutting down"]
        if not self._started:
            return False, ["models are being loaded"]
        reasons = [f"{ref}: {problem}" for ref, problem in self.served.problems.items()]
        if not self.served.wanted:
            reasons.append("there is no model to serve: publish one with `penstock models publish`")
        return not reasons, reasons

    @property
    def cache(self) -> PredictionCache | None:
        """Remembered answers, where the configuration asks for some."""
        return self._cache

    @property
    def queue_rows(self) -> int:
        """Rows that wait, over all models."""
        return sum(model.batcher.queued_rows for model in self.manager.models())

    @property
    def inflight(self) -> int:
        """Requests inside: prepared, waiting or running."""
        return self._inflight

    def get_stats(self) -> dict[str, Any]:
        """The figures of `GET /stats`: the default model, the queue, and each model's last minute."""
        default = self.default()
        for model in self.manager.models():
            self._stats.setdefault((model.name, model.version), ModelStats())
        return {
            "model_path": self.default_ref,
            "device": self.config.device,
            "batch_size": self.config.batch_size,
            "model_device": default.info.device if default else None,
            "model_parameters": default.info.num_parameters if default else None,
            "queue_size": self.queue_rows,
            "processing": self._inflight,
            "uptime_s": time.monotonic() - self._since,
            "problems": {**self.served.stuck, **self.served.problems},
            "cache": self._cache.figures()._asdict() if self._cache is not None else None,
            "models": {
                f"{name}:{version}": stats.to_json() for (name, version), stats in list(self._stats.items()) if name
            },
        }


async def _by(deadline: float, work: Awaitable[T]) -> T:
    """The result of `work`, or DeadlineExceeded at the deadline; a load that others may wait for goes on."""
    try:
        async with asyncio.timeout(deadline - time.monotonic()):
            return await work
    except TimeoutError:
        raise DeadlineExceeded("the deadline passed before the request reached the model") from None


async def _prepare_in_thread(runner: TaskRunner, request: Any, deadline: float) -> tuple[Any, Arrays, int]:
    return await runner.pool.run(functools.partial(runner.prepare, request), deadline, _weight(runner, request))


def _weight(runner: TaskRunner, request: Any) -> int:
    """What a request weighs while it waits, in bytes: the file in it."""
    field = runner.task.upload_field
    upload = getattr(request, field, b"") if field is not None else b""
    return len(upload) if isinstance(upload, bytes) else 0


def _flags_of(error: BaseException) -> tuple[Flag, ...]:
    return (Flag(error.side, error.tensor, error.kind),) if isinstance(error, OutOfRange) else ()
