"""The table that the conformance suite runs over: models (CASES) times forms they are written in (FORMS).

A new format adds one row to FORMS; every test of the suite then holds for it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from penstock.backends.base import Backend, BackendOptions, ModelFile
from penstock.backends.catalog import open_backend
from penstock.tensors import Arrays, Signature, TensorSpec

# --- the models, as users write them ------------------------------------------------------------------


class Mlp(nn.Module):
    def __init__(self, features: int = 12, classes: int = 5) -> None:
        super().__init__()
        self.hidden = nn.Linear(features, 16)
        self.out = nn.Linear(16, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(torch.relu(self.hidden(x)))


class TwoInputs(nn.Module):
    """Not symmetric in its inputs, so that swapping them shows."""

    def __init__(self) -> None:
        super().__init__()
        self.left_in = nn.Linear(4, 6)
        self.right_in = nn.Linear(4, 6)

    def forward(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.left_in(left)) - 2 * self.right_in(right)


class Heads(nn.Module):
    """Returns a dict, its keys not in the order of the signature."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(6, 4)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        logits = self.body(x)
        return {"logits": logits, "probabilities": torch.softmax(logits, dim=-1)}


class Tokens(nn.Module):
    """Whole numbers in, rows of free length."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50, 8)
        self.out = nn.Linear(8, 3)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.out(self.embedding(tokens).mean(dim=1))


class Cnn(nn.Module):
    """Its `reshape` cannot be worked out for no rows, by any runtime."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.second = nn.Conv2d(8, 8, 3, stride=2)
        self.out = nn.Linear(8 * 3 * 3, 4)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        maps = self.second(torch.relu(self.norm(self.first(image))))
        return self.out(torch.relu(maps).reshape(image.shape[0], -1))


# --- the cases ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """One model: how to make it, what goes in and out; `length` stands in for axes that are free."""

    name: str
    make: Callable[[], nn.Module]
    signature: Signature
    high: int = 50
    length: int = 6

    def model(self) -> nn.Module:
        """The same weights every time, with statistics in the norms that are not the neutral ones."""
        torch.manual_seed(7)
        model = self.make()
        for buffer in model.buffers():
            if buffer.is_floating_point():
                buffer.uniform_(0.5, 1.5)
        return model.eval()

    def inputs(self, rows: int, seed: int = 0) -> Arrays:
        random = np.random.default_rng(seed)
        return {spec.name: self._array(spec, rows, random) for spec in self.signature.inputs}

    def _array(self, spec: TensorSpec, rows: int, random: np.random.Generator) -> np.ndarray:
        shape = (rows, *(n if n >= 0 else self.length for n in spec.shape[1:]))
        if spec.numpy.kind == "i":
            return random.integers(0, self.high, shape, dtype=spec.numpy)
        return random.standard_normal(shape).astype(spec.numpy)

    def expected(self, inputs: Arrays) -> Arrays:
        """What eager PyTorch answers."""
        with torch.inference_mode():
            result = self.model()(*(torch.from_numpy(array.copy()) for array in inputs.values()))
        names = [spec.name for spec in self.signature.outputs]
        outputs = result if isinstance(result, dict) else {names[0]: result}
        return {name: outputs[name].numpy() for name in names}


def _specs(*specs: tuple[str, str, tuple[int, ...]]) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(*spec) for spec in specs)


CASES = (
    Case("mlp", Mlp, Signature(_specs(("x", "FP32", (-1, 12))), _specs(("logits", "FP32", (-1, 5))))),
    Case(
        "two-inputs",
        TwoInputs,
        Signature(
            _specs(("left", "FP32", (-1, 4)), ("right", "FP32", (-1, 4))), _specs(("difference", "FP32", (-1, 6)))
        ),
    ),
    Case(
        "heads",
        Heads,
        Signature(
            _specs(("x", "FP32", (-1, 6))), _specs(("probabilities", "FP32", (-1, 4)), ("logits", "FP32", (-1, 4)))
        ),
    ),
    Case("tokens", Tokens, Signature(_specs(("tokens", "INT64", (-1, -1))), _specs(("logits", "FP32", (-1, 3))))),
    Case("cnn", Cnn, Signature(_specs(("image", "FP32", (-1, 1, 8, 8))), _specs(("logits", "FP32", (-1, 4))))),
)

