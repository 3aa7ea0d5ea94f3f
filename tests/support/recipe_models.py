"""Artifacts and subjects for tests of recipes: trained digits, and small networks of each kind."""

from __future__ import annotations

import atexit
import functools
import shutil
import tempfile
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import zoo

import penstock_digits
from penstock.artifacts.artifact import Artifact, TaskEntry, VariantSource, write_artifact
from penstock.backends.base import ModelFile
from penstock.backends.catalog import open_backend
from penstock.options import BackendOptions
from penstock.tensors import Array, Arrays
from penstock.toolchain.export.exported import Exported
from penstock.toolchain.export.source import ModuleSource
from penstock.toolchain.recipes.subject import Materials, Subject
from penstock_digits.data import features_of, load_split

DIGITS = Path(penstock_digits.__file__).parent / "artifacts/digits"


def digits_artifact() -> Artifact:
    """The bundled starter model."""
    return Artifact.open(DIGITS)


class Rows(NamedTuple):
    """Inputs of the digits model and their classes."""

    features: Array
    labels: Array


@functools.cache
def digits_rows(part: str = "held_out") -> Rows:
    """The digits of the training set (`train`), or those that the model was not trained with."""
    digits = getattr(load_split(), part)
    return Rows(features_of(digits.counts), digits.labels)


@functools.cache
def onnx_of(model: zoo.TorchModel) -> Path:
    """An ONNX file of a network, by the exporter that takes tenths of a second: do not change it."""
    path = _directory() / f"{model.name}.onnx"
    names = [spec.name for spec in model.signature.inputs]
    free = {spec.name: [axis for axis, n in enumerate(spec.shape) if n < 0] for spec in model.signature.inputs}
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # it is deprecated, and warns of constants
        torch.onnx.export(
            model.make(),
            model.example(),
            path,
            dynamo=False,
            opset_version=20,
            input_names=names,
            output_names=model.output_names(),
            dynamic_axes=free | {spec.name: [0] for spec in model.signature.outputs},
        )
    return path


@functools.cache
def _directory() -> Path:
    path = Path(tempfile.mkdtemp(prefix="penstock-recipes-"))
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    return path


def subject(model: zoo.TorchModel, *, onnx: bool = True, module: bool = False) -> Subject:
    """A network of the zoo with the forms that are asked for."""
    source = ModuleSource(model.name, model.make(), model.signature, model.inputs(2)) if module else None
    return Subject(model.name, model.signature, module=source, onnx=onnx_of(model) if onnx else None)


def materials(scratch: Path, model: zoo.ZooModel | None = None, rows: int = 64) -> Materials:
    """A scratch directory and, with a model, calibration rows for it."""
    scratch.mkdir(parents=True, exist_ok=True)
    return Materials(scratch, data=None if model is None else model.inputs(rows, seed=1))


def answers(made: Exported, inputs: Arrays) -> Arrays:
    """The outputs of a file that a recipe wrote, through Penstock's own back end."""
    options = BackendOptions(device="cpu", threads=1, trust="native")
    backend = open_backend(made.format, ModelFile(made.path), options)
    try:
        return backend.run(inputs)
    finally:
        backend.close()


def furthest(got: Arrays, expected: Arrays) -> float:
    """The largest difference as a share of the largest expected value."""
    assert got.keys() == expected.keys()
    return max(float(np.abs(got[n] - expected[n]).max() / max(np.abs(expected[n]).max(), 1e-9)) for n in expected)


def written(directory: Path, model: zoo.TorchModel, *variants: VariantSource) -> Artifact:
    """An artifact of a network with these variants and golden samples."""
    return write_artifact(
        directory,
        name=model.name,
        version="v1",
        task=TaskEntry(kind="tensor"),
        signature=model.signature,
        variants=variants,
        golden=model.golden(),
        card="",
    )
