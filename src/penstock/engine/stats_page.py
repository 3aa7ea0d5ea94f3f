"""The statistics of models as `/stats` shows them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from penstock.engine.statistics import SLICE_S, SLICES, STEPS

_SERVER_FAULTS = ("error", "deadline", "overloaded", "not_ready", "load_error")


def to_stats(snapshot: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The figures of each model as `/stats` shows them, by `name:version`; refusals that met no model are left out."""
    return {
        f"{figures['model']}:{figures['version']}": _model_stats(figures, snapshot["at"])
        for figures in snapshot["models"]
        if figures["model"]
    }


def _model_stats(figures: Mapping[str, Any], now: float) -> dict[str, Any]:
    """Latencies in milliseconds, None before the first answer; throughput in requests a second.

    `errors` are faults of the server (failed, late, refused); a caller's bad input counts under `outcomes` only.
    """
    outcomes = figures["outcomes"]
    total = sum(outcomes.values())
    errors = sum(outcomes.get(word, 0) for word in _SERVER_FAULTS)
    return {
        "requests": total,
        "errors": errors,
        "error_rate": errors / total if total else 0.0,
        "outcomes": dict(outcomes),
        **_last_minute(figures, now),
        "batch_size_histogram": dict(sorted(figures["batches"].items(), key=lambda item: int(item[0]))),
        "uptime_s": now - figures["started"],
    }


def _last_minute(figures: Mapping[str, Any], now: float) -> dict[str, float | None]:
    oldest = int(now / SLICE_S) - SLICES + 1
    parts = [part for index, part in figures["recent"].items() if int(index) >= oldest]
    count = sum(part["count"] for part in parts)
    span = min(now - figures["started"], now - oldest * SLICE_S)
    buckets: Counter[int] = Counter()
    for part in parts:
        buckets.update({int(bucket): number for bucket, number in part["buckets"].items()})
    return {
        "avg_ms": sum(part["sum_ms"] for part in parts) / count if count else None,
        **{f"p{percent}_ms": _percentile(buckets, count, percent) for percent in (50, 95, 99)},
        "throughput": count / max(span, 1e-9),
    }


def _percentile(buckets: Mapping[int, int], count: int, percent: int) -> float | None:
    """The middle of the bucket that holds it."""
    left = count * percent / 100
    for bucket in sorted(buckets):
        left -= buckets[bucket]
        if left <= 0:
            return float((2 ** ((bucket + 0.5) / STEPS) - 1) / 1000)
    return None
