from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from rig import simulated_recordings

from penstock_hydraulics.diagnosis.odd_readings import odd_reading_warnings
from penstock_hydraulics.learning.data.recordings import RIG, ROWS, SENSORS, load
from penstock_hydraulics.learning.data.splits import run_grouped_folds
from penstock_hydraulics.learning.publishing.reference_ranges import reference_ranges
from penstock_hydraulics.signals.features import STEPS
from penstock_hydraulics.signals.reference import ReferenceCheck, ReferenceTable, row_name, sensor_of

SHIPPED = Path(__file__).parents[2] / "src/penstock_hydraulics/artifacts/hydraulics"
NAMES = [row_name(channel, RIG.components[node].id) for node, channel in ROWS]
PLACE = {name: row for row, name in enumerate(NAMES)}
Change = Callable[[np.ndarray], np.ndarray]


def rows(sensor: str) -> list[int]:
    return [row for row, name in enumerate(NAMES) if sensor_of(name) == sensor]


def changed(readings: np.ndarray, changes: Mapping[str, Change]) -> np.ndarray:
    """[cycles, rows, STEPS] with a change of every cycle of some sensors."""
    found = readings.copy()
    for sensor, change in changes.items():
        for row in rows(sensor):
            found[:, row] = np.stack([change(cycle.astype(np.float64)) for cycle in readings[:, row]])
    return found


def swapped(readings: np.ndarray, one: str, other: str) -> np.ndarray:
    found = readings.copy()
    found[:, rows(one) + rows(other)] = readings[:, rows(other) + rows(one)]
    return found


def upsampled(readings: np.ndarray, flow: str) -> np.ndarray:
    """A flow of 1 Hz that was repeated to 10 Hz."""
    found = readings.copy()
    found[:, rows(flow)] = readings[:, [PLACE[flow]]]
    return found


def warnings_of(readings: np.ndarray, check: ReferenceCheck) -> list[list[str]]:
    odd = check(readings)
    return [odd_reading_warnings(odd[each], cycle, check) if each in odd else [] for each, cycle in enumerate(readings)]


def seconds_of(values: np.ndarray, since: int) -> np.ndarray:
    return np.where(np.arange(STEPS) < since, values, values[since])


def steps_of(values: np.ndarray) -> np.ndarray:
    width = max(np.ptp(values), 1e-6) / 8
    return np.round(values / width) * width


# With simulated cycles


@pytest.fixture(scope="module")
def cycles() -> np.ndarray:
    return simulated_recordings(12, cycles=3).readings


@pytest.fixture(scope="module")
def check() -> ReferenceCheck:
    table = reference_ranges(simulated_recordings(12, cycles=3))["zema_rig"]
    return ReferenceCheck(ReferenceTable.model_validate(table), NAMES, STEPS, ())


def test_the_cycles_of_the_reference_are_usual(cycles: np.ndarray, check: ReferenceCheck) -> None:
    assert not any(warnings_of(cycles, check))
    assert not any(warnings_of(np.round(cycles, 4), check))


UNITS: dict[str, tuple[str, Change]] = {
    "kW": ("power_pump_main", lambda x: x / 1000),
    "psi": ("pressure_filter_main", lambda x: x * 14.5038),
    "MPa": ("pressure_pump_main", lambda x: x / 10),
    "°F": ("temperature_tank", lambda x: 1.8 * x + 32),
    "l/h": ("flow_circ_pump", lambda x: x * 60),
}


@pytest.mark.parametrize("unit", UNITS)
def test_another_unit_is_recognised(cycles: np.ndarray, check: ReferenceCheck, unit: str) -> None:
    sensor, change = UNITS[unit]
    for sentences in warnings_of(changed(cycles[:6], {sensor: change}), check):
        assert len(sentences) == 1
        assert sentences[0].startswith(f"out of distribution: {sensor} reads ")
        assert sentences[0].endswith(f"as if in {unit}: check its unit")


def test_a_unit_of_many_sensors_is_one_sentence(cycles: np.ndarray, check: ReferenceCheck) -> None:
    temperatures = [name for name in NAMES if name.startswith("temperature")]
    (sentences,) = warnings_of(changed(cycles[:1], dict.fromkeys(temperatures, lambda x: 1.8 * x + 32)), check)
    assert len(sentences) == 1
    assert sentences[0].endswith(" and 1 more read as if in °F: check their units")


def test_swapped_sensors_are_recognised(cycles: np.ndarray, check: ReferenceCheck) -> None:
    for one, other in (("pressure_pump_main", "pressure_valve_main"), ("flow_pump_main", "flow_circ_pump")):
        for sentences in warnings_of(swapped(cycles[:6], one, other), check):
            assert f"out of distribution: {one} and {other} read as if swapped: check their positions" in sentences


