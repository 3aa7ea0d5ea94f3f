"""Simulated windows with labels."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from penstock.errors import InvalidInput
from penstock_hydraulics.machine.templates import TEMPLATES
from penstock_hydraulics.machine.topology import KINDS, Component, Topology
from penstock_hydraulics.simulator import FAULTS, SimulatedWindow, simulate

RIG = TEMPLATES["zema_rig"]


def _one(faults: dict[str, dict[str, float]]) -> SimulatedWindow:
    return next(simulate(RIG, faults, 1, seed=3))


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_window_has_a_minute_of_every_expected_sensor(name: str) -> None:
    window = next(simulate(TEMPLATES[name], {}, 1))

    assert tuple(window.readings) == TEMPLATES[name].expected_sensors
    for sensor, samples in window.readings.items():
        assert len(samples) == 60 * window.rates_hz[sensor]
        assert np.isfinite(samples).all()
        assert (samples >= 0).all()
    assert window.labels.health == 1.0


def test_windows_are_determined_by_the_seed() -> None:
    first, again, other = (list(simulate(RIG, {}, 2, seed)) for seed in (1, 1, 2))

    for one, two in zip(first, again, strict=True):
        assert all((one.readings[sensor] == two.readings[sensor]).all() for sensor in one.readings)
    assert (first[0].readings["pressure_pump_main"] != other[0].readings["pressure_pump_main"]).any()
    assert (first[0].readings["power_pump_main"] != first[1].readings["power_pump_main"]).any()


def test_windows_are_generated_lazily() -> None:
    endless = simulate(RIG, {}, 1_000_000_000)

    assert len(list(itertools.islice(endless, 2))) == 2


def test_invalid_arguments_are_refused_before_the_first_window() -> None:
    with pytest.raises(InvalidInput, match="must be at least 1"):
        simulate(RIG, {}, 0)
    with pytest.raises(InvalidInput, match="'tank'"):
        simulate(RIG, {"tank": {"leakage": 1.0}}, 1)


def test_labels_use_the_levels_of_the_data_set() -> None:
    window = _one(
        {
            "pump_main": {"leakage": 0.5},
            "valve_main": {"valve_stiction": 1.0},
            "cooler_main": {"overheating": 0.1},
            "accumulator_main": {"pressure_drop": 0.34},
        }
    )

    assert window.labels.levels == {"pump_main": 1, "valve_main": 3, "cooler_main": 0, "accumulator_main": 1}
    present = [fault for fault, there in zip(FAULTS, window.labels.anomalies, strict=True) if there]
    assert present == ["leakage", "valve_stiction"]


def test_health_is_half_the_worst_and_half_the_mean() -> None:
    labels = _one({"pump_main": {"leakage": 0.5}}).labels

    assert labels.component_health.tolist() == [0.5, 1, 1, 1, 1, 1, 1, 1]
    assert labels.health == pytest.approx(0.5 * 0.5 + 0.5 * (3.5 / 4))


def test_a_fault_without_a_labelled_state_counts_in_health_too() -> None:
    labels = _one({"filter_main": {"contamination": 1.0}}).labels

    assert labels.health == pytest.approx(0.5 * 0.0 + 0.5 * (4 / 5))
    assert labels.anomalies[list(FAULTS).index("contamination")] == 1.0
    assert labels.levels["pump_main"] == 0


def test_a_degrading_machines_health_falls_until_it_fails() -> None:
    health = [window.labels.health for window in simulate(RIG, {"pump_main": {"leakage": (0.0, 1.0)}}, 8)]

    assert (np.diff(health) < 0).all()
    assert health[0] == 1.0


def test_the_noise_matches_the_recordings() -> None:
    window = next(simulate(RIG, {}, 1))

    assert window.readings["temperature_tank"].std() < 0.1
    assert 0.03 < window.readings["flow_circ_pump"].std() < 0.2
    assert window.readings["pressure_pump_main"][2:8].std() < 0.2


def test_a_circuit_of_every_kind_can_be_simulated() -> None:
    parts = tuple(Component(kind, kind, ("pressure", "flow", "temperature", "vibration", "power")) for kind in KINDS)
    topology = Topology("zoo", parts, tuple(itertools.pairwise(KINDS)))

    window = next(simulate(topology, {}, 1))

    assert len(window.readings) == 5 * len(KINDS)
    assert all(np.isfinite(samples).all() for samples in window.readings.values())


@pytest.mark.parametrize("kind", KINDS)
def test_a_component_alone_can_be_simulated(kind: str) -> None:
    topology = Topology("one", (Component("it", kind, ("pressure", "flow", "temperature", "power", "vibration")),), ())

    window = next(simulate(topology, {}, 1))

    assert all(np.isfinite(samples).all() for samples in window.readings.values())
