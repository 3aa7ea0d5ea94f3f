"""PyTorch files with nothing but the environment: weights, checkpoints, TorchScript and whole pickled modules."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from networks import Mlp

Penstock = Callable[..., Any]
ROW = [0.5, -1.0, 2.0, 0.25]
INPUTS = {"MODEL_INPUTS": "x:FP32:-1,4"}
CLASS = {"MODEL_ARCHITECTURE": "networks:Mlp", "PENSTOCK_MODEL_ARCHITECTURE_ARGS": '{"features": 4, "classes": 3}'}
CODE = {"PENSTOCK_TRUST": "code"}


@pytest.fixture
def mlp() -> Mlp:
    torch.manual_seed(0)
    return Mlp(4, 3).eval()


def script(model: torch.nn.Module) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.trace(model, torch.zeros(2, 4))


def prefixed(model: torch.nn.Module, prefix: str) -> dict[str, torch.Tensor]:
    return {f"{prefix}{name}": value for name, value in model.state_dict().items()}


def save(model: torch.nn.Module, form: str, path: str) -> None:
    if form == "torchscript":
        script(model).save(path)
        return
    contents = {
        "state dict": model.state_dict(),
        "lightning": {"state_dict": prefixed(model, "model."), "epoch": 1, "pytorch-lightning_version": "2.5"},
        "data parallel": {"state_dict": prefixed(model, "module."), "optimizer": {}},
        "module": model,
        "module in a checkpoint": {"model": model, "epoch": 3},
    }
    torch.save(contents[form], path)


def predict(penstock: Penstock, monkeypatch: pytest.MonkeyPatch, path: str, environ: dict[str, str]) -> Any:
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    return penstock("predict", path, "-", "--task", "tensor", stdin=json.dumps(ROW).encode())


@pytest.mark.parametrize(
    ("form", "path", "environ"),
    [
        ("state dict", "m.pt", CLASS),
        ("state dict", "m.pth", CLASS | {"MODEL_TYPE": "pytorch"}),
        ("lightning", "m.ckpt", CLASS | {"MODEL_TYPE": "pytorch"}),
        ("lightning", "m.ckpt", CLASS),
        ("data parallel", "m.pth", CLASS),
        ("torchscript", "m.pt", {}),
        ("torchscript", "m.pt", {"MODEL_TYPE": "torchscript"}),
        ("module", "m.pt", {}),
        ("module", "m.pth", {"MODEL_TYPE": "pytorch"}),
        ("module in a checkpoint", "m.pt", {}),
    ],
)
def test_a_file_runs_with_what_the_environment_says_of_it(
    penstock: Penstock,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    mlp: Mlp,
    form: str,
    path: str,
    environ: dict[str, str],
) -> None:
    save(mlp, form, path)
    done = predict(penstock, monkeypatch, path, INPUTS | CODE | environ)
    assert done.code == 0, done.err
    (answer,) = done.json()["outputs"]["output"]
    assert answer == pytest.approx(mlp(torch.tensor([ROW]))[0].tolist(), rel=1e-4)
    assert ("whole module, whose code ran" in caplog.text) == form.startswith("module")


@pytest.mark.parametrize(
    ("form", "environ", "parts"),
    [
        ("state dict", INPUTS | CODE, ["MODEL_ARCHITECTURE=module:Class"]),
        ("state dict", CLASS | CODE, ["MODEL_INPUTS=x:FP32:-1,784", "MODEL_EXAMPLE"]),
        ("state dict", CODE | INPUTS | {"MODEL_TYPE": "torchscript"}, ["but is pytorch", "MODEL_TYPE=pytorch"]),
        ("torchscript", CODE, ["MODEL_INPUTS=x:FP32:-1,3,32,32"]),
        ("torchscript", INPUTS, ["--trust code"]),
        ("torchscript", CODE | INPUTS | {"MODEL_TYPE": "pytorch"}, ["but is torchscript", "MODEL_TYPE=torchscript"]),
        ("torchscript", CODE | INPUTS | CLASS, ["leave the architecture out"]),
        ("module", INPUTS, ["networks.Mlp", "--trust code"]),
        ("module", CODE | INPUTS | CLASS, ["more than weights", "without an architecture"]),
    ],
)
def test_what_is_missing_or_wrong_is_named_in_one_sentence(
    penstock: Penstock,
    monkeypatch: pytest.MonkeyPatch,
    mlp: Mlp,
    form: str,
    environ: dict[str, str],
    parts: list[str],
) -> None:
    save(mlp, form, "m.pt")
    done = predict(penstock, monkeypatch, "m.pt", environ)
    assert (done.code, done.err.count("\n")) == (1, 1)
    assert [part for part in parts if part not in done.err] == [], done.err


def test_a_pickle_of_a_class_that_is_gone_says_so(
    penstock: Penstock, monkeypatch: pytest.MonkeyPatch, mlp: Mlp
) -> None:
    mlp.__class__ = type("Gone", (Mlp,), {"__module__": "networks"})
    monkeypatch.setattr("networks.Gone", type(mlp), raising=False)
    torch.save(mlp, "m.pt")
    monkeypatch.delattr("networks.Gone")
    done = predict(penstock, monkeypatch, "m.pt", INPUTS | CODE)
    assert (done.code, done.err.count("\n")) == (1, 1)
    assert "Gone" in done.err


def test_a_whole_module_is_published_where_its_source_is_trusted(penstock: Penstock, mlp: Mlp) -> None:
    torch.save(mlp, "m.pt")
    args = ("models", "import", "m.pt", "--input", "x:FP32:-1x4")
    assert penstock(*args).code == 1
    assert penstock(*args, "--trust", "code").code == 0
    answer = penstock("predict", "m", "-", "--task", "tensor", stdin=json.dumps(ROW).encode()).json()
    assert answer["outputs"]["output"][0] == pytest.approx(mlp(torch.tensor([ROW]))[0].tolist(), rel=1e-4)


def test_a_file_served_from_the_environment_has_the_version_that_publish_gives(
    penstock: Penstock, onnx_file: Path
) -> None:
    request = {"task": "vector-classification", "input_data": ROW, "model_version": "v1.0"}
    answer = penstock("predict", onnx_file, "-", stdin=json.dumps(request).encode()).json()
    assert answer["model_version"] == "v1.0"
