"""What a user states about a bare model file: the same value from options, settings and Python."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from penstock.errors import ConfigError, InvalidInput
from penstock.file_description import (
    FileDescription,
    described,
    labels_of,
    parse_batch_axes,
    preprocess_of,
    tensor_list,
)
from penstock.options import EngineOptions
from penstock.settings import load_settings
from penstock.tensors import Signature, TensorSpec

X = TensorSpec("x", "FP32", (-1, 3, 32, 32))
H = TensorSpec("h", "INT64", (-1, 4))


@pytest.mark.parametrize(
    "text",
    ["x:FP32:-1,3,32,32 h:INT64:-1,4", "x:float32:-1x3x32x32;h:int64:?x4", " x:FP32:-1,3,32,32 ;\n h:INT64:?,4;"],
)
def test_several_inputs_are_separated_by_spaces_or_semicolons(text: str) -> None:
    assert tensor_list(text) == (X, H)


@pytest.mark.parametrize("text", ["x", "x:FP32", "x:FP33:-1", "x:FP32:-2", "x:FP32:a", "x:FP32:-1 x:FP32:-1"])
def test_a_malformed_input_is_refused_with_the_setting_and_the_form(text: str) -> None:
    with pytest.raises(ConfigError, match=r"MODEL_INPUTS in the environment is .* should be inputs such as x:FP32"):
        load_settings(environ={"MODEL_INPUTS": text})


def test_axes_of_the_batch_are_named() -> None:
    assert parse_batch_axes("x:0, h:1,a:b:2") == {"x": 0, "h": 1, "a:b": 2}
    for text in ("x", "x:-1", ":0", "x:0,x:1", "x:one"):
        with pytest.raises(ConfigError, match=r"PENSTOCK_MODEL_BATCH_AXIS in .* should be axes by name"):
            load_settings(environ={"PENSTOCK_MODEL_BATCH_AXIS": text})


def test_labels_and_preprocessing_are_given_as_values_or_as_files(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("cat\n dog \n\n", encoding="utf-8")
    (tmp_path / "steps.json").write_text('[{"kind": "scale", "factor": 0.5}]', encoding="utf-8")
    (tmp_path / "task.json").write_text('{"mode": "L"}', encoding="utf-8-sig")
    assert labels_of(tmp_path / "labels.txt") == labels_of(["cat", "dog"]) == ("cat", "dog")
    steps = [{"kind": "scale", "factor": 0.5}]
    assert preprocess_of(tmp_path / "steps.json") == preprocess_of(steps) == {"preprocess": steps}
    assert preprocess_of(str(tmp_path / "task.json")) == preprocess_of({"mode": "L"}) == {"mode": "L"}


@pytest.mark.parametrize(
    ("content", "sentence"),
    [(None, "No such file"), (b"\xff", "not UTF-8 text"), (b"{", "not valid JSON"), (b"3", "holds no settings")],
)
def test_a_file_that_says_nothing_is_refused_by_name(tmp_path: Path, content: bytes | None, sentence: str) -> None:
    path = tmp_path / "task.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=f"task.json.*{sentence}"):
        preprocess_of(path)


@pytest.mark.parametrize("content", ["", "\n \n"])
def test_a_file_without_labels_is_refused_by_name(tmp_path: Path, content: str) -> None:
    (tmp_path / "labels.txt").write_text(content, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"labels: .*labels\.txt is empty; write the name of one class on each line"):
        labels_of(tmp_path / "labels.txt")


def test_the_settings_are_the_description(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("a\nb\n", encoding="utf-8")
    (tmp_path / "task.json").write_text(json.dumps({"output": "logits"}), encoding="utf-8")
    environ = {
        "PENSTOCK_MODEL_TASK": "vector-classification",
        "PENSTOCK_MODEL_LABELS": str(tmp_path / "labels.txt"),
        "PENSTOCK_MODEL_PREPROCESS": str(tmp_path / "task.json"),
        "MODEL_EXAMPLE": "x.npz",
        "MODEL_INPUTS": "x:FP32:-1,3,32,32",
        "MODEL_ARCHITECTURE": "nets:Net",
        "PENSTOCK_MODEL_ARCHITECTURE_ARGS": '{"hidden": 3}',
        "PENSTOCK_MODEL_BATCH_AXIS": "x:1",
    }
    about = load_settings(environ=environ, directory=tmp_path).settings.file_description
    assert about.task_config == {"output": "logits", "labels": ["a", "b"]}
    assert (about.task, about.example, about.batch_axes) == ("vector-classification", Path("x.npz"), {"x": 1})
    assert about.signature == Signature((X,), ())
    assert (about.architecture, about.architecture_args) == ("nets:Net", {"hidden": 3})
    assert EngineOptions().file_description.stated == ()


def test_what_a_call_states_is_kept_and_the_settings_fill_the_rest() -> None:
    call = described({"labels": ["a"], "example_input": np.zeros(0)})
    both = call.over(FileDescription(task="tensor", labels=("x", "y"), example="file.npz"))
    assert (both.task, both.labels) == ("tensor", ("a",))
    assert isinstance(both.example, np.ndarray)


def contradiction() -> FileDescription:
    return described({"batch_axes": {"x": 1}, "no_batch": True})


def not_axes() -> FileDescription:
    return described({"batch_axes": ["x"]})


@pytest.mark.parametrize(("make", "error"), [(contradiction, ConfigError), (not_axes, InvalidInput)])
def test_a_contradiction_and_a_wrong_type_are_refused(make: Callable[[], Any], error: type[Exception]) -> None:
    with pytest.raises(error, match="batch"):
        make()
