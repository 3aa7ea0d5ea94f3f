from __future__ import annotations

import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError

from penstock.errors import ModelLoadError
from penstock.tasks.steps import Steps, build_steps

ADAPTER = TypeAdapter(Steps)
X = np.array([[1.0, 2.0, 3.0], [10.0, 20.0, 60.0]])


def run(config, x=X, channels=3, limit=1e30):
    step = build_steps(ADAPTER.validate_python(config), channels, np.dtype(x.dtype), limit)
    return x if step is None else step(x)


@pytest.mark.parametrize("config", [[], {"kind": "none"}, [{"kind": "none"}, {"kind": "none"}]])
def test_no_steps_give_no_function(config):
    assert build_steps(ADAPTER.validate_python(config), 3, np.dtype(np.float32), 1e30) is None


def test_scale_multiplies_then_adds():
    assert run({"kind": "scale", "factor": 0.5}).tolist() == (X * 0.5).tolist()
    assert run({"kind": "scale", "factor": 2, "offset": -1}).tolist() == (X * 2 - 1).tolist()


def test_mean_and_std_are_constants_for_all_or_for_each_channel():
    assert run({"kind": "mean_std", "mean": 1, "std": 2}).tolist() == ((X - 1) / 2).tolist()
    each = run({"kind": "mean_std", "mean": [1, 2, 3], "std": [1, 2, 4]})
    assert each.tolist() == ((X - [1, 2, 3]) / [1, 2, 4]).tolist()


def test_channels_are_the_last_axis_of_a_picture():
    picture = np.ones((1, 2, 2, 3), dtype=np.float32)
    result = run({"kind": "mean_std", "mean": [0, 1, 2], "std": 1}, picture)
    assert result[0, 1, 1].tolist() == [1, 0, -1]
    assert result.dtype == np.float32


def test_standardise_uses_each_samples_own_mean_and_deviation():
    result = run({"kind": "standardise"})
    assert np.allclose(result.mean(axis=1), 0)
    assert np.allclose(result.std(axis=1), 1)
    assert np.allclose(result[0], run({"kind": "standardise"}, X[:1])[0])


def test_standardise_of_a_constant_sample_is_zero_and_not_nan():
    assert run({"kind": "standardise"}, np.full((1, 3), 7.0)).tolist() == [[0, 0, 0]]


def test_steps_are_applied_in_their_order():
    steps = [{"kind": "scale", "factor": 0.1}, {"kind": "mean_std", "mean": 0.5, "std": 0.5}]
    assert np.allclose(run(steps), (X * 0.1 - 0.5) / 0.5)


def test_overflow_is_clipped_to_the_limit_without_a_warning():
    assert run({"kind": "scale", "factor": 1e300}, np.array([[1e300, -1e300]]), 2, 5.0).tolist() == [[5, -5]]


def test_constants_that_do_not_match_the_channels_are_refused_at_load():
    with pytest.raises(ModelLoadError, match=r"preprocess\.mean holds 2 numbers, the model's input has 3"):
        run({"kind": "mean_std", "mean": [1, 2], "std": 1})


@pytest.mark.parametrize(
    "config",
    [
        {"kind": "blur"},
        {"factor": 1},
        {"kind": "scale", "factor": float("nan")},
        {"kind": "mean_std", "mean": 0, "std": 0},
        {"kind": "mean_std", "mean": 0, "std": [1, -1]},
        {"kind": "mean_std", "mean": 0},
        {"kind": "standardise", "eps": 0},
        {"kind": "scale", "factr": 2},
    ],
)
def test_invalid_settings_are_refused(config):
    with pytest.raises(ValidationError):
        ADAPTER.validate_python(config)
