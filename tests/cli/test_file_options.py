"""Options that describe a bare model file, on every command that opens one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from linear_models import weights

from penstock.cli.file_options import with_classes

Penstock = Callable[..., Any]
ROW = [0.5, -1.0, 2.0, 0.25]


@pytest.mark.parametrize(
    ("ref", "meant"),
    [
        ("my_models:Sentiment", "python:my_models:Sentiment"),
        ("pkg.my_models:Sentiment", "python:pkg.my_models:Sentiment"),
        ("python:my_models:sentiment", "python:my_models:sentiment"),
        ("wine:V2", "wine:V2"),
        ("wine:v1.0", "wine:v1.0"),
        ("fraud:1.0.0", "fraud:1.0.0"),
        ("fraud@champion", "fraud@champion"),
        ("my-models:Sentiment", "my-models:Sentiment"),
        ("a/model.onnx", "a/model.onnx"),
    ],
)
def test_a_class_is_told_from_a_version_of_the_registry(tmp_path: Path, ref: str, meant: str) -> None:
    (tmp_path / "wine").mkdir()
    assert with_classes([ref], tmp_path) == [meant]


@pytest.fixture(autouse=True)
def files(tmp_path: Path) -> None:
    Path("labels.txt").write_text("red\ngreen\nblue\n", encoding="utf-8")
    Path("steps.json").write_text('[{"kind": "scale", "factor": -1.0}]', encoding="utf-8")
    Path("row.json").write_text(json.dumps(ROW), encoding="utf-8")


def test_predict_reads_the_task_and_its_steps_from_the_options(penstock: Penstock, onnx_file: Path) -> None:
    args = ("predict", onnx_file, "row.json", "--task", "vector-classification", "--preprocess", "steps.json")
    assert penstock(*args).json()["predictions"] == [int((-np.array(ROW) @ weights(0)).argmax())]
    outputs = penstock("predict", onnx_file, "row.json", "--task", "tensor").json()["outputs"]
    assert outputs["logits"][0] == pytest.approx((np.array(ROW) @ weights(0)).tolist(), rel=1e-5)


@pytest.mark.parametrize("command", [("models", "publish"), ("models", "import")])
def test_a_published_file_keeps_what_was_said_of_it(
    penstock: Penstock, onnx_file: Path, command: tuple[str, ...]
) -> None:
    about = ("--task", "vector-classification", "--labels", "labels.txt", "--preprocess", "steps.json")
    assert penstock(*command, onnx_file, *about).code == 0
    task = json.loads(Path("registry/linear/v1.0/manifest.json").read_text(encoding="utf-8"))["task"]
    assert task["kind"] == "vector-classification"
    assert task["config"]["labels"] == ["red", "green", "blue"]
    assert task["config"]["preprocess"] == [{"kind": "scale", "factor": -1.0}]


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (("predict", "linear", "row.json", "--labels", "labels.txt"), "--labels describes one model file"),
        (("serve", "--task", "tensor"), "--task describes one model file, none is named"),
        (("serve", "a.onnx", "b.onnx", "--no-batch"), "--no-batch describes one model file, 2 are named"),
        (("models", "publish", "linear.onnx", "--batch-axis", "x"), "--batch-axis: 'x' is not of the form name:axis"),
    ],
)
def test_options_without_their_file_are_usage_errors(
    penstock: Penstock, onnx_file: Path, args: tuple[str, ...], sentence: str
) -> None:
    done = penstock(*args)
    assert done.code == 2
    assert sentence in " ".join(done.err.replace("│", " ").split())


@pytest.mark.parametrize("command", [("models", "publish"), ("predict",)])
@pytest.mark.parametrize(
    ("option", "file", "content", "sentence"),
    [
        ("--labels", "two.txt", "red\ngreen\n", "linear.onnx: labels holds 2 names, the output 'logits' has 3"),
        ("--labels", "none.txt", "\n", "labels: none.txt is empty"),
        (
            "--preprocess",
            "bad.json",
            '[{"kind": "sale"}]',
            "linear.onnx: the vector-classification settings of the model",
        ),
        ("--task", "sorting", "", "linear.onnx: there is no task of the kind 'sorting'"),
        ("--example", "uneven.json", '{"x": [[1, 2], [3]]}', "example: x: its lists have different lengths"),
    ],
)
def test_a_wrong_description_is_one_sentence_that_names_the_file(
    penstock: Penstock, onnx_file: Path, command: tuple[str, ...], option: str, file: str, content: str, sentence: str
) -> None:
    Path(file).write_text(content, encoding="utf-8")
    row = ("row.json",) if command == ("predict",) else ()
    done = penstock(*command, onnx_file, *row, option, file)
    assert (done.code, done.err.count("\n")) == (1, 1)
    assert sentence in done.err


def test_options_of_one_command_exclude_each_other_in_one_line(penstock: Penstock, onnx_file: Path) -> None:
    done = penstock("models", "import", onnx_file, "--batch-axis", "input:0", "--no-batch")
    assert (done.code, done.err.count("\n")) == (1, 1)
    assert "no_batch" in done.err
