from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from penstock_hydraulics.signals.features import STEPS
from penstock_hydraulics.signals.reference import ReferenceCheck, ReferenceTable, Relation, measure

NAMES = ("pressure_a", "flow_b", "flow_max_b", "flow_min_b")
LEVEL = {"low": " ".join(["9"] * 12), "high": " ".join(["11"] * 12)}
ROW = {**LEVEL, "repeats": 5, "roughness": "0.01 0.6", "highest": 3, "lowest": 3}
TABLE = ReferenceTable.model_validate(
    {
        "rows": {
            "pressure_a": {**ROW, "rest": "0 0"},
            "flow_b": {**ROW, "spread": "0.1 2"},
            "flow_max_b": {**ROW, "low": " ".join(["9"] * 12), "high": " ".join(["13"] * 12)},
            "flow_min_b": {**ROW, "low": " ".join(["7"] * 12)},
        },
        "relations": ["pressure_a flow_b 1 -0.3 0.3"],
    }
)
CHECK = ReferenceCheck(TABLE, NAMES, STEPS, ())


def usual(seed: int = 0) -> np.ndarray:
    """[1, 4, 60] a pressure, a flow with the same mean, and its extremes."""
    random = np.random.default_rng(seed)
    values = 10 + random.normal(0, 0.1, (2, STEPS))
    return np.stack([values[0], values[1], values[1] + 0.5, values[1] - 0.5])[None].astype(np.float32)


def test_usual_windows_are_left_out() -> None:
    windows = np.concatenate([usual(seed) for seed in range(20)])
    assert CHECK(windows) == {}


def test_of_several_windows_the_odd_one_is_found_with_what_is_odd() -> None:
    windows = np.concatenate([usual(seed) for seed in range(5)])
    windows[3, 0] += 5.0
    found = CHECK(windows)
    assert [*found] == [3]
    assert found[3].levels.any(axis=1).tolist() == [True, False, False, False]
    assert found[3].relations.tolist() == [True]
    assert not found[3].texture.any()


def test_each_measure_is_what_its_name_says() -> None:
    window = np.zeros((1, 2, STEPS), np.float32)
    window[0, 0] = np.arange(STEPS)
    window[0, 1, ::2] = 1.0
    found = measure(window)
    assert found.levels[0, 0].tolist() == [2.0 + 5 * segment for segment in range(12)]
    repeats, roughness, highest, lowest = found.texture[0].tolist()
    assert repeats == [0, 0]
    assert roughness == [0.0, 2.0]
    assert highest == [1, 30]
    assert lowest == [1, 30]
    window[0, 1] = 3.0
    assert measure(window).texture[0, :, 1].tolist() == [59, 0, 60, 60]


def test_texture_is_found_without_a_change_of_level() -> None:
    for place, row, changed in (
        (0, 0, lambda x: np.round(x, 1)),  # few values, so repeats
        (1, 0, lambda x: x / 1000 + 10),
        (2, 0, lambda x: np.minimum(x, np.sort(x)[-8])),
        (3, 0, lambda x: np.maximum(x, np.sort(x)[8])),
    ):
        window = usual()
        window[0, row] = changed(window[0, row])
        assert CHECK(window)[0].texture[place, row], place
    window = usual()
    window[0, 2:] = window[0, 1]
    assert CHECK(window)[0].spread.tolist() == [True]


def test_of_a_part_of_a_cycle_only_the_levels_that_are_there_count() -> None:
    short, window = ReferenceCheck(TABLE, NAMES, 30, ()), usual()
    window[0, :, 30:] = np.nan  # not filled
    assert short(window) == {}
    window[0, 0, :30] = 20.0
    assert short(window)[0].levels[0].tolist() == [True] * 6 + [False] * 6


def test_a_sensor_below_1_hz_has_no_texture_and_unknown_rows_are_left_out() -> None:
    window = usual()
    window[0, 0] = np.repeat(window[0, 0, ::10], 10)
    assert CHECK(window)[0].texture.any()
    assert not ReferenceCheck(TABLE, NAMES, STEPS, {"pressure_a"})(window)
    more = np.concatenate([np.full((1, 1, STEPS), 5.0, np.float32), usual()], axis=1)
    assert not ReferenceCheck(TABLE, ("pressure_z", *NAMES), STEPS, ())(more)
    assert ReferenceCheck.of(TABLE, ("pressure_z",), STEPS) is None
    assert ReferenceCheck.of(None, NAMES, STEPS) is None


@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([None, 0, 1, 2]),
    st.integers(0, 58),
    st.floats(-2, 2),
    st.sampled_from([30, 55, STEPS]),
)
def test_the_fast_comparison_agrees_with_the_measures(
    seed: int, decimals: int | None, held: int, offset: float, steps: int
) -> None:
    check, window = ReferenceCheck(TABLE, NAMES, steps, ()), usual(seed)
    window[0, seed % 4] += offset
    if decimals is not None:
        window[0, 0] = np.round(window[0, 0], decimals)
    window[0, 1, held:] = window[0, 1, held]
    assert (0 in check(window)) == check.explain(window[0]).any


def test_a_table_of_another_shape_is_refused() -> None:
    with pytest.raises(ValidationError, match="low"):
        ReferenceTable.model_validate({"rows": {"a": {**ROW, "low": "1 2 3"}}})
    assert TABLE.relations == (Relation("pressure_a", "flow_b", 1.0, -0.3, 0.3),)
    assert TABLE.rests() == {"pressure_a": (0.0, 0.0)}
