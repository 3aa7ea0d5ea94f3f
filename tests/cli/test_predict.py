"""`penstock predict`: every kind of input, and the errors of invalid ones."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from axis_models import GRAPHS, answers
from linear_models import weights

Penstock = Callable[..., Any]
ROW = [0.5, -1.0, 2.0, 0.25]
EXPECTED = int(np.argmax(np.array(ROW) @ weights(0)))


def npz(**arrays: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def npy(array: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


INPUTS = {
    "fields.json": json.dumps({"input_data": ROW}).encode(),
    "numbers.json": json.dumps(ROW).encode(),
    "row.npy": npy(np.array(ROW)),
    "rows.npy": npy(np.array([ROW], np.float32)),
    "fields.npz": npz(input_data=np.array(ROW)),
}


@pytest.mark.parametrize("name", INPUTS)
@pytest.mark.parametrize("way", ["file", "file without a suffix", "standard input"])
def test_one_row_is_answered_from_every_kind_of_input(penstock: Penstock, onnx_file: Path, name: str, way: str) -> None:
    data = INPUTS[name]
    source = {"file": name, "file without a suffix": "input", "standard input": "-"}[way]
    if way != "standard input":
        Path(source).write_bytes(data)
    done = penstock("predict", onnx_file, source, stdin=data)
    assert done.code == 0, done.err
    answer = done.json()
    assert answer["predictions"] == [EXPECTED]
    assert 1 / 3 <= answer["confidence_scores"][0] <= 1
    assert answer["model_version"] == "v1.0"
    assert answer["inference_time_ms"] > 0


def test_several_rows_are_answered_in_order(penstock: Penstock, onnx_file: Path) -> None:
    rows = np.random.default_rng(5).standard_normal((40, 4)).astype(np.float32)
    np.save("rows.npy", rows)
    answer = penstock("predict", onnx_file, "rows.npy").json()
    assert answer["predictions"] == (rows @ weights(0)).argmax(axis=1).tolist()


def test_versions_and_aliases_of_the_registry_are_resolved(penstock: Penstock, published: str) -> None:
    row = np.array(ROW)
    seeds = {f"{published}:v1.0": 0, f"{published}@champion": 0, f"{published}:v2.0": 1, published: 0}
    for ref, seed in seeds.items():
        answer = penstock("predict", ref, "-", stdin=json.dumps(ROW).encode()).json()
        logits = row @ weights(seed)
        assert answer["predictions"] == [int(logits.argmax())], ref
        assert answer["confidence_scores"][0] == pytest.approx(np.exp(logits.max()) / np.exp(logits).sum(), rel=1e-4)


@pytest.mark.parametrize(
    ("name", "data", "parts"),
    [
        ("x.json", b'{"input_data": [1, 2', ["x.json is not valid json", "line 1"]),
        ("x.json", b"", ["x.json is not valid json"]),
        ("x.json", b"[" * 100_000, ["x.json is not valid json"]),
        ("x.json", b'{"input_data": [1, 2, 3]}', ["input_data", "3 numbers", "4"]),
        ("x.json", b'{"input_data": [1, 2, 3, NaN]}', ["input_data[3]"]),
        ("x.json", b'{"input_data": [1, 2, 3, 4], "colour": 1}', ["colour"]),
        ("x.json", b'{"input_data": "abc"}', ["input_data"]),
        ("x.json", b'"hello"', ["input_data"]),
        ("x.npy", b"\x93NUMPY\x01\x00", ["x.npy is not valid npy"]),
        ("x.npy", npy(np.array([{"a": 1}], dtype=object)), ["x.npy is not valid npy", "allow_pickle"]),
        ("x.npz", b"PK\x03\x04 no zip at all", ["x.npz is not valid npz"]),
        ("x.txt", b"some words", ["input_data"]),
        ("missing.json", None, ["missing.json cannot be read: No such file"]),
    ],
)
def test_a_wrong_input_is_one_sentence_that_names_it(
    penstock: Penstock, onnx_file: Path, name: str, data: bytes | None, parts: list[str]
) -> None:
    if data is not None:
        Path(name).write_bytes(data)
    done = penstock("predict", onnx_file, name)
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith("penstock: ")
    assert done.err.count("\n") == 1
    assert [part for part in parts if part not in done.err] == [], done.err


@pytest.mark.parametrize(
    ("ref", "parts"),
    [
        ("nothing", ["nothing"]),
        ("./nowhere.onnx", ["nowhere.onnx", "no such"]),
        ("broken.onnx", ["broken.onnx"]),
        ("no such name", ["name"]),
    ],
)
def test_an_unknown_model_is_one_sentence(penstock: Penstock, ref: str, parts: list[str]) -> None:
    Path("broken.onnx").write_bytes(b"\x00" * 64)
    done = penstock("predict", ref, "-", stdin=b"[1, 2, 3, 4]")
    assert (done.code, done.out) == (1, "")
    assert done.err.count("\n") == 1
    assert [part for part in parts if part not in done.err] == [], done.err


def test_the_starter_model_works_without_preparation(penstock: Penstock) -> None:
    done = penstock("predict", "digits", "-", stdin=json.dumps([0.0] * 784).encode())
    assert done.code == 0, done.err
    assert done.json()["predictions"][0] in range(10)


def test_an_image_goes_to_an_image_model_and_a_text_file_is_refused_there(penstock: Penstock) -> None:
    from PIL import Image, ImageDraw

    image = Image.new("L", (64, 64), 255)
    ImageDraw.Draw(image).line((32, 8, 32, 56), fill=0, width=6)
    image.save("one.png")
    done = penstock("predict", "digits-image", "one.png")
    assert done.code == 0, done.err
    assert done.json()["class_id"] in range(10)

    Path("words.png").write_text("some words")
    done = penstock("predict", "digits-image", "words.png")
    assert (done.code, done.err.count("\n")) == (1, 1)
    assert "image" in done.err


def test_an_unknown_task_is_refused_with_the_models_tasks(penstock: Penstock) -> None:
    row = json.dumps([0.0] * 784).encode()
    done = penstock("predict", "digits", "-", "--task", "vector-classification", stdin=row)
    assert done.code == 0, done.err
    done = penstock("predict", "digits", "-", "--task", "tabular", stdin=row)
    assert (done.code, done.err.count("\n")) == (1, 1)
    assert "vector-classification" in done.err
    assert "tensor" in done.err


def test_every_model_has_the_task_tensor(penstock: Penstock) -> None:
    body = json.dumps({"inputs": {"input": [[0.0] * 784]}}).encode()
    done = penstock("predict", "digits", "-", "--task", "tensor", stdin=body)
    assert done.code == 0, done.err
    assert len(done.json()["outputs"]["logits"][0]) == 10


TENSORS = {"inputs": {"x": [ROW]}}


@pytest.mark.parametrize("options", [(), ("--task", "tensor")])
def test_a_json_document_names_its_task_as_over_http(
    penstock: Penstock, onnx_file: Path, options: tuple[str, ...]
) -> None:
    document = json.dumps({"task": "tensor", **TENSORS}).encode()
    done = penstock("predict", onnx_file, "-", *options, stdin=document)
    assert done.code == 0, done.err
    assert list(done.json()["outputs"]) == ["logits"]


@pytest.mark.parametrize(
    ("document", "options", "fault"),
    [
        (
            {"task": "tensor", **TENSORS},
            ("--task", "vector-classification"),
            "the option names 'vector-classification'",
        ),
        ({"task": "nope", "input_data": ROW}, (), "task: Extra inputs are not permitted"),
        ({"task": 5, "input_data": ROW}, (), "task: Extra inputs are not permitted"),
    ],
)
def test_a_wrong_task_in_a_json_document_is_refused(
    penstock: Penstock, onnx_file: Path, document: dict[str, Any], options: tuple[str, ...], fault: str
) -> None:
    done = penstock("predict", onnx_file, "-", *options, stdin=json.dumps(document).encode())
    assert done.code == 1
    assert fault in done.err


@pytest.mark.parametrize("name", ["silero", "gru with a state", "top k", "single values", "an empty past"])
@pytest.mark.parametrize("kind", ["npz", "json"])
def test_a_model_without_a_batch_axis_is_asked_in_the_shapes_of_its_file(
    penstock: Penstock, name: str, kind: str
) -> None:
    graph = GRAPHS[name]
    path = graph.save(Path("m.onnx").absolute())
    request = graph.requests[0]
    lists = {key: array.tolist() for key, array in request.items()}
    data = npz(**request) if kind == "npz" else json.dumps({"inputs": lists}).encode()
    done = penstock("predict", path, "-", stdin=data)
    assert done.code == 0, done.err
    for key, array in answers(path, [request])[0].items():
        np.testing.assert_allclose(done.json()["outputs"][key], array, rtol=1e-5, atol=1e-6)
