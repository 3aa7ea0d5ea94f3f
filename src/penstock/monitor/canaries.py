"""The canaries of routes, in `/metrics`."""

from __future__ import annotations

from collections import Counter
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


class StandingFamilies:
    """Processes in which canaries cannot go on, and those that keep requests from one."""

    def __init__(self, everyone: Iterable[Mapping[str, Any]]) -> None:
        """`everyone` has, of each process, whether its canaries are `frozen`, and the `braked` ones by reference."""
        self._everyone = list(everyone)

    def collect(self) -> Iterator[Any]:
        """The metric families."""
        from prometheus_client.core import GaugeMetricFamily

        text = "Processes whose canaries stay as they are, since the registry's database cannot be used."
        frozen = sum(bool(figures.get("frozen")) for figures in self._everyone)
        yield GaugeMetricFamily("penstock_canaries_frozen", text, value=frozen)
        text = "Processes that send nothing to a canary, which broke its error limit while the database was away."
        braked = GaugeMetricFamily("penstock_canary_braked", text, labels=("model", "version"))
        counts = Counter(ref for figures in self._everyone for ref in figures.get("braked", ()))
        for ref, count in sorted(counts.items()):
            name, _, version = ref.partition(":")
            braked.add_metric((name, version), count)
        yield braked