ODD: dict[str, tuple[str, Change, str]] = {
    "stuck": ("power_pump_main", lambda x: seconds_of(x, 20), "stands still at .* W for 40 s: it may be stuck"),
    "coarse": ("power_pump_main", steps_of, "has only . different values in 60 s: check its resolution and rounding"),
    "clipped": (
        "power_pump_main",
        lambda x: np.minimum(x, np.sort(x)[-20]),
        "stays at its highest reading, .* for 20 s",
    ),
    "rough": (
        "temperature_tank",
        lambda x: x + 0.5 * (-1.0) ** np.arange(STEPS) * np.random.default_rng(0).uniform(0.5, 1, STEPS),
        "is rougher than usual: check its wiring",
    ),
    "smooth": (
        "temperature_tank",
        lambda x: np.linspace(x.mean() - 1e-3, x.mean() + 1e-3, STEPS),
        "is smoother than usual: check that it was not filtered",
    ),
}


@pytest.mark.parametrize("kind", ODD)
def test_an_odd_texture_is_named(cycles: np.ndarray, check: ReferenceCheck, kind: str) -> None:
    sensor, change, sentence = ODD[kind]
    for sentences in warnings_of(changed(cycles[:6], {sensor: change}), check):
        own = [each for each in sentences if sensor in each]
        assert own, sentences
        assert any(re.search(f"out of distribution: {sensor} {sentence}", each) for each in own), own


def test_a_flow_of_1_hz_repeated_to_10_hz_is_named(cycles: np.ndarray, check: ReferenceCheck) -> None:
    for sentences in warnings_of(upsampled(cycles[:6], "flow_pump_main"), check):
        assert any(
            "flow_pump_main has extremes within a second that are closer than usual" in each for each in sentences
        ), sentences


def test_a_cycle_of_another_phase_or_direction_says_what_to_check(cycles: np.ndarray, check: ReferenceCheck) -> None:
    for moved in (np.roll(cycles[:3], 20, axis=2), cycles[:3, :, ::-1]):
        for sentences in warnings_of(np.ascontiguousarray(moved), check):
            assert any("check their units and positions, and that the window starts" in each for each in sentences)


def test_every_odd_window_has_a_sentence_unless_a_sensor_is_constant(cycles: np.ndarray, check: ReferenceCheck) -> None:
    random = np.random.default_rng(0)
    noisy = cycles + random.normal(0, 0.3, cycles.shape).astype(np.float32)
    assert all(warnings_of(noisy, check))
    constant = changed(cycles[:2], {"temperature_tank": lambda x: np.full(STEPS, x.mean())})
    assert len(check(constant)) == 2, "odd, and reported by the warning about constant sensors"


# With the recordings

recorded = pytest.mark.skipif(
    "PENSTOCK_HYDRAULICS_DATA" not in os.environ, reason="PENSTOCK_HYDRAULICS_DATA names no recordings"
)


@recorded
def test_held_out_cycles_are_usual_and_the_disturbed_ones_are_named() -> None:
    recordings = load(Path(os.environ["PENSTOCK_HYDRAULICS_DATA"]))
    alarms, missed = 0, dict[str, int]()
    disturbed: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "power_pump_main": lambda x: changed(x, {"power_pump_main": lambda x: x / 1000}),
        "temperature_tank": lambda x: changed(x, {"temperature_tank": lambda x: x + 15}),
        "pressure_valve_main": lambda x: swapped(x, "pressure_pump_main", "pressure_valve_main"),
        "flow_circ_pump": lambda x: upsampled(x, "flow_circ_pump"),
        "flow_pump_main": lambda x: upsampled(x, "flow_pump_main"),
        "pressure_pump_main": lambda x: changed(x, {"pressure_pump_main": lambda x: np.round(x)}),
    }
    for fold in run_grouped_folds(recordings.runs, 5):
        table = reference_ranges(recordings.take(fold.train))["zema_rig"]
        check = ReferenceCheck(ReferenceTable.model_validate(table), NAMES, STEPS, ())
        alarms += len(check(recordings.readings[fold.test]))
        some = recordings.readings[fold.test[::40]]
        for sensor, change in disturbed.items():
            found = warnings_of(np.ascontiguousarray(change(some)), check)
            missed[sensor] = missed.get(sensor, 0) + sum(sensor not in " ".join(each) for each in found)
    assert alarms <= 0.01 * len(recordings)
    assert missed == dict.fromkeys(disturbed, 0)


@recorded
def test_the_shipped_models_have_the_reference_of_the_recordings() -> None:
    expected = reference_ranges(load(Path(os.environ["PENSTOCK_HYDRAULICS_DATA"])))["zema_rig"]
    for manifest in sorted(SHIPPED.glob("*/manifest.json")):
        found = json.loads(manifest.read_text())["task"]["config"]["reference"]["zema_rig"]
        assert ReferenceTable.model_validate(found) == ReferenceTable.model_validate(expected), manifest.parent.name
    assert set(SENSORS.values()) == {sensor_of(name) for name in expected["rows"]}
    assert ReferenceTable.model_validate(expected).rests() == {"pressure_accumulator_main": (0.0, 0.0)}
