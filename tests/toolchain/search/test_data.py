"""The rows of a user: what is accepted, how they are divided, and the sentences for what is wrong with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from penstock.errors import InvalidInput
from penstock.tensors import Signature, TensorSpec
from penstock.toolchain.search.data import read_data

SIGNATURE = Signature((TensorSpec("x", "FP32", (-1, 4)),), (TensorSpec("y", "FP32", (-1, 3)),))
ROWS = np.random.default_rng(0).standard_normal((100, 4)).astype(np.float32)


def test_the_rows_are_divided_alike_every_time_and_none_is_in_both_parts() -> None:
    one, two = read_data({"x": ROWS}, SIGNATURE), read_data({"x": ROWS}, SIGNATURE)
    assert one.calibration is not None
    assert two.calibration is not None
    np.testing.assert_array_equal(one.held_out["x"], two.held_out["x"])
    together = np.concatenate([one.calibration["x"], one.held_out["x"]])
    assert len(np.unique(together, axis=0)) == len(ROWS)
    assert (one.calibration_rows, one.held_out_rows) == (50, 50)
    assert one.digest == two.digest != read_data({"x": ROWS + 1}, SIGNATURE).digest


def test_labels_stay_with_their_rows() -> None:
    labels = np.arange(100) % 3
    marked = ROWS.copy()
    marked[:, 0] = labels
    data = read_data({"x": marked, "class": labels}, SIGNATURE, "class")
    assert data.labels is not None
    assert data.calibration_labels is not None
    assert data.calibration is not None
    np.testing.assert_array_equal(data.held_out["x"][:, 0], data.labels)
    np.testing.assert_array_equal(data.calibration["x"][:, 0], data.calibration_labels)


def test_a_batch_axis_that_is_not_the_first_is_the_one_that_is_divided() -> None:
    steps_first = Signature(
        (TensorSpec("x", "FP32", (7, -1, 4)),), (TensorSpec("y", "FP32", (-1, 3)),), batch_axes={"x": 1}
    )
    data = read_data({"x": np.zeros((7, 80, 4), np.float32)}, steps_first)
    assert data.held_out["x"].shape == (7, 40, 4)


def test_arrays_that_are_no_inputs_are_named_in_a_note() -> None:
    data = read_data({"x": ROWS, "extra": ROWS}, SIGNATURE)
    assert data.notes == ("arrays of the data that are no inputs are not used: extra",)


@pytest.mark.parametrize(
    ("arrays", "labels", "sentence"),
    [
        ({"z": ROWS}, None, r"data: there is no array for the input 'x'; it has z, the model takes x"),
        ({"x": ROWS[:, :3]}, None, r"data: x: .*\[100, 3\]"),
        ({"x": ROWS[:0]}, None, r"data: it has no rows"),
        ({"x": np.where(ROWS > 2, np.nan, ROWS)}, None, r"data: x: row \d+ has NaN or infinity"),
        ({"x": ROWS, "y": np.zeros(99)}, "y", r"labels: there are 99 for 100 rows of data"),
        ({"x": ROWS, "y": np.full(100, 0.5)}, "y", r"labels: they are of type float64; give the class"),
        ({"x": ROWS, "y": np.full(100, -1)}, "y", r"labels: -1 is no class"),
        ({"x": ROWS}, "y", r"labels: the data has no array 'y'; it has x"),
        ({"x": ROWS, "y": np.array("cat")}, "y", r"labels: there are 1 for 100 rows"),
    ],
)
def test_faulty_data_is_refused_in_one_sentence(arrays: dict[str, Any], labels: str | None, sentence: str) -> None:
    with pytest.raises(InvalidInput, match=sentence):
        read_data(arrays, SIGNATURE, labels)


def test_a_file_that_is_no_npz_is_refused_and_no_pickle_in_one_is_opened(tmp_path: Path) -> None:
    for name, content in (("text.npz", b"x,y\n1,2\n"), ("empty.npz", b"")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InvalidInput, match=f"data: .*{name} cannot be read as an .npz file"):
            read_data(tmp_path / name, SIGNATURE)
    np.savez(tmp_path / "objects.npz", x=np.array([{}], dtype=object))
    with pytest.raises(InvalidInput, match=r"cannot be read as an \.npz file"):
        read_data(tmp_path / "objects.npz", SIGNATURE)
    np.save(tmp_path / "one.npy", ROWS)
    with pytest.raises(InvalidInput, match="one array without a name"):
        read_data(tmp_path / "one.npy", SIGNATURE)
    with pytest.raises(InvalidInput, match="there is no such file"):
        read_data(tmp_path / "missing.npz", SIGNATURE)


def test_lossy_candidates_need_enough_rows_that_differ() -> None:
    assert read_data({"x": ROWS}, SIGNATURE).objection_to_lossy() is None
    few = read_data({"x": ROWS[:40]}, SIGNATURE).objection_to_lossy()
    assert few == "it changes outputs, which takes at least 64 rows of data; there are 40"
    constant = read_data({"x": np.zeros_like(ROWS)}, SIGNATURE).objection_to_lossy()
    assert constant == "the rows of data for 'x' are all the same, which calibrates nothing"


def test_a_model_of_a_fixed_number_of_rows_takes_data_of_any_number() -> None:
    fixed = Signature((TensorSpec("x", "FP32", (8, 4)),), (TensorSpec("y", "FP32", (8, 3)),))
    data = read_data({"x": ROWS}, fixed)
    assert (data.calibration_rows, data.held_out_rows) == (50, 50)
    few = read_data({"x": ROWS[:10]}, fixed)
    assert (few.calibration, few.held_out_rows) == (None, 10)
