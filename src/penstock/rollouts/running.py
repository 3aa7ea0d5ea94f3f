"""Runs the canaries and the copies of a server process while there are any; nothing is imported before the first."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from penstock.engine.engine import InferenceEngine
from penstock.errors import ConfigError

if TYPE_CHECKING:
    from penstock.rollouts.conductor import Conductor
    from penstock.rollouts.route_copies import RouteCopies
    from penstock.rollouts.shadow.examples import Keep

log = logging.getLogger(__name__)

EVERY_S = 0.5
"""How often a process looks at the canaries while there are any, and else whether a route was changed."""


class Rollouts:
    """The canaries and copies of one process. `run` follows them until it is cancelled."""

    def __init__(self, engine: InferenceEngine, keep: Keep | None = None) -> None:
        """`keep` takes the requests that another version has answered otherwise; it says whether inputs may be kept."""
        self._engine = engine
        self._keep = keep
        self._conductor: Conductor | None = None
        self._copies: RouteCopies | None = None
        self._seen: int | None = None

    async def run(self) -> None:
        """Follow, copy, count and decide; at the end, what was counted is stored."""
        try:
            while True:
                await asyncio.sleep(EVERY_S)
                try:
                    self._follow_copies()
                    await self._follow_canaries()
                except ConfigError as error:
                    log.debug("canaries cannot be read: %s", error)  # the routes cannot either, which is logged there
                except Exception:
                    log.exception("the canaries of this process cannot go on")
        finally:
            if self._copies is not None:
                await self._copies.close()
            if self._conductor is not None:
                await self._conductor.close()

    async def _follow_canaries(self) -> None:
        traffic = self._engine.deployment.traffic
        revision = traffic.stored.revision  # counted up by the start of a canary
        split = any(active.route.split for active in traffic.active.values())
        if revision == self._seen and not split and (self._conductor is None or self._conductor.idle):
            return
        if self._conductor is None and (split or await asyncio.to_thread(self._engine.registry.routes.has_canaries)):
            self._conductor = _conductor(self._engine, self._keep)
        if self._conductor is not None:
            await self._conductor.tick()
        self._seen = revision

    def _follow_copies(self) -> None:
        active = self._engine.deployment.traffic.active
        if self._copies is None and any(route.route.shadow for route in active.values()):
            self._copies = _copies(self._engine, self._keep)
        if self._copies is not None:
            self._copies.follow()

    def canaries(self) -> dict[str, list[tuple[str, str]]]:
        """The versions of canaries with their state, by route."""
        return {} if self._conductor is None else self._conductor.states()

    def standing(self) -> dict[str, object]:
        """How the canaries of this process stand, as JSON."""
        found = self._conductor
        return {} if found is None else {"frozen": found.frozen, "braked": found.braked_refs}

    def figures(self) -> dict[str, dict[str, dict[str, object]]]:
        """What the copies of this process have shown, by route and version."""
        return {} if self._copies is None else self._copies.figures()


def _conductor(engine: InferenceEngine, keep: Keep | None) -> Conductor:
    from penstock.rollouts.conductor import Conductor
    from penstock.rollouts.serving import EngineServing

    return Conductor(engine.registry, EngineServing(engine), keep=keep)


def _copies(engine: InferenceEngine, keep: Keep | None) -> RouteCopies:
    from penstock.rollouts.route_copies import RouteCopies

    return RouteCopies(engine, keep)


def copy_families(figures: Iterable[dict[str, Any]]) -> list[Any]:
    """Metric families of what the copies of all processes have shown; none where there are no copies."""
    shown = [each for each in figures if each]
    if not shown:
        return []
    from penstock.monitor.copies import CopyFamilies
    from penstock.rollouts.route_copies import counts

    return [CopyFamilies(counts(shown))]
