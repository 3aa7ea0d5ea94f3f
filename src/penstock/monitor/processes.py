"""Memory, CPU, open files, garbage collections and errors of all processes of a server, as sums on one page."""

from __future__ import annotations

import gc
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

Counts: TypeAlias = Mapping[str, Any]

_SUMMED = ("process_virtual_memory_bytes", "process_resident_memory_bytes", "process_open_fds", "process_max_fds")
_COLLECTIONS = {
    "collected": ("python_gc_objects_collected", "Objects that were collected."),
    "uncollectable": ("python_gc_objects_uncollectable", "Objects that were found to be uncollectable."),
    "collections": ("python_gc_collections", "Collections of this generation."),
}


def process_counts(errors: Mapping[str, int]) -> dict[str, Any]:
    """What this process has used so far, cheap enough to be taken twice a second, and its replies with an error.

    `errors` counts them by status and kind, such as `429 overloaded`.

    A page is made from the counts that each process has written itself, so that no counter falls when one ends.
    """
    times = os.times()
    return {"pid": os.getpid(), "cpu_s": times.user + times.system, "gc": gc.get_stats(), "errors": {**errors}}


def counts_of_ended(counts: Counts) -> dict[str, Any]:
    """What remains of a process that has ended."""
    return {**counts, "pid": None}


class Processes:
    """A collector for prometheus_client: the figures that its clients have of one process, summed over several."""

    def __init__(self, everyone: Sequence[Counts]) -> None:
        self._everyone = everyone

    def collect(self) -> Iterator[Any]:
        """The metric families."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        pids = [counts["pid"] for counts in self._everyone if counts["pid"] is not None]
        yield GaugeMetricFamily(
            "penstock_processes", "Server processes that this page has the figures of.", value=len(pids)
        )
        cpu_s = sum(counts["cpu_s"] for counts in self._everyone)
        yield CounterMetricFamily("process_cpu_seconds", "User and system CPU time of all processes.", value=cpu_s)
        yield from _gauges(pids)
        for key, (name, text) in _COLLECTIONS.items():
            family = CounterMetricFamily(name, text, labels=["generation"])
            for generation in range(3):
                total = sum(counts["gc"][generation][key] for counts in self._everyone)
                family.add_metric([str(generation)], total)
            yield family
        yield self._errors()

    def _errors(self) -> Any:
        from prometheus_client.core import CounterMetricFamily

        total = Counter[str]()
        for counts in self._everyone:
            total.update(counts.get("errors", {}))
        text = "Replies with an error, by the status and the kind that the problem document names."
        family = CounterMetricFamily("penstock_http_errors", text, labels=["status", "kind"])
        for error, count in sorted(total.items()):
            family.add_metric(error.split(" ", 1), count)
        return family


def _gauges(pids: Sequence[int]) -> Iterator[Any]:
    """The gauges of the processes that run: sums, and the start of the oldest."""
    from prometheus_client.core import GaugeMetricFamily
    from prometheus_client.process_collector import ProcessCollector

    values: dict[str, list[float]] = {}
    for pid in pids:
        for family in ProcessCollector(pid=lambda pid=pid: pid, registry=None).collect():  # type: ignore[misc]
            values.setdefault(family.name, []).append(family.samples[0].value)
    for name in _SUMMED:
        if name in values:
            text = f"{name.removeprefix('process_').replace('_', ' ').capitalize()}, all processes together."
            yield GaugeMetricFamily(name, text, value=sum(values[name]))
    if started := values.get("process_start_time_seconds"):
        text = "Start of the oldest process, in seconds since 1970."
        yield GaugeMetricFamily("process_start_time_seconds", text, value=min(started))
