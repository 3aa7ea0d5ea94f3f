"""No byte of a model reaches a runtime before it is trusted."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from crafted import evil_pickle, model, outside, packed, with_member

from penstock.backends import catalog
from penstock.backends.base import Backend, BackendOptions, ModelFile
from penstock.backends.catalog import open_backend
from penstock.errors import ConfigError, IntegrityError, ModelLoadError, Untrusted
from penstock.formats import FORMATS, TIERS
from penstock.tensors import Signature, TensorSpec

SIGNATURE = Signature((TensorSpec("x", "FP32", (-1, 4)),), (TensorSpec("y", "FP32", (-1, 4)),))


class Reached(Exception):
    """The runtime was asked to open a file."""


@pytest.fixture
def guarded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if a backend is looked up: refusals must come before."""

    def reached(_: str) -> Any:
        raise Reached

    monkeypatch.setattr(catalog, "import_attribute", reached)


@pytest.mark.parametrize("format", FORMATS)
def test_every_format_has_its_tier_and_is_refused_below_it(format: str, tmp_path: Path, guarded: None) -> None:
    path = tmp_path / "m.bin"
    path.write_bytes(b"whatever")
    for trust in TIERS[: TIERS.index(FORMATS[format].trust)]:
        with pytest.raises(Untrusted, match=rf"^{path}: models of the format {format} can run code; .*trust="):
            open_backend(format, ModelFile(path, SIGNATURE), BackendOptions(trust=trust))


def test_the_tiers_of_formats() -> None:
    assert {row.name: row.trust for row in FORMATS.values()} == {
        "onnx": "data",
        "openvino": "data",
        "pytorch": "data",
        "torchscript": "code",
        "pt2": "code",
        "aoti": "native",
    }


def test_an_unknown_tier_is_refused(tmp_path: Path) -> None:
    onnx.save(model(), tmp_path / "m.onnx")
    with pytest.raises(ConfigError, match="trust: 'all' should be"):
        open_backend("onnx", ModelFile(tmp_path / "m.onnx"), BackendOptions(trust="all"))


def bad_onnx(path: Path) -> None:
    (path.parent.parent / "secret").write_bytes(bytes(64))
    onnx.save(model(tensors=[outside("../secret")]), path)


def linked_onnx(path: Path) -> None:
    (path.parent.parent / "secret").write_bytes(bytes(64))
    (path.parent / "m.data").hardlink_to(path.parent.parent / "secret")
    onnx.save(model(tensors=[outside("m.data")]), path)


def checkpoint(path: Path) -> None:
    buffer = io.BytesIO()
    torch.save({"w": torch.ones(2)}, buffer)
    path.write_bytes(with_member(buffer.getvalue(), "data.pkl", evil_pickle(path.parent / "marker")))


def bare_pickle(path: Path) -> None:
    path.write_bytes(evil_pickle(path.parent / "marker"))


def script(path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(torch.nn.ReLU()), path)
    path.write_bytes(with_member(path.read_bytes(), "more.pkl", evil_pickle(path.parent / "marker")))


def program(path: Path) -> None:
    path.write_bytes(
        packed({"m/archive_format": b"pt2", "m/data/constants/opaque_obj_0": evil_pickle(path.parent / "marker")})
    )


CRAFTED = {
    "onnx that reads a file": ("onnx", "m.onnx", bad_onnx, IntegrityError),
    "onnx that reads a linked file": ("onnx", "m.onnx", linked_onnx, IntegrityError),
    "a checkpoint that runs a command": ("pytorch", "m.pt", checkpoint, ModelLoadError),
    "a pickle that runs a command": ("pytorch", "m.ckpt", bare_pickle, ModelLoadError),
    "a pickle called safetensors": ("pytorch", "m.safetensors", bare_pickle, ModelLoadError),
    "TorchScript with a pickle that runs a command": ("torchscript", "m.ts", script, IntegrityError),
    "a program with an object": ("pt2", "m.pt2", program, IntegrityError),
}


@pytest.mark.parametrize("what", CRAFTED)
@pytest.mark.parametrize("trust", TIERS)
def test_a_crafted_file_does_nothing_at_any_tier(what: str, trust: str, tmp_path: Path) -> None:
    format, name, make, error = CRAFTED[what]
    directory = tmp_path / "model"
    directory.mkdir()
    make(directory / name)
    file = ModelFile(directory / name, SIGNATURE, f"{__name__}:Net")
    expected = Untrusted if trust == "data" and FORMATS[format].trust != "data" else error
    with pytest.raises(expected, match=r"m\.\w+: "):
        open_backend(format, file, BackendOptions(device="cpu", trust=trust))
    assert not (directory / "marker").exists()


def test_the_clean_twin_is_opened(tmp_path: Path) -> None:
    (tmp_path / "m.data").write_bytes(np.eye(4, dtype=np.float32).tobytes())
    onnx.save(model(tensors=[outside("m.data")]), tmp_path / "m.onnx")
    backend: Backend = open_backend("onnx", ModelFile(tmp_path / "m.onnx"), BackendOptions(device="cpu"))
    x = np.arange(8, dtype=np.float32).reshape(2, 4)
    assert np.array_equal(backend.run({"x": x})["y"], x)
    backend.close()
