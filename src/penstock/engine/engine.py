"""The one protocol-free front door: REST, gRPC, the CLI and Python all come through `InferenceEngine.predict`."""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from penstock.backends.devices import usable_cores
from penstock.engine.batcher import Batched
from penstock.engine.cache import PredictionCache
from penstock.engine.config import InferenceConfig
from penstock.engine.loaded import LoadedModel
from penstock.engine.manager import ModelManager
from penstock.engine.observation import Observation, Observer, Prediction, outcome_of
from penstock.engine.served import Served
from penstock.engine.stats import ModelStats
from penstock.errors import (
    DeadlineExceeded,
    ModelNotReady,
    Overloaded,
    PenstockError,
)
from penstock.registry.registry import Registry
from penstock.tasks.base import TimedResponse

log = logging.getLogger(__name__)
T = TypeVar("T")


class InferenceEngine:
    """Predictions for many callers: finds the version, batches, keeps deadlines, counts.

    Use it from one event loop or from several; `await start()` loads what it should serve, `await close()` ends it.
    """

    def __init__(
        self,
        config: InferenceConfig | None = None,
        *,
        registry: Registry | None = None,
        observers: Iterable[Observer] = (),
    ) -> None:
        """`observers` are called with an Observation after every request, on the event loop: be quick."""
        self.config = config or InferenceConfig()
        self.registry = registry or Registry(self.config.registry, self.config.database_url)
        self.manager = ModelManager(
            self.registry,
            max_models=self.config.max_models,
            max_bytes=self.config.max_bytes,
            options=self.config.options(),
            limits=self.config.limits(),
            model_type=self.config.model_type,
        )
        self.observers: list[Observer] = list(observers)
        self.served = Served(self.manager, default_ref=self.config.model_path, most_at_start=self.config.max_models)
        self._timeout_s = self.config.timeout_ms / 1000
        self._cache = PredictionCache(self.config.cache_size) if self.config.cache_size else None
        self._started = False
        self._draining = False
        self._inflight = 0
        self._preparing = 0
        self._preparing_bytes = 0
        self._threads = ThreadPoolExecutor(usable_cores(), thread_name_prefix="penstock-prepare")
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
        self._threads.shutdown(wait=False, cancel_futures=True)

    def begin_drain(self) -> None:
        """Refuse new requests from now on; those inside are finished."""
        self._draining = True

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

    def admit(self, ref: str | None = None) -> None:
        """Refuse now, at no cost, what `predict` would refuse: raises ModelNotReady or Overloaded."""
        if self._draining:
            raise ModelNotReady("the server is shutting down; ask another replica", retry_after_s=1.0)
        model = self.served.routed(ref)
        if model is not None:
            model.batcher.admit()
        if self._preparing >= self.config.max_queue_size or self._preparing_bytes > self.config.max_queue_bytes:
            raise Overloaded(f"{self._preparing} requests are being prepared already; try again later")

    async def predict(
        self,
        request: Any,
        *,
        ref: str | None = None,
        deadline: float | None = None,
        request_id: str = "",
        aside: bool = False,
        patient: bool = False,
    ) -> Prediction:
        """The answer of the model `ref` (None = the default) to one request.

        `request` is the Task's Request or anything its `coerce` takes. `deadline` is absolute, in `time.monotonic()`
        seconds. `aside` prepares and finishes in a thread, for requests so large that the event loop would wait.
        `patient` waits for room in a full queue, up to the deadline, where others are refused.
        Raises InvalidInput, ModelNotFound, ModelNotReady, Overloaded, DeadlineExceeded or InferenceError.
        """
        # One coroutine from here to the batcher: every request comes this way, and each more costs half a microsecond.
        started = time.monotonic()
        if deadline is None:
            deadline = started + self._timeout_s
        model: LoadedModel | None = None
        self._inflight += 1
        try:
            if self._draining:
                raise ModelNotReady("the server is shutting down; ask another replica", retry_after_s=1.0)
            model = self.served.routed(ref)
            if model is None or not self.manager.hold(model):
                model = None
                model = await _by(deadline, self._hold(ref))
            aside = aside or model.task.cpu_bound
            if aside:
                request, arrays, rows = await _by(deadline, self._prepare_aside(model, request))
            else:
                request, arrays, rows = model.prepare(request)
            prepared = time.monotonic()
            if prepared >= deadline:
                raise DeadlineExceeded("the deadline passed before the request reached the model; the work was dropped")
            if patient:
                await model.batcher.room(rows, deadline)
            if self._cache is None:
                batched = await model.batcher.submit(arrays, rows, deadline)
            else:
                batched = await self._run_cached(self._cache, model, arrays, rows, deadline)
            answered = time.monotonic()
            finish = functools.partial(model.finish, batched.outputs, request)
            response = await self._in_thread(finish) if aside else finish()
            return self._done(model, response, batched, rows, (started, prepared, answered), request_id)
        except asyncio.CancelledError:
            self._observe_failure(model, "cancelled", started, request_id)
            raise
        except PenstockError as error:
            self._observe_failure(model, outcome_of(error), started, request_id)
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

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    async def _prepare_aside(self, model: LoadedModel, request: Any) -> tuple[Any, Any, int]:
        upload = getattr(request, model.task.upload_field or "", b"")
        size = len(upload) if isinstance(upload, bytes) else 0
        self._preparing += 1
        self._preparing_bytes += size
        try:
            return await self._in_thread(functools.partial(model.prepare, request))
        finally:
            self._preparing -= 1
            self._preparing_bytes -= size

    async def _run_cached(
        self, cache: PredictionCache, model: LoadedModel, arrays: Any, rows: int, deadline: float
    ) -> Batched:
        key = cache.key(model.cache_identity, arrays)
        outputs = cache.get(key)
        if outputs is not None:
            return Batched(outputs, 0, 0.0, 0.0)
        batched = await model.batcher.submit(arrays, rows, deadline)
        cache.put(key, batched.outputs)
        return batched

    def _done(
        self,
        model: LoadedModel,
        response: Any,
        batched: Batched,
        rows: int,
        marks: tuple[float, float, float],
        request_id: str,
    ) -> Prediction:
        started, prepared, answered = marks
        ended = time.monotonic()
        pre_ms, post_ms, total_ms = (prepared - started) * 1e3, (ended - answered) * 1e3, (ended - started) * 1e3
        queue_ms, run_ms = batched.queue_s * 1e3, batched.run_s * 1e3
        if isinstance(response, TimedResponse):
            response.stamp(model.version, pre_ms, run_ms, post_ms)
        batch_rows, name, version, variant = batched.batch_rows, model.name, model.version, model.variant
        times = (pre_ms, queue_ms, run_ms, post_ms, total_ms)
        self._observe(Observation(name, version, variant, "ok", rows, batch_rows, *times, request_id))
        return Prediction(response, name, version, variant, batch_rows, *times)

    async def predict_batch(
        self,
        requests: Iterable[Any],
        *,
        ref: str | None = None,
        deadline: float | None = None,
        request_id: str = "",
    ) -> list[Prediction | PenstockError]:
        """One result per request, in order: its prediction or its own error. It waits for room and refuses no item."""
        if deadline is None:
            deadline = time.monotonic() + self._timeout_s
        waiting = enumerate(requests)
        results: dict[int, Prediction | PenstockError] = {}

        async def work() -> None:
            for index, request in waiting:
                try:
                    results[index] = await self.predict(
                        request, ref=ref, deadline=deadline, request_id=request_id, patient=True
                    )
                except PenstockError as error:
                    results[index] = error

        await asyncio.gather(*(work() for _ in range(2 * self.config.batch_size)))
        return [results[index] for index in range(len(results))]

    # Watching

    def _observe_failure(self, model: LoadedModel | None, outcome: Any, started: float, request_id: str) -> None:
        # A name that was not found is the client's word: as a label it would grow without bound.
        name, version, variant = (model.name, model.version, model.variant) if model else ("", "", "")
        total_ms = (time.monotonic() - started) * 1e3
        self._observe(Observation(name, version, variant, outcome, 0, 0, 0.0, 0.0, 0.0, 0.0, total_ms, request_id))

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
        self._observe_failure(self.routed(ref), outcome_of(error), time.monotonic(), request_id)

    def ready(self) -> tuple[bool, list[str]]:
        """Whether every model that should be served answers, and why not."""
        if self._draining:
            return False, ["the server is shutting down"]
        if not self._started:
            return False, ["models are being loaded"]
        reasons = [f"{ref}: {problem}" for ref, problem in self.served.problems.items()]
        if not self.served.wanted:
            reasons.append("there is no model to serve: publish one with `penstock models publish`")
        return not reasons, reasons

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
