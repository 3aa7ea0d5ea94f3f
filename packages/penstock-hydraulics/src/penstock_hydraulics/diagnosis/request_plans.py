"""What requests of one form have in common: worked out once, then kept."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, Final

from penstock_hydraulics.diagnosis.anomalies import AnomalyJudge
from penstock_hydraulics.diagnosis.health import ComponentJudge
from penstock_hydraulics.machine.topology import Topology
from penstock_hydraulics.signals.features import Float, Layout
from penstock_hydraulics.signals.windows import WindowPlan

MOST_ROWS: Final = 40_000
"""The rows of all layouts that are kept; each holds under 800 bytes: 32 MB at most, whatever topologies are sent."""
MOST_CASES: Final = 2048


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """A topology, the sensors that send, their lengths and rates, and the machine's expectations."""

    topology: Topology
    plan: WindowPlan
    layout: Layout | None
    """None where the model is not asked."""
    shown: list[int]
    """The rows of the window that the model is shown."""
    usual: Float | None
    """[rows, STEPS] the course of a sound cycle, with which a short window goes on; None where it is not known."""
    share: float
    """The coverage of the whole answer."""
    components: ComponentJudge
    anomalies: AnomalyJudge
    warnings: tuple[str, ...]
    equipment: Any
    """What was registered when it was made; another one makes another case."""

    @property
    def weight(self) -> int:
        """In rows."""
        plan, layout, topology = self.plan, self.layout, self.topology
        names = len(plan.sensors) + len(plan.unknown) + len(plan.idle)
        graph = len(topology.components) + len(topology.edges) // 8
        return 8 + (names + 1) // 2 + graph + (len(layout.rows) + layout.size if layout is not None else 0)


class Cases:
    """The most recently used cases. Thread-safe."""

    def __init__(self, most_rows: int = MOST_ROWS, most_cases: int = MOST_CASES) -> None:
        self._cases: OrderedDict[Hashable, Case] = OrderedDict()
        self._lock = threading.Lock()
        self._rows = 0
        self._most_rows, self._most_cases = most_rows, most_cases

    def __len__(self) -> int:
        return len(self._cases)

    def find(self, key: Hashable, equipment: Any, make: Callable[[], Case]) -> Case:
        """The case for a key, made now unless it is known for this very equipment."""
        with self._lock:
            case = self._cases.get(key)
            if case is not None and case.equipment is equipment:
                self._cases.move_to_end(key)
                return case
        case = make()
        with self._lock:
            self._drop(key)
            self._cases[key] = case
            self._rows += case.weight
            while len(self._cases) > 1 and (self._rows > self._most_rows or len(self._cases) > self._most_cases):
                self._drop(next(iter(self._cases)))
        return case

    def _drop(self, key: Hashable) -> None:
        old = self._cases.pop(key, None)
        if old is not None:
            self._rows -= old.weight
