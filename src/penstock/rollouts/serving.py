"""An engine as rollouts need it."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

from penstock.engine.engine import InferenceEngine
from penstock.engine.observation import SHADOW, Observer
from penstock.registry.routes import Route
from penstock.rollouts.shadow.copies import PRIORITY, Copy
from penstock.tensors import Arrays

SHADOW_TIMEOUT_S = 10.0


class EngineServing:
    """Loads versions, shows requests and answers copies."""

    def __init__(self, engine: InferenceEngine) -> None:
        self._engine = engine

    async def load_arm(self, name: str, version: str) -> None:
        """Load a version, warm it up and prove it. Raises ModelLoadError, or another PenstockError for now."""
        await self._engine.model(f"{name}:{version}")

    def brake(self, refs: Iterable[str]) -> None:
        """Send no request of a route to these `name:version` in this process."""
        self._engine.deployment.traffic.brake(refs)

    def splits(self) -> list[Route]:
        """The routes in force in this process that are split among several versions."""
        return [active.route for active in self._engine.deployment.traffic.active.values() if active.route.split]

    def observe(self, observer: Observer, observing: bool) -> None:
        """Show finished requests to an observer, or no longer."""
        if not observing and observer in self._engine.observers:
            self._engine.observers.remove(observer)
        elif observing and observer not in self._engine.observers:
            self._engine.observers.append(observer)

    async def answer(self, copy: Copy) -> Arrays:
        """The outputs of the new version for a copy. Raises PenstockError."""
        deadline = time.monotonic() + SHADOW_TIMEOUT_S
        found = await self._engine.infer(
            f"{copy.name}:{copy.to}",
            copy.inputs,
            deadline=deadline,
            priority=PRIORITY,
            request_id=copy.request_id,
            protocol=SHADOW,
        )
        return found.outputs

    def is_busy(self, name: str) -> bool:
        """True while the queue of a model is more than half full."""
        most = self._engine.config.max_queue_size / 2
        return any(model.batcher.queued_rows > most for model in self._engine.loaded() if model.name == name)

    def labels(self, name: str, version: str) -> Sequence[str] | None:
        """The names of the classes of a version, None if it has none."""
        for model in self._engine.loaded():
            if (model.name, model.version) == (name, version) and model.artifact is not None:
                found = model.artifact.manifest.task.config.get("labels")
                return [str(each) for each in found] if isinstance(found, list) else None
        return None
