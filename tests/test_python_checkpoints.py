"""Files of weights in Python: a class, a file and an example are enough."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from penstock import ModelManager, PenstockError, Predictor, Registry, Signature, TensorSpec
from penstock.errors import InvalidInput, ModelLoadError, Untrusted
from penstock.options import EngineOptions

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:torch.*")

X = np.random.default_rng(3).standard_normal((6, 4)).astype(np.float32)


class Net(torch.nn.Module):
    def __init__(self, width: int = 8, classes: int = 3) -> None:
        super().__init__()
        self.inner = torch.nn.Linear(4, width)
        self.outer = torch.nn.Linear(width, classes)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.outer(torch.relu(self.inner(features)))


class TwoIn(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(1))

    def forward(self, left: torch.Tensor, right: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"sum": self.scale * (left + right), "larger": left > right}


@pytest.fixture
def net() -> Net:
    torch.manual_seed(0)
    return Net(width=16).eval()


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[ModelManager]:
    manager = ModelManager(Registry(tmp_path / "none"))
    yield manager
    manager.close()


def checkpoint(net: Net, path: Path) -> Path:
    """As Lightning writes it, of a module that wraps the net."""
    weights = {f"model.{name}": tensor for name, tensor in net.state_dict().items()}
    torch.save({"state_dict": weights, "epoch": 3, "hyper_parameters": {"width": 16, "lr": 0.1}}, path)
    return path


def expected(net: Net) -> np.ndarray:
    with torch.inference_mode():
        return net(torch.from_numpy(X)).numpy()


@pytest.mark.parametrize("example", [X, torch.from_numpy(X), (X,), {"features": X}, X.astype(np.float64)])
def test_a_lightning_checkpoint_needs_its_class_and_an_example(
    manager: ModelManager, net: Net, tmp_path: Path, example: Any
) -> None:
    model = manager.load_model(checkpoint(net, tmp_path / "m.ckpt"), architecture=Net, example_input=example)
    assert model.signature == Signature(
        (TensorSpec("features", "FP32", (-1, 4)),), (TensorSpec("output", "FP32", (-1, 3)),)
    )
    np.testing.assert_allclose(model.backend.run({"features": X})["output"], expected(net), rtol=1e-5, atol=1e-6)
    info = manager.get_model_info("m")
    assert (info.format, info.num_parameters) == ("pytorch", sum(p.numel() for p in net.parameters()))
    assert info.size_bytes > 0
    assert info.loaded_at.endswith("+00:00")


@pytest.mark.parametrize("suffix", [".pt", ".pth"])
def test_a_plain_state_dict_with_a_signature(manager: ModelManager, net: Net, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"m{suffix}"
    torch.save(net.state_dict(), path)
    signature = Signature((TensorSpec("features", "FP32", (-1, 4)),), (TensorSpec("logits", "FP32", (-1, 3)),))
    with Predictor(
        path,
        registry=manager.registry,
        architecture=Net,
        architecture_args={"width": 16},
        signature=signature,
        task="vector-classification",
    ) as predictor:
        assert predictor.predict(X).predictions == expected(net).argmax(axis=1).tolist()


def test_several_inputs_and_named_outputs_are_read_from_an_example(manager: ModelManager, tmp_path: Path) -> None:
    torch.save(TwoIn().state_dict(), tmp_path / "two.pt")
    model = manager.load_model(tmp_path / "two.pt", architecture=TwoIn, example_input=(X, X))
    assert [spec.name for spec in model.signature.inputs] == ["left", "right"]
    assert [(spec.name, spec.dtype) for spec in model.signature.outputs] == [("sum", "FP32"), ("larger", "BOOL")]
    outputs = model.backend.run({"left": X, "right": -X})
    np.testing.assert_array_equal(outputs["larger"], X > -X)


def test_weights_that_do_not_fit_name_what_is_missing(manager: ModelManager, net: Net, tmp_path: Path) -> None:
    weights = net.state_dict()
    del weights["outer.bias"]
    torch.save({**weights, "extra": torch.zeros(1)}, tmp_path / "m.pt")
    with pytest.raises(ModelLoadError, match=r"missing outer.bias; unexpected extra"):
        manager.load_model(tmp_path / "m.pt", architecture=Net, architecture_args={"width": 16}, example_input=X)


@pytest.mark.parametrize(
    ("keywords", "error", "sentence"),
    [
        ({}, PenstockError, "architecture"),
        ({"example_input": X}, ModelLoadError, "does not say which class"),
        ({"architecture": Net}, ModelLoadError, "signature"),
        ({"architecture": Net, "example_input": X[:, :2]}, ModelLoadError, "does not run on the example input"),
        ({"architecture": Net, "example_input": np.float32(1)}, ModelLoadError, "does not run on the example input"),
        ({"architecture": Net, "example_input": np.zeros(2, "datetime64[s]")}, PenstockError, "example"),
        ({"architecture": dict, "example_input": X}, ModelLoadError, "not a class of torch.nn.Module"),
        ({"architecture": "os:system", "example_input": X}, ModelLoadError, "os:system"),
        ({"architecture": "nobody_knows:Net", "example_input": X}, Untrusted, "nobody_knows"),
        ({"variant": "onnx-fp32"}, InvalidInput, "a file is a single variant"),
        ({"precision": "fp99"}, PenstockError, "fp99"),
        ({"trust": "blind"}, PenstockError, "blind"),
    ],
)
def test_a_wrong_description_of_weights_is_refused_in_one_sentence(
    manager: ModelManager, net: Net, tmp_path: Path, keywords: dict[str, Any], error: type[Exception], sentence: str
) -> None:
    path = checkpoint(net, tmp_path / "m.ckpt")
    with pytest.raises(error, match=sentence) as refused:
        manager.load_model(path, **keywords)
    assert "\n" not in str(refused.value)
    assert manager.list_cached_models() == []


def test_a_description_of_weights_is_refused_for_the_registry(manager: ModelManager) -> None:
    with pytest.raises(PenstockError, match="there is no model"):
        manager.load_model("digits", architecture=Net)


def test_an_eager_model_warns_that_another_format_is_faster(manager: ModelManager, net: Net, tmp_path: Path) -> None:
    model = manager.load_model(checkpoint(net, tmp_path / "m.ckpt"), architecture=Net, example_input=X)
    assert any("faster" in warning for warning in model.info.warnings)


def test_compile_options_of_a_load_reach_the_backend(
    manager: ModelManager, net: Net, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from penstock.engine.loading import manager as manager_module

    received: list[EngineOptions] = []
    real = manager_module.load_file

    def recorded(path: Path, options: EngineOptions, *more: Any) -> Any:
        received.append(options)
        return real(path, options.override(use_compile=False), *more)

    monkeypatch.setattr(manager_module, "load_file", recorded)
    manager.load_model(
        checkpoint(net, tmp_path / "m.ckpt"),
        device="auto",
        use_compile=True,
        compile_mode="reduce-overhead",
        architecture=Net,
        example_input=X,
    )
    assert (received[0].device, received[0].use_compile, received[0].compile_mode) == ("auto", True, "reduce-overhead")


def test_torchscript_runs_with_the_signature_of_the_caller(manager: ModelManager, net: Net, tmp_path: Path) -> None:
    path = tmp_path / "traced.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.trace(net.eval(), torch.zeros(2, 4)).save(str(path))
    signature = Signature((TensorSpec("x", "FP32", (-1, 4)),), (TensorSpec("y", "FP32", (-1, 3)),))
    with pytest.raises(PenstockError, match="TorchScript does not record"):
        manager.load_model(path, trust="code")
    with pytest.raises(Untrusted):
        manager.load_model(path, signature=signature)
    model = manager.load_model(path, trust="code", signature=signature)
    assert model.info.format == "torchscript"
