"""The zoo: one model of each kind that Penstock serves, the same in every test and every process.

    model = zoo.ENCODER
    model.signature                     # inputs and outputs
    inputs = model.inputs(rows=4)       # seeded; `seed=` and `length=` give others
    model.expected(inputs)              # the outputs of PyTorch (or of the Python implementation)
    model.make()                        # the torch.nn.Module, in evaluation mode; not for TEXT and TABULAR
    model.onnx()                        # an ONNX file of it, written once per process: do not change it
    model.write_onnx(path)              # another copy, which you may change
    model.architecture                  # `module:Class`, with `arguments`, for eager variants

`SMALL` are fast enough for any test. `RESNET` has 11 million parameters and 45 MB. Models with text come from
`zoo_text` and have no torch.nn.Module.
"""

from __future__ import annotations

import atexit
import functools
import shutil
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import networks
import numpy as np
import torch
import zoo_text
from safetensors.torch import load_file
from torch import nn

import penstock_digits
from penstock.artifacts.golden import Golden
from penstock.tensors import Array, Arrays, Signature, TensorSpec
from penstock_digits.model import DigitsCNN


@dataclass(frozen=True)
class ZooModel:
    """One model. `length` is the length of free axes, `high` the exclusive upper bound of integer inputs, and `mask`
    the input that is True for the leading elements of each row."""

    name: str
    signature: Signature
    high: int = 50
    length: int = 6
    mask: str | None = None
    tolerance: float = 1e-5

    def inputs(self, rows: int, seed: int = 0, length: int | None = None) -> Arrays:
        """Inputs with `rows` rows, the same for the same seed."""
        random = np.random.default_rng(seed)
        long = self.length if length is None else length
        return {spec.name: self._array(spec, rows, long, random) for spec in self.signature.inputs}

    def expected(self, inputs: Arrays) -> Arrays:
        """The expected outputs, in the order of the signature."""
        raise NotImplementedError

    def write_onnx(self, path: Path) -> Path:
        """Write the model to `path`, all in one file, and return it."""
        raise NotImplementedError

    def onnx(self) -> Path:
        """An ONNX file of the model that all tests share."""
        return _shared_file(self)

    def golden(self, rows: int = 4) -> Golden:
        """Samples for an artifact."""
        inputs = self.inputs(rows, seed=99)
        return Golden(inputs, self.expected(inputs), 1e-4, 1e-3)

    def _array(self, spec: TensorSpec, rows: int, length: int, random: np.random.Generator) -> Array:
        shape = (rows, *(n if n >= 0 else length for n in spec.shape[1:]))
        if spec.name == self.mask:
            lengths = random.integers(1, length, (rows, 1), endpoint=True)
            return (np.arange(length) < lengths).astype(spec.numpy)
        if spec.numpy.kind == "f":
            return random.standard_normal(shape).astype(spec.numpy)
        if spec.numpy.kind == "O":
            return zoo_text.words(shape, random)
        return random.integers(0, 2 if spec.numpy.kind == "b" else self.high, shape).astype(spec.numpy)


