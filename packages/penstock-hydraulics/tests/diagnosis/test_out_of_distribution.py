from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from penstock_hydraulics.diagnosis.out_of_distribution import (
    MAX_FAR_SHARE,
    out_of_distribution_advisory,
    usual_far_share,
)
from penstock_hydraulics.machine.templates import TEMPLATES
from penstock_hydraulics.signals.features import Layout, Scale, Scales, encode

RIG = TEMPLATES["zema_rig"]
ROWS = tuple(place for name in RIG.expected_sensors if (place := RIG.sensor(name)) is not None)
SHIPPED = Path(__file__).parents[2] / "src/penstock_hydraulics/artifacts/hydraulics/v1.0/manifest.json"


@pytest.fixture(scope="module")
def cycles() -> np.ndarray:
    """[40, rows, 60] cycles with an individual course for each sensor, and noise."""
    random = np.random.default_rng(3)
    course = 100 + 50 * (random.random((len(ROWS), 60)) > 0.5).astype(np.float32)
    return (course + random.normal(0, 0.5, (40, len(ROWS), 60))).astype(np.float32)


@pytest.fixture(scope="module")
def layout(cycles: np.ndarray) -> Layout:
    table = {
        f"{RIG.components[node].id}.{channel}": Scale.of(cycles[:30, row]) for row, (node, channel) in enumerate(ROWS)
    }
    return Layout.make(RIG, ROWS, Scales({"zema_rig": table}, {}))


def warning_of(window: np.ndarray, layout: Layout) -> str | None:
    return out_of_distribution_advisory(encode(window, layout)["statistics"], layout, RIG)


def test_a_usual_cycle_gives_no_warning(cycles: np.ndarray, layout: Layout) -> None:
    assert [warning_of(window, layout) for window in cycles[30:]] == [None] * 10


def test_a_cycle_that_starts_late_gives_a_warning_with_checks(cycles: np.ndarray, layout: Layout) -> None:
    warning = warning_of(np.roll(cycles[35], -2, axis=1), layout)
    assert warning is not None
    assert "check units and sensor positions, and that the window starts with the work cycle" in warning


def test_the_most_unusual_sensors_are_named_first(cycles: np.ndarray, layout: Layout) -> None:
    window = cycles[35].copy()
    node, channel = ROWS[4]
    window[4] *= 14.5  # psi for bar
    window[5] *= 1.1
    warning = warning_of(window, layout)
    assert warning is not None
    assert f"most of all {channel}_{RIG.components[node].id}," in warning


def test_the_limit_is_higher_with_few_rows() -> None:
    shares = [usual_far_share(rows) for rows in (1, 2, 3, 5, 8, 12, 18, 40)]
    assert shares == sorted(shares, reverse=True)
    assert shares[-2:] == [MAX_FAR_SHARE, MAX_FAR_SHARE]
    assert shares[0] < 0.5


# With the recordings

recorded = pytest.mark.skipif(
    "PENSTOCK_HYDRAULICS_DATA" not in os.environ, reason="PENSTOCK_HYDRAULICS_DATA names no recordings"
)


@recorded
def test_no_recorded_cycle_gives_a_warning_and_nearly_all_do_when_shifted_by_a_second() -> None:
    from penstock_hydraulics.learning.data.recordings import ROWS as RECORDED
    from penstock_hydraulics.learning.data.recordings import load

    scales = Scales.from_mapping(json.loads(SHIPPED.read_text())["task"]["config"]["scales"])
    layout = Layout.make(RIG, RECORDED, scales)
    readings = load(Path(os.environ["PENSTOCK_HYDRAULICS_DATA"])).readings[::7]
    assert not any(warning_of(window, layout) for window in readings)
    late = [warning_of(np.roll(window, -1, axis=1), layout) is not None for window in readings]
    assert np.mean(late) > 0.98


@recorded
def test_recorded_cycles_in_the_form_of_requests_give_no_warning_about_their_readings() -> None:
    import recorded as requests
    from hydraulic_models import SIGNATURE

    from penstock_hydraulics.diagnosis.schemas import PredictionRequest
    from penstock_hydraulics.task import HydraulicDiagnostics

    task = HydraulicDiagnostics(json.loads(SHIPPED.read_text())["task"]["config"], SIGNATURE)
    warnings = []
    for cycle in range(0, 1905, 15):
        data, rates = requests.readings_of(cycle)
        request = PredictionRequest(equipment_id="a", sensor_data=data, sampling_rate_hz=rates, topology="zema_rig")
        task.preprocess(request)
        warnings += request.take().warnings
    assert warnings == [], "the accumulator's pressure is 0 in more than half of them"
