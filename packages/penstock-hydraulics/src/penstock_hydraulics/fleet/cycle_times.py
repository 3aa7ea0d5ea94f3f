"""Times of windows without a timestamp, from their order: one work cycle after the window before."""

from __future__ import annotations

import threading


class CycleTimes:
    """The latest time of a window by machine and model, since every model answers in its own order. Thread-safe."""

    def __init__(self) -> None:
        self._latest: dict[tuple[str, str], float] = {}
        self._lock = threading.Lock()

    def next(self, equipment_id: str, model: str, cycle_s: float, now_s: float) -> float:
        """The time of the next window: one cycle after the latest, or now if that is later, after a pause."""
        key = (equipment_id, model)
        with self._lock:
            at_s = self._latest[key] = max(self._latest.get(key, now_s - cycle_s) + cycle_s, now_s)
        return at_s

    def seen(self, equipment_id: str, model: str, at_s: float) -> None:
        """A window of a known time, here or in another process; earlier ones change nothing."""
        key = (equipment_id, model)
        with self._lock:
            self._latest[key] = max(self._latest.get(key, at_s), at_s)

    def forget(self, equipment_id: str) -> None:
        """Drop the times of a machine."""
        with self._lock:
            for key in [key for key in self._latest if key[0] == equipment_id]:
                del self._latest[key]
