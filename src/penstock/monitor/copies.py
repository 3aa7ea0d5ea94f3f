"""What copies of requests have shown, in `/metrics`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


class CopyFamilies:
    """Copies by route, version and what they have shown."""

    def __init__(self, counts: Mapping[tuple[str, str], Mapping[str, int]]) -> None:
        self._counts = counts

    def collect(self) -> Iterator[Any]:
        """The metric families."""
        from prometheus_client.core import CounterMetricFamily

        text = "Copies of requests for shadow versions of routes, by what they have shown."
        family = CounterMetricFamily("penstock_copies", text, labels=("model", "version", "outcome"))
        for (name, version), counts in sorted(self._counts.items()):
            for outcome, count in counts.items():
                family.add_metric((name, version, outcome), count)
        yield family
