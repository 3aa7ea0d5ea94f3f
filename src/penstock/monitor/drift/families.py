"""What `/metrics` shows of drift: the last closed window of each loaded version."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

VERDICTS = ("ok", "warn", "alarm", "no_verdict")


class DriftFamilies:
    """A report as prometheus_client's metric families."""

    def __init__(self, report: Sequence[Mapping[str, Any]]) -> None:
        self._report = [one for one in report if one["loaded"]]

    def collect(self) -> Iterator[Any]:
        """The metric families."""
        from prometheus_client.core import GaugeMetricFamily

        names = ("model", "version")
        verdict = GaugeMetricFamily(
            "penstock_drift_verdict",
            "1 for the verdict on the last window, or alarm for bad values in the open one.",
            labels=(*names, "verdict"),
        )
        rows = GaugeMetricFamily("penstock_drift_rows", "Sampled rows of the last window.", labels=names)
        opened = GaugeMetricFamily("penstock_drift_open_rows", "Sampled rows of the window that is open.", labels=names)
        psi = GaugeMetricFamily(
            "penstock_drift_psi",
            "Distance from the reference in the last window, of the features that moved most.",
            labels=(*names, "feature"),
        )
        quality = GaugeMetricFamily(
            "penstock_drift_bad_values",
            "Share of bad values in the last window or the open one, where it is too large.",
            labels=(*names, "feature", "kind"),
        )
        for one in self._report:
            model = (one["model"], one["version"])
            *closed, current = one["windows"]
            last = closed[-1] if closed else current
            for word in VERDICTS:
                verdict.add_metric((*model, word), float(word == one["verdict"]))
            rows.add_metric(model, last["rows"] if closed else 0)
            opened.add_metric(model, current["rows"])
            for moved in last.get("moved", ()):
                psi.add_metric((*model, moved["feature"]), moved["psi"])
            bad = {
                (each["feature"], each["kind"]): each["rate"]
                for each in (*last["data_quality"], *current["data_quality"])
            }
            for (feature, kind), rate in bad.items():
                quality.add_metric((*model, feature, kind), rate)
        yield from (verdict, rows, opened, psi, quality)
