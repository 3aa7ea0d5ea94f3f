"""Copies of requests for the versions that routes name as shadows: in this process, and what they have shown.

A copy is made of a request that was answered, so it delays nobody; its answer reaches no client. The same keys are
copied in every process.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from penstock.engine.engine import InferenceEngine
from penstock.engine.observation import AnsweredRun, Observation
from penstock.engine.routing import Sample
from penstock.rollouts.evidence import Shadowed
from penstock.rollouts.serving import EngineServing
from penstock.rollouts.shadow.copies import Copy, Shadow
from penstock.rollouts.shadow.examples import Keep, keep_nothing

Figures = dict[str, dict[str, dict[str, Any]]]
"""What copies have shown as JSON, by route and version."""


class RouteCopies:
    """An observer of this process while a route in force names shadows. For its event loop."""

    answers_only = True

    def __init__(self, engine: InferenceEngine, keep: Keep | None = None) -> None:
        """`keep` takes the disagreements."""
        self._engine = engine
        self._serving = EngineServing(engine)
        self._shadow = Shadow(self._serving, self._record, keep or keep_nothing)
        self._shadows: dict[str, list[tuple[str, Sample]]] = {}
        self._shown: dict[tuple[str, str], Shadowed] = {}

    def follow(self) -> None:
        """Copy for the routes that are in force now, to the versions that are loaded; other figures are dropped."""
        active = self._engine.deployment.traffic.active
        self._shadows = {
            name: [(each.version, Sample(f"{route.route.salt}/{each.version}", each.sample)) for each in shadows]
            for name, route in active.items()
            if (shadows := [each for each in route.route.shadow if each.sample > 0 and each.version in route.ready])
        }
        named = {(name, each.version) for name, route in active.items() for each in route.route.shadow}
        self._shown = {key: seen for key, seen in self._shown.items() if key in named}
        self._serving.observe(self, bool(self._shadows))
        if self._shadows:
            self._shadow.start()

    async def close(self) -> None:
        """Copy nothing more."""
        self._serving.observe(self, False)
        await self._shadow.close()

    def __call__(self, seen: Observation) -> None:
        """Copy one answered request if it is among the sampled ones; answers from the cache are not copied."""
        if seen.route in self._shadows and seen.outcome == "ok" and seen.batch_rows:
            for version, sample in self._shadows[seen.route]:
                if sample.chosen([seen.key or seen.request_id]):
                    self._copy(seen, version)

    def answered(self, run: AnsweredRun) -> None:
        """Copy the sampled requests of one run."""
        for version, sample in self._shadows.get(run.route, ()):
            for index in sample.chosen([request.key or request.request_id for request in run.requests]):
                self._copy(run.observation(index), version)

    def _copy(self, seen: Observation, version: str) -> None:
        copy = None if seen.arm == version else Copy.of(seen, version)
        if copy is not None:
            self._shadow.put(copy)

    def _record(self, copy: Copy, seen: Shadowed) -> None:
        self._shown.setdefault((copy.name, copy.to), Shadowed()).add(seen)

    def figures(self) -> Figures:
        """What the copies of this process have shown."""
        found: Figures = {}
        for (name, version), seen in self._shown.items():
            found.setdefault(name, {})[version] = seen.to_document()
        return found


def merged(figures: Iterable[Figures]) -> Mapping[tuple[str, str], Shadowed]:
    """What the copies of several processes have shown, by route and version."""
    found: dict[tuple[str, str], Shadowed] = {}
    for one in figures:
        for name, versions in one.items():
            for version, document in versions.items():
                found.setdefault((name, version), Shadowed()).add(Shadowed.of(document))
    return found


def counts(figures: Iterable[Figures]) -> dict[tuple[str, str], dict[str, int]]:
    """How many copies of several processes have shown what, by route and version."""
    return {
        key: {
            "agreed": seen.compared - seen.disagreed,
            "disagreed": seen.disagreed,
            "failed": seen.failures,
            "skipped": seen.skipped,
        }
        for key, seen in merged(figures).items()
    }
