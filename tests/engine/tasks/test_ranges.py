"""Expected ranges: checks, policies (flag, count, warn, refuse), and measuring."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pydantic import ValidationError

from penstock.artifacts.policies import Range, Ranges, check_ranges, measure_ranges
from penstock.engine.tasks import ranges as ranges_module
from penstock.engine.tasks.ranges import Flag, RangePolicies, Watch, watch_for
from penstock.errors import InvalidInput, OutOfRange
from penstock.tensors import Signature, TensorSpec

SIGNATURE = Signature(
    (TensorSpec("x", "FP32", (-1, 3)), TensorSpec("n", "INT64", (-1,)), TensorSpec("t", "BYTES", (-1,))),
    (TensorSpec("y", "FP32", (-1, 2)), TensorSpec("k", "INT64", (-1,))),
)
OFF = RangePolicies("off", "off", "off")


def watch(ranges: Ranges, policies: RangePolicies | None = None, **options: Any) -> Watch:
    made = watch_for(ranges, SIGNATURE, policies or RangePolicies(), **options)
    assert made is not None
    return made


def x(*row: float) -> dict[str, np.ndarray]:
    return {"x": np.array([row], np.float32), "n": np.array([0]), "t": np.array(["a"], object)}


def y(*row: float) -> dict[str, np.ndarray]:
    return {"y": np.array([row], np.float32), "k": np.array([0])}


def test_a_model_without_checks_has_no_watch() -> None:
    assert watch_for(None, SIGNATURE, OFF) is None
    assert watch_for(None, SIGNATURE, RangePolicies(), finite_by_task=True) is None
    assert watch_for(Ranges(inputs={"x": Range(minimum=0)}), SIGNATURE, OFF) is None
    only_words = Signature(SIGNATURE.inputs, SIGNATURE.outputs[1:])
    assert watch_for(None, only_words, RangePolicies()) is None


def test_outputs_that_are_not_finite_are_flagged_without_any_range() -> None:
    looked = watch(Ranges())
    assert looked.outputs(y(1, 2)) == ()
    for bad in (np.nan, np.inf, -np.inf):
        assert looked.outputs(y(1, bad)) == (Flag("output", "y", "not_finite"),)
    assert looked.inputs(x(1e38, -1e38, 0)) == ()


@pytest.mark.parametrize(
    ("row", "flags"),
    [
        ((0.0, 0.5, 1.0), ()),
        ((0.0, 0.5, 1.01), (Flag("input", "x", "above"),)),
        ((-0.01, 0.5, 1.0), (Flag("input", "x", "below"),)),
        ((-0.01, 0.5, 1.01), (Flag("input", "x", "above"),)),
        ((np.nan, 0.5, 0.5), (Flag("input", "x", "not_finite"),)),
    ],
)
def test_inputs_are_compared_with_their_range(row: tuple[float, ...], flags: tuple[Flag, ...]) -> None:
    looked = watch(Ranges(inputs={"x": Range(minimum=0, maximum=1)}))
    assert looked.inputs(x(*row)) == flags


def test_a_bound_that_the_datatype_cannot_represent_exactly_is_inside() -> None:
    looked = watch(Ranges(inputs={"x": Range(minimum=0.1, maximum=0.3)}))
    assert looked.inputs(x(0.1, 0.2, 0.3)) == ()


def test_a_bound_beyond_the_datatype_is_ignored() -> None:
    looked = watch(Ranges(inputs={"x": Range(minimum=-1e300, maximum=1e300)}))
    assert looked.inputs(x(-3e38, 0, 3e38)) == ()


def test_one_side_may_be_open() -> None:
    looked = watch(Ranges(inputs={"x": Range(minimum=0)}))
    assert looked.inputs(x(0, 1e30, 5)) == ()
    assert looked.inputs(x(0, -1, 5))[0].kind == "below"


def test_each_index_of_the_last_axis_may_have_its_own_range() -> None:
    looked = watch(Ranges(inputs={"x": Range(minimum=(0, -100, 5), maximum=(1, 100, 6))}))
    assert looked.inputs(x(0.5, -99, 5.5)) == ()
    assert looked.inputs(x(2, 0, 5.5)) == (Flag("input", "x", "above"),)
    assert looked.inputs(x(0, 0, 0)) == (Flag("input", "x", "below"),)


def test_whole_numbers_have_ranges_and_text_has_none() -> None:
    looked = watch(Ranges(inputs={"n": Range(minimum=0, maximum=9)}))
    assert looked.inputs({**x(0, 0, 0), "n": np.array([3, 10])}) == (Flag("input", "n", "above"),)
    with pytest.raises(ValueError, match="'t' holds BYTES"):
        check_ranges(Ranges(inputs={"t": Range(minimum=0)}), SIGNATURE)


def test_refusing_names_the_tensor_the_value_and_the_bound() -> None:
    looked = watch(Ranges(inputs={"x": Range(maximum=1)}), RangePolicies("refuse", "refuse", "refuse"))
    with pytest.raises(OutOfRange, match="x: 7 is above 1, the greatest expected value") as caught:
        looked.inputs(x(0, 7, 9))
    assert (caught.value.side, caught.value.tensor, caught.value.kind) == ("input", "x", "above")
    assert caught.value.errors[0].field == "x"
    with pytest.raises(OutOfRange, match="the model's output y: holds a value that is not a finite number"):
        looked.outputs(y(0, np.nan))


def test_the_manifest_takes_precedence_over_the_server() -> None:
    ranges = Ranges(outputs={"y": Range(maximum=1)}, on_output="refuse", on_nan="off")
    looked = watch(ranges, RangePolicies("count", "count", "refuse"))
    with pytest.raises(OutOfRange):
        looked.outputs(y(2, 0))
    assert looked.outputs(y(np.nan, 0)) == ()


def test_a_warning_is_not_repeated_for_every_request(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked = watch(Ranges(inputs={"x": Range(maximum=1)}), RangePolicies("warn", "warn", "warn"))
    now = [1000.0]
    monkeypatch.setattr(ranges_module.time, "monotonic", lambda: now[0])
    with caplog.at_level(logging.WARNING):
        for _ in range(5):
            assert looked.inputs(x(0, 0, 2)) == (Flag("input", "x", "above"),)
        assert [record.getMessage() for record in caplog.records] == [
            "input x: 2 is above 1, the greatest expected value"
        ]
        now[0] += 61
        looked.inputs(x(0, 0, 2))
    assert caplog.records[-1].getMessage().endswith("(and 4 similar requests)")


def test_empty_tensors_are_inside() -> None:
    for minimum in (0, (0, 0, 0)):
        looked = watch(Ranges(inputs={"x": Range(minimum=minimum)}))
        assert looked.inputs({"x": np.zeros((0, 3), np.float32)}) == ()
    assert watch(Ranges()).outputs({"y": np.zeros((0, 2), np.float32)}) == ()


@given(
    hnp.arrays(np.float64, st.tuples(st.integers(0, 90), st.just(2)), elements=st.floats(width=64)),
    st.none() | st.floats(-10, 0),
    st.none() | st.floats(0, 10),
)
def test_every_kind_of_check_gives_the_same_result(array: np.ndarray, low: float | None, high: float | None) -> None:
    """Few and many numbers, one bound for all and one for each index; overflowing sums are not a false alarm."""
    signature = Signature((), (TensorSpec("y", "FP64", (-1, 2)),))
    least, most = -np.inf if low is None else low, np.inf if high is None else high
    good = bool((np.isfinite(array) & (array >= least) & (array <= most)).all())
    each = Range(minimum=None if low is None else (low, low), maximum=None if high is None else (high, high))
    for expected in (Range(minimum=low, maximum=high), each):
        looked = watch_for(Ranges(outputs={"y": expected}), signature, RangePolicies())
        assert looked is not None
        assert (looked.outputs({"y": array}) == ()) == good


# Measuring


@given(
    hnp.arrays(np.float32, hnp.array_shapes(min_dims=2, max_dims=3), elements=st.floats(-1e6, 1e6, width=32)),
    st.booleans(),
)
def test_samples_are_inside_the_range_measured_from_them(samples: np.ndarray, per_feature: bool) -> None:
    ranges = measure_ranges({"x": samples}, {}, per_feature=per_feature)
    signature = Signature((TensorSpec("x", "FP32", (-1, *samples.shape[1:])),), ())
    check_ranges(ranges, signature)
    looked = watch_for(ranges, signature, RangePolicies())
    assert looked is not None
    assert looked.inputs({"x": samples}) == ()


def test_a_measured_range_is_widened_by_a_part_of_its_width() -> None:
    ranges = measure_ranges({"x": np.array([[0.0, 100.0], [10.0, 300.0]])}, {}, per_feature=True)
    assert ranges.inputs["x"] == Range(minimum=(-1, 80), maximum=(11, 320))
    assert measure_ranges({"x": [0, 10]}, {}, margin=0).inputs["x"] == Range(minimum=0, maximum=10)


def test_only_numbers_are_measured_and_values_that_are_not_finite_are_refused() -> None:
    assert measure_ranges({"t": np.array(["a"], object), "b": np.array([True])}, {}) == Ranges()
    with pytest.raises(InvalidInput, match="'y' are empty or not finite"):
        measure_ranges({}, {"y": np.array([np.nan])})


# The manifest


@pytest.mark.parametrize(
    ("ranges", "message"),
    [
        (Ranges(inputs={"z": Range()}), "no input 'z'; it has x, n, t"),
        (Ranges(outputs={"x": Range()}), "no output 'x'; it has y, k"),
        (Ranges(inputs={"x": Range(minimum=(0, 0))}), "2 places are given for 'x', its last axis has 3"),
    ],
)
def test_ranges_that_do_not_fit_the_signature_are_refused_by_name(ranges: Ranges, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_ranges(ranges, SIGNATURE)


@pytest.mark.parametrize(
    "given",
    [
        {"minimum": 2, "maximum": 1},
        {"minimum": (0, 3), "maximum": (1, 2)},
        {"minimum": (0, 0), "maximum": (1, 1, 1)},
        {"minimum": float("nan")},
        {"minimum": ()},
        {"least": 0},
    ],
)
def test_a_range_edited_by_hand_is_checked(given: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Range(**given)


def test_an_unknown_policy_is_refused() -> None:
    with pytest.raises(ValidationError, match="on_input"):
        Ranges(on_input="explode")  # type: ignore[arg-type]
