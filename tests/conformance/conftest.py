"""The table that the conformance suite runs over: models (CASES, from the zoo) times forms they are written in (FORMS).

A new format adds one row to FORMS; every test of the suite then holds for it.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import torch_forms
import zoo
from safetensors.torch import save_file
from zoo import TorchModel, ZooModel

from penstock.backends.base import Backend, BackendOptions, ModelFile
from penstock.backends.catalog import open_backend
from penstock.backends.openvino import runtime

CASES = zoo.SMALL
ONE = zoo.MLP
"""Where the model does not matter."""
DEVICES = ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)

# --- the forms ----------------------------------------------------------------------------------------


def _onnx(case: ZooModel, _: Path) -> ModelFile:
    return ModelFile(case.onnx(), case.signature)


def _openvino(case: ZooModel, path: Path) -> ModelFile:
    model = runtime().read_model(case.onnx())
    sys.modules["openvino"].save_model(model, path, compress_to_fp16=False)
    return ModelFile(path, case.signature)


def _pytorch(case: Any, path: Path) -> ModelFile:
    save_file(case.make().state_dict(), path)
    return ModelFile(path, case.signature, case.architecture)


def _pytorch_pickle(case: Any, path: Path) -> ModelFile:
    torch.save(case.make().state_dict(), path)
    return ModelFile(path, case.signature, case.architecture)


def _torchscript_trace(case: Any, path: Path) -> ModelFile:
    return ModelFile(torch_forms.write_trace(case, path), case.signature)


def _torchscript_script(case: Any, path: Path) -> ModelFile:
    return ModelFile(torch_forms.write_script(case, path), case.signature)


def _pt2(case: Any, path: Path) -> ModelFile:
    return ModelFile(torch_forms.write_pt2(case, path), case.signature)


def _aoti(case: Any, path: Path) -> ModelFile:
    return ModelFile(torch_forms.write_aoti(case, path), case.signature)


def any_model(_: ZooModel) -> bool:
    """For forms that every case can be written in."""
    return True


def any_module(case: ZooModel) -> bool:
    """For forms made from a torch.nn.Module, which has no text."""
    return isinstance(case, TorchModel)


def scriptable(case: ZooModel) -> bool:
    """The digits network reads a global of its module, which TorchScript cannot."""
    return any_module(case) and case is not zoo.DIGITS


def only_the_mlp(case: ZooModel) -> bool:
    """For forms that are compiled, which takes many seconds for each."""
    return case is ONE


class Form(NamedTuple):
    """One way to write a model down: the format that runs it, the file's suffix, and the writer.

    `fits` says which cases are written so, `options` how it is opened, `says` what its warnings hold.
    """

    format: str
    suffix: str
    write: Callable[[Any, Path], ModelFile]
    fits: Callable[[ZooModel], bool] = any_module
    options: BackendOptions = BackendOptions()
    says: tuple[str, ...] = ()


_CODE = BackendOptions(trust="code")
_EAGER: dict[str, Any] = {"options": _CODE, "says": ("usually faster",)}
FORMS = {
    "onnx": Form("onnx", ".onnx", _onnx, any_model),
    "openvino": Form("openvino", ".xml", _openvino),
    "pytorch": Form("pytorch", ".safetensors", _pytorch, **_EAGER),
    "pytorch-pickle": Form("pytorch", ".pt", _pytorch_pickle, **_EAGER),
    "torchscript-trace": Form("torchscript", ".ts", _torchscript_trace, options=_CODE),
    "torchscript-script": Form("torchscript", ".pt", _torchscript_script, scriptable, _CODE),
    "pt2": Form("pt2", ".pt2", _pt2, options=_CODE),
}
if shutil.which("g++") or shutil.which("clang++"):
    FORMS["aoti"] = Form("aoti", ".pt2", _aoti, only_the_mlp, BackendOptions(trust="native"))
    compiled = _CODE.override(use_compile=True)
    FORMS["pytorch-compiled"] = Form("pytorch", ".safetensors", _pytorch, only_the_mlp, compiled)

# --- what the tests get -------------------------------------------------------------------------------


class Subject(NamedTuple):
    """One model, written in one form and opened on one device."""

    case: ZooModel
    form: Form
    file: ModelFile
    device: str
    backend: Backend

    def open(self, file: ModelFile | None = None) -> Backend:
        """Another backend of this form: of the same file, or of one made from it."""
        return _open(self.form, file or self.file, self.device)


class Shelf:
    """Writes each model once per form: an export costs seconds."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._files: dict[tuple[str, Form], ModelFile] = {}

    def file(self, case: ZooModel, form: Form) -> ModelFile:
        key = (case.name, form)
        if key not in self._files:
            path = self._directory / f"{len(self._files)}-{case.name}{form.suffix}"
            self._files[key] = form.write(case, path)
        return self._files[key]


@pytest.fixture(scope="session")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Shelf:
    return Shelf(tmp_path_factory.mktemp("models"))


def _open(form: Form, file: ModelFile, device: str) -> Backend:
    return open_backend(form.format, file, form.options.override(device=device))


def _subjects(shelf: Shelf, case: ZooModel, form: Form, device: str) -> Iterator[Subject]:
    file = shelf.file(case, form)
    backend = _open(form, file, device)
    yield Subject(case, form, file, device, backend)
    backend.close()


@pytest.fixture(scope="session", params=DEVICES)
def device(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="session", params=FORMS.values(), ids=FORMS.keys())
def form(request: pytest.FixtureRequest) -> Form:
    return request.param


_PAIRS = {f"{name}-{case.name}": (form, case) for name, form in FORMS.items() for case in CASES if form.fits(case)}


@pytest.fixture(scope="session", params=_PAIRS.values(), ids=_PAIRS.keys())
def subject(request: pytest.FixtureRequest, shelf: Shelf, device: str) -> Iterator[Subject]:
    """Every case in every form that fits it, on every device."""
    form, case = request.param
    yield from _subjects(shelf, case, form, device)


@pytest.fixture(scope="session")
def one(shelf: Shelf, form: Form, device: str) -> Iterator[Subject]:
    """One case in every form, where the model does not matter."""
    yield from _subjects(shelf, ONE, form, device)


@pytest.fixture(scope="session")
def others(shelf: Shelf, form: Form) -> dict[str, ModelFile]:
    """The files of all other cases in the same form."""
    return {case.name: shelf.file(case, form) for case in CASES if form.fits(case) and case is not ONE}


_LARGE = {name: form for name, form in FORMS.items() if form.fits(zoo.RESNET)}


@pytest.fixture(scope="session", params=_LARGE.values(), ids=_LARGE.keys())
def large(request: pytest.FixtureRequest, shelf: Shelf, device: str) -> Iterator[Subject]:
    """A network of 11 million numbers in every form that fits it."""
    yield from _subjects(shelf, zoo.RESNET, request.param, device)


@pytest.fixture(scope="session")
def formats() -> set[str]:
    """The formats that have a row in FORMS."""
    return {form.format for form in FORMS.values()}
