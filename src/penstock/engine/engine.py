"""The protocol-independent entry point of all requests: `predict` for tasks, `infer` for tensors."""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import ArrayLike

from penstock.engine.admission import Admission
from penstock.engine.batching.flows.flow import Flow
from penstock.engine.bundling.bundler import Bundler
from penstock.engine.cache import PredictionCache
from penstock.engine.config import InferenceConfig
from penstock.engine.deployment.reconciler import Reconciler
from penstock.engine.deployment.status import LoadResult, UnloadResult
from penstock.engine.loading.loaded_model import TENSOR, LoadedModel
from penstock.engine.loading.manager import ModelManager
from penstock.engine.observation import Inference, Observer, Prediction
from penstock.engine.pipeline import Pipeline
from penstock.engine.statistics import Snapshot, Statistics, merge
from penstock.engine.stats_page import to_stats
from penstock.errors import PenstockError
from penstock.options import EngineOptions
from penstock.registry.registry import Registry

log = logging.getLogger(__name__)


ABANDONED_AFTER_S = 5.0
"""How long a run may take to end after its last request has; beyond it, the engine is not ready."""


class InferenceEngine:
    """Predictions for many callers: finds the version, batches, keeps deadlines, counts.

    Use it from one event loop or from several; `await start()` loads what it should serve, `await close()` ends it.
    """

    def __init__(
        self,
        config: EngineOptions | Mapping[str, Any] | None = None,
        *,
        registry: Registry | Path | str | None = None,
        observers: Iterable[Observer] = (),
    ) -> None:
        """`config` may be a mapping of the options' names.

        `observers` are called with an Observation after every request, on the event loop: they must be fast.
        """
        self.config = InferenceConfig.of(config)
        self.manager = ModelManager(registry, self.config, attach=True)
        self.registry = self.manager.registry
        self.statistics = Statistics(observers)
        self.observers: list[Observer] = self.statistics.observers
        self.deployment = Reconciler(
            self.manager, default_ref=self.config.default_ref, max_models=self.config.max_models
        )
        timeout_s = self.config.request_timeout_ms / 1000
        self.admission = Admission(
            self.deployment, self.manager.cache, timeout_s=timeout_s, observe=self.statistics.observe
        )
        cached = self.config.cache_size or self.config.cache_bytes
        self.cache = PredictionCache(self.config.cache_size, self.config.cache_bytes) if cached else None
        """The cache of outputs; None if it is off."""
        self.pipeline = Pipeline(self.cache, self.statistics.observe, concurrency=2 * self.config.batch_size)
        self.bundler = Bundler(self.admission, self.statistics, cached=self.cache is not None)
        self._started = False
        self._since = time.monotonic()

    # Start and close

    async def start(self, refs: Sequence[str] = (), *, strict: bool = True) -> None:
        """Load, warm up and verify the models to serve: `refs` and the default, or else the whole registry.

        With any of them named, only those and what operators loaded are served. A named model that is not in the
        registry but ships in an installed package is published first. Of a whole registry, as many as `max_models` are
        loaded now and the others at their first request. `strict` raises the first error; otherwise `ready()` names it
        and the others are served. What an operator unloaded stays unloaded, also when it is named.
        """
        await self.deployment.start(refs, strict=strict)
        self._watch_circuits()
        self._started = True

    async def close(self) -> None:
        """Unload everything. Waiting requests get ModelNotReady."""
        self.admission.draining = True
        await self.deployment.close()

    def begin_drain(self) -> None:
        """Refuse new requests; those in flight are finished."""
        self.admission.draining = True

    def end_drain(self) -> None:
        """Accept requests again."""
        self.admission.draining = False

    async def drain(self, timeout_s: float) -> bool:
        """Wait until no request is in flight; False if that takes longer than `timeout_s`."""
        self.begin_drain()
        until = time.monotonic() + timeout_s
        while self.admission.inflight:
            if time.monotonic() >= until:
                return False
            await asyncio.sleep(0.01)
        return True

    # Which model answers

    @property
    def default_ref(self) -> str | None:
        """What answers where a caller names no model."""
        return self.deployment.default_ref

    async def model(self, ref: str | None = None) -> LoadedModel:
        """The model for a reference, loaded now if it was not. Raises ModelNotFound or ModelLoadError."""
        return await self.deployment.model(ref)

    def default(self) -> LoadedModel | None:
        """The loaded model that answers requests without a reference."""
        return self.deployment.routed(None)

    def loaded(self) -> list[LoadedModel]:
        """Every loaded model, least recently used first."""
        return self.manager.models()

    async def reconcile(self) -> None:
        """Follow the deployment, the registry and the routes: drop unloaded models, load what should be served."""
        await self.deployment.reconcile()
        await self.follow_routes()

    async def follow_routes(self) -> None:
        """Follow the routes in the store now. Raises ConfigError where it cannot be read; those in force stay."""
        try:
            await self.deployment.traffic.follow()
        finally:
            self._watch_circuits()

    def _watch_circuits(self) -> None:
        """Observe requests for circuits while a route has a fallback, and only then: every observer costs time."""
        circuits = self.deployment.traffic.circuits
        if bool(circuits.of) != (circuits in self.observers):
            (self.observers.append if circuits.of else self.observers.remove)(circuits)

    async def load(self, ref: str) -> LoadResult:
        """Serve a model on every server of the registry. Raises the PenstockError of one that cannot be served.

        If the registry's database cannot be written, the load holds for this engine only; see `persisted`.
        """
        return await self.deployment.load(ref)

    async def unload(self, ref: str) -> UnloadResult:
        """Stop serving a model on every server of the registry, until `load`. Raises ModelNotFound.

        If the registry's database cannot be written, the unload holds for this engine only; see `persisted`.
        """
        return await self.deployment.unload(ref)

    # Predictions

    async def predict(
        self,
        request: Any,
        *,
        ref: str | None = None,
        task: str | None = None,
        deadline: float | None = None,
        priority: int = 0,
        flow: Flow | None = None,
        request_id: str = "",
        key: str | None = None,
        in_thread: bool = False,
        wait_for_capacity: bool = False,
    ) -> Prediction:
        """The answer of the model `ref` (None = the default) to one request.

        `request` is the Request of `task` (by default the model's first) or anything its `coerce` takes. `deadline` is
        absolute, in `time.monotonic()` seconds. `in_thread` prepares and finishes in a thread, for large requests.
        `wait_for_capacity` waits for room in a full queue where others are refused. A higher `priority` goes first, and
        in a full queue takes the place of a lower one. Callers with a `flow` each share a contended model by their
        weights. `key` keeps a client at its version of a route. Raises InvalidInput, ModelNotFound, ModelNotReady,
        Overloaded, DeadlineExceeded or InferenceError.
        """
        with self.admission.request(
            ref,
            task=task,
            key=key,
            deadline=deadline,
            priority=priority,
            flow=flow,
            request_id=request_id,
            protocol="python",
        ) as lease:
            lease.wait_for_capacity = wait_for_capacity
            if not lease.hold():
                await lease.load()
            await lease.decide(request)
            return await self.pipeline.predict(lease, request, in_thread=in_thread)

    async def predict_batch(
        self,
        requests: Iterable[Any],
        *,
        ref: str | None = None,
        task: str | None = None,
        deadline: float | None = None,
        priority: int = 0,
        flow: Flow | None = None,
        request_id: str = "",
        key: str | None = None,
    ) -> list[Prediction | PenstockError]:
        """One result per request, in order: its prediction or its own error. It waits for room and refuses no item.

        One version of the model answers all of them: where a field of the request says which, that of the first one.
        Raises ModelNotFound, ModelNotReady or ModelLoadError for all.
        """
        with self.admission.request(
            ref,
            task=task,
            key=key,
            deadline=deadline,
            priority=priority,
            flow=flow,
            request_id=request_id,
            protocol="python",
        ) as lease:
            lease.wait_for_capacity = True
            if not lease.hold():
                await lease.load()
            items = iter(requests)
            first = tuple(itertools.islice(items, 1))
            await lease.decide(first[0] if first else None)
            return await self.pipeline.predict_batch(lease, itertools.chain(first, items))

    async def infer(
        self,
        ref: str | None,
        arrays: Mapping[str, ArrayLike],
        outputs: Iterable[str] | None = None,
        *,
        deadline: float | None = None,
        priority: int = 0,
        flow: Flow | None = None,
        request_id: str = "",
        key: str | None = None,
        protocol: str = "python",
    ) -> Inference:
        """The outputs of the model `ref` (None = the default) for its inputs by name, with any task.

        Axis 0 of every array is the batch, of at least 1 row; more rows than a batch may have run in several. `outputs`
        are the names to return, None for all. Text may be str or bytes. NaN and infinity reach the model, unless its
        expected ranges refuse them. The rest is as for `predict`. Raises InvalidInput naming the tensor, ModelNotFound,
        ModelNotReady, Overloaded, DeadlineExceeded or InferenceError.
        """
        with self.admission.request(
            ref,
            task=TENSOR,
            key=key,
            deadline=deadline,
            priority=priority,
            flow=flow,
            request_id=request_id,
            protocol=protocol,
        ) as lease:
            if not lease.hold():
                await lease.load()
            await lease.decide(None)
            return await self.pipeline.infer(lease, arrays, outputs)

    # Monitoring

    def ready(self) -> tuple[bool, list[str]]:
        """True if every model that should be served is loaded; otherwise the reasons."""
        if self.admission.draining:
            return False, ["the server accepts no more requests: it is being drained or is shutting down"]
        if not self._started:
            return False, ["models are being loaded"]
        reasons = self.deployment.reasons()
        abandoned = self.abandoned_run()
        if abandoned is not None and abandoned[1] > ABANDONED_AFTER_S:
            reasons = [*reasons, f"a run of {abandoned[0]} does not end, although no request waits for it"]
        return not reasons, reasons

    @property
    def complete(self) -> bool:
        """True if every model that should answer could be loaded, those that a route sends clients to included."""
        return not self.deployment.failed and not self.deployment.traffic.lacking()

    def abandoned_run(self) -> tuple[str, float] | None:
        """The oldest run that continues although no request waits for it: its model's key, and for how many seconds.

        A run may take ten times as long as a full batch usually does.
        """
        now = time.monotonic()
        runs = [
            (model.key, now - stop.asked_at)
            for model in self.manager.models()
            for stop in list(model.batcher.runs)
            if now - stop.asked_at > 10 * model.batcher.runner.full_s
        ]
        return max(runs, key=lambda run: run[1], default=None)

    @property
    def queue_rows(self) -> int:
        """Rows in the queues of all models."""
        return sum(model.batcher.queued_rows for model in self.manager.models())

    @property
    def inflight(self) -> int:
        """Requests in flight: in preprocessing, queued or running."""
        return self.admission.inflight

    def snapshot(self) -> Snapshot:
        """The figures of this process as plain data, to be merged with those of others."""
        return self.statistics.snapshot(
            self.manager.models(),
            inflight=self.inflight,
            cache=self.cache,
            states=self._states(),
            ready=self.ready()[0],
            stale=bool(self.deployment.traffic.error),
            circuits={
                f"{name}:{version}": not circuit.closed
                for (name, version), circuit in self.deployment.traffic.circuits.of.items()
            },
        )

    def _states(self) -> dict[str, str]:
        """Of each reference that should be served: serving, outdated, failed or loading."""
        failed, outdated = self.deployment.failed, self.deployment.outdated

        def state_of(ref: str) -> str:
            if ref in failed:
                return "failed"
            if ref in outdated:
                return "outdated"
            return "serving" if self.deployment.routed(ref) is not None else "loading"

        return {ref: state_of(ref) for ref in self.deployment.wanted}

    def get_stats(self, snapshots: Iterable[Snapshot] = ()) -> dict[str, Any]:
        """The figures of `GET /stats`: the default model, the queue, and each model's last minute.

        With the `snapshots` of several processes, their figures together.
        """
        default, merged = self.default(), merge(snapshots or [self.snapshot()])
        return {
            "model_path": self.default_ref,
            "device": self.config.device,
            "batch_size": self.config.batch_size,
            "model_device": default.info.device if default else None,
            "model_parameters": default.info.num_parameters if default else None,
            "queue_size": merged["queue_rows"],
            "processing": merged["inflight"],
            "uptime_s": time.monotonic() - self._since,
            "problems": self.deployment.problems,
            "cache": merged["cache"],
            "models": to_stats(merged),
        }
