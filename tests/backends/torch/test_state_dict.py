"""Weights as saved by training code; test_eager.py covers damaged and malicious files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from penstock.backends.base import BackendOptions, ModelFile
from penstock.backends.torch import state_dict
from penstock.backends.torch.eager import EagerBackend
from penstock.errors import ModelLoadError
from penstock.tensors import Signature, TensorSpec

SIGNATURE = Signature((TensorSpec("x", "FP32", (-1, 3)),), (TensorSpec("y", "FP32", (-1, 2)),))


class Net(nn.Module):
    def __init__(self, hidden: int = 4, *, scale: float = 1.0) -> None:
        super().__init__()
        self.first = nn.Linear(3, hidden)
        self.second = nn.Linear(hidden, 2)
        self.scale = scale

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(torch.relu(self.first(x))) * self.scale


class Training(nn.Module):
    """A Lightning module: the network, and parts that only training needs."""

    def __init__(self, hidden: int = 4, learning_rate: float = 0.1) -> None:
        super().__init__()
        self.model = Net(hidden)
        self.learning_rate = learning_rate

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.model(x)


class Nested(nn.Module):
    """Its own names have the prefixes of wrappers."""

    def __init__(self) -> None:
        super().__init__()
        self.model = nn.ModuleDict({"net": nn.Linear(3, 2)})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.model["net"](x)


def made(model: Any, *arguments: Any) -> nn.Module:
    torch.manual_seed(5)
    return model(*arguments).eval()


def open_weights(path: Path, architecture: Any = Net, **arguments: Any) -> EagerBackend:
    return EagerBackend.open(ModelFile(path, SIGNATURE, architecture, arguments), BackendOptions(device="cpu"))


def assert_right(backend: EagerBackend, model: nn.Module) -> None:
    x = torch.linspace(-1, 1, 6).reshape(2, 3)
    with torch.inference_mode():
        expected = model(x).numpy()
    np.testing.assert_allclose(backend.run({"x": x.numpy()})["y"], expected, rtol=1e-5)


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".ckpt", ".safetensors"])
@pytest.mark.parametrize(
    "prefix", ["", "model.", "module.", "net.", "_orig_mod.", "model._orig_mod.", "module.model.", "model.net.module."]
)
def test_prefixes_of_training_code_are_removed(tmp_path: Path, prefix: str, suffix: str) -> None:
    model = made(Net)
    weights = {prefix + name: tensor for name, tensor in model.state_dict().items()}
    path = tmp_path / f"m{suffix}"
    save_file(weights, path) if suffix == ".safetensors" else torch.save(weights, path)
    assert_right(open_weights(path), model)


def test_a_compiled_part_of_a_model_has_its_names_back(tmp_path: Path) -> None:
    model = made(Net)
    weights = {name.replace("first.", "first._orig_mod."): tensor for name, tensor in model.state_dict().items()}
    torch.save(weights, tmp_path / "m.pt")
    assert_right(open_weights(tmp_path / "m.pt"), model)


@pytest.mark.parametrize("prefix", ["", "model.", "module."])
def test_a_models_own_names_are_kept_even_if_they_look_like_wrappers(tmp_path: Path, prefix: str) -> None:
    model = made(Nested)
    torch.save({prefix + name: tensor for name, tensor in model.state_dict().items()}, tmp_path / "m.pt")
    assert_right(open_weights(tmp_path / "m.pt", Nested), model)


@pytest.mark.parametrize("key", ["state_dict", "model_state_dict", "model_state", "model", "net"])
def test_the_weights_are_found_next_to_the_state_of_the_optimizer(tmp_path: Path, key: str) -> None:
    model = made(Net)
    optimizer = torch.optim.Adam(model.parameters())
    torch.save({"epoch": 3, key: model.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "m.pt")
    assert_right(open_weights(tmp_path / "m.pt"), model)


def lightning(path: Path, weights: dict[str, torch.Tensor], **hyper_parameters: Any) -> Path:
    """A checkpoint with what `Trainer.save_checkpoint` writes."""
    content = {
        "epoch": 1,
        "global_step": 20,
        "pytorch-lightning_version": "2.5.0",
        "state_dict": weights,
        "loops": {"fit_loop": {"state_dict": {}, "epoch_progress": {"total": {"ready": 1}}}},
        "callbacks": {"ModelCheckpoint{'monitor': None}": {"best_model_path": "m.ckpt", "best_model_score": None}},
        "optimizer_states": [{"state": {}, "param_groups": [{"lr": 0.1, "params": [0, 1]}]}],
        "lr_schedulers": [],
        "hparams_name": "kwargs",
        "hyper_parameters": hyper_parameters,
    }
    torch.save(content, path)
    return path


def test_a_lightning_checkpoint_fills_the_network_it_was_trained_around(tmp_path: Path) -> None:
    model = made(Training, 7)
    path = lightning(tmp_path / "m.ckpt", model.state_dict(), hidden=7, learning_rate=0.5)
    assert_right(open_weights(path), model)


def test_a_lightning_checkpoint_fills_the_lightning_module_with_its_own_arguments(tmp_path: Path) -> None:
    model = made(Training, 7)
    path = lightning(tmp_path / "m.ckpt", model.state_dict(), hidden=7, learning_rate=0.5)
    backend = open_weights(path, Training)
    assert_right(backend, model)
    assert backend._model.learning_rate == 0.5


def test_arguments_of_the_caller_override_those_of_the_checkpoint(tmp_path: Path) -> None:
    path = lightning(tmp_path / "m.ckpt", made(Training, 7).state_dict(), hidden=9, scale=3.0)
    assert open_weights(path, hidden=7)._model.scale == 3.0
    with pytest.raises(ModelLoadError, match=r"do not fit Net: size mismatch for first\.weight"):
        open_weights(path)


@pytest.mark.parametrize("hyper_parameters", [{}, {"unknown": 5}])
def test_arguments_that_say_nothing_of_the_class_change_nothing(tmp_path: Path, hyper_parameters: Any) -> None:
    path = lightning(tmp_path / "m.ckpt", made(Training).state_dict(), **hyper_parameters)
    assert_right(open_weights(path), made(Training))


def test_what_belongs_to_training_alone_is_named_and_not_dropped(tmp_path: Path) -> None:
    weights = {**made(Training).state_dict(), "criterion.weight": torch.ones(2)}
    with pytest.raises(ModelLoadError, match=r"m\.ckpt: the weights do not fit Net: unexpected criterion\.weight$"):
        open_weights(lightning(tmp_path / "m.ckpt", weights))


def test_missing_and_unexpected_keys_are_named_as_they_are_without_the_prefix(tmp_path: Path) -> None:
    weights = made(Training).state_dict()
    weights["model.third.bias"] = weights.pop("model.second.bias")
    with pytest.raises(ModelLoadError, match=r"do not fit Net: missing second\.bias; unexpected third\.bias$"):
        open_weights(lightning(tmp_path / "m.ckpt", weights))


NAMES = st.lists(st.sampled_from(["model", "module", "net", "_orig_mod", "a", "weight", ""]), min_size=1, max_size=5)


@given(st.lists(NAMES.map(".".join), unique=True, max_size=6), st.lists(NAMES.map(".".join), unique=True, max_size=6))
def test_with_any_names_no_weight_is_lost_or_invented_and_exact_names_are_kept(
    own: list[str], given: list[str]
) -> None:
    tensors = {name: torch.tensor(number) for number, name in enumerate(given)}
    found = state_dict._unwrapped(tensors, own)
    assert {int(tensor) for tensor in found.values()} <= set(range(len(given)))
    assert len(set(own) & found.keys()) >= len(set(own) & set(given))
    if set(own) <= set(given):
        assert found == tensors
