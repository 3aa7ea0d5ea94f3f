"""Counts of predictions: what they hold, how they merge, and how the pages show them."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import CollectorRegistry

from penstock.monitor.predictions.counts import MOST_CLASSES, VALUES, PredictionCounts, merge, read_classes
from penstock.monitor.predictions.pages import MOST_SERIES, PredictionFamilies, to_stats
from penstock.tasks.classification import ClassScores
from penstock.tensors import Signature, TensorSpec


def scores_of(classes: int, labels: tuple[str, ...] | None = None) -> ClassScores:
    signature = Signature((TensorSpec("x", "FP32", (-1, 2)),), (TensorSpec("logits", "FP32", (-1, classes)),))
    return ClassScores(signature, "logits", labels, "x")


def counted(scores: ClassScores, *batches: np.ndarray) -> PredictionCounts:
    counts = PredictionCounts()
    for rows in batches:
        counts.add_classes(*read_classes(scores, rows), scores)
    return counts


def named(counts: PredictionCounts) -> dict:
    return {"model": "m", "version": "v1.0", **json.loads(json.dumps(counts.snapshot()))}


def page(models: list[dict]) -> dict[tuple[str, str], float]:
    """Value by name of the sample and its last label."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(PredictionFamilies(models, 0))
    text = generate_latest(registry).decode()
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = {name: value for name, value in sorted(sample.labels.items()) if name not in ("model", "version")}
            key = (sample.name, ",".join(labels.values()))
            assert key not in found, f"{key} is there twice"
            found[key] = sample.value
    return found


ROWS = st.lists(st.lists(st.floats(-20, 20, width=32), min_size=4, max_size=4), min_size=1, max_size=20)


@given(st.lists(ROWS, min_size=1, max_size=4), st.integers(1, 3))
def test_counts_of_several_processes_merge_into_those_of_one(batches: list, processes: int) -> None:
    scores = scores_of(4, ("a", "b", "c", "d"))
    arrays = [np.array(rows, np.float32) for rows in batches]
    apart = [named(counted(scores, *arrays[n::processes])) for n in range(processes)]
    together = named(counted(scores, *arrays))
    (merged,) = merge(apart)
    assert merged.pop("confidence_sum") == pytest.approx(together.pop("confidence_sum"), rel=1e-5)
    assert merged == together


@given(st.lists(st.floats(allow_nan=True, allow_infinity=True), min_size=1, max_size=50), st.integers(1, 3))
def test_numbers_of_several_processes_merge_and_none_is_lost(values: list[float], processes: int) -> None:
    parts = [np.array(values[n::processes], np.float64) for n in range(processes)]
    snapshots = []
    for part in parts:
        counts = PredictionCounts()
        counts.add_outputs({"y": part}, len(part))
        snapshots.append(named(counts))
    (merged,) = merge(snapshots)
    found = merged["outputs"]["y"]
    finite = [value for value in values if np.isfinite(value)]
    assert (found["count"], found["not_finite"]) == (len(finite), len(values) - len(finite))
    for place, count in found["histogram"].items():
        low = VALUES[int(place) - 1] if int(place) else -np.inf
        high = VALUES[int(place)] if int(place) < len(VALUES) else np.inf
        assert count == sum(low < value <= high for value in finite)


def test_a_histogram_has_the_powers_of_ten_among_its_bounds() -> None:
    counts = PredictionCounts()
    counts.add_outputs({"price": np.array([-5.0, 0.0, 0.001, 1.0, 1000.0, 1000.1, 5e9])}, 7)
    found = page([named(counts)])
    bounds = ("-1.0", "0.0", "1.0", "1000.0", "+Inf")
    assert [found["penstock_prediction_value_bucket", f"{bound},price"] for bound in bounds] == [1, 2, 4, 5, 7]
    assert found["penstock_prediction_sum", "price"] == pytest.approx(5e9 + 1996.101)


def test_percentiles_are_within_six_percent() -> None:
    values = np.random.default_rng(0).lognormal(3, 1, 100_000)
    counts = PredictionCounts()
    counts.add_outputs({"y": values}, len(values))
    shown = to_stats([named(counts)])["m:v1.0"]["outputs"]["y"]
    for percent in (5, 50, 95):
        assert shown[f"p{percent}"] == pytest.approx(np.percentile(values, percent), rel=0.065)
    assert shown["mean"] == pytest.approx(values.mean())
    assert shown["sd"] == pytest.approx(values.std(), rel=1e-6)


def test_confidence_is_the_probability_that_the_task_answers() -> None:
    scores = scores_of(3)
    rows = np.random.default_rng(0).standard_normal((500, 3)).astype(np.float32) * 4
    winners, confidences = read_classes(scores, rows)
    best, expected = scores.best({"logits": rows})
    assert winners.tolist() == best
    np.testing.assert_allclose(confidences, expected, rtol=1e-5)


def test_a_row_that_is_not_finite_has_no_class() -> None:
    rows = np.array([[1, 2], [np.nan, 0], [np.inf, 0], [-np.inf, 1]], np.float32)
    found = named(counted(scores_of(2, ("no", "yes")), rows))
    assert found["not_finite"] == 2
    assert found["classes"] == [[1, "yes", 2]]
    assert sum(found["confidence"]) == 2


def test_ten_thousand_classes_have_a_bounded_page_of_which_no_series_ends() -> None:
    scores = scores_of(10_000)
    eye = np.eye(10_000, dtype=np.float32)
    early = [named(counted(scores, eye[5_000:]))]
    late = [named(counted(scores, eye[5_000:], eye[:5_000]))]
    before, after = page(early), page(late)
    assert {key: value for key, value in before.items() if after[key] < value} == {}
    series = [label for name, label in after if name == "penstock_predictions_total"]
    assert len(series) == MOST_SERIES + 1
    assert after["penstock_predictions_total", "other"] == 10_000 - MOST_SERIES
    assert len(late[0]["classes"]) == MOST_CLASSES + 1
    shown = to_stats(late)["m:v1.0"]["classes"]
    assert len(shown) <= 21
    assert sum(shown.values()) == 10_000


def test_labels_with_odd_characters_give_a_page_that_prometheus_reads() -> None:
    labels = ('say "no"', "two\nlines", "back\\slash", "\ud800 alone", "", "same", "same", "ü" * 300, "\x00", "other")
    found = page([named(counted(scores_of(10, labels), np.eye(10, dtype=np.float32)))])
    by_label = {label: value for (name, label), value in found.items() if name == "penstock_predictions_total"}
    assert sum(by_label.values()) == 10
    assert by_label["same"] == 2
    assert by_label["4"] == 1, "an empty label is none: Prometheus drops it"
    assert max(map(len, by_label)) <= 100


def test_more_outputs_than_are_counted_and_huge_numbers_do_no_harm() -> None:
    counts = PredictionCounts()
    with np.errstate(over="raise"):
        for _ in range(3):
            counts.add_outputs({f"y{n}": np.full((2, 3), 1.7e308) for n in range(40)}, 2)
    found = named(counts)
    assert len(found["outputs"]) == 16
    assert page([found])["penstock_prediction_value_bucket", "+Inf,y0"] == 18
