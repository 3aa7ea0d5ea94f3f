"""Figures of several server processes as one: each writes its own into a shared directory and reads the others."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import orjson

Figures: TypeAlias = dict[str, Any]

SHARE_EVERY_S = 0.5


class WorkerGroup:
    """The figures of all processes of a server, one file each. A file outlives its process: counters never fall."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._own = directory / f"{os.getpid()}.json"
        self._lock = threading.Lock()

    async def share(self, figures: Callable[[], Figures]) -> None:
        """Write the figures of this process periodically; ends when cancelled, and writes a last time."""
        try:
            while True:
                await asyncio.to_thread(self.publish, figures)
                await asyncio.sleep(SHARE_EVERY_S)
        finally:
            self.publish(figures)

    def publish(self, figures: Callable[[], Figures]) -> None:
        """Write the figures of this process now."""
        with self._lock:
            self._write(figures())

    def all(self, figures: Callable[[], Figures]) -> list[Figures]:
        """The figures of every process, this one's first and just written: a later sum is never below this one."""
        with self._lock:
            return [self._write(figures()), *self.others()]

    def _write(self, figures: Figures) -> Figures:
        """Write to a temporary file and rename it, so that no reader sees half a file."""
        temporary = self._own.with_suffix(".new")
        with contextlib.suppress(OSError):  # the supervisor has ended and removed the directory
            temporary.write_bytes(orjson.dumps(figures))
            temporary.rename(self._own)
        return figures

    def behind(self, revision: int) -> list[int]:
        """The ids of the other live processes that have not yet applied the commands of this revision."""
        late = []
        for file in self.directory.glob("*.json"):
            with contextlib.suppress(OSError, ValueError):
                figures = orjson.loads(file.read_bytes())
                if file != self._own and _is_alive(int(file.stem)) and figures.get("orders", 0) < revision:
                    late.append(int(file.stem))
        return late

    def others(self) -> list[dict[str, Any]]:
        """The latest figures of the other processes; of an ended one only its counters."""
        found = []
        for file in sorted(self.directory.glob("*.json")):
            if file == self._own:
                continue
            with contextlib.suppress(OSError, ValueError):
                figures = orjson.loads(file.read_bytes())
                found.append(figures if _is_alive(int(file.stem)) else _counts_only(figures))
        return found


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _counts_only(figures: dict[str, Any]) -> dict[str, Any]:
    figures["metrics"] |= {"queue_depth": 0, "inflight": 0, "info": []}
    figures["stats"] |= {"queue_size": 0, "processing": 0}
    for cache in filter(None, (figures["stats"].get("cache"), figures["metrics"].get("cache"))):
        cache |= {"entries": 0, "bytes": 0}
    for model in figures["stats"]["models"].values():
        model["throughput"] = 0.0
    return figures


def merge_stats(all_stats: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The figures of `/stats`, merged over several processes; the first is the process that answers.

    Counts and throughput are sums. Latencies of a model are averages weighted by throughput: the processes share a
    port, so each sees the same kind of requests.
    """
    merged = dict(all_stats[0])
    for name in ("queue_size", "processing"):
        merged[name] = sum(stats[name] for stats in all_stats)
    caches = [stats["cache"] for stats in all_stats if stats.get("cache")]
    merged["cache"] = {name: sum(cache[name] for cache in caches) for name in caches[0]} if caches else None
    keys = dict.fromkeys(key for stats in all_stats for key in stats["models"])
    merged["models"] = {key: _merge_model([s["models"][key] for s in all_stats if key in s["models"]]) for key in keys}
    return merged


def _merge_model(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    requests, errors = sum(part["requests"] for part in parts), sum(part["errors"] for part in parts)
    return {
        "requests": requests,
        "errors": errors,
        "error_rate": errors / requests if requests else 0.0,
        "outcomes": _add(part["outcomes"] for part in parts),
        **{name: _weighted(parts, name) for name in ("avg_ms", "p50_ms", "p95_ms", "p99_ms")},
        "throughput": sum(part["throughput"] for part in parts),
        "batch_size_histogram": _add(part["batch_size_histogram"] for part in parts),
        "uptime_s": max(part["uptime_s"] for part in parts),
    }


def _add(counts: Any) -> dict[str, int]:
    total: Counter[str] = Counter()
    for count in counts:
        total.update(count)
    return dict(sorted(total.items(), key=lambda item: (len(item[0]), item[0])))


def _weighted(parts: Sequence[Mapping[str, Any]], name: str) -> float | None:
    known = [(part[name], part["throughput"]) for part in parts if part[name] is not None]
    weight = sum(w for _, w in known)
    return sum(value * w for value, w in known) / weight if weight else None
