"""The one protocol-free front door: REST, gRPC, the CLI and Python all come through `InferenceEngine.predict`."""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from penstock.backends.devices import usable_cores
from penstock.engine.batcher import Batched
from penstock.engine.cache import PredictionCache
from penstock.engine.config import InferenceConfig
from penstock.engine.loaded import LoadedModel
from penstock.engine.manager import ModelManager, is_model_file
from penstock.engine.observation import Observation, Observer, Prediction, outcome_of
from penstock.engine.stats import ModelStats
from penstock.errors import (
    ConfigError,
    DeadlineExceeded,
    ModelNotFound,
    ModelNotReady,
    Overloaded,
    PenstockError,
)
from penstock.registry.refs import name_of
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
        self.default_ref = self.config.model_path
        self._timeout_s = self.config.timeout_ms / 1000
        self._cache = PredictionCache(self.config.cache_size) if self.config.cache_size else None
        self._routes: dict[str, LoadedModel] = {}
        self._wanted: list[str] = []
        self._whole_registry = True
        self._problems: dict[str, str] = {}
        self._stuck: dict[str, str] = {}
        self._revision = ""
        self._started = False
        self._draining = False
        self._inflight = 0
        self._preparing = 0
        self._preparing_bytes = 0
        self._threads = ThreadPoolExecutor(usable_cores(), thread_name_prefix="penstock-prepare")
        self._lookups = ThreadPoolExecutor(2, thread_name_prefix="penstock-look")
        self._loaders = ThreadPoolExecutor(2, thread_name_prefix="penstock-load")
        self._loads: dict[str, Future[LoadedModel]] = {}
        self._stats: dict[tuple[str, str], ModelStats] = {}
        self._since = time.monotonic()

    # Life

    async def start(self, refs: Sequence[str] = (), *, strict: bool = True) -> None:
        """Load, warm and prove the models to serve: `refs` and the default, or else the whole registry.

        With any of them named, nothing else is served. One that is not in the registry but ships in an installed
        package is published first. Of a whole registry, as many as `max_models` are loaded now and the others when
        they are asked for. `strict` raises the first error; otherwise `ready()` tells it and the others are served.
        """
        named = list(dict.fromkeys([*([self.default_ref] if self.default_ref else []), *refs]))
        self._whole_registry = not named
        await self._aside(self._publish_bundled, named)
        self._revision = await self._aside(self.registry.revision)
        self._wanted = named or await self._first_of_registry()
        if self.default_ref is None and self._wanted:
            self.default_ref = self._wanted[0]
        for ref in self._wanted:
            await self._bring_up(ref, strict=strict)
        self._started = True

    async def _first_of_registry(self) -> list[str]:
        return (await self._aside(self.registry.list))[: self.config.max_models]

    async def _bring_up(self, ref: str, *, strict: bool = False) -> None:
        """Load a model that should be served, or note why it is not."""
        try:
            await self.model(ref)
        except PenstockError as error:
            if strict:
                raise
            if self._problems.get(ref) != str(error):
                log.error("%s cannot be served: %s", ref, error)
            self._problems[ref] = str(error)
        else:
            self._problems.pop(ref, None)
        self._pin()

    def _publish_bundled(self, refs: Sequence[str]) -> None:
        for ref in refs:
            if not is_model_file(ref):
                self.registry.ensure(ref)

    async def close(self) -> None:
        """Unload everything. Waiting requests get ModelNotReady."""
        self._draining = True
        self._routes.clear()
        await self._aside(self.manager.close)
        for pool in (self._threads, self._loaders, self._lookups):
            pool.shutdown(wait=False, cancel_futures=True)

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

    async def _aside(self, work: Callable[..., T], *args: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._lookups, functools.partial(work, *args))

    async def _load(self, ref: str, *, fresh: bool = False) -> LoadedModel:
        """Load in a thread; whoever asks for the same model meanwhile waits for it without holding another."""
        load = self._loads.get(ref)
        if load is None:
            load = self._loads[ref] = self._loaders.submit(self.manager.load_model, ref, fresh=fresh)
            load.add_done_callback(lambda _: self._loads.pop(ref, None))
        return await asyncio.shield(asyncio.wrap_future(load))

    # Which model answers

    async def model(self, ref: str | None = None) -> LoadedModel:
        """The model for a reference, loaded now if it was not. Raises ModelNotFound or ModelLoadError."""
        model = self.routed(ref)
        if model is not None and not model.retired:
            return model
        ref = ref or self.default_ref
        if ref is None:
            raise ModelNotFound("there is no model to serve yet: publish one with `penstock models publish`")
        target = self._target(ref)
        model = self._at_hand(target)
        if model is None:
            key = target if is_model_file(target) else await self._aside(self.manager.key, target)
            model = await self._load(key)
            self._stats.setdefault((model.name, model.version), ModelStats())
        if len(self._routes) > 10_000:  # spellings of references come from clients; the models behind them are few
            self._routes.clear()
        self._routes[ref] = model
        return model

    def _at_hand(self, target: str) -> LoadedModel | None:
        """What answers under another spelling already, and goes on doing so when the registry is ill."""
        routes = self._routes.items()
        return next((model for ref, model in routes if target in (ref, model.key) and not model.retired), None)

    def routed(self, ref: str | None) -> LoadedModel | None:
        """The model a reference led to before; None = the default."""
        return self._routes.get(ref or self.default_ref or "")

    def _target(self, ref: str) -> str:
        """What a caller's reference means in the registry; raises ModelNotFound for what is not served here.

        A model served by name answers in all its versions, one served as `name:version` or `name@alias` only as such,
        and its bare name means just that.
        """
        if self._whole_registry or ref in self._wanted:
            return ref
        name = _name_of(ref)
        served = [wanted for wanted in self._wanted if _name_of(wanted) == name]
        if name in served or any(is_model_file(wanted) for wanted in served):
            return ref
        if served and ref == name:
            return served[0]
        if any(ref == self._routes[wanted].key for wanted in served if wanted in self._routes):
            return ref
        raise ModelNotFound(f"the model {ref} is not served here; served are {', '.join(self._wanted)}")

    def default(self) -> LoadedModel | None:
        """The loaded model that answers where a caller names none."""
        return self.routed(None)

    def loaded(self) -> list[LoadedModel]:
        """Every loaded model, least recently used first."""
        return self.manager.models()

    def _pin(self) -> None:
        """What was named stays loaded; of a whole registry only the default does."""
        named = [self.default_ref or ""] if self._whole_registry else self._wanted
        self.manager.pin({self._routes[ref].key for ref in named if ref in self._routes})

    async def reconcile(self) -> None:
        """Follow the registry: load what an alias or a version means now, then let go of what it meant before.

        What cannot be loaded leaves the version before it answering and is tried again.
        """
        revision = await self._aside(self.registry.revision)
        if revision == self._revision and not self._stuck and not self._problems:
            return
        kept = any(model.artifact is not None for model in self._routes.values())
        if kept and not await self._aside(self.registry.path.is_dir):
            raise ConfigError(f"the registry {self.registry.path} is gone; the loaded models go on answering")
        before = {model.key for model in self._routes.values() if model.artifact is not None}
        self._stuck = {ref: why for ref, why in self._stuck.items() if ref in self._routes}
        for ref, model in list(self._routes.items()):
            if model.artifact is not None:
                await self._follow(ref, model)
        if self._whole_registry:
            self._wanted = await self._first_of_registry()
            if self.default_ref not in self._routes:
                self.default_ref = next(iter(self._wanted), None)
            self._problems = {ref: why for ref, why in self._problems.items() if ref in self._wanted}
        for ref in self._wanted:
            if ref not in self._routes:
                await self._bring_up(ref)
        self._pin()
        for key in before - {model.key for model in self._routes.values()}:
            self.manager.unload(key)
        self._revision = revision

    async def _follow(self, ref: str, model: LoadedModel) -> None:
        try:
            key = await self._aside(self.manager.key, self._target(ref))
            now = await self._load(key, fresh=True) if key != model.key else await self._refreshed(model)
            if now is not model:
                self._routes[ref] = now
                log.info("%s is now %s", ref, key)
            self._stuck.pop(ref, None)
        except ModelNotFound:
            del self._routes[ref]
        except PenstockError as error:
            if self._stuck.get(ref) != str(error):
                log.error("%s stays at %s: %s", ref, model.key, error)
            self._stuck[ref] = str(error)

    async def _refreshed(self, model: LoadedModel) -> LoadedModel:
        """The model under the same name and version, which another content may have been published as."""
        return model if model.retired else await self._load(model.key, fresh=True)

    # Answering

    def admit(self, ref: str | None = None) -> None:
        """Refuse now, at no cost, what `predict` would refuse: raises ModelNotReady or Overloaded."""
        if self._draining:
            raise ModelNotReady("the server is shutting down; ask another replica", retry_after_s=1.0)
        model = self.routed(ref)
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
            model = self.routed(ref)
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
        reasons = [f"{ref}: {problem}" for ref, problem in self._problems.items()]
        if not self._wanted:
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
        return {
            "model_path": self.default_ref,
            "device": self.config.device,
            "batch_size": self.config.batch_size,
            "model_device": default.info.device if default else None,
            "model_parameters": default.info.num_parameters if default else None,
            "queue_size": self.queue_rows,
            "processing": self._inflight,
            "uptime_s": time.monotonic() - self._since,
            "problems": {**self._stuck, **self._problems},
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


def _name_of(ref: str) -> str:
    return Path(ref).stem if is_model_file(ref) else name_of(ref)
