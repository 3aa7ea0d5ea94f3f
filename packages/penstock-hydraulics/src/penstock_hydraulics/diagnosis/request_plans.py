"""Request plans: the precomputed part of requests with equal topology, sensors, lengths and rates, cached."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, Final

from penstock_hydraulics.diagnosis.anomalies import AnomalyDetector
from penstock_hydraulics.diagnosis.conclusion import Grounds
from penstock_hydraulics.diagnosis.health import ComponentAssessor
from penstock_hydraulics.machine.topology import Topology
from penstock_hydraulics.signals.features import Float, Layout
from penstock_hydraulics.signals.reference import ReferenceCheck
from penstock_hydraulics.signals.windows import WindowPlan

MAX_ROWS: Final = 40_000
"""Maximum number of rows of all cached layouts. A row takes less than 800 bytes, so the cache stays under 32 MB."""
MAX_PLANS: Final = 2048


@dataclass(frozen=True, slots=True, eq=False)
class RequestPlan:
    """Everything that depends on the topology, the sensors, their lengths and rates, and the registered machine."""

    window_key: Hashable
    """Equal for plans with equal windows and layouts: they may differ in the registered machine."""
    topology: Topology
    window_plan: WindowPlan
    layout: Layout | None
    """None if the model does not run."""
    shown: list[int]
    """The rows of the window that the model gets."""
    usual: Float | None
    """[rows, STEPS] the course of a healthy cycle, used to complete a short window; None if unknown."""
    reference: ReferenceCheck | None
    """Compares the window with usual readings; None if the model does not run, or has no reference."""
    share: float
    """Coverage of the answer."""
    components: ComponentAssessor
    grounds: Grounds
    evidence: str
    """What the answers rest on: results with the same make a trend."""
    anomalies: AnomalyDetector
    warnings: tuple[str, ...]
    equipment: Any
    """The registered machine at creation; the plan is invalid for any other object."""

    @property
    def weight(self) -> int:
        """Size in rows, for the limit of the cache."""
        plan, layout, topology = self.window_plan, self.layout, self.topology
        names = len(plan.sensors) + len(plan.unknown) + len(plan.idle)
        graph = len(topology.components) + len(topology.edges) // 8
        return 8 + (names + 1) // 2 + graph + (len(layout.rows) + layout.size if layout is not None else 0)


class RequestPlanCache:
    """LRU cache of request plans. Thread-safe."""

    def __init__(self, max_rows: int = MAX_ROWS, max_plans: int = MAX_PLANS) -> None:
        self._plans: OrderedDict[Hashable, RequestPlan] = OrderedDict()
        self._lock = threading.Lock()
        self._rows = 0
        self._max_rows, self._max_plans = max_rows, max_plans

    def __len__(self) -> int:
        return len(self._plans)

    def find(self, key: Hashable, equipment: Any, make: Callable[[], RequestPlan]) -> RequestPlan:
        """The plan of a key, created if it is missing or belongs to another equipment object."""
        with self._lock:
            plan = self._plans.get(key)
            if plan is not None and plan.equipment is equipment:
                self._plans.move_to_end(key)
                return plan
        plan = make()
        with self._lock:
            self._drop(key)
            self._plans[key] = plan
            self._rows += plan.weight
            while len(self._plans) > 1 and (self._rows > self._max_rows or len(self._plans) > self._max_plans):
                self._drop(next(iter(self._plans)))
        return plan

    def _drop(self, key: Hashable) -> None:
        old = self._plans.pop(key, None)
        if old is not None:
            self._rows -= old.weight