# --- the forms ----------------------------------------------------------------------------------------


def _onnx(case: Case, path: Path) -> ModelFile:
    inputs = case.inputs(rows=2)
    model = case.model()
    free = {
        spec.name: {axis: torch.export.Dim.DYNAMIC for axis, length in enumerate(spec.shape) if length < 0}
        for spec in case.signature.inputs
    }
    with torch.inference_mode():
        result = model(*(torch.from_numpy(array) for array in inputs.values()))
    with warnings.catch_warnings():
        # torch.onnx copies a tree with the class that torch itself has deprecated
        warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)` is deprecated", FutureWarning)
        program = torch.onnx.export(
            model,
            tuple(torch.from_numpy(array) for array in inputs.values()),
            dynamo=True,
            dynamic_shapes=tuple(free.values()),
            input_names=list(inputs),
            output_names=list(result) if isinstance(result, dict) else [case.signature.outputs[0].name],
            verbose=False,
        )
    assert program is not None
    program.save(path, external_data=False)
    return ModelFile(path, case.signature)


def _architecture(case: Case) -> str:
    return f"{case.make.__module__}:{case.make.__qualname__}"


def _pytorch(case: Case, path: Path) -> ModelFile:
    save_file(case.model().state_dict(), path)
    return ModelFile(path, case.signature, _architecture(case))


def _pytorch_pickle(case: Case, path: Path) -> ModelFile:
    torch.save(case.model().state_dict(), path)
    return ModelFile(path, case.signature, _architecture(case))


class Form(NamedTuple):
    """One way to write a model down: the format that runs it, the file's suffix, and the writer."""

    format: str
    suffix: str
    write: Callable[[Case, Path], ModelFile]


FORMS = {
    "onnx": Form("onnx", ".onnx", _onnx),
    "pytorch": Form("pytorch", ".safetensors", _pytorch),
    "pytorch-pickle": Form("pytorch", ".pt", _pytorch_pickle),
}
DEVICES = ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)

# --- what the tests get -------------------------------------------------------------------------------


class Subject(NamedTuple):
    """One model, written in one form and opened on one device."""

    case: Case
    form: Form
    file: ModelFile
    device: str
    backend: Backend

    def open(self, file: ModelFile | None = None) -> Backend:
        """Another backend of this form: of the same file, or of one made from it."""
        return open_backend(self.form.format, file or self.file, BackendOptions(device=self.device))


class Shelf:
    """Writes each model once per form: an export costs seconds."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._files: dict[tuple[str, str], ModelFile] = {}

    def file(self, case: Case, form: Form) -> ModelFile:
        key = (case.name, form.suffix)
        if key not in self._files:
            self._files[key] = form.write(case, self._directory / f"{case.name}{form.suffix}")
        return self._files[key]


@pytest.fixture(scope="session")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Shelf:
    return Shelf(tmp_path_factory.mktemp("models"))


def _subjects(shelf: Shelf, case: Case, form: Form, device: str) -> Iterator[Subject]:
    file = shelf.file(case, form)
    backend = open_backend(form.format, file, BackendOptions(device=device))
    yield Subject(case, form, file, device, backend)
    backend.close()


@pytest.fixture(scope="session", params=DEVICES)
def device(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="session", params=FORMS.values(), ids=FORMS.keys())
def form(request: pytest.FixtureRequest) -> Form:
    return request.param


@pytest.fixture(scope="session", params=CASES, ids=lambda case: case.name)
def subject(request: pytest.FixtureRequest, shelf: Shelf, form: Form, device: str) -> Iterator[Subject]:
    """Every case in every form on every device."""
    yield from _subjects(shelf, request.param, form, device)


@pytest.fixture(scope="session")
def one(shelf: Shelf, form: Form, device: str) -> Iterator[Subject]:
    """One case in every form, where the model does not matter."""
    yield from _subjects(shelf, CASES[0], form, device)


@pytest.fixture(scope="session")
def formats() -> set[str]:
    """The formats that have a row in FORMS."""
    return {form.format for form in FORMS.values()}
