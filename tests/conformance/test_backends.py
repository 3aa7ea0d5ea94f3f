"""The guarantees of every backend, compared with eager PyTorch; conftest.py has the table of models and forms."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from zoo import TorchModel

from penstock.errors import InferenceError, IntegrityError, ModelLoadError
from penstock.formats import FORMATS
from penstock.tensors import Arrays

OUTLIERS: dict[str, tuple[Any, ...]] = {
    "f": (0.0, 1e3, -1e30, float("inf"), float("nan")),
    "i": (0, 49),
    "b": (False, True),
    "O": ("", "great " * 500, "\x00\ufffd", "日本"),
}
"""By kind of number: extreme values in the other rows of a batch."""


def assert_close(got: Arrays, expected: Arrays, tolerance: float = 1e-5) -> None:
    """Numbers are equal within the tolerance, everything else exactly."""
    assert list(got) == list(expected)
    for name, array in expected.items():
        assert got[name].dtype == array.dtype
        if array.dtype.kind == "f":
            np.testing.assert_allclose(got[name], array, rtol=1e-4, atol=tolerance, err_msg=name)
        else:
            np.testing.assert_array_equal(got[name], array, err_msg=name)


def assert_right(subject: Any, answer: Arrays, inputs: Arrays) -> None:
    """The outputs are those of the model without Penstock."""
    assert_close(answer, subject.case.expected(inputs), subject.case.tolerance)


def test_every_backend_has_a_row_in_this_suite(formats: set[str]) -> None:
    assert formats == set(FORMATS)


# --- the same answers -----------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [1, 2, 3, 7, 32])
def test_outputs_equal_eager_pytorch_at_every_batch_size(subject: Any, rows: int) -> None:
    inputs = subject.case.inputs(rows, seed=rows)
    assert_right(subject, subject.backend.run(inputs), inputs)


def test_outputs_are_named_typed_and_shaped_as_the_signature_says(subject: Any) -> None:
    outputs = subject.backend.run(subject.case.inputs(3))
    assert list(outputs) == [spec.name for spec in subject.case.signature.outputs]
    for spec in subject.case.signature.outputs:
        assert spec.check(outputs[spec.name]) is outputs[spec.name]


def test_rows_of_another_length_run_where_the_signature_leaves_it_free(subject: Any) -> None:
    inputs = subject.case.inputs(4, length=11)
    assert_right(subject, subject.backend.run(inputs), inputs)


def test_inputs_are_matched_by_name_and_not_by_position(subject: Any) -> None:
    inputs = subject.case.inputs(2)
    assert_right(subject, subject.backend.run(dict(reversed(inputs.items()))), inputs)


def test_read_only_inputs_are_accepted(subject: Any) -> None:
    inputs = subject.case.inputs(2)
    sealed = {name: array.copy() for name, array in inputs.items()}
    for array in sealed.values():
        array.setflags(write=False)
    assert_right(subject, subject.backend.run(sealed), inputs)


def test_a_run_changes_neither_its_inputs_nor_the_answers_of_earlier_runs(subject: Any) -> None:
    inputs = subject.case.inputs(3)
    before = {name: array.copy() for name, array in inputs.items()}
    first = subject.backend.run(inputs)
    kept = {name: array.copy() for name, array in first.items()}
    subject.backend.run(subject.case.inputs(3, seed=1))
    for name, array in before.items():
        np.testing.assert_array_equal(inputs[name], array)
    for name, array in kept.items():
        np.testing.assert_array_equal(first[name], array)


def test_a_batch_without_rows_gives_outputs_without_rows(subject: Any) -> None:
    outputs = subject.backend.run(subject.case.inputs(0))
    assert list(outputs) == [spec.name for spec in subject.case.signature.outputs]
    for spec in subject.case.signature.outputs:
        assert outputs[spec.name].shape == (0, *(max(length, 0) for length in spec.shape[1:]))
        assert outputs[spec.name].dtype == spec.numpy


def test_eight_concurrent_threads_get_their_own_outputs(subject: Any) -> None:
    batches = [subject.case.inputs(rows=1 + i % 5, seed=i) for i in range(32)]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(subject.backend.run, batches))
    for inputs, answer in zip(batches, answers, strict=True):
        assert_right(subject, answer, inputs)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 1000), rows=st.integers(2, 9), data=st.data())
def test_a_row_has_the_same_outputs_alone_and_with_an_outlier(
    subject: Any, seed: int, rows: int, data: st.DataObject
) -> None:
    outlier, own = data.draw(st.permutations(range(rows)), label="outlier and own row")[:2]
    batch = subject.case.inputs(rows, seed)
    for array in batch.values():
        array[outlier] = data.draw(st.sampled_from(OUTLIERS[array.dtype.kind]))
    together = subject.backend.run(batch)
    alone = subject.backend.run({name: array[own : own + 1] for name, array in batch.items()})
    assert_close({name: array[own : own + 1] for name, array in together.items()}, alone, subject.case.tolerance)


# --- what a backend says about itself -------------------------------------------------------------------


def test_it_reports_its_format_device_signature_and_size(subject: Any) -> None:
    backend = subject.backend
    assert backend.format == subject.form.format
    assert backend.device.partition(":")[0] == subject.device
    assert backend.signature == subject.case.signature
    assert len(backend.warnings) == len(subject.form.says)
    assert all(text in warning for text, warning in zip(subject.form.says, backend.warnings, strict=True))
    if isinstance(subject.case, TorchModel):
        weights = list(subject.case.make().parameters())
        # None where a format does not tell; an export may fold a norm into the convolution before it
        assert _about(backend.num_parameters, sum(weight.numel() for weight in weights), 0.1)
        assert _about(
            backend.num_bytes, sum(weight.nbytes for weight in weights), 0.1, least=2048
        )  # shapes and indices


def _about(given: int | None, right: int, tolerance: float, least: int = 64) -> bool:
    return given is None or abs(given - right) <= max(tolerance * right, least)


@pytest.mark.parametrize(
    "inputs",
    [
        {"x": np.zeros((2, 13), np.float32)},
        {"x": np.zeros((2, 3, 5), np.float32)},
        {"x": np.zeros((2, 12), np.float64)},
        {"x": np.zeros((2, 12), np.int64)},
        {"x": np.full((2, 12), "1", object)},
        {"z": np.zeros((2, 12), np.float32)},
        {},
    ],
    ids=["length", "rank", "precision", "whole-numbers", "text", "name", "nothing"],
)
def test_inputs_that_do_not_fit_the_signature_are_an_inference_error_of_one_line(one: Any, inputs: Arrays) -> None:
    with pytest.raises(InferenceError) as caught:
        one.backend.run(inputs)
    assert "\n" not in str(caught.value)
    assert str(caught.value) != ""
    inputs = one.case.inputs(2)
    assert_right(one, one.backend.run(inputs), inputs)  # and it still works


def test_a_closed_backend_refuses_to_run_and_can_be_closed_again(one: Any) -> None:
    backend = one.open()
    backend.close()
    backend.close()
    with pytest.raises(InferenceError, match="closed"):
        backend.run(one.case.inputs(1))


def test_closing_during_runs_gives_outputs_or_an_inference_error(one: Any) -> None:
    backend = one.open()
    inputs = one.case.inputs(2)
    expected = one.case.expected(inputs)

    def run(step: int) -> Arrays | None:
        if step == 40:
            backend.close()
        try:
            return backend.run(inputs)
        except InferenceError:
            return None

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(run, range(80)))
    for answer in answers:
        if answer is not None:
            assert_close(answer, expected)
    assert answers[40] is None


# --- files that are not models --------------------------------------------------------------------------


def assert_refused(one: Any, path: Path, error: type[ModelLoadError] = ModelLoadError) -> None:
    """Refused with one line that names the file."""
    with pytest.raises(error) as caught:
        one.open(replace(one.file, path=path))
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_refused(one: Any, tmp_path: Path) -> None:
    assert_refused(one, tmp_path / f"absent{one.form.suffix}", IntegrityError)


def test_a_directory_is_refused(one: Any, tmp_path: Path) -> None:
    path = tmp_path / f"model{one.form.suffix}"
    path.mkdir()
    assert_refused(one, path, IntegrityError)


def test_a_file_that_cannot_be_read_is_refused(one: Any, tmp_path: Path) -> None:
    path = tmp_path / f"loop{one.form.suffix}"
    path.symlink_to(path)
    assert_refused(one, path)


@pytest.mark.parametrize(
    "content",
    [b"", b"\0", b"hello, this is no model\n" * 20, b"\x89PNG\r\n\x1a\n" + b"\0" * 100, b'{"a": 1}', b"PK\x03\x04"],
    ids=["empty", "zero", "text", "png", "json", "zip"],
)
def test_a_file_that_is_not_a_model_is_refused(one: Any, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / f"model{one.form.suffix}"
    path.write_bytes(content)
    assert_refused(one, path, IntegrityError)


@pytest.mark.parametrize("part", [0.01, 0.1, 0.5, 0.9, 0.99])
def test_a_truncated_file_is_refused(one: Any, tmp_path: Path, part: float) -> None:
    whole = one.file.path.read_bytes()
    path = tmp_path / f"model{one.form.suffix}"
    path.write_bytes(whole[: int(len(whole) * part)])
    assert_refused(one, path, IntegrityError)


def test_a_file_with_a_damaged_header_is_refused(one: Any, tmp_path: Path) -> None:
    content = bytearray(one.file.path.read_bytes())
    content[:64] = b"\xff" * 64
    path = tmp_path / f"model{one.form.suffix}"
    path.write_bytes(content)
    assert_refused(one, path)


@settings(max_examples=25, deadline=None)
@given(content=st.binary(max_size=300))
def test_any_bytes_are_a_load_error(one: Any, tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / f"random{one.form.suffix}"
    path.write_bytes(content)
    assert_refused(one, path)


def test_the_file_of_another_model_is_refused(one: Any, others: Any) -> None:
    """A PyTorch program that runs with nothing that was tried may need special values: it opens, and fails then."""
    opened = [file for file in others.values() if not _refused(one, file.path)]
    assert not opened or one.form.format not in ("onnx", "openvino")
    for file in opened:
        backend = one.open(replace(one.file, path=file.path))
        with pytest.raises(InferenceError):
            backend.run(one.case.inputs(2))
        backend.close()
    assert len(opened) < max(1, len(others))


def _refused(one: Any, path: Path) -> bool:
    try:
        one.open(replace(one.file, path=path)).close()
    except ModelLoadError as error:
        return str(error).startswith(f"{path}: ")
    return False


# --- a network of the size people serve -------------------------------------------------------------------


def test_a_resnet_18_equals_eager_pytorch_also_from_several_threads(large: Any) -> None:
    batches = [large.case.inputs(rows, seed=rows) for rows in (1, 2, 3, 8)]
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(large.backend.run, batches))
    for inputs, answer in zip(batches, answers, strict=True):
        assert_right(large, answer, inputs)
    assert _about(large.backend.num_parameters, 11_170_000, 0.02)