@dataclass(frozen=True)
class TorchModel(ZooModel):
    """A torch.nn.Module: `network` called with `arguments`, with seeded weights or those of the file `weights`."""

    network: Callable[..., nn.Module] = nn.Identity
    weights: Path | None = None

    @property
    def architecture(self) -> str:
        """The architecture as in a manifest."""
        return f"{self.network.__module__}:{self.network.__qualname__}"

    def make(self) -> nn.Module:
        """The same weights every time, with statistics in the norm layers that differ from their initial values."""
        with torch.random.fork_rng():
            torch.manual_seed(7)
            model = self.network()
            for buffer in model.buffers():
                if buffer.is_floating_point():
                    buffer.uniform_(0.5, 1.5)
        if self.weights is not None:
            model.load_state_dict(load_file(self.weights))
        return model.eval().requires_grad_(False)

    def expected(self, inputs: Arrays) -> Arrays:
        """The outputs of eager PyTorch."""
        return self.named(self._call(inputs))

    def named(self, result: Any) -> Arrays:
        """The module's return value as outputs by name, in the order of the signature."""
        names = [spec.name for spec in self.signature.outputs]
        if not isinstance(result, dict):
            result = dict(zip(names, result if isinstance(result, tuple) else (result,), strict=True))
        return {name: result[name].numpy() for name in names}

    def example(self, rows: int = 2) -> tuple[torch.Tensor, ...]:
        """Example inputs for an export, in the order of `forward`."""
        return tuple(torch.from_numpy(array) for array in self.inputs(rows).values())

    def dynamic_shapes(self, dim: Any = torch.export.Dim.AUTO) -> tuple[dict[int, Any], ...]:
        """The free axes of each input, as torch.export takes them."""
        return tuple({i: dim for i, n in enumerate(spec.shape) if n < 0} for spec in self.signature.inputs)

    def output_names(self) -> list[str]:
        """The outputs in the order of `forward`, which exporters use."""
        result = self._call(self.inputs(1))
        return list(result) if isinstance(result, dict) else [spec.name for spec in self.signature.outputs]

    def write_onnx(self, path: Path) -> Path:
        """Write the model with PyTorch's exporter, like users."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the exporter's own deprecation warnings are not under test
            program = torch.onnx.export(
                self.make(),
                self.example(),
                dynamo=True,
                dynamic_shapes=self.dynamic_shapes(),
                input_names=[spec.name for spec in self.signature.inputs],
                output_names=self.output_names(),
                verbose=False,
            )
        assert program is not None
        program.save(path, external_data=False)
        return path

    def _call(self, inputs: Arrays) -> Any:
        with torch.inference_mode():
            return self._kept()(*(torch.from_numpy(array.copy()) for array in inputs.values()))

    def _kept(self) -> nn.Module:
        return _made(self)


@dataclass(frozen=True)
class GraphModel(ZooModel):
    """A graph written by hand, and a Python function with the expected outputs."""

    write: Callable[[Path], None] = zoo_text.write_text_classifier
    answers: Callable[[Arrays], Arrays] = zoo_text.classify

    def expected(self, inputs: Arrays) -> Arrays:
        """The outputs of the Python implementation."""
        return self.answers(inputs)

    def write_onnx(self, path: Path) -> Path:
        """Write the graph."""
        self.write(path)
        return path


@functools.cache
def _made(model: TorchModel) -> nn.Module:
    return model.make()


@functools.cache
def _directory() -> Path:
    path = Path(tempfile.mkdtemp(prefix="penstock-zoo-"))
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    return path


@functools.cache
def _shared_file(model: ZooModel) -> Path:
    path = model.write_onnx(_directory() / f"{model.name}.onnx")
    path.chmod(0o444)
    return path


def _signature(inputs: dict[str, Any], outputs: dict[str, Any]) -> Signature:
    def specs(tensors: dict[str, Any]) -> tuple[TensorSpec, ...]:
        return tuple(TensorSpec(name, dtype, tuple(shape)) for name, (dtype, *shape) in tensors.items())

    return Signature(specs(inputs), specs(outputs))


MLP = TorchModel("mlp", _signature({"x": ("FP32", -1, 12)}, {"logits": ("FP32", -1, 5)}), network=networks.Mlp)
TWO_INPUTS = TorchModel(
    "two-inputs",
    _signature({"left": ("FP32", -1, 4), "right": ("FP32", -1, 4)}, {"difference": ("FP32", -1, 6)}),
    network=networks.TwoInputs,
)
HEADS = TorchModel(
    "heads",
    _signature({"x": ("FP32", -1, 6)}, {"probabilities": ("FP32", -1, 4), "logits": ("FP32", -1, 4)}),
    network=networks.Heads,
)
PAIR = TorchModel(
    "pair",
    _signature({"x": ("FP32", -1, 6)}, {"largest": ("INT64", -1), "positive": ("BOOL", -1, 6)}),
    network=networks.Pair,
)
TOKENS = TorchModel(
    "tokens", _signature({"tokens": ("INT64", -1, -1)}, {"logits": ("FP32", -1, 3)}), network=networks.Tokens
)
FLAGS = TorchModel(
    "flags",
    _signature({"x": ("FP32", -1, 5), "keep": ("BOOL", -1, 5)}, {"logits": ("FP32", -1, 3)}),
    network=networks.Flags,
)
CNN = TorchModel("cnn", _signature({"image": ("FP32", -1, 1, 8, 8)}, {"logits": ("FP32", -1, 4)}), network=networks.Cnn)
GRU = TorchModel("gru", _signature({"x": ("FP32", -1, -1, 4)}, {"steps": ("FP32", -1, -1, 3)}), network=networks.Gru)
ENCODER = TorchModel(
    "encoder",
    _signature(
        {"tokens": ("INT64", -1, -1), "mask": ("BOOL", -1, -1)},
        {"logits": ("FP32", -1, 3), "states": ("FP32", -1, -1, 16)},
    ),
    mask="mask",
    network=networks.Encoder,
)
DETECTOR = TorchModel(
    "detector",
    _signature(
        {"image": ("FP32", -1, 3, 16, 16)},
        {
            "boxes": ("FP32", -1, 6, 4),
            "scores": ("FP32", -1, 6),
            "labels": ("INT64", -1, 6),
            "count": ("INT64", -1),
        },
    ),
    network=networks.Detector,
)
DIGITS = TorchModel(
    "digits",
    _signature({"input": ("FP32", -1, 784)}, {"logits": ("FP32", -1, 10)}),
    tolerance=1e-3,  # its outputs go up to 30
    network=DigitsCNN,
    weights=Path(penstock_digits.__file__).parent / "artifacts/digits/variants/pytorch-fp32/model.safetensors",
)
RESNET = TorchModel(
    "resnet18",
    _signature({"image": ("FP32", -1, 3, 32, 32)}, {"logits": ("FP32", -1, 10)}),
    network=networks.ResNet18,
)
TEXT = GraphModel(
    "text",
    _signature({"text": ("BYTES", -1)}, {"label": ("BYTES", -1), "logits": ("FP32", -1, 3)}),
)
TABULAR = GraphModel(
    "tabular",
    _signature({"age": ("FP32", -1, 1), "city": ("BYTES", -1, 1)}, {"price": ("FP32", -1, 1)}),
    write=zoo_text.write_tabular,
    answers=zoo_text.price,
)

SMALL: tuple[ZooModel, ...] = (
    *(MLP, TWO_INPUTS, HEADS, PAIR, TOKENS, FLAGS, CNN, GRU, ENCODER, DETECTOR, DIGITS),
    *(TEXT, TABULAR),
)
ALL: tuple[ZooModel, ...] = (*SMALL, RESNET)
