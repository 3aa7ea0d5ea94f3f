from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from penstock.errors import InvalidInput
from penstock_hydraulics.machine.templates import TEMPLATES
from penstock_hydraulics.machine.topology import Component, Topology
from penstock_hydraulics.signals.features import STEPS, FeatureConfig
from penstock_hydraulics.signals.windows import complete, fill_windows, plan_window

RIG = TEMPLATES["zema_rig"]
CONFIG = FeatureConfig()


def window_of(data, rates=1.0, topology=RIG):
    plan = plan_window(data, rates, topology, CONFIG)
    filled = fill_windows([data], plan, STEPS)
    return plan, filled.windows[0], filled.warnings[0]


def row(plan, window, name, channel=None):
    node, quantity = RIG.sensor(name)
    return window[plan.rows.index((node, channel or quantity))]


def ramp(count, start=100.0):
    return [start + 0.25 * k for k in range(count)]


def test_sixty_samples_at_1_hz_are_unchanged():
    plan, window, warnings = window_of({"pressure_pump_main": ramp(60), "temperature_tank": ramp(60, 30)})
    assert plan.seconds == 60
    assert plan.steps == 60
    assert warnings == []
    np.testing.assert_array_equal(row(plan, window, "temperature_tank"), np.array(ramp(60, 30), np.float32))


@pytest.mark.parametrize("rate", [2, 10, 100, 1000])
def test_faster_sensors_are_averaged_over_each_second(rate):
    samples = np.random.default_rng(0).uniform(100, 200, 60 * rate)
    _plan, window, _ = window_of({"pressure_pump_main": samples.tolist()}, float(rate))
    np.testing.assert_allclose(window[0], samples.reshape(60, rate).mean(1), rtol=1e-6)


def test_a_fractional_rate_assigns_every_sample_to_its_second():
    samples = np.random.default_rng(0).uniform(100, 200, 150)
    _plan, window, _ = window_of({"pressure_pump_main": samples.tolist()}, 2.5)
    seconds = (np.arange(150) / 2.5).astype(int)
    wanted = [samples[seconds == second].mean() for second in range(60)]
    np.testing.assert_allclose(window[0], wanted, rtol=1e-6)


def test_a_slower_sensor_is_held_until_its_next_sample():
    _plan, window, _ = window_of({"temperature_tank": ramp(30, 30)}, 0.5)
    np.testing.assert_allclose(window[0], np.repeat(ramp(30, 30), 2), rtol=1e-6)


def test_only_a_fast_flow_has_extremes():
    samples = np.random.default_rng(0).uniform(5, 9, 600)
    data = {"flow_pump_main": samples.tolist(), "flow_circ_pump": ramp(60, 9)}
    plan, window, _ = window_of(data, {"flow_pump_main": 10.0})
    blocks = samples.reshape(60, 10)
    np.testing.assert_allclose(row(plan, window, "flow_pump_main", "flow_max"), blocks.max(1), rtol=1e-6)
    np.testing.assert_allclose(row(plan, window, "flow_pump_main", "flow_min"), blocks.min(1), rtol=1e-6)
    assert len(plan.rows) == 4


@pytest.mark.parametrize("rate", [25.0, 100.0, 44.1, 1000.0])
def test_extremes_are_taken_from_tenths_of_a_second(rate):
    samples = np.random.default_rng(0).uniform(5, 9, int(60 * rate))
    plan, window, _ = window_of({"flow_pump_main": samples.tolist()}, rate)
    tenths = np.minimum((np.arange(len(samples)) / rate * 10 + 1e-9).astype(int), 599)
    means = (np.bincount(tenths, samples) / np.bincount(tenths)).reshape(60, 10)
    np.testing.assert_allclose(row(plan, window, "flow_pump_main", "flow_max"), means.max(1), rtol=1e-5)
    np.testing.assert_allclose(row(plan, window, "flow_pump_main", "flow_min"), means.min(1), rtol=1e-5)


def test_a_flow_at_2_hz_has_no_extremes():
    plan, _, _ = window_of({"flow_pump_main": ramp(120, 5)}, 2.0)
    assert plan.rows == ((0, "flow"),)


def test_one_lost_sample_is_held_and_one_too_many_is_dropped():
    plan, window, _ = window_of({"pressure_pump_main": ramp(60), "temperature_tank": ramp(59, 30)})
    assert row(plan, window, "temperature_tank")[-1] == pytest.approx(ramp(59, 30)[-1])
    plan, window, _ = window_of({"pressure_pump_main": ramp(61)})
    assert plan.seconds == 60
    assert window.shape == (1, 60)


def test_sensors_of_several_rates_are_aligned_in_any_order():
    data = {"flow_pump_main": ramp(600, 5), "pressure_pump_main": ramp(60), "flow_circ_pump": ramp(600, 9)}
    plan, window, _ = window_of(data, {"flow_pump_main": 10, "flow_circ_pump": 10.0})
    np.testing.assert_array_equal(row(plan, window, "pressure_pump_main"), np.array(ramp(60), np.float32))
    assert row(plan, window, "flow_circ_pump", "flow_max")[0] == pytest.approx(ramp(600, 9)[9])


def test_a_short_window_is_completed_with_the_shifted_usual_course_or_the_mean():
    plan, window, _ = window_of({"pressure_pump_main": ramp(45)})
    assert plan.steps == 45
    assert plan.seconds == 45
    sent, level = window[0, :45].copy(), window.copy()
    complete(level, 45, None)
    np.testing.assert_allclose(level[0, 45:], np.mean(ramp(45)[15:]), rtol=1e-6)
    usual = np.array([ramp(60, 7)], np.float32)
    complete(window, 45, usual)
    np.testing.assert_allclose(window[0], ramp(60), rtol=1e-6)
    np.testing.assert_array_equal(window[0, :45], sent)


