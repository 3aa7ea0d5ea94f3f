from __future__ import annotations

import json
import shutil
import time
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch_forms
import zoo

from penstock.backends.base import BackendOptions, ModelFile
from penstock.backends.devices import cpu_flags
from penstock.backends.torch import aoti
from penstock.backends.torch.aoti import SIGNATURE_KEY, AotiBackend, describe
from penstock.errors import IntegrityError, ModelLoadError, UnsupportedFormat
from penstock.scan.scanner import kind_of_file
from penstock.tensors import Signature, TensorSpec

pytestmark = pytest.mark.skipif(
    not (shutil.which("g++") or shutil.which("clang++")), reason="AOTInductor needs a C++ compiler"
)
OPTIONS = BackendOptions(device="cpu", trust="native")


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of two inputs, compiled once for all tests, its signature recorded in it."""
    return torch_forms.write_aoti(zoo.TWO_INPUTS, tmp_path_factory.mktemp("aoti") / "two.pt2")


@pytest.fixture
def crafted(package: Path, tmp_path: Path) -> Callable[..., Path]:
    """The package with other metadata, or with more members."""

    def craft(metadata: dict[str, Any] | bytes | None = None, **more: bytes) -> Path:
        path = tmp_path / "crafted.pt2"
        with zipfile.ZipFile(package) as old, zipfile.ZipFile(path, "w") as new:
            for name in old.namelist():
                content = old.read(name)
                if name.endswith("_metadata.json") and metadata is not None:
                    content = metadata if isinstance(metadata, bytes) else _with(json.loads(content), metadata)
                new.writestr(name, content)
            for name, content in more.items():
                new.writestr(f"two/data/aotinductor/model/{name}", content)
        return path

    return craft


def _with(metadata: dict[str, Any], changes: dict[str, Any]) -> bytes:
    """The metadata with some changed, and those that are None left out."""
    changed = {**metadata, **changes}
    return json.dumps({key: value for key, value in changed.items() if value is not None}).encode()


def open_package(path: Path, signature: Signature | None = None, options: BackendOptions = OPTIONS) -> AotiBackend:
    return AotiBackend.open(ModelFile(path, signature), options)


def assert_right(backend: AotiBackend) -> None:
    inputs = zoo.TWO_INPUTS.inputs(3)
    expected = zoo.TWO_INPUTS.expected(inputs)
    np.testing.assert_allclose(backend.run(inputs)["difference"], expected["difference"], rtol=1e-4, atol=1e-6)


def test_a_package_that_records_its_signature_is_served_alone(package: Path) -> None:
    backend = open_package(package)
    assert backend.signature == zoo.TWO_INPUTS.signature
    assert_right(backend)


def test_it_is_loaded_without_compiling_anything(package: Path) -> None:
    start = time.perf_counter()
    open_package(package).close()
    assert time.perf_counter() - start < 5  # milliseconds; the public loader takes half a minute on a cold cache


def test_inputs_are_passed_in_the_recorded_order(package: Path) -> None:
    signature = replace(zoo.TWO_INPUTS.signature, inputs=zoo.TWO_INPUTS.signature.inputs[::-1])
    assert_right(open_package(package, signature))


def test_without_a_recorded_signature_the_manifest_has_to_say_it(crafted: Any) -> None:
    path = crafted({SIGNATURE_KEY: None})
    with pytest.raises(UnsupportedFormat, match="do not record their inputs; publish it with its signature"):
        open_package(path)
    assert_right(open_package(path, zoo.TWO_INPUTS.signature))


def test_a_signature_of_another_number_of_inputs_is_refused(crafted: Any) -> None:
    with pytest.raises(ModelLoadError, match="its signature has 1 inputs, the package takes 2"):
        open_package(crafted({SIGNATURE_KEY: None}), zoo.MLP.signature)


def test_a_manifest_that_does_not_fit_the_package_is_refused(package: Path) -> None:
    right = zoo.TWO_INPUTS.signature.inputs[1]
    wider = Signature((TensorSpec("left", "FP32", (-1, 5)), right), zoo.TWO_INPUTS.signature.outputs)
    with pytest.raises(ModelLoadError, match=r"says the inputs are left FP32 \[-1, 5\], right .*; the file has left"):
        open_package(package, wider)


def test_the_cpu_flags_of_its_code_are_read(package: Path, crafted: Any) -> None:
    assert set(describe(package).requires) <= cpu_flags()
    assert describe(crafted({"AOTI_CPU_ISA": "AVX512 AMX_TILE"})).requires == (
        *("amx_bf16", "amx_int8", "amx_tile"),
        *("avx512bw", "avx512dq", "avx512f", "avx512vl"),
    )


def test_code_for_another_cpu_is_refused_before_it_is_loaded(crafted: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aoti, "missing_features", lambda requires: sorted({"avx512_vnni"} & set(requires)))
    path = crafted({"AOTI_CPU_ISA": "AVX512 AVX512_VNNI"})
    with pytest.raises(UnsupportedFormat, match=r"compiled for a CPU with avx512_vnni, which this one lacks$"):
        open_package(path)


@pytest.mark.parametrize(
    ("metadata", "says"),
    [
        ({"AOTI_MACHINE": "riscv64"}, "it was compiled for riscv64, this machine is "),
        ({"AOTI_DEVICE_KEY": "xpu"}, "it was compiled for xpu, which PyTorch does not find here"),
        ({SIGNATURE_KEY: "[5]"}, "the signature recorded in it cannot be read"),
        (b"{", "the description of the compiled model in it is not JSON"),
        (b"[" * 100_000, "the description of the compiled model in it is not JSON"),
    ],
)
def test_invalid_metadata_is_refused_in_one_line(crafted: Any, metadata: Any, says: str) -> None:
    path = crafted(metadata)
    with pytest.raises(ModelLoadError) as caught:
        open_package(path)
    assert str(caught.value).startswith(f"{path}: {says}")
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_code_for_a_gpu_is_refused_where_there_is_none(crafted: Any) -> None:
    with pytest.raises(ModelLoadError, match="it was compiled for cuda, which PyTorch does not find here"):
        open_package(crafted({"AOTI_DEVICE_KEY": "cuda"}), options=BackendOptions(trust="native"))


def test_weights_that_are_not_inside_the_code_are_refused(crafted: Any) -> None:
    with pytest.raises(UnsupportedFormat, match="its weights are in separate files"):
        open_package(crafted(**{"weights_config.json": b"{}"}))


def test_a_precision_it_was_not_compiled_for_is_a_warning_and_a_device_is_refused(package: Path) -> None:
    backend = open_package(package, options=BackendOptions(precision="bf16", trust="native"))
    assert backend.device == "cpu"
    assert backend.warnings == ("bf16 was requested, but a package keeps the precision of its compilation",)
    with pytest.raises(UnsupportedFormat, match='device="cuda:0" cannot be used: the package was compiled for the CPU'):
        open_package(package, options=BackendOptions(device="cuda", trust="native"))


def test_a_program_is_not_a_package(tmp_path: Path) -> None:
    path = torch_forms.write_pt2(zoo.MLP, tmp_path / "m.pt2")
    with pytest.raises(UnsupportedFormat, match="it has no compiled model named model"):
        open_package(path)
    (tmp_path / "text.pt2").write_text("text")
    with pytest.raises(IntegrityError, match="the file is damaged or not an AOTInductor package"):
        open_package(tmp_path / "text.pt2")


def test_packages_and_programs_are_distinguished(package: Path) -> None:
    assert kind_of_file(package) == "aoti"
