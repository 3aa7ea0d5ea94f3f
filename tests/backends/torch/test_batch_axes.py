"""TorchScript and exported programs some tensor of which has no batch axis, or has it on another axis than 0."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from penstock.engine.predictor.predictor import Predictor
from penstock.tensors import Arrays, Signature, TensorSpec


class Voice(torch.nn.Module):
    """A probability for each sample, and the state that belongs to it."""

    def forward(self, x: torch.Tensor, state: torch.Tensor, sr: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        mean = x.mean(dim=1, keepdim=True)
        return mean * sr / 1000, state + mean


SIGNATURE = Signature(
    (TensorSpec("x", "FP32", (-1, 8)), TensorSpec("state", "FP32", (2, -1, 4)), TensorSpec("sr", "INT64", ())),
    (TensorSpec("p", "FP32", (-1, 1)), TensorSpec("stateN", "FP32", (2, -1, 4))),
)


def script(module: torch.nn.Module, path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.script(module).save(path)


def requests() -> list[Arrays]:
    random = np.random.default_rng(3)
    return [
        {
            "x": random.standard_normal((n, 8), np.float32),
            "state": random.standard_normal((2, n, 4), np.float32),
            "sr": np.array(8000),
        }
        for n in (1, 3)
    ]


def require_right(predictor: Predictor, names: tuple[str, str]) -> None:
    for request in requests():
        expected = Voice()(*(torch.from_numpy(array) for array in request.values()))
        outputs = predictor.predict(request).outputs
        for name, array in zip(names, expected, strict=True):
            np.testing.assert_allclose(outputs[name], array.numpy(), rtol=1e-5, atol=1e-6)


def test_a_script_with_a_state_and_a_single_value_is_served(tmp_path: Path) -> None:
    path = tmp_path / "voice.pt"
    script(Voice(), path)
    with Predictor(path, signature=SIGNATURE, trust="code") as predictor:
        assert predictor.task.signature.whole
        require_right(predictor, ("p", "stateN"))


def test_an_exported_program_shares_its_symbols_with_the_signature(tmp_path: Path) -> None:
    path = tmp_path / "voice.pt2"
    batch = torch.export.Dim("batch", min=1, max=64)
    arguments = tuple(torch.from_numpy(array) for array in requests()[1].values())
    program = torch.export.export(Voice(), arguments, dynamic_shapes=({0: batch}, {1: batch}, {}))
    torch.export.save(program, path)
    with Predictor(path, trust="code") as predictor:
        signature = predictor.task.signature
        assert signature.batch_axes == dict.fromkeys(("state", "sr", "output_1"))
        assert predictor.info.assumed[0].startswith("the batch is axis 0 of x, axis 1 of state, axis 0 of output_0")
        require_right(predictor, ("output_0", "output_1"))


class Joined(torch.nn.Module):
    """Rows of both inputs, one below the other."""

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return torch.cat([a, b])


@pytest.mark.parametrize("rows", [(1, 1), (2, 3)])
def test_a_script_whose_rows_are_more_than_those_of_its_inputs_is_served(tmp_path: Path, rows: tuple[int, int]) -> None:
    path = tmp_path / "joined.pt"
    script(Joined(), path)
    a, b, y = (TensorSpec(name, "FP32", (-1, 2)) for name in "aby")
    with Predictor(path, signature=Signature((a, b), (y,)), trust="code") as predictor:
        assert predictor.task.signature.whole
        outputs = predictor.predict({"a": np.ones((rows[0], 2)), "b": np.zeros((rows[1], 2))}).outputs
        assert outputs["y"] == [[1.0, 1.0]] * rows[0] + [[0.0, 0.0]] * rows[1]
