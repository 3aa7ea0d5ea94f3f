"""What requests of one form have in common: worked out once, then kept."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, Final

from penstock_hydraulics.diagnosis.anomalies import AnomalyDetector
from penstock_hydraulics.diagnosis.health import ComponentAssessor
from penstock_hydraulics.machine.topology import Topology
from penstock_hydraulics.signals.features import Float, Layout
from penstock_hydraulics.signals.windows import WindowPlan

MAX_ROWS: Final = 40_000
"""The rows of all layouts that are kept; each holds under 800 bytes: 32 MB at most, whatever topologies are sent."""
MAX_PLANS: Final = 2048


@dataclass(frozen=True, slots=True, eq=False)
class RequestPlan:
    """A topology, the sensors that send, their lengths and rates, and the machine's expectations."""

    topology: Topology
    window_plan: WindowPlan
    layout: Layout | None
    """None where the model is not asked."""
    shown: list[int]
    """The rows of the window that the model is shown."""
    usual: Float | None
    """[rows, STEPS] the course of a sound cycle, with which a short window goes on; None where it is not known."""
    share: float
    """The coverage of the whole answer."""
    components: ComponentAssessor
    anomalies: AnomalyDetector
    warnings: tuple[str, ...]
    equipment: Any
    """What was registered when it was made; another one makes another case."""

    @property
    def weight(self) -> int:
        """In rows."""
        plan, layout, topology = self.window_plan, self.layout, self.topology
        names = len(plan.sensors) + len(plan.unknown) + len(plan.idle)
        graph = len(topology.components) + len(topology.edges) // 8
        return 8 + (names + 1) // 2 + graph + (len(layout.rows) + layout.size if layout is not None else 0)


class RequestPlanCache:
    """The most recently used cases. Thread-safe."""

    def __init__(self, max_rows: int = MAX_ROWS, max_plans: int = MAX_PLANS) -> None:
        self._plans: OrderedDict[Hashable, RequestPlan] = OrderedDict()
        self._lock = threading.Lock()
        self._rows = 0
        self._max_rows, self._max_plans = max_rows, max_plans

    def __len__(self) -> int:
        return len(self._plans)

    def find(self, key: Hashable, equipment: Any, make: Callable[[], RequestPlan]) -> RequestPlan:
        """The case for a key, made now unless it is known for this very equipment."""
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
