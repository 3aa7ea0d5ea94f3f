from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from penstock.backends.base import Backend, BackendOptions, ModelFile
from penstock.backends.catalog import format_of, open_backend, runnable
from penstock.errors import UnsupportedFormat
from penstock.formats import FORMATS
from penstock.libraries import import_attribute


@pytest.mark.parametrize("format", FORMATS)
def test_every_row_names_a_backend_of_that_format(format: str) -> None:
    backend = import_attribute(FORMATS[format].backend)
    assert issubclass(backend, Backend)
    assert backend.format == format
    assert runnable(format)


def test_an_unknown_format_is_refused_with_those_that_are_known() -> None:
    assert not runnable("gguf")
    with pytest.raises(
        UnsupportedFormat,
        match=r"^m\.gguf: the format 'gguf' is unknown; use onnx, openvino, torchscript, pt2, aoti, pytorch$",
    ):
        open_backend("gguf", ModelFile(Path("m.gguf")), BackendOptions())


def test_a_format_whose_runtime_is_not_installed_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    assert not runnable("pytorch")
    assert runnable("onnx")
    with pytest.raises(UnsupportedFormat, match=r"pip install 'penstock\[torch\]'"):
        open_backend("pytorch", ModelFile(Path("m.safetensors")), BackendOptions())


@pytest.mark.parametrize(
    ("name", "model_type"), [("m.onnx", None), ("M.ONNX", None), ("m.onnx", "onnx"), ("model", "onnx")]
)
def test_a_bare_onnx_file_is_recognized_by_suffix_or_model_type(name: str, model_type: str | None) -> None:
    assert format_of(Path(name), model_type) == "onnx"


@pytest.mark.parametrize(
    ("name", "model_type", "says"),
    [
        ("m.pt", None, "a state dict alone"),
        ("m.safetensors", None, "a state dict alone"),
        ("m.onnx", "pytorch", "a state dict alone"),
        ("m.pt", "torchscript", "TorchScript does not record the types"),
        ("m.h5", None, r"\.h5 is not a model format"),
        ("m", None, "a file without a suffix"),
        ("m.onnx", "tensorrt", "tensorrt is not a model format"),
    ],
)
def test_a_bare_file_that_cannot_be_served_says_why_and_what_works(
    name: str, model_type: str | None, says: str
) -> None:
    works = r"what works as a bare file: \.onnx, \.xml, \.pt2"
    with pytest.raises(UnsupportedFormat, match=rf"^{name}: .*{says}.*{works}$"):
        format_of(Path(name), model_type)


def test_torchscript_and_weights_in_pt_files_are_distinguished_by_content(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "m.pt", "w") as archive:
        for member in ("m/constants.pkl", "m/code/__torch__.py"):
            archive.writestr(member, b"")
    with pytest.raises(UnsupportedFormat, match="TorchScript does not record the types"):
        format_of(tmp_path / "m.pt")
    assert format_of(tmp_path / "m.pt", signed=True) == format_of(Path("m.ts"), signed=True) == "torchscript"


def test_importing_the_backends_imports_no_runtime() -> None:
    code = (
        "import sys, penstock.backends.catalog, penstock.backends.onnx.backend, penstock.backends.torch.eager\n"
        "heavy = {'torch', 'onnxruntime', 'onnx', 'safetensors'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_pt2_file_is_a_program_unless_native_code_is_in_it(tmp_path: Path) -> None:
    for name, member in (("program", "m/models/model.json"), ("package", "m/data/aotinductor/model/m.wrapper.so")):
        with zipfile.ZipFile(tmp_path / f"{name}.pt2", "w") as archive:
            archive.writestr(member, b"")
    assert format_of(tmp_path / "program.pt2") == "pt2"
    assert format_of(tmp_path / "package.pt2") == "aoti"
    assert format_of(tmp_path / "absent.pt2") == "pt2"
