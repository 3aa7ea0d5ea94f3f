"""The ONNX file and the module of a subject: read, written, and made from each other where a technique needs one."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from penstock.errors import InvalidInput, first_line
from penstock.scan.memory_map import mapped
from penstock.scan.onnx import external_files
from penstock.toolchain.export.exported import ExportFailed
from penstock.toolchain.export.onnx import quiet_exporter
from penstock.toolchain.export.onnx import write_onnx as write_program
from penstock.toolchain.export.source import ModuleSource
from penstock.toolchain.recipes.subject import Materials, Subject

if TYPE_CHECKING:
    import onnx

_IN_ONE_FILE = 1 << 30
"""Bytes of weights up to which an ONNX model is one file; protobuf ends at twice as many."""


def directory(materials: Materials, step: str) -> Path:
    """A new directory below `scratch` for the files of one step."""
    return Path(tempfile.mkdtemp(prefix=f"{step}-", dir=materials.scratch))


def need_module(subject: Subject, kind: str) -> ModuleSource:
    """The module of the subject. Raises InvalidInput when an earlier technique dropped it or there never was one."""
    if subject.module is None:
        raise InvalidInput(
            f"recipe: {kind} changes the PyTorch module, and {subject.name} has none here (a technique before it "
            "changed the ONNX file, or the model was published without its architecture); put it first, or publish a "
            "variant of the format pytorch or pt2",
            field="recipe",
        )
    return subject.module


def need_onnx(subject: Subject, kind: str, materials: Materials) -> tuple[Subject, Path]:
    """The subject with an ONNX file, and the file; exported from the module when there is none.

    Raises InvalidInput when there is nothing to export, ExportFailed when the module cannot be exported.
    """
    if subject.onnx is not None:
        return subject, subject.onnx
    if subject.module is None:
        raise InvalidInput(
            f"recipe: {kind} works on the ONNX file, and a technique before it left only OpenVINO IR; put it first",
            field="recipe",
        )
    path = exported_onnx(subject.module, directory(materials, "export"))
    return replace(subject, onnx=path, writers=(*subject.writers, f"torch.onnx.export of torch {_torch()}")), path


def read_onnx(path: Path) -> onnx.ModelProto:
    """The model in a file, with its external weights."""
    import onnx

    return onnx.load(path)


def write_onnx(model: onnx.ModelProto, path: Path) -> Path:
    """Write a checked model, the same bytes for the same model; weights beyond 1 GB go to `<name>.data` beside it."""
    import onnx

    size = sum(len(tensor.raw_data) for tensor in model.graph.initializer)
    if size > _IN_ONE_FILE:
        onnx.save(model, path, save_as_external_data=True, location=f"{path.name}.data")
    else:
        path.write_bytes(model.SerializeToString(deterministic=True))
    return path


def companions_of(path: Path) -> Mapping[str, Path]:
    """The external files that an ONNX file refers to, by name."""
    with mapped(path) as data:
        return {name: path.parent / name for name in sorted(external_files(data))}


def exported_onnx(source: ModuleSource, directory: Path) -> Path:
    """The module as an ONNX file. Raises ExportFailed."""
    import torch

    path = directory / "model.onnx"
    example = tuple(torch.from_numpy(source.example[spec.name].copy()) for spec in source.signature.inputs)
    free = tuple(
        {axis: torch.export.Dim.AUTO for axis, n in enumerate(spec.shape) if n < 0} for spec in source.signature.inputs
    )
    with torch.inference_mode():
        result = source.module(*example)
    outputs = list(result) if isinstance(result, dict) else [spec.name for spec in source.signature.outputs]
    try:
        with quiet_exporter(shares_axes=True):
            program = torch.onnx.export(
                source.module,
                example,
                dynamo=True,
                dynamic_shapes=free,
                input_names=[spec.name for spec in source.signature.inputs],
                output_names=outputs,
                verbose=False,
            )
    except Exception as error:  # an exporter may raise anything
        raise ExportFailed(f"{source.name}: it cannot be exported to ONNX: {first_line(error)}") from None
    write_program(program, path)
    return path


def _torch() -> str:
    return version("torch").partition("+")[0]
