"""`penstock models import`, with typical files."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from linear_models import linear, weights
from networks import Heads, Mlp, TwoInputs
from safetensors.torch import save_file

from penstock.file_description import parse_tensor
from penstock.tensors import TensorSpec

Penstock = Callable[..., Any]

ROW = [0.5, -1.0, 2.0, 0.25]
MLP = ("--architecture", "networks:Mlp", "--architecture-args", '{"features": 4, "classes": 3}')
INPUT = ("--input", "x:FP32:-1x4")


def refused(done: Any, *parts: str) -> None:
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith("penstock: ")
    assert done.err.count("\n") == 1
    assert [part for part in parts if part not in done.err] == [], done.err


@pytest.fixture
def mlp() -> Mlp:
    torch.manual_seed(0)
    return Mlp(4, 3).eval()


@pytest.fixture
def script(mlp: Mlp) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.trace(mlp, torch.zeros(2, 4)).save("script.pt")
    return Path("script.pt")


def answers_like(penstock: Penstock, name: str, model: torch.nn.Module) -> None:
    done = penstock("predict", name, "-", "--task", "vector-classification", stdin=json.dumps(ROW).encode())
    assert done.code == 0, done.err
    expected = torch.softmax(model(torch.tensor([ROW])), 1).max(1)
    answer = json.loads(done.out)
    assert answer["predictions"] == expected.indices.tolist()
    assert answer["confidence_scores"] == pytest.approx(expected.values.tolist(), rel=1e-4)


def test_an_onnx_file_needs_no_description(penstock: Penstock, onnx_file: Path) -> None:
    done = penstock("models", "import", onnx_file, "--alias", "champion", "--json").json()
    assert done["ref"] == "linear:v1.0"
    assert done["manifest"]["golden"]["rows"] == 8
    answer = penstock("predict", "linear@champion", "-", stdin=json.dumps(ROW).encode())
    assert json.loads(answer.out)["predictions"] == [int((np.array(ROW) @ weights(0)).argmax())]


def test_publish_does_the_same_for_it(penstock: Penstock, onnx_file: Path) -> None:
    imported = penstock("models", "import", onnx_file, "--json").json()
    published = penstock("models", "publish", onnx_file, "--registry", "other", "--json").json()["models"]
    assert imported["ref"] == f"{published[0]['name']}:{published[0]['version']}"
    digest = penstock("models", "show", "linear", "--json").json()["digest"]
    assert published[0]["digest"] == digest


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".ckpt"])
def test_weights_are_imported_with_their_class_and_its_inputs(penstock: Penstock, mlp: Mlp, suffix: str) -> None:
    path = Path(f"weights{suffix}")
    if suffix == ".safetensors":
        save_file(mlp.state_dict(), path)
    else:
        nested = {"state_dict": {f"model.{name}": value for name, value in mlp.state_dict().items()}}
        torch.save(nested if suffix == ".ckpt" else mlp.state_dict(), path)
    done = penstock("models", "import", path, *MLP, *INPUT, "--trust", "code", "--name", "mlp", "--json")
    assert done.code == 0, done.err
    manifest = done.json()["manifest"]
    (variant,) = manifest["variants"]
    assert (variant["format"], variant["architecture"]) == ("pytorch", "networks:Mlp")
    assert variant["architecture_args"] == {"features": 4, "classes": 3}
    (output,) = manifest["signature"]["outputs"]
    assert (output["name"], output["dtype"], output["shape"]) == ("output", "FP32", [-1, 3])
    answers_like(penstock, "mlp", mlp)


def test_torchscript_is_imported_with_its_inputs_if_trusted(penstock: Penstock, mlp: Mlp, script: Path) -> None:
    refused(penstock("models", "import", script, *INPUT), "script.pt", "--trust code")
    assert penstock("models", "list", "--json").json()["models"] == []
    done = penstock("models", "import", script, *INPUT, "--trust", "code")
    assert (done.code, done.out.split(" (")[0]) == (0, "imported script:v1.0")
    answers_like(penstock, "script", mlp)  # its digest is pinned: --trust is not needed again


def test_an_exported_program_records_its_inputs(penstock: Penstock, mlp: Mlp) -> None:
    batch = torch.export.Dim("batch")
    torch.export.save(torch.export.export(mlp, (torch.zeros(2, 4),), dynamic_shapes=({0: batch},)), "net.pt2")
    refused(penstock("models", "import", "net.pt2"), "net.pt2", "--trust code")
    refused(penstock("models", "import", "net.pt2", *INPUT, "--trust", "code"), "net.pt2", "itself")
    assert penstock("models", "import", "net.pt2", "--trust", "code").code == 0
    answers_like(penstock, "net", mlp)


def test_several_inputs_named_outputs_and_free_lengths_are_found(penstock: Penstock) -> None:
    save_file(TwoInputs().state_dict(), "two.safetensors")
    inputs = ("--input", "left:FP32:-1x4", "--input", "right:float32:?,4")
    done = penstock("models", "import", "two.safetensors", "--architecture", "networks:TwoInputs", *inputs,
                    "--trust", "code", "--json")  # fmt: skip
    assert [one["name"] for one in done.json()["manifest"]["signature"]["inputs"]] == ["left", "right"]
    save_file(Heads().state_dict(), "heads.safetensors")
    done = penstock("models", "import", "heads.safetensors", "--architecture", "networks:Heads",
                    "--input", "x:FP32:-1x-1x6", "--trust", "code", "--json")  # fmt: skip
    outputs = {one["name"]: one["shape"] for one in done.json()["manifest"]["signature"]["outputs"]}
    assert outputs == {"logits": [-1, -1, 4], "probabilities": [-1, -1, 4]}


def test_outputs_that_are_described_are_taken_as_they_are(penstock: Penstock, script: Path) -> None:
    described = ("--output", "scores:FP32:-1x3")
    done = penstock("models", "import", script, *INPUT, *described, "--trust", "code", "--json")
    assert [one["name"] for one in done.json()["manifest"]["signature"]["outputs"]] == ["scores"]


def test_missing_descriptions_are_named_with_their_option(penstock: Penstock, mlp: Mlp, script: Path) -> None:
    save_file(mlp.state_dict(), "weights.safetensors")
    args = ("models", "import", "weights.safetensors")
    refused(penstock(*args), "weights.safetensors", "--architecture")
    refused(penstock(*args, *MLP), "weights.safetensors", "--input")
    refused(penstock(*args, *MLP, *INPUT), "networks", "trust code")
    refused(penstock(*args, *MLP[:2], *INPUT, "--trust", "code"), "do not fit Mlp")
    refused(penstock(*args, *MLP, "--input", "x:FP32:-1x9", "--trust", "code"), "does not run on the inputs described")
    refused(penstock("models", "import", script, *MLP, "--trust", "code"), "script.pt", "needs none")
    refused(penstock("models", "import", script, "--trust", "code"), "script.pt", "--input")
    assert penstock("models", "list", "--json").json()["models"] == []


@pytest.mark.parametrize(
    "args",
    [
        ("--input", "nonsense"),
        ("--input", "x:FP99:-1x4"),
        ("--input", "x:FP32:"),
        ("--input", "x:FP32:-2x4"),
        ("--input", "x:FP32:-1x4", "--input", "x:FP32:-1x4"),
        ("--output", "y:FP32:-1x4"),
        ("--architecture-args", "{}x"),
        ("--architecture-args", "[1]"),
        ("--architecture-args", '{"a": 1}'),
    ],
)
def test_malformed_options_are_usage_errors(penstock: Penstock, onnx_file: Path, args: tuple[str, ...]) -> None:
    assert penstock("models", "import", onnx_file, *args).code == 2


def test_a_file_that_is_not_a_model_is_refused(penstock: Penstock) -> None:
    Path("model.py").write_text("print('hello')\n")
    Path("fake.onnx").write_bytes(b"not a model")
    refused(penstock("models", "import", "model.py"), "model.py")
    refused(penstock("models", "import", "fake.onnx"), "fake.onnx")
    refused(penstock("models", "import", "nowhere.onnx"), "nowhere.onnx")
    refused(penstock("models", "import", linear(Path("x.onnx")), *MLP), "x.onnx", "needs none")
    refused(penstock("models", "import", "x.onnx", *INPUT), "x.onnx", "itself")


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("x:FP32:-1x784", TensorSpec("x", "FP32", (-1, 784))),
        ("a:b:int64:?", TensorSpec("a:b", "INT64", (-1,))),
        ("mask:bool:8,3,3", TensorSpec("mask", "BOOL", (8, 3, 3))),
        ("past:FP32:1,0,3", TensorSpec("past", "FP32", (1, 0, 3))),
        ("rate:INT64:()", TensorSpec("rate", "INT64", ())),
    ],
)
def test_a_tensor_is_described_in_a_few_characters(text: str, spec: TensorSpec) -> None:
    assert parse_tensor(text) == spec
