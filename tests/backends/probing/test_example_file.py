"""The example of a user: from arrays or from files, by the names of the inputs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from penstock.backends.probing.example_file import by_input_name, read_example
from penstock.errors import InvalidInput
from penstock.tensors import Signature, TensorSpec

A = np.arange(6, dtype=np.float32).reshape(2, 3)
B = np.array([1, 2])
TWO = Signature((TensorSpec("a", "FP32", (-1, 3)), TensorSpec("b", "INT64", (-1,))), ())
ONE = Signature((TensorSpec("a", "FP32", (-1, 3)),), ())


def same(got: dict[str, Any], expected: dict[str, Any]) -> None:
    assert list(got) == list(expected)
    for name, value in expected.items():
        np.testing.assert_array_equal(np.asarray(got[name]), value)


def test_every_kind_of_file_gives_the_arrays_by_name(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", a=A, b=B)
    (tmp_path / "x.json").write_text(json.dumps({"a": A.tolist(), "b": B.tolist()}))
    (tmp_path / "request.json").write_text(json.dumps({"inputs": {"a": A.tolist(), "b": B.tolist()}}))
    save_file({"a": A, "b": B}, tmp_path / "x.safetensors")
    for name in ("x.npz", "x.json", "request.json", "x.safetensors"):
        same(by_input_name(read_example(tmp_path / name), TWO), {"a": A, "b": B})


def test_an_array_alone_is_the_only_input(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", A)
    (tmp_path / "x.json").write_text(json.dumps(A.tolist()))
    for example in (tmp_path / "x.npy", str(tmp_path / "x.json"), A, A.tolist(), [A], (A,)):
        same(by_input_name(read_example(example), ONE), {"a": A})


def test_arrays_without_names_are_taken_in_order(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", A, B)
    for example in (tmp_path / "x.npz", (A, B), [A, B]):
        same(by_input_name(read_example(example), TWO), {"a": A, "b": B})


@pytest.mark.parametrize(
    ("example", "sentence"),
    [
        ({"c": A}, "the model has no input 'c'; it takes a, b"),
        (A, "1 array without names, the model takes 2 inputs; name them a, b"),
        ({"a": [[1, 2], [3]], "b": A}, "example: a: its lists have different lengths"),
        (([[1, 2], [3]], A), "example: a: its lists have different lengths"),
    ],
)
def test_what_the_model_does_not_take_is_refused_by_name(example: Any, sentence: str) -> None:
    with pytest.raises(InvalidInput, match=sentence):
        by_input_name(example, TWO)


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("x.npz", b"no zip", r"x\.npz is not what its name says"),
        ("x.npy", b"", r"x\.npy is not what its name says"),
        ("x.json", b"{", r"x\.json is not what its name says"),
        ("x.safetensors", b"12345678", r"x\.safetensors is not what its name says"),
        ("x.csv", b"1,2", r"x\.csv is not a \.npz, \.npy, \.json, \.safetensors file"),
    ],
)
def test_a_file_that_is_something_else_is_refused_by_name(
    tmp_path: Path, name: str, content: bytes, sentence: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InvalidInput, match=sentence):
        read_example(tmp_path / name)


def test_a_file_that_is_missing_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"x\.npz cannot be read: No such file"):
        read_example(tmp_path / "x.npz")


def test_pickled_objects_are_never_loaded(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", a=np.array([object()], dtype=object))
    with pytest.raises(InvalidInput, match="not what its name says"):
        read_example(tmp_path / "x.npz")
