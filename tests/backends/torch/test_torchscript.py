from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import torch_forms
import zoo
from torch import nn

from penstock.backends.base import BackendOptions, ModelFile
from penstock.backends.catalog import open_backend, signature_from_example
from penstock.backends.torch.torchscript import TorchScriptBackend
from penstock.cli.models.import_file import publish_file
from penstock.engine.loading.load import load_file
from penstock.engine.predictor.predictor import Predictor
from penstock.errors import InferenceError, IntegrityError, ModelLoadError, OutOfMemory, UnsupportedFormat
from penstock.file_description import FileDescription
from penstock.options import EngineOptions
from penstock.registry.registry import Registry
from penstock.tensors import Signature, TensorSpec


class Both(NamedTuple):
    twice: torch.Tensor
    thrice: torch.Tensor


class Returns(nn.Module):
    """2x and 3x, as a named tuple."""

    def forward(self, x: torch.Tensor) -> Both:
        return Both(2 * x, 3 * x)


class Subtracts(nn.Module):
    """Its inputs may not be swapped, and one of them may be left out."""

    def forward(self, first: torch.Tensor, second: torch.Tensor, third: int = 1) -> torch.Tensor:
        return first - 2 * second * third


class Fails(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.sum() > 100:
            raise ValueError("the numbers are too large")
        if x.sum() < -100:
            x = torch.empty([1 << 50]) + x.sum()
        return x


class Tells(nn.Module):
    """Whether it runs in evaluation mode, without gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.dropout = nn.Dropout(0.9)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.dropout(x) * float(not torch.is_grad_enabled())


def signature(inputs: dict[str, tuple[int, ...]], outputs: dict[str, tuple[int, ...]]) -> Signature:
    def specs(tensors: dict[str, tuple[int, ...]]) -> tuple[TensorSpec, ...]:
        return tuple(TensorSpec(name, "FP32", shape) for name, shape in tensors.items())

    return Signature(specs(inputs), specs(outputs))


SAME = signature({"x": (-1, 3)}, {"y": (-1, 3)})


@pytest.fixture
def open_script(tmp_path: Path) -> Callable[..., TorchScriptBackend]:
    def open_(model: nn.Module, of: Signature | None, **options: Any) -> TorchScriptBackend:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            torch.jit.script(model).save(str(tmp_path / "m.ts"))
        return TorchScriptBackend.open(
            ModelFile(tmp_path / "m.ts", of), BackendOptions(**{"device": "cpu", "trust": "code", **options})
        )

    return open_


def rows(*values: float) -> np.ndarray:
    return np.repeat(np.array(values, np.float32)[:, None], 3, axis=1)


def test_a_named_tuple_is_matched_to_outputs_by_place(open_script: Any) -> None:
    outputs = open_script(Returns(), signature({"x": (-1, 3)}, {"a": (-1, 3), "b": (-1, 3)})).run({"x": rows(1)})
    np.testing.assert_array_equal(outputs["a"], rows(2))
    np.testing.assert_array_equal(outputs["b"], rows(3))


@pytest.mark.parametrize("names", [("second", "first"), ("b", "a")])
def test_inputs_are_given_by_name_or_else_by_place(open_script: Any, names: tuple[str, str]) -> None:
    backend = open_script(Subtracts(), signature(dict.fromkeys(names, (-1, 3)), {"y": (-1, 3)}))
    answer = backend.run({names[0]: rows(5), names[1]: rows(1)})
    np.testing.assert_array_equal(answer["y"], rows(-9) if names[0] == "second" else rows(3))


@pytest.mark.parametrize("names", [("first",), ("first", "second", "third", "fourth")])
def test_a_signature_of_another_number_of_inputs_is_refused(open_script: Any, names: tuple[str, ...]) -> None:
    with pytest.raises(ModelLoadError, match=rf"has {len(names)} inputs, the program takes first, second, third$"):
        open_script(Subtracts(), signature(dict.fromkeys(names, (-1, 3)), {"y": (-1, 3)}))


@pytest.mark.parametrize(
    ("of", "says"),
    [
        (signature({"x": (-1, 3)}, {"y": (-1, 4)}), r"it does not run as its signature says: y: the shape is \[2, 3\]"),
        (
            signature({"x": (-1, 3)}, {"y": (-1, 3), "z": (-1, 3)}),
            "the model returned 1 outputs, its signature names 2",
        ),
    ],
)
def test_a_signature_that_is_not_the_programs_is_refused(open_script: Any, of: Signature, says: str) -> None:
    with pytest.raises(ModelLoadError, match=says):
        open_script(Tells(), of)


def test_it_runs_in_evaluation_mode_and_without_gradients(open_script: Any) -> None:
    np.testing.assert_array_equal(open_script(Tells(), SAME).run({"x": rows(1, 2)})["y"], rows(1, 2))


def test_a_program_that_was_saved_frozen_runs(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.freeze(torch.jit.script(zoo.MLP.make())).save(str(tmp_path / "m.pt"))
    file = ModelFile(tmp_path / "m.pt", zoo.MLP.signature)
    inputs = zoo.MLP.inputs(3)
    answer = TorchScriptBackend.open(file, BackendOptions(device="cpu", trust="code")).run(inputs)
    np.testing.assert_allclose(answer["logits"], zoo.MLP.expected(inputs)["logits"], rtol=1e-4, atol=1e-6)


def test_an_exception_in_the_program_keeps_its_message(open_script: Any) -> None:
    with pytest.raises(InferenceError) as caught:
        open_script(Fails(), SAME).run({"x": rows(1000)})
    assert str(caught.value).endswith("the numbers are too large")
    assert "\n" not in str(caught.value)
    assert "Traceback" not in str(caught.value)


def test_memory_that_runs_out_is_out_of_memory(open_script: Any) -> None:
    with pytest.raises(OutOfMemory):
        open_script(Fails(), SAME).run({"x": rows(-1000)})


def test_a_bare_program_is_refused_since_it_does_not_know_its_signature(open_script: Any) -> None:
    with pytest.raises(UnsupportedFormat, match="publish it as an artifact with its signature"):
        open_script(Tells(), None)


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_a_precision_that_gains_nothing_is_answered_with_a_warning(open_script: Any, precision: str) -> None:
    backend = open_script(Tells(), SAME, precision=precision)
    assert backend.warnings[0].startswith(f"{precision} was requested, but ")
    np.testing.assert_array_equal(backend.run({"x": rows(1)})["y"], rows(1))


def test_weights_are_not_a_program(tmp_path: Path) -> None:
    torch.save(zoo.MLP.make().state_dict(), tmp_path / "m.pt")
    with pytest.raises(IntegrityError, match="the file is damaged or not a TorchScript archive"):
        TorchScriptBackend.open(ModelFile(tmp_path / "m.pt", SAME), BackendOptions(device="cpu", trust="code"))


def test_opening_one_changes_no_filter_of_warnings(tmp_path: Path) -> None:
    path = torch_forms.write_trace(zoo.MLP, tmp_path / "m.pt")
    before = list(warnings.filters)
    TorchScriptBackend.open(ModelFile(path, zoo.MLP.signature), BackendOptions(device="cpu", trust="code"))
    assert list(warnings.filters) == before


class Vad(torch.nn.Module):
    """As voice detectors are saved: one sampling rate and one length, and refusals in its own words."""

    def forward(self, x: torch.Tensor, sr: int) -> torch.Tensor:
        if sr != 16000:
            raise ValueError(f"Supported sampling rates: [16000], not {sr}")
        if x.shape[-1] != 512:
            raise ValueError(f"Provided number of samples is {x.shape[-1]} (supported: 512 for 16000)")
        return x.mean(1, keepdim=True)


@pytest.fixture
def vad(tmp_path: Path) -> Path:
    path = tmp_path / "vad.jit"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch has deprecated TorchScript
        torch.jit.script(Vad().eval()).save(str(path))
    return path


def test_an_example_gives_the_signature_of_a_program_with_a_plain_number(vad: Path) -> None:
    example = {"sr": 16000, "x": np.ones((2, 512), np.float32)}
    found = signature_from_example("torchscript", ModelFile(vad), example, "code")
    assert found == Signature(
        (TensorSpec("x", "FP32", (-1, 512)), TensorSpec("sr", "INT64", ())),
        (TensorSpec("output", "FP32", (-1, 1)),),
    )
    backend = open_backend("torchscript", ModelFile(vad, found), BackendOptions(device="cpu", trust="code"))
    rate = np.array(16000)
    np.testing.assert_allclose(backend.run({"x": example["x"], "sr": rate})["output"], 1.0)
    with pytest.raises(InferenceError, match="sr is one number for all rows of a run, not 2"):
        backend.run({"x": example["x"], "sr": np.array([16000, 8000])})
    with pytest.raises(InferenceError, match="Supported sampling rates"):
        backend.run({"x": example["x"], "sr": np.array(8000)})


def test_such_a_program_is_loaded_and_imported_with_an_example(vad: Path, tmp_path: Path) -> None:
    file = tmp_path / "example.npz"
    np.savez(file, x=np.ones((1, 512), np.float32), sr=16000)
    about = FileDescription(example=file)
    model = load_file(vad, EngineOptions(trust="code", model_type="torchscript", device="cpu"), about)
    assert model.info.proven
    model.close()
    with Registry(tmp_path / "registry") as registry:
        artifact = publish_file(registry, vad, trust="code", description=about)
        assert artifact.manifest.golden is not None
        with Predictor(artifact.ref, registry=registry, device="cpu") as predictor:
            answer = predictor.predict({"x": np.full((1, 512), 3.0), "sr": 16000})
    assert answer.outputs["output"] == [[3.0]]