def test_one_missing_second_causes_no_jump():
    _, window, _ = window_of({"temperature_tank": ramp(59, 55)})
    complete(window, 59, np.full((1, 60), 40, np.float32))
    assert window[0, 59] == pytest.approx(np.mean(ramp(59, 55)[-2:]))


@pytest.mark.parametrize(
    ("data", "rates", "sentence"),
    [
        (
            {"pressure_pump_main": ramp(600)},
            1.0,
            r"sensor_data\.pressure_pump_main: 600 samples at 1 Hz are 600 s, but .* set its sampling_rate_hz",
        ),
        (
            {"pressure_pump_main": ramp(60), "temperature_tank": ramp(30, 30)},
            1.0,
            r"sensor_data\.temperature_tank: 30 samples at 1 Hz are 30 s, but pressure_pump_main spans 60 s",
        ),
        (
            {"pressure_pump_main": ramp(60), "flow_pump_main": ramp(60, 5)},
            {"flow_pump_main": 10.0},
            r"sensor_data\.flow_pump_main: 60 samples at 10 Hz are 6 s, but pressure_pump_main spans 60 s",
        ),
        (
            {"pressure_moon": ramp(60), "pump_main": ramp(3)},
            1.0,
            "has no sensor pressure_moon, pump_main; known sensors: ",
        ),
    ],
)
def test_a_length_that_does_not_match_its_rate_is_refused_with_the_sensor(data, rates, sentence):
    with pytest.raises(InvalidInput, match=sentence):
        window_of(data, rates)


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("pressure_pump_main", -5.0, r"sensor_data\.pressure_pump_main\[7\]: -5 bar is a negative pressure"),
        ("pressure_pump_main", 16_000_000.0, r"pressure_pump_main\[7\]: 1.6e\+07 bar is not a plausible pressure"),
        ("temperature_tank", 318.0, r"temperature_tank\[7\]: 318 °C is not a plausible temperature .*check its unit"),
        ("vibration_pump_main", -3.0, r"vibration_pump_main\[7\]: -3 mm/s is a negative vibration"),
        ("power_pump_main", 1e300, r"power_pump_main\[7\]: 1e\+300 W is not a plausible power"),
        ("flow_circ_pump", -1e30, r"flow_circ_pump\[7\]: -1e\+30 l/min is not a plausible flow"),
    ],
)
def test_an_implausible_value_is_refused_with_its_sensor_and_index(name, value, sentence):
    data = {"pressure_valve_main": ramp(60), name: ramp(60, 20)}
    data[name][7] = value
    with pytest.raises(InvalidInput, match=sentence):
        window_of(data)


def test_zero_drift_is_read_as_zero_with_a_warning():
    data = {"pressure_valve_main": [-0.05, *ramp(59)]}
    _plan, window, warnings = window_of(data)
    assert window[0, 0] == 0.0
    assert warnings == ["pressure_valve_main has values down to -0.05 bar, read as 0; check its zero point"]


def test_a_constant_sensor_gives_a_warning_from_five_samples_on():
    _, _, warnings = window_of({"pressure_pump_main": [100.0] * 60, "temperature_tank": ramp(60, 30)})
    assert warnings == ["pressure_pump_main is constant at 100; it may be stuck or disconnected"]
    assert window_of({"pressure_pump_main": [100.0] * 3})[2] == []


def test_unknown_sensors_are_listed_and_ignored():
    pumps = Topology(
        "two", (Component("pump_main", "pump"), Component("pump_main_2", "pump")), (("pump_main", "pump_main_2"),)
    )
    data = {"pressure_pump_main_2": ramp(60), "pressure_pump_main_3": ramp(60), "speed_pump_main": ramp(9)}
    plan, _window, _ = window_of(data, 1.0, pumps)
    assert plan.rows == ((1, "pressure"),)
    assert plan.unknown == ("pressure_pump_main_3", "speed_pump_main")
    assert plan.warnings == ("ignored, not in the topology two: pressure_pump_main_3, speed_pump_main",)


def test_rates_of_missing_sensors_give_a_warning():
    plan, _, _ = window_of({"pressure_pump_main": ramp(60)}, {"flow_pump_mian": 10.0})
    assert plan.warnings == ("sampling_rate_hz names sensors without readings: flow_pump_mian",)


@settings(max_examples=60, deadline=None)
@given(
    rate=st.floats(0.1, 50),
    seconds=st.floats(1, 60),
    second_rate=st.floats(0.1, 50),
)
def test_any_rate_and_length_gives_a_window_within_the_range_of_its_samples(rate, seconds, second_rate):
    rng = np.random.default_rng(1)
    counts = [max(1, round(seconds * each)) for each in (rate, second_rate)]
    data = {
        "flow_pump_main": rng.uniform(1, 9, counts[0]).tolist(),
        "pressure_tank": rng.uniform(1, 9, counts[1]).tolist(),
    }
    rates = {"flow_pump_main": rate, "pressure_tank": second_rate}
    spans = [count / each for count, each in zip(counts, rates.values(), strict=True)]
    if abs(spans[0] - spans[1]) > max(1 / rate, 1 / second_rate) + 1e-6 or max(spans) > 60 + 1 / max(rates.values()):
        assume(False)
    plan, window, _ = window_of(data, rates)
    filled = window[:, : plan.steps]
    assert np.isfinite(filled).all()
    assert filled.min() >= 0.99
    assert filled.max() <= 9.01
    assert 1 <= plan.steps <= STEPS


def test_control_characters_in_names_are_escaped():
    with pytest.raises(InvalidInput, match=r"has no sensor pressure_x\\ny; known sensors"):
        window_of({"pressure_x\ny": ramp(60)})
