"""The routes in force in this process, and how they follow those in the store.

A route comes into force when every version that it sends clients to is loaded, warm and proven here; until then the one
before stays. A process without one before, as after a start, serves the versions that are ready.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from typing import Any

from penstock.engine.deployment.circuit import Circuit, Circuits
from penstock.engine.loading.loaded_model import LoadedModel
from penstock.engine.routing import Choice, Chooser, Headers
from penstock.errors import PenstockError
from penstock.registry.routes import Route, Routes, StoredRoute

log = logging.getLogger(__name__)


class ActiveRoute:
    """One route in force: which version answers a request."""

    def __init__(self, stored: StoredRoute, ready: frozenset[str], circuits: Circuits) -> None:
        self.stored = stored
        self.route = stored.route
        self.ready = ready
        self.chooser = Chooser(stored.route, ready)
        self.refs = {version: f"{stored.route.name}:{version}" for version in stored.route.versions}
        fallback = stored.route.fallback
        self._fallback = fallback if fallback in ready else None
        self._circuits = circuits

    @property
    def primary(self) -> str:
        """The version that the bare name means where one is asked for: the heaviest arm that is ready."""
        arms = [arm for arm in self.route.arms if arm.version in self.ready]
        best = max(arms, key=lambda arm: arm.weight, default=None)
        return best.version if best is not None and best.weight else next(v for v in self.answering)

    @property
    def answering(self) -> Iterator[str]:
        """The versions that may answer clients now."""
        fallback = [self._fallback] if self._fallback is not None else []
        return (version for version in (*self.route.serving, *fallback) if version in self.ready)

    def choose(
        self, key: str | None, headers: Headers | None, request_id: str, field: str | None = None
    ) -> Choice | None:
        """The choice for a request; the fallback while the circuit of the chosen version is open."""
        choice = self.chooser.choose(key, headers, request_id, field)
        fallback = self._fallback
        if fallback is None:
            return choice
        if choice is None:
            return Choice(fallback, fallback, "fallback")
        if self._circuits.allows(self.route.name, choice.version, request_id):
            return choice
        return Choice(fallback, fallback, "fallback")


class Traffic:
    """The routes of one process. For its event loop; `active` may be read from any thread."""

    def __init__(
        self,
        models: dict[str, LoadedModel],
        prove: Callable[[LoadedModel], Awaitable[bool | None]],
        *,
        read: Callable[[int], Awaitable[Routes | None]],
        load: Callable[[str], Awaitable[object]],
        serves: Callable[[str], bool],
    ) -> None:
        """`models` are those that answer, by reference: a routed name leads to its primary version there.

        `read` gives the routes in the store, None if their revision is still the given one. `load` makes a
        `name:version` answer. `serves` tells whether this process serves a bare name in all its versions. `prove`
        runs a golden sample: True if the model answers it right, None if it could not be asked.
        """
        self.active: dict[str, ActiveRoute] = {}
        """By name; empty while there are no routes: every request looks."""
        self.circuits = Circuits(time.monotonic, self._begin_proof)
        self.followed = 0
        """The revision of the store that this process has followed as far as it can."""
        self.error = ""
        """Why the store could not be read the last time; the routes in force stay."""
        self.stored = Routes(revision=-1)
        self._models = models
        self._read, self._load, self._serves, self._prove = read, load, serves, prove
        self._proofs: set[asyncio.Task[None]] = set()
        self._loading: dict[str, asyncio.Task[None]] = {}
        self._failed: dict[str, str] = {}
        self._braked: frozenset[str] = frozenset()

    # Following

    async def start(self) -> None:
        """Read the routes and load what they send clients to; what cannot be loaded is in `problems`."""
        await self.follow()
        await self.settled()
        self._apply()

    async def settled(self, timeout_s: float | None = None) -> None:
        """Wait until no version is being loaded; at most `timeout_s`."""
        if self._loading:
            await asyncio.wait(self._loading.values(), timeout=timeout_s)

    async def follow(self) -> None:
        """Follow the store: what is ready comes into force now, what is not is loaded meanwhile.

        Raises ConfigError where the store cannot be read; the routes in force stay.
        """
        try:
            routes = await self._read(self.stored.revision)
        except PenstockError as error:
            self.error = str(error)
            raise
        self.error = ""
        if routes is not None:
            self.stored = routes
            self._failed.clear()
            for why in routes.broken.values():
                log.error("%s", why)
        self._apply()
        for route in self._wanted():
            for version in (*route.serving, *route.versions):
                self._begin(route, version)

    def _wanted(self) -> Iterator[Route]:
        return (stored.route for name, stored in self.stored.stored.items() if self._serves(name))

    def _begin(self, route: Route, version: str) -> None:
        """Load a version of a route, unless it is loaded or being loaded."""
        ref = f"{route.name}:{version}"
        if not self._is_ready(route, version) and ref not in self._loading:
            self._loading[ref] = asyncio.create_task(self._bring_up(ref), name=f"penstock-route {ref}")

    async def _bring_up(self, ref: str) -> None:
        try:
            await self._load(ref)
            self._failed.pop(ref, None)
        except PenstockError as error:
            if self._failed.get(ref) != str(error):
                log.error("%s cannot serve its part of a route: %s", ref, error)
            self._failed[ref] = str(error)
        except Exception as error:
            log.exception("%s cannot be loaded for its route", ref)
            self._failed[ref] = f"{type(error).__name__}: {error}"
        finally:
            self._loading.pop(ref, None)
        self._apply()

    def _apply(self) -> None:
        """Bring into force what is ready."""
        wanted = {route.name: self.stored.stored[route.name] for route in self._wanted()}
        kept = {name: self._next(self.active.get(name), stored) for name, stored in wanted.items()}
        kept |= {name: self._refreshed(self.active[name]) for name in self.stored.broken if name in self.active}
        found = {name: route for name, route in kept.items() if route is not None}
        with_fallback = {
            (name, version): None
            for name, active in found.items()
            if active.route.fallback is not None
            for version in active.route.versions
            if version != active.route.fallback
        }
        if with_fallback.keys() != self.circuits.of.keys():
            self.circuits.keep(with_fallback)
        for name, active in found.items():
            self._models[name] = self._models[active.refs[active.primary]]
        if found != self.active:
            self.active = found
        if not any(ref in self._loading for route in self._wanted() for ref in self._refs_of(route.serving, route)):
            waiting = any(self._missing(route) and not self._has_failed(route) for route in self._wanted())
            if not waiting:
                self.followed = max(0, self.stored.revision)

    def _next(self, now: ActiveRoute | None, stored: StoredRoute) -> ActiveRoute | None:
        """The route in force from now on, in place of the present one; None if none of its versions is ready."""
        ready = self._ready(stored.route)
        if now is not None and now.stored == stored and now.ready == ready:
            return now
        waits = any(version not in ready for version in stored.route.serving)
        if now is not None and now.stored != stored and waits:
            before = self._refreshed(now)
            if before is not None:
                return before
        made = ActiveRoute(stored, ready, self.circuits)
        if not any(True for _ in made.answering):
            return None
        if now is None or now.stored != stored:
            log.info("route %s, revision %d, is in force: %s", stored.route.name, stored.revision, _shares(made))
        return made

    def _refreshed(self, now: ActiveRoute) -> ActiveRoute | None:
        """A route that stays in force, with the versions that are still ready."""
        ready = self._ready(now.route)
        if ready == now.ready:
            return now
        made = ActiveRoute(now.stored, ready, self.circuits)
        return made if any(True for _ in made.answering) else None

    def _ready(self, route: Route) -> frozenset[str]:
        return frozenset(
            version
            for version in route.versions
            if f"{route.name}:{version}" not in self._braked and self._is_ready(route, version)
        )

    def _is_ready(self, route: Route, version: str) -> bool:
        """True if the version is loaded with the content that it had when the route was set."""
        model = self._models.get(f"{route.name}:{version}")
        if model is None or model.retired or model.artifact is None:
            return False
        return route.digests.get(version) in (None, model.artifact.digest)

    def _missing(self, route: Route) -> list[str]:
        return [version for version in route.serving if not self._is_ready(route, version)]

    def _has_failed(self, route: Route) -> bool:
        return any(ref in self._failed for ref in self._refs_of(route.serving, route))

    @staticmethod
    def _refs_of(versions: tuple[str, ...], route: Route) -> list[str]:
        return [f"{route.name}:{version}" for version in versions]

    def brake(self, refs: Iterable[str]) -> None:
        """Send no request of a route to these `name:version` in this process, whatever the store says."""
        braked = frozenset(refs)
        if braked != self._braked:
            self._braked = braked
            self._apply()

    # Proofs of versions whose circuit is open

    def _begin_proof(self, ref: str, circuit: Circuit) -> None:
        """Run a golden sample of a version beside the requests; one without any is proven by the next request."""
        model = self._models.get(ref)
        if model is None or not model.has_golden:
            circuit.proved(True, time.monotonic())
            return
        proof = asyncio.create_task(self._run_proof(model, circuit), name=f"penstock-proof {ref}")
        self._proofs.add(proof)
        proof.add_done_callback(self._proofs.discard)

    async def _run_proof(self, model: LoadedModel, circuit: Circuit) -> None:
        right: bool | None = None
        try:
            right = await self._prove(model)
        finally:
            circuit.proved(right, time.monotonic())

    # What is in force

    def refs(self) -> set[str]:
        """Every `name:version` of the routes in force and of those that are to come: they stay loaded."""
        routes = [*(active.route for active in self.active.values()), *self._wanted()]
        return {f"{route.name}:{version}" for route in routes for version in route.versions}

    def naming(self, key: str) -> str | None:
        """The route that names a `name:version`."""
        return next((route.name for route in self._wanted() if key in self._refs_of(route.versions, route)), None)

    def primary(self, ref: str) -> str | None:
        """The `name:version` that a routed bare name means where one version is asked for."""
        active = self.active.get(ref)
        if active is not None:
            return active.refs[active.primary]
        stored = self.stored.get(ref)
        return f"{ref}:{stored.route.primary}" if stored is not None and self._serves(ref) else None

    @property
    def problems(self) -> dict[str, str]:
        """What keeps a route from being in force as it was set, by `route NAME`."""
        found = {f"route {name}": why for name, why in self.stored.broken.items()}
        for route in self._wanted():
            why = [f"{ref}: {self._failed[ref]}" for ref in self._refs_of(route.versions, route) if ref in self._failed]
            if why:
                found[f"route {route.name}"] = "; ".join(why)
        return found

    def lacking(self) -> list[str]:
        """The `name:version` that a route sends clients to and that cannot be loaded."""
        refs = [ref for route in self._wanted() for ref in self._refs_of(route.serving, route)]
        return [ref for ref in refs if ref in self._failed]

    def state(self, name: str) -> dict[str, Any]:
        """How far this process follows the route of a name, for people."""
        active, stored, now = self.active.get(name), self.stored.get(name), time.monotonic()
        route = None if stored is None else stored.route
        not_ready = {} if route is None else {version: self._why(route, version) for version in self._unready(route)}
        current = active is not None and stored is not None and active.stored.revision == stored.revision
        return {
            "state": _word(
                active is not None, current, served=route is not None and self._serves(name), not_ready=not_ready
            ),
            "in_force": None if active is None else active.stored.revision,
            "not_ready": not_ready,
            "circuits": {
                version: circuit.state(now) for (of, version), circuit in self.circuits.of.items() if of == name
            },
        }

    def _unready(self, route: Route) -> list[str]:
        return [version for version in route.versions if not self._is_ready(route, version)]

    def _why(self, route: Route, version: str) -> str:
        ref = f"{route.name}:{version}"
        model = self._models.get(ref)
        if ref in self._failed:
            return self._failed[ref]
        if model is not None and not model.retired:
            return "it holds other content than when the route was set; set the route again"
        return "it is being loaded"

    def notices(self) -> list[str]:
        """What an operator should know although requests are answered, one sentence each."""
        gone = [f"the routes are those last known: {self.error}"] if self.error else []
        return [*gone, *(f"{name}: {why}" for name, why in self.problems.items())]

    async def close(self) -> None:
        """Load and prove nothing more."""
        started = (*self._loading.values(), *self._proofs)
        tasks = [task for task in started if task.get_loop() is asyncio.get_running_loop()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self.active = {}


def _word(active: bool, current: bool, *, served: bool, not_ready: Mapping[str, str]) -> str:
    if not served:
        return "not served"
    if active and current:
        return "degraded" if not_ready else "in force"
    return "waiting"


def _shares(active: ActiveRoute) -> str:
    return ", ".join(f"{arm.version} {arm.weight / active.route.total:.2%}" for arm in active.route.arms)
