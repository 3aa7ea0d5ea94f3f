"""Models as people export them whose rows influence each other, with the answers of the runtimes themselves."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnxruntime as ort
import quantized_models
import torch
from row_models import DEPENDENT, FEATURES, write
from torch import nn

from penstock.tensors import Signature, TensorSpec

Answer = Callable[[np.ndarray], np.ndarray]


class DependentModel(NamedTuple):
    """A file with input `x`, the runtime's own answer, the shape of a row, and what `load_model` must be told."""

    path: Path
    answer: Answer
    row: tuple[int, ...]
    options: dict[str, object]


class Branch(nn.Module):
    """Doubles or halves everything, by the sign of the sum of all rows."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.sum() > 0:
            return x * 2
        return x / 2


class ConvNet(nn.Module):
    """A small convolutional network with batch normalization."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        features: torch.Tensor = self.head(self.norm(self.conv(x)).relu().mean((2, 3)))
        return features


def _onnx(path: Path, row: tuple[int, ...], output: str = "y") -> DependentModel:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return DependentModel(path, lambda x: np.asarray(session.run([output], {"x": x})[0]), row, {})


def centred(root: Path) -> DependentModel:
    return _onnx(write(root / "centred.onnx", DEPENDENT["the mean of the batch"]), (FEATURES,))


def running_sum(root: Path) -> DependentModel:
    return _onnx(write(root / "running-sum.onnx", DEPENDENT["a running sum"]), (FEATURES,))


def gru_over_time(root: Path) -> DependentModel:
    return _onnx(write(root / "gru.onnx", DEPENDENT["time as the first axis"]), (FEATURES,))


def dynamically_quantized(root: Path) -> DependentModel:
    return _onnx(quantized_models.int8(root / "int8.onnx", per_channel=False), (quantized_models.FEATURES,), "logits")


def branching(root: Path) -> DependentModel:
    path = root / "branching.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.jit.script(Branch())
        program.save(str(path))
    spec = (TensorSpec("x", "FP32", (-1, FEATURES)),)
    options = {"signature": Signature(spec, (TensorSpec("y", "FP32", (-1, FEATURES)),)), "trust": "code"}
    return DependentModel(path, lambda x: np.asarray(program(torch.from_numpy(x)).numpy()), (FEATURES,), options)


def in_train_mode(root: Path) -> DependentModel:
    path = root / "train-mode.onnx"
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            ConvNet().train(),
            (torch.randn(4, 3, 10, 10),),
            path,
            training=torch.onnx.TrainingMode.TRAINING,
            do_constant_folding=False,
            dynamo=False,
            input_names=["x"],
            output_names=["y"],
            dynamic_axes={"x": {0: "N"}, "y": {0: "N"}},
        )
    return _onnx(path, (3, 10, 10))


MODELS: dict[str, Callable[[Path], DependentModel]] = {
    make.__name__: make
    for make in (centred, running_sum, gru_over_time, dynamically_quantized, branching, in_train_mode)
}
