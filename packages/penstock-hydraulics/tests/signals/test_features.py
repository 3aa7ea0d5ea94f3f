from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from penstock.errors import InvalidInput
from penstock_hydraulics.machine.templates import TEMPLATES
from penstock_hydraulics.machine.topology import Component, Topology
from penstock_hydraulics.signals.features import (
    CHANNELS,
    LIMIT,
    NODES,
    STATISTICS,
    STEPS,
    FeatureConfig,
    Layout,
    Scale,
    Scales,
    encode,
    encode_all,
    padded,
    statistics_of,
)

RIG = TEMPLATES["zema_rig"]
ROWS = ((0, "pressure"), (0, "flow"), (0, "flow_max"), (1, "pressure"), (7, "temperature"))


@pytest.fixture
def windows() -> np.ndarray:
    """Ten windows of five rows with a level, a swing and some noise of their own."""
    random = np.random.default_rng(0)
    levels = np.array([150, 6, 7, 80, 40], np.float32)[None, :, None]
    swing = np.sin(np.arange(STEPS) / 9).astype(np.float32)
    return (levels * (1 + 0.1 * swing) + random.normal(0, 0.5, (10, 5, STEPS))).astype(np.float32)


@pytest.fixture
def scales(windows) -> Scales:
    table = {
        f"{RIG.components[node].id}.{channel}": Scale.of(windows[:, row]) for row, (node, channel) in enumerate(ROWS)
    }
    return Scales({"zema_rig": table}, {"pump.pressure": Scale.flat(windows[:, 0])})


def test_the_statistics_match_their_definition():
    readings = np.random.default_rng(1).normal(5, 2, (3, STEPS)).astype(np.float32)
    found = statistics_of(readings)
    assert found.shape == (3, STATISTICS)
    parts = readings.reshape(3, 12, 5)
    assert found[:, :12] == pytest.approx(parts.mean(axis=2), abs=1e-5)
    assert found[:, 12:24] == pytest.approx(parts.std(axis=2), abs=1e-4)
    steps = np.diff(readings, axis=1)
    whole = [steps.max(axis=1), steps.min(axis=1), readings.std(axis=1), readings.max(axis=1), readings.min(axis=1)]
    assert found[:, 24:] == pytest.approx(np.stack(whole, axis=1), abs=1e-4)


def test_every_row_is_placed_at_its_component_and_channel(windows, scales):
    inputs = encode(windows[0], Layout.make(RIG, ROWS, scales))
    filled = {(node, CHANNELS.index(channel)) for node, channel in ROWS}
    for node in range(8):
        for channel in range(len(CHANNELS)):
            there = (node, channel) in filled
            assert inputs["present"][0, node, channel] == there
            assert inputs["signals"][0, node, channel].any() == there
            assert inputs["statistics"][0, node, channel].any() == there


def test_the_inputs_have_the_types_and_shapes_of_the_signature(windows, scales):
    inputs = encode(windows[0], Layout.make(RIG, ROWS, scales))
    assert {name: (value.dtype.name, value.shape) for name, value in inputs.items()} == {
        "signals": ("float32", (1, 8, 7, 60)),
        "statistics": ("float32", (1, 8, 7, 29)),
        "present": ("float32", (1, 8, 7)),
        "adjacency": ("float32", (1, 8, 8)),
        "kinds": ("int64", (1, 8)),
    }


def test_windows_of_a_recorded_machine_are_standardised_at_every_step(windows, scales):
    signals = encode_all(windows, Layout.make(RIG, ROWS, scales))["signals"][:, 0, 0]
    assert signals.mean(axis=0) == pytest.approx(np.zeros(STEPS), abs=0.02)
    assert signals.std(axis=0).max() < 1.05


def test_batch_encoding_equals_single_encoding(windows, scales):
    layout = Layout.make(RIG, ROWS, scales)
    together = encode_all(windows, layout)
    for place, window in enumerate(windows):
        alone = encode(window, layout)
        for name in ("signals", "statistics"):
            assert np.array_equal(together[name][place], alone[name][0])


