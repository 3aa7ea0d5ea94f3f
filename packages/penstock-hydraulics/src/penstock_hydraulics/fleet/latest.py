"""The latest diagnosis of each machine in full, with its window: what the page shows.

The table is derived from answers and made where it is missing, so it has no migrations.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import orjson
from numpy.typing import NDArray

from penstock.errors import PenstockError

if TYPE_CHECKING:
    from penstock import Registry
    from penstock_hydraulics.diagnosis.schemas import PredictionResponse

MAX_WAITING: Final = 2_000
"""Machines whose latest diagnosis waits to be written; beyond it, the one that waits longest is left out."""
WRITTEN_AT_ONCE: Final = 50
"""In one cycle of the thread of the fleet, each takes about 0.2 ms."""


class Consent:
    """Whether readings may be kept: by the setting, and by the manifest of each model, which wins."""

    def __init__(self, registry: Registry, keep: bool) -> None:
        self._registry, self._keep = registry, keep
        self._known: dict[str, bool] = {}

    def __call__(self, model: str) -> bool:
        """For `name:version`; not while its manifest cannot be read."""
        if not self._keep:
            return False
        found = self._known.get(model)
        if found is None:
            try:
                found = self._known[model] = self._registry.get(model).manifest.log_inputs is not False
            except PenstockError:
                return False
        return found


class Diagnosed(NamedTuple):
    """An answer with its time in seconds since 1970, and the readings [sensors, seconds] that it rests on."""

    at_s: float
    answer: PredictionResponse
    sensors: Sequence[str]
    readings: NDArray[np.float32]
    model: str

    def row(self, consent: Callable[[str], bool]) -> dict[str, Any]:
        """As it is stored."""
        sensors = self.sensors if consent(self.model) else ()
        rounded = self.readings[: len(sensors)].astype(np.float64).round(3).tolist()
        return {
            "equipment_id": self.answer.equipment_id,
            "at": self.at_s,
            "status": self.answer.health.status,
            "answer": self.answer.model_dump_json(),
            "readings": orjson.dumps(dict(zip(sensors, rounded, strict=True))).decode(),
        }


class MachineState(NamedTuple):
    """A machine with its latest answer as JSON values; both None where nothing was diagnosed yet."""

    equipment_id: str
    at_s: float | None
    answer: Mapping[str, Any] | None


class LatestDiagnosis(NamedTuple):
    """The latest answer of a machine, and its readings by sensor, one a second."""

    at_s: float
    answer: Mapping[str, Any]
    readings: Mapping[str, Sequence[float]]


class LatestQueue:
    """Latest diagnoses that wait to be written, one of each machine. Thread-safe."""

    def __init__(self, most: int = MAX_WAITING) -> None:
        self._waiting: dict[str, Diagnosed] = {}
        self._lock = threading.Lock()
        self._most = most

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, diagnosed: Diagnosed) -> None:
        """Replace an older diagnosis of the same machine."""
        equipment_id = diagnosed.answer.equipment_id
        with self._lock:
            known = self._waiting.get(equipment_id)
            if known is None or known.at_s <= diagnosed.at_s:
                self._waiting[equipment_id] = diagnosed
            if len(self._waiting) > self._most:
                del self._waiting[next(iter(self._waiting))]

    def some(self) -> list[Diagnosed]:
        """Those that wait longest."""
        with self._lock:
            return [diagnosed for _, diagnosed in zip(range(WRITTEN_AT_ONCE), self._waiting.values(), strict=False)]

    def written(self, several: Sequence[Diagnosed]) -> None:
        """Drop what was written, unless a newer one has taken its place."""
        with self._lock:
            for diagnosed in several:
                if self._waiting.get(diagnosed.answer.equipment_id) is diagnosed:
                    del self._waiting[diagnosed.answer.equipment_id]

    def forget(self, equipment_id: str) -> None:
        """Drop the diagnosis of a machine."""
        with self._lock:
            self._waiting.pop(equipment_id, None)
