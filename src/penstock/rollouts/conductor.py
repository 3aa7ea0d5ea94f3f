"""Runs the canaries of a registry in one server process: loads, counts, stores, and decides while it holds the lease.

Every process of every server does the same; the lease in the database says which one decides. Without the database
nothing is decided and the shares stay as they are; a process that sees a canary fail keeps its own requests from it.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

from penstock.errors import ConfigError, ModelLoadError, ModelNotFound, PenstockError
from penstock.registry.audit import acting
from penstock.registry.database.leases import Lease
from penstock.registry.registry import Registry
from penstock.registry.rollouts.canaries import EvidenceRow, StoredCanary
from penstock.registry.rollouts.splits import split_id, split_prefix
from penstock.registry.routes import Route
from penstock.rollouts.analysis import (
    PREPARING,
    CanaryState,
    Decision,
    Evidence,
    Readiness,
    decide,
    local_breach,
)
from penstock.rollouts.collector import Collector, Watched
from penstock.rollouts.evidence import ArmEvidence, StepEvidence, merge
from penstock.rollouts.moves import move_of
from penstock.rollouts.shadow.copies import Answering, Shadow
from penstock.rollouts.shadow.examples import Keep, keep_nothing
from penstock.rollouts.spec import CanarySpec

log = logging.getLogger(__name__)

STORE_EVERY_S = 2.0
"""How often a process stores its evidence, and the newest figures of a canary that stays as it is."""
ALIVE_S = 8.0
"""A process that has stored nothing for longer has ended, or hangs: the others do not wait for it."""
SETTLE_S = 2.5
"""How long all processes have to notice that a canary has begun, before any of them can be missing."""
SHOWN_S = 3600.0
"""How long `/metrics` shows a canary that was rolled back."""
PROCESS = ""
"""In place of an arm: the row in which a process says whether it can serve the new version."""


class Serving(Answering, Protocol):
    """What the conductor needs of an engine."""

    async def load_arm(self, name: str, version: str) -> None:
        """Load a version, warm it up and prove it. Raises ModelLoadError, or another PenstockError for now."""

    def brake(self, refs: Iterable[str]) -> None:
        """Send no request of a route to these `name:version` in this process."""

    def observe(self, collector: Collector, observing: bool) -> None:
        """Show finished requests to the collector, or no longer."""

    def splits(self) -> list[Route]:
        """The routes in force in this process that are split among several versions."""


class Conductor:
    """The canaries as one process runs them; `tick` does one round."""

    def __init__(
        self,
        registry: Registry,
        serving: Serving,
        *,
        clock: Callable[[], float] = time.monotonic,
        process: str = "",
        keep: Keep | None = None,
    ) -> None:
        """`clock` gives seconds; `process` is the name of this process, by default a new one. `keep` takes the
        disagreements.
        """
        self._registry = registry
        self._serving = serving
        self._clock = clock
        self.process = process or uuid.uuid4().hex
        self.collector = Collector(clock)
        self._shadow = Shadow(serving, self.collector.add_shadowed, keep or keep_nothing)
        self.collector.copy = self._shadow.put
        self.canaries: list[StoredCanary] = []
        """Those that are watched, as they were read last."""
        self.splits: list[Route] = []
        """The routes that are split, as this process follows them."""
        self.error = ""
        """Why nothing is decided; empty while the database can be used."""
        self.braked: dict[str, str] = {}
        """Why this process sends nothing to a canary, by its id."""
        self.rolled_back: dict[str, tuple[str, float]] = {}
        """The version that this process has rolled back last, and when, by route."""
        self._loads: dict[str, asyncio.Task[str]] = {}
        self._ready: dict[str, str] = {}
        self._next_store = 0.0
        self._next_watch: dict[str, float] = {}
        self._lease: Lease | None = None
        self._observing = False

    @property
    def idle(self) -> bool:
        """True if there was nothing to watch at the last look."""
        return not self.canaries and not self.splits and not self.error

    def states(self) -> dict[str, list[tuple[str, str]]]:
        """The versions of canaries with their state, by route; one that was rolled back for an hour."""
        found = {canary.route: [(canary.to, canary.phase)] for canary in list(self.canaries)}
        for route, (version, at) in list(self.rolled_back.items()):
            if self._clock() - at < SHOWN_S:
                found.setdefault(route, []).append((version, "rolled_back"))
        return found

    @property
    def frozen(self) -> bool:
        """True while there are canaries about which nothing can be decided."""
        return bool(self.canaries and self.error)

    @property
    def braked_refs(self) -> list[str]:
        """The `name:version` of the canaries to which this process sends nothing."""
        return [f"{each.route}:{each.to}" for each in self.canaries if each.id in self.braked]

    # One round

    async def tick(self) -> None:
        """Follow the canaries in the database, count, store, and decide if this process holds the lease."""
        await asyncio.to_thread(self.collector.drain)
        self.splits = self._serving.splits()
        try:
            await asyncio.to_thread(self._read)
        except ConfigError as error:
            self._note(str(error))
            self._watch()
            self._brake_locally()
            return
        self._follow()
        if self.idle:
            return
        try:
            await asyncio.to_thread(self._store_and_decide)
        except ConfigError as error:
            self._note(str(error))
            self._brake_locally()
        else:
            self._note("")

    async def close(self) -> None:
        """Store the evidence a last time and let another process decide."""
        for task in self._loads.values():
            task.cancel()
        await asyncio.gather(*self._loads.values(), return_exceptions=True)
        self._observe(False)
        await self._shadow.close()
        if self.canaries or self.splits:
            await asyncio.to_thread(self._leave)

    def _leave(self) -> None:
        self.collector.drain()
        try:
            self._next_store = 0.0
            self._store()
            if self._lease is not None:
                self._registry.routes.canaries.release(self._lease)
        except ConfigError as error:
            log.warning("the evidence of the last seconds is lost: %s", error)

    def _note(self, error: str) -> None:
        """Log state changes only."""
        if error and not self.error:
            log.warning("canaries stay as they are until the database can be used: %s", error)
        elif self.error and not error:
            log.info("canaries go on")
        self.error = error

    # What is watched

    def _read(self) -> None:
        routes = self._registry.routes
        live = routes.canaries.live() if routes.has_canaries() else []
        ids = {canary.id for canary in live}
        for ended in [canary for canary in self.canaries if canary.id not in ids]:
            routes.canaries.put_evidence(ended.id, self._rows(ended.id))  # for a look back
        self.canaries = live

    def _follow(self) -> None:
        """Count for the canaries that were read, and load their new versions."""
        self._watch()
        ids = {canary.id for canary in self.canaries}
        for canary in self.canaries:
            self._load(canary)
        for gone in self._loads.keys() - ids:
            self._loads.pop(gone).cancel()
            self._ready.pop(gone, None)
        for gone in self.braked.keys() - ids:
            del self.braked[gone]
        self._apply_brakes()

    def _watch(self) -> None:
        """Count for the canaries and the splits that are known."""
        self.collector.watch([*map(watched_of, self.canaries), *map(watched_split, self.splits)])
        self._observe(bool(self.canaries or self.splits))

    def _observe(self, observing: bool) -> None:
        if observing != self._observing:
            self._observing = observing
            self._serving.observe(self.collector, observing)
        if any(watched_of(canary).shadow for canary in self.canaries):
            self._shadow.start()

    def _load(self, canary: StoredCanary) -> None:
        """Load the new version in the background; what came of it is stored as the readiness of this process."""
        task = self._loads.get(canary.id)
        if task is None or (task.done() and self._ready.get(canary.id) == _LATER):
            self._loads[canary.id] = asyncio.create_task(self._loaded(canary), name=f"penstock-canary-{canary.route}")

    async def _loaded(self, canary: StoredCanary) -> str:
        """Load it now: what `_ready` holds."""
        try:
            await self._serving.load_arm(canary.route, canary.to)
            found = ""
        except (ModelLoadError, ModelNotFound) as error:
            log.error("%s:%s cannot be served: %s", canary.route, canary.to, error)
            found = str(error)
        except PenstockError as error:
            log.warning("%s:%s cannot be loaded yet: %s", canary.route, canary.to, error)
            found = _LATER
        self._ready[canary.id] = found
        self._next_store = 0.0
        return found

    # The database

    def _store_and_decide(self) -> None:
        self._store()
        if not self.canaries:
            return
        self._lease = self._registry.routes.canaries.lease(self.process)
        if self._lease is None:
            return
        for canary in self.canaries:
            self._decide(canary, self._lease)

    def _store(self) -> None:
        if self._clock() < self._next_store:
            return
        self._next_store = self._clock() + STORE_EVERY_S
        canaries = self._registry.routes.canaries
        for canary in self.canaries:
            canaries.put_evidence(canary.id, [self._status(canary), *self._rows(canary.id)])
        for route in self.splits:
            if rows := self._rows(split_id(route)):
                canaries.put_split(split_id(route), split_prefix(route.name), rows)

    def _rows(self, counted: str) -> list[EvidenceRow]:
        """The counters of this process for a canary or a split."""
        return [
            EvidenceRow(step, arm, self.process, counters)
            for (step, arm), counters in self.collector.documents(counted).items()
        ]

    def _status(self, canary: StoredCanary) -> EvidenceRow:
        ready = self._ready.get(canary.id)
        failure = "" if ready in (None, _LATER) else ready
        status = {"ready": ready == "", "failure": failure, "braked": self.braked.get(canary.id, "")}
        return EvidenceRow(PREPARING, PROCESS, self.process, status)

    def _decide(self, canary: StoredCanary, lease: Lease) -> None:
        """Decide about one canary and write it, unless the lease is lost or the canary was changed meanwhile."""
        canaries = self._registry.routes.canaries
        rows, now = canaries.evidence(canary.id), canaries.clock()
        decision = judged(canary, rows, now)
        move = move_of(canary, decision)
        with acting(f"canary of {canary.route}", decision.sentence):
            if decision.action == "hold":
                if decision.threshold_ms is not None or self._clock() >= self._next_watch.get(canary.id, 0.0):
                    self._next_watch[canary.id] = self._clock() + STORE_EVERY_S
                    canaries.watched(canary, move, lease)
            elif canaries.change(canary, move, lease):
                log.info("%s: %s", canary.route, decision.sentence)
                if decision.action == "rollback":
                    self.rolled_back[canary.route] = (canary.to, self._clock())

    # Without the database

    def _brake_locally(self) -> None:
        """Keep requests from canaries that fail here; the decision is made when the database is back."""
        for canary in self.canaries:
            spec, counted = CanarySpec.stored(canary.spec), self.collector.evidence(canary.id)
            seen = merge(found for (_, arm), found in counted.items() if arm == canary.to)
            why = local_breach(spec, seen)
            if why and canary.id not in self.braked and canary.phase != "baking":
                log.error("%s: this process sends no requests to %s: %s", canary.route, canary.to, why)
                self.braked[canary.id] = why
                self._next_store = 0.0
        self._apply_brakes()

    def _apply_brakes(self) -> None:
        self._serving.brake(self.braked_refs)


_LATER = "later"


def watched_of(canary: StoredCanary) -> Watched:
    """What a process counts for a canary."""
    spec = CanarySpec.stored(canary.spec)
    return Watched(
        canary=canary.id,
        route=canary.route,
        step=canary.step,
        stable=canary.stable,
        to=canary.to,
        threshold_ms=canary.threshold_ms,
        ratio=spec.max_p99_ratio or 1.0,
        warmup_s=spec.warmup_s,
        shadow=spec.shadow if spec.max_disagreement is not None and canary.phase != "baking" else 0.0,
    )


def watched_split(route: Route) -> Watched:
    """What a process counts for a route that is split among several versions."""
    first, *others = (arm.version for arm in route.split)
    placed_by_key = route.sticky.by in ("key", "request_id")
    counted = split_id(route)
    return Watched(counted, route.name, 0, stable=first, to="", others=tuple(others), keys=placed_by_key)


def judged(canary: StoredCanary, rows: Iterable[EvidenceRow], now: float) -> Decision:
    """The decision about a stored canary by what all processes have stored."""
    spec = CanarySpec.stored(canary.spec)
    state = CanaryState(canary.phase, canary.step, canary.entered_at, canary.threshold_ms)  # type: ignore[arg-type]
    rows = list(rows)
    status = [row for row in rows if row.arm == PROCESS]
    braked = [row.counters["braked"] for row in status if row.counters.get("braked")]
    if braked:
        return Decision("rollback", f"rolled back as one process had braked it: {braked[0]}")
    steps = evidence_of(canary, rows)
    settled = canary.phase != "preparing" or now - canary.entered_at >= SETTLE_S
    return decide(spec, state, Evidence(steps, _readiness(status, settled)), now)


def evidence_of(canary: StoredCanary, rows: Iterable[EvidenceRow]) -> dict[int, StepEvidence]:
    """The evidence of all processes by step."""
    parts: dict[int, tuple[list[ArmEvidence], list[ArmEvidence]]] = {}
    for row in rows:
        if row.arm in (canary.stable, canary.to):
            parts.setdefault(row.step, ([], []))[row.arm == canary.to].append(ArmEvidence.of(row.counters))
    return {step: StepEvidence(merge(stable), merge(to)) for step, (stable, to) in parts.items()}


def _readiness(status: Iterable[EvidenceRow], settled: bool) -> Readiness:
    alive: list[Mapping[str, Any]] = [row.counters for row in status if row.age_s < ALIVE_S]
    failures = [each["failure"] for each in alive if each.get("failure")]
    ready = sum(bool(each.get("ready")) for each in alive)
    return Readiness(ready, len(alive) if settled else max(len(alive), ready + 1), failures[0] if failures else "")
