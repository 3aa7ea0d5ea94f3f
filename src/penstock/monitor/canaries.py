"""The canaries of routes, in `/metrics`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

STATES = ("preparing", "running", "paused", "baking", "rolled_back")


class CanaryFamilies:
    """Canaries as the processes of a server know them: for each route, versions and their states."""

    def __init__(self, everyone: Iterable[Mapping[str, Sequence[Sequence[str]]]]) -> None:
        self._known = {
            (name, version, state) for one in everyone for name, found in one.items() for version, state in found
        }

    def collect(self) -> Iterator[Any]:
        """The metric families."""
        from prometheus_client.core import GaugeMetricFamily

        text = "1 for the state of a canary; rolled_back for an hour, of those that no person has rolled back."
        family = GaugeMetricFamily("penstock_canary", text, labels=("model", "version", "state"))
        for name, version in sorted({known[:2] for known in self._known}):
            for state in STATES:
                family.add_metric((name, version, state), float((name, version, state) in self._known))
        yield family