def test_an_outlier_is_clamped(windows, scales):
    windows[0, 0, 7] = 1e9
    inputs = encode(windows[0], Layout.make(RIG, ROWS, scales))
    assert inputs["signals"][0, 0, 0, 7] == LIMIT
    assert np.abs(inputs["statistics"]).max() == LIMIT


def test_a_machine_of_the_same_name_but_other_components_is_scaled_by_kind(windows, scales):
    other = Topology(
        "zema_rig", (Component("pump_main", "pump"), Component("tank", "reservoir")), (("pump_main", "tank"),)
    )
    assert scales.covers(RIG)
    assert not scales.covers(other)
    assert scales.of(other, (0, "pressure")) is scales.kinds["pump.pressure"]
    assert scales.of(other, (1, "temperature")).mean == pytest.approx(45)


def test_scales_round_trip_exactly_through_the_manifest(windows, scales):
    document = json.loads(json.dumps(scales.to_mapping()))
    again = Scales.from_mapping(document)
    layouts = [Layout.make(RIG, ROWS, one) for one in (scales, again)]
    assert np.array_equal(*(encode(windows[0], layout)["signals"] for layout in layouts))
    assert np.array_equal(*(encode(windows[0], layout)["statistics"] for layout in layouts))


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"machines": {}, "kinds": {"pump.pressure": {"mean": [1.0]}}},
        {"machines": [], "kinds": {}},
        {
            "machines": {},
            "kinds": {
                "pump.flow": {
                    "mean": [1, 2],
                    "deviation": [1],
                    "statistics_mean": [1],
                    "statistics_deviation": [1],
                }
            },
        },
    ],
)
def test_invalid_scales_are_refused_in_one_sentence(document):
    with pytest.raises(InvalidInput, match="scales: the manifest's table"):
        Scales.from_mapping(document)


@given(arrays.arrays(np.float32, (2, STEPS), elements=st.floats(-1e6, 1e6, width=32)))
def test_any_finite_readings_give_finite_clamped_inputs(readings):
    layout = Layout.make(RIG, ((0, "pressure"), (4, "temperature")), Scales({}, {}))
    for value in encode(readings, layout).values():
        assert np.isfinite(value).all()
        assert np.abs(value).max() <= LIMIT or value.dtype == np.int64


def test_a_window_without_sensors_can_be_encoded():
    layout = Layout.make(RIG, (), Scales({}, {}))
    inputs = encode(np.zeros((0, STEPS), np.float32), layout)
    assert not inputs["present"].any()
    assert inputs["kinds"].all()


@pytest.mark.parametrize(("components", "size"), [(1, 8), (8, 8), (9, 16), (33, 64), (64, 64)])
def test_graphs_are_padded_to_the_next_size(components, size):
    assert padded(components) == size
    assert size in NODES


@pytest.mark.parametrize("components", [0, 65])
def test_zero_or_too_many_components_are_refused(components):
    with pytest.raises(InvalidInput, match=f"1 to 64 components, not {components}"):
        padded(components)


def test_the_arrays_of_a_layout_are_read_only(scales):
    layout = Layout.make(RIG, ROWS, scales)
    with pytest.raises(ValueError, match="read-only"):
        layout.present[0, 0, 0] = 5


@pytest.mark.parametrize(
    ("options", "field"),
    [({"window_s": 30.0}, "window_s"), ({"rate_hz": 0.0}, "window_s"), ({"min_window_s": 61.0}, "min_window_s")],
)
def test_an_unsupported_minimum_window_is_refused(options, field):
    with pytest.raises(InvalidInput) as refused:
        FeatureConfig(**options)
    assert refused.value.errors[0].field == field


@pytest.mark.parametrize("wrong", [{"window_s": 30, "rate_hz": 2}, {"window_s": float("inf")}, {"rate_hz": 0.0}])
def test_an_unsupported_window_is_refused(wrong):
    with pytest.raises(InvalidInput, match="it must be 60 s at 1 Hz"):
        FeatureConfig(**wrong)
