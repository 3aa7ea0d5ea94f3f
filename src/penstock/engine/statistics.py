"""Rolling statistics of the last requests, as `/stats` and `engine.get_stats()` show them."""

from __future__ import annotations

import time
from collections import Counter, deque
from typing import Any

import numpy as np

from penstock.engine.observation import Observation

WINDOW_S = 60.0
WINDOW_REQUESTS = 10_000
_SERVER_FAULTS = ("error", "deadline", "overloaded", "not_ready", "load_error")


class ModelStats:
    """One model version: counts since the start, latencies over the last minute (at most 10,000 requests)."""

    def __init__(self) -> None:
        self.outcomes: Counter[str] = Counter()
        self.batches: Counter[int] = Counter()
        self.started = time.monotonic()
        self._recent: deque[tuple[float, float]] = deque(maxlen=WINDOW_REQUESTS)

    def add(self, observation: Observation) -> None:
        """Count one request."""
        self.outcomes[observation.outcome] += 1
        if observation.outcome == "ok":
            self.batches[observation.batch_rows] += 1
            self._recent.append((time.monotonic(), observation.total_ms))

    def to_json(self) -> dict[str, Any]:
        """The figures; latencies in milliseconds (None before the first answer), throughput in requests a second.

        `errors` are faults of the server (failed, late, refused); a caller's bad input counts under `outcomes` only.
        """
        now = time.monotonic()
        recent = [(at, ms) for at, ms in list(self._recent) if now - at <= WINDOW_S]
        total = self.outcomes.total()
        errors = sum(self.outcomes[word] for word in _SERVER_FAULTS)
        span = now - recent[0][0] if len(recent) == WINDOW_REQUESTS else min(WINDOW_S, now - self.started)
        return {
            "requests": total,
            "errors": errors,
            "error_rate": errors / total if total else 0.0,
            "outcomes": dict(self.outcomes),
            **_latencies(np.array([ms for _, ms in recent])),
            "throughput": len(recent) / max(span, 1e-9),
            "batch_size_histogram": {str(size): count for size, count in sorted(self.batches.items())},
            "uptime_s": now - self.started,
        }


def _latencies(ms: np.ndarray[Any, Any]) -> dict[str, float | None]:
    if not ms.size:
        return {"avg_ms": None, "p50_ms": None, "p95_ms": None, "p99_ms": None}
    p50, p95, p99 = (float(p) for p in np.percentile(ms, (50, 95, 99)))
    return {"avg_ms": float(ms.mean()), "p50_ms": p50, "p95_ms": p95, "p99_ms": p99}
