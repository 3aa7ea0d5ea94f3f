"""What `/stats` and `/metrics` show of the predictions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import accumulate
from math import sqrt
from typing import Any

from penstock.monitor.predictions.counts import CONFIDENCES, OTHER, VALUES

MOST_SERIES = 100
"""Classes with a series of their own in `/metrics`: those with the lowest numbers, so that no series ever ends."""
MOST_SHOWN = 20
"""Classes that `/stats` shows: the most frequent."""
_A_DECADE = [place for place, bound in enumerate(VALUES) if bound == 0 or f"{abs(bound):e}".startswith("1.000000e")]
"""Bounds of the histogram in `/metrics`: powers of ten, and 0."""


def to_stats(models: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """The predictions of each model as `/stats` shows them, by `name:version`."""
    return {f"{one['model']}:{one['version']}": _model_stats(one) for one in models}


def _model_stats(one: Mapping[str, Any]) -> dict[str, Any]:
    shown: dict[str, Any] = {"rows": one["rows"]}
    if "classes" in one:
        shown |= _classes(one)
    if "outputs" in one:
        shown["outputs"] = {name: _output(counts) for name, counts in one["outputs"].items()}
    return shown


def _classes(one: Mapping[str, Any]) -> dict[str, Any]:
    counts: Counter[str] = Counter()
    for _, label, count in one["classes"]:
        counts[label] += count
    good = sum(counts.values())
    kept = dict(counts.most_common(MOST_SHOWN))
    rest = good - sum(kept.values())
    if rest:
        kept[OTHER] = kept.get(OTHER, 0) + rest
    names = ("0", *(f"{bound:g}" for bound in CONFIDENCES))
    parts = {f"{low}-{high}": count for low, high, count in zip(names, names[1:], one["confidence"], strict=False)}
    return {
        "classes": kept,
        "confidence": {"mean": one["confidence_sum"] / good if good else None, "histogram": parts},
        "not_finite": one["not_finite"],
    }


def _output(counts: Mapping[str, Any]) -> dict[str, Any]:
    """Mean, standard deviation and percentiles of the finite numbers; percentiles within 6 %."""
    count = counts["count"]
    mean = counts["sum"] / count if count else None
    spread = None if mean is None else sqrt(max(counts["squares"] / count - mean * mean, 0.0))
    histogram = {int(place): number for place, number in counts["histogram"].items()}
    percentiles = {f"p{percent}": _percentile(histogram, count, percent) for percent in (5, 50, 95)}
    return {"count": count, "not_finite": counts["not_finite"], "mean": mean, "sd": spread, **percentiles}


def _percentile(histogram: Mapping[int, int], count: int, percent: int) -> float | None:
    """The middle of the bucket that holds it."""
    left = count * percent / 100
    for place in sorted(histogram):
        left -= histogram[place]
        if left <= 0:
            low, high = VALUES[max(place - 1, 0)], VALUES[min(place, len(VALUES) - 1)]
            return (low + high) / 2
    return None


class PredictionFamilies:
    """Merged counts as prometheus_client's metric families."""

    def __init__(self, models: Iterable[Mapping[str, Any]], left_out: int) -> None:
        self._models = models
        self._left_out = left_out

    def collect(self) -> Iterator[Any]:
        """The metric families."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

        names = ("model", "version")
        classes = CounterMetricFamily(
            "penstock_predictions", "Rows by their likeliest class.", labels=(*names, "class")
        )
        confidence = HistogramMetricFamily(
            "penstock_prediction_confidence", "Probability of the likeliest class.", labels=names
        )
        values = HistogramMetricFamily(
            "penstock_prediction_value", "Numbers in the outputs of models without classes.", labels=(*names, "output")
        )
        sums = GaugeMetricFamily(  # a histogram with negative bounds has no sum of its own
            "penstock_prediction_sum", "Sum of the finite numbers of an output.", labels=(*names, "output")
        )
        faulty = CounterMetricFamily(
            "penstock_predictions_not_finite", "Rows, or numbers of an output, that are NaN or infinite.",
            labels=(*names, "output"),
        )  # fmt: skip
        for one in self._models:
            model = (one["model"], one["version"])
            if "classes" in one:
                for label, count in _series(one["classes"]):
                    classes.add_metric((*model, label), count)
                confidence.add_metric(model, _buckets(CONFIDENCES, one["confidence"]), one["confidence_sum"])
                faulty.add_metric((*model, ""), one["not_finite"])
            for name, counts in one.get("outputs", {}).items():
                values.add_metric((*model, name), _decades(counts), None)
                sums.add_metric((*model, name), counts["sum"])
                faulty.add_metric((*model, name), counts["not_finite"])
        yield from (classes, confidence, values, sums, faulty)
        yield CounterMetricFamily(
            "penstock_predictions_left_out",
            "Runs that were not counted, since too much waited.",
            value=self._left_out,
        )


def _series(classes: list[tuple[int, str, int]]) -> list[tuple[str, int]]:
    """Counts by label; classes of one name are one series."""
    counts: Counter[str] = Counter()
    for index, label, count in classes:
        counts[label if index < MOST_SERIES else OTHER] += count
    return sorted(counts.items())


def _buckets(bounds: tuple[float, ...], counts: list[int]) -> list[tuple[str, float]]:
    names = [*(str(float(bound)) for bound in bounds), "+Inf"]
    return list(zip(names, accumulate(counts), strict=True))


def _decades(counts: Mapping[str, Any]) -> list[tuple[str, float]]:
    """The cumulative counts at the powers of ten."""
    histogram = {int(place): number for place, number in counts["histogram"].items()}
    found = []
    for place in _A_DECADE:
        found.append((str(VALUES[place]), float(sum(n for at, n in histogram.items() if at <= place))))
    return [*found, ("+Inf", float(counts["count"]))]
