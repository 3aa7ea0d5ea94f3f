"""What request handlers have access to: engine, settings, metrics, and the state of this process."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from penstock.artifacts.refs import sorted_versions
from penstock.engine.engine import InferenceEngine
from penstock.errors import ConfigError, ModelLoadError, ModelNotReady, PenstockError
from penstock.gateway.admin_commands import AdminCommands
from penstock.gateway.callers.callers import Callers
from penstock.gateway.fairness.flows import Flows
from penstock.gateway.outages.registry_reads import FROM_MEMORY, Models, RegistryReads, RememberedModels
from penstock.gateway.worker_group import WorkerGroup
from penstock.monitor.alerts.running import Alerting
from penstock.monitor.canaries import CanaryFamilies, StandingFamilies
from penstock.monitor.metrics import Page, metrics_page, metrics_samples
from penstock.monitor.monitoring import Monitoring
from penstock.monitor.prediction_log.serving import ServingLog
from penstock.monitor.processes import process_counts
from penstock.monitor.traces.tracer import Tracer
from penstock.registry.admin_key import AdminKey
from penstock.rollouts.running import Rollouts, copy_families
from penstock.settings import Settings

log = logging.getLogger(__name__)

T = TypeVar("T")

FOLLOW_DRAIN_EVERY_S = 0.1
"""How often a process looks whether another process of its server was drained."""

FOLLOW_ROUTES_EVERY_S = 0.25
"""A route takes effect within a second in every process; reading its revision costs about 0.1 ms."""
LEAST_FLUSH_S = 0.5
"""For the last traces, when a drain has taken all of its time."""

RECONCILE_EVERY_S = 0.5
"""A change in the registry takes effect within a second, including the time to load a small model."""


class Service:
    """The served models of one process, without sockets: loading, following the registry, draining, figures."""

    def __init__(
        self, settings: Settings, *, engine: InferenceEngine | None = None, workers: WorkerGroup | None = None
    ) -> None:
        """`workers` is the group of server processes this one belongs to; None for a single process."""
        self.settings = settings
        self.engine = engine or InferenceEngine(settings)
        self.tracer = Tracer.of(settings)
        self.monitoring = Monitoring(settings, self.engine)
        self.workers = workers
        self.commands = AdminCommands(self)
        self.admin_key = AdminKey.of(settings)
        self.callers = Callers(settings, self.engine.registry, self.admin_key)
        self.flows = Flows.by(settings.fair_share_by, settings.trusted_proxies)
        """The callers that share a contended model; None if all are one."""
        self.prediction_log = ServingLog.of(settings, self.engine)
        self.alerting = Alerting.of(settings, self.engine.registry.database_url, self._samples)
        self.rollouts = Rollouts(self.engine, None if self.prediction_log is None else self.prediction_log.disagreed)
        self.registry_reads = RegistryReads()
        self.known_versions: dict[str, list[str]] = {}
        """Every model of the registry with its versions, as they were read last."""
        self._reconciling = asyncio.Lock()
        self.on_models_changed: list[Callable[[], Awaitable[None]]] = []
        """Called after models may have been loaded or unloaded."""
        self.write_openapi: Callable[[Any], dict[str, Any]]
        """Writes the OpenAPI document with an example request, or None; set by what serves the routes."""
        self.openapi_pages: dict[str, bytes] = {}
        """The document by the path of the server, until other models are loaded."""
        self._documented: list[str] = []
        self.errors = Counter[str]()
        """Replies with an error, by status and kind."""
        self.started = False
        self.start_error = ""
        """Why a start has failed."""
        self.draining = False
        self.stands_aside = False
        """Other processes of the group take the connections, since they serve models that this one cannot."""
        self._stopping = False
        self._registry_error = self._routes_error = ""
        self._shown_routes = 0
        self._kept: object = None
        self._background: list[asyncio.Task[None]] = []

    async def start(self, refs: Sequence[str] = ()) -> None:
        """Load the models. Raises the PenstockError of the only model that was named, or of all that were.

        Of several, those that can be served are, unless the setting `strict` refuses that.
        """
        await asyncio.to_thread(self.admin_key.prepare)
        if self.tracer is not None:
            self.tracer.exporter.start()
        named = {*refs, *filter(None, [self.engine.default_ref])}
        if self.workers is not None:
            self.engine.deployment.share(await asyncio.to_thread(self.workers.deployment_store))
        if self.prediction_log is not None:
            await asyncio.to_thread(self.prediction_log.start)
        registry = self.engine.registry
        with registry.routes.starting(registry.path):
            await self.callers.start(None if self.workers is None else self.workers.directory)
            await self.engine.start(refs, strict=self.settings.strict or len(named) == 1)
        if named and not self.engine.loaded() and self.engine.deployment.failed:
            raise ModelLoadError("; ".join(self.engine.deployment.reasons()))
        await self._follow_drain()
        self.monitoring.peers = self._peers
        self.monitoring.start()
        await self.models_changed()
        # objects made so far live as long as the process; frozen, they cost no further collections (50 ms each)
        gc.collect()
        gc.freeze()
        self.started = True
        self._background.append(asyncio.create_task(self._reconcile(), name="penstock-reconcile"))
        self._background.append(asyncio.create_task(self._watch_routes(), name="penstock-routes"))
        self._background.append(asyncio.create_task(self.callers.run(), name="penstock-keys"))
        self._background.append(asyncio.create_task(self.rollouts.run(), name="penstock-rollouts"))
        if self.alerting is not None:
            self._background.append(asyncio.create_task(self.alerting.run(), name="penstock-alerts"))
        if self.workers is not None:
            self._background.append(asyncio.create_task(self._watch_drain(), name="penstock-drain"))

    def check_started(self) -> None:
        """Raises ModelNotReady while models are being loaded."""
        if not self.started and self.start_error:
            raise ModelNotReady(f"the models could not be loaded: {self.start_error}")
        if not self.started:
            raise ModelNotReady("models are being loaded; try again in a moment")

    def begin_drain(self) -> None:
        """Refuse new predictions, and close every connection with its next reply."""
        self.draining = True
        self.engine.begin_drain()

    def end_drain(self) -> None:
        """Take predictions again, unless the process is about to end."""
        if not self._stopping:
            self.draining = False
            self.engine.end_drain()

    def set_draining(self, draining: bool) -> None:
        """Begin or end a drain."""
        if draining:
            self.begin_drain()
        else:
            self.end_drain()

    async def _watch_drain(self) -> None:
        while True:
            await asyncio.sleep(FOLLOW_DRAIN_EVERY_S)
            try:
                await self._follow_drain()
            except Exception:
                log.exception("the drain of another process cannot be followed")

    async def _follow_drain(self) -> None:
        """Refuse or take predictions as the other processes of this server do."""
        if self.workers is None or self._stopping:
            return
        draining = await asyncio.to_thread(self.workers.draining)
        if draining is not None and draining != self.draining:
            self.set_draining(draining)
            await asyncio.to_thread(self.workers.publish, self.figures)

    async def drain(self, timeout_s: float) -> bool:
        """Wait for the predictions in flight; False if they took longer than `timeout_s` and were abandoned.

        A drained service cannot be resumed: the process is about to end.
        """
        self._stopping = True
        self.begin_drain()
        return await self.engine.drain(timeout_s)

    async def send_traces(self, timeout_s: float) -> None:
        """Send the traces that wait, within this time and never less than `LEAST_FLUSH_S`; the last step of a drain."""
        if self.tracer is not None:
            await asyncio.to_thread(self.tracer.exporter.stop, max(timeout_s, LEAST_FLUSH_S))

    async def close(self) -> None:
        """Unload the models."""
        if self.tracer is not None:
            self.tracer.exporter.stop(0)
        for task in self._background:
            if task.get_loop() is asyncio.get_running_loop():  # another loop that has ended has ended it
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
        await self.callers.close()
        await asyncio.to_thread(self.monitoring.close)
        await self.engine.close()
        self.registry_reads.close()
        if self.prediction_log is not None:
            await asyncio.to_thread(self.prediction_log.close)

    async def models_changed(self) -> None:
        """Call what depends on the set of loaded models."""
        for hook in self.on_models_changed:
            await hook()
        if self.prediction_log is not None:
            self.prediction_log.explain()
        loaded = [model.cache_identity for model in (self.engine.default(), *self.engine.loaded()) if model is not None]
        if loaded != self._documented:
            self._documented = loaded
            self.openapi_pages.clear()

    async def _reconcile(self) -> None:
        while True:
            await asyncio.sleep(RECONCILE_EVERY_S)
            await self.reconcile()
            await asyncio.to_thread(self._keep_last_known)

    async def _watch_routes(self) -> None:
        while True:
            await asyncio.sleep(FOLLOW_ROUTES_EVERY_S)
            await self.follow_routes()

    async def follow_routes(self) -> None:
        """Follow the routes in the store now; errors are logged. It waits for no model to be loaded."""
        before = self._shown_routes
        try:
            await self.engine.follow_routes()
        except PenstockError:  # `notices` say why
            self._log_routes("the routes cannot be read; those last known stay in force, see /health/ready")
        except Exception:
            log.exception("the routes cannot be followed")
        else:
            self._log_routes("")
        self._shown_routes = self.engine.deployment.traffic.followed
        if self.workers is not None and before != self._shown_routes:
            await asyncio.to_thread(self.workers.publish, self.figures)

    def _keep_last_known(self) -> None:
        """Keep what the database says in a file, for a start without it; there is none where it cannot be written."""
        registry, now = self.engine.registry, (self.engine.deployment.followed, self.callers.revision)
        if now == self._kept:
            return
        try:
            self.known_versions = {name: registry.versions(name) for name in registry.list()}
            registry.routes.keep(registry.path)
        except (ConfigError, OSError) as error:
            log.debug("what is known of the registry cannot be kept: %s", error)
        self._kept = now

    async def reconcile(self) -> None:
        """Follow the deployment and the registry now; errors are logged."""
        async with self._reconciling:
            before = self.engine.deployment.followed
            try:
                await self.engine.reconcile()
            except PenstockError as error:
                self._log_registry_error(f"the registry cannot be followed: {error}")
            except Exception:
                log.exception("the registry cannot be followed")
            else:
                self._log_registry_error("")
            try:
                await self.models_changed()
            except Exception:  # of a package; without it, nothing would be followed any more
                log.exception("a change of the models could not be followed")
            if self.workers is not None and self.engine.deployment.followed != before:
                await asyncio.to_thread(self.workers.publish, self.figures)

    async def about_models(self, work: Callable[[Models], T]) -> tuple[T, str | None]:
        """What the registry says; while it does not answer, what this process last knew, with a remark."""
        try:
            return await self.registry_reads.read(lambda: work(self.engine.registry)), None
        except ConfigError as error:
            log.debug("a reply is made from memory: %s", error)
        known = {**self.known_versions}
        for model in self.engine.loaded():
            if model.artifact is not None and model.version not in known.get(model.name, ()):
                known[model.name] = sorted_versions([*known.get(model.name, ()), model.version])
        return work(RememberedModels(known, self.engine.deployment.stored)), FROM_MEMORY

    def _log_routes(self, error: str) -> None:
        """Log state changes only."""
        if error != self._routes_error:
            log.warning("%s", error or "the routes are followed again")
        self._routes_error = error

    def notices(self) -> list[str]:
        """What an operator should know although this server is ready, one sentence each."""
        found = [self._registry_error, *self.engine.deployment.traffic.notices()]
        return [notice for notice in found if notice]

    def _log_registry_error(self, error: str) -> None:
        """Log state changes only: the beginning, another error, the end."""
        if error == self._registry_error:
            return
        log.warning("%s", error or "the registry is followed again")
        self._registry_error = error

    async def stats(self) -> dict[str, Any]:
        """The figures of `/stats`, merged over all processes."""
        everyone = await self._everyone()
        snapshots = [figures["statistics"] for figures in everyone]
        running = sum(figures["process"]["pid"] is not None for figures in everyone)
        found = self.engine.get_stats(snapshots)
        self.monitoring.add_stats(found["models"], [figures["monitoring"] for figures in everyone])
        logged = {} if self.prediction_log is None else await self.prediction_log.stats(everyone)
        return {**found, "processes": running or 1, **logged}

    async def metrics_page(self, accept: str) -> Page:
        """The page of `/metrics` in the format that is accepted, merged over all processes."""
        everyone, more = await self._shown()
        return await asyncio.to_thread(metrics_page, everyone, accept, more)

    async def _samples(self) -> list[Any]:
        """The samples of that page."""
        return await asyncio.to_thread(metrics_samples, *await self._shown())

    async def _shown(self) -> tuple[list[dict[str, Any]], list[Any]]:
        """The figures of all processes, and the collectors of what else is on the page."""
        everyone = await self._everyone()
        more = self.monitoring.collectors([figures["monitoring"] for figures in everyone])
        if self.prediction_log is not None:
            more.append(await self.prediction_log.families(everyone))
        if self.alerting is not None:
            more.append(self.alerting)
        running = [figures for figures in everyone if figures["process"]["pid"] is not None]
        more.append(CanaryFamilies(figures.get("canaries", {}) for figures in running))
        more.append(StandingFamilies(figures.get("standing", {}) for figures in running))
        more += copy_families(figures.get("copies", {}) for figures in everyone)
        return everyone, more

    async def copies(self) -> list[dict[str, Any]]:
        """What copies of requests have shown, by process."""
        return [figures.get("copies", {}) for figures in await self._everyone()]

    async def drift(self) -> list[dict[str, Any]]:
        """The windows of drift of every version with a reference, over all processes."""
        everyone = [figures["monitoring"] for figures in await self._everyone()]
        return await asyncio.to_thread(self.monitoring.drift_report, everyone[1:])

    def _peers(self) -> list[dict[str, Any]]:
        return [] if self.workers is None else [figures.get("monitoring", {}) for figures in self.workers.others()]

    async def _everyone(self) -> list[dict[str, Any]]:
        """The figures of all processes, this one's first."""
        if self.workers is None:
            return [await asyncio.to_thread(self.figures)]
        return await asyncio.to_thread(self.workers.all, self.figures)

    def figures(self) -> dict[str, Any]:
        """What this process shares with the others of its group."""
        logged = {} if self.prediction_log is None else {"prediction_log": self.prediction_log.figures()}
        return {
            **logged,
            "statistics": self.engine.snapshot(),
            "process": process_counts(self.errors),
            "traces": None if self.tracer is None else self.tracer.figures(),
            "monitoring": self.monitoring.snapshot(),
            "copies": self.rollouts.figures(),
            "canaries": self.rollouts.canaries(),
            "standing": self.rollouts.standing(),
            "deployment": list(self.engine.deployment.followed),
            "draining": self.draining,
        }
