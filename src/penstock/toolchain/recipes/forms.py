"""The ONNX file and the module of a subject: read, written, and made from each other where a technique needs one."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from penstock.backends.torch.infer_signature import run_named
from penstock.errors import InvalidInput
from penstock.scan.memory_map import mapped
from penstock.scan.onnx import external_files
from penstock.toolchain.export.forms import export_form
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
    exported = export_form("onnx", in_module_order(subject.module), directory(materials, "export"))
    notes, writers = (*subject.notes, *exported.notes), (*subject.writers, exported.exporter)
    return replace(subject, onnx=exported.path, notes=notes, writers=writers), exported.path


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
    return export_form("onnx", in_module_order(source), directory).path


def in_module_order(source: ModuleSource) -> ModuleSource:
    """The source with its outputs in the order in which the module returns them, which exporters name by position."""
    specs = {spec.name: spec for spec in source.signature.outputs}
    results = run_named(source.module, source.tensors())
    if results.keys() != specs.keys():
        return source
    return replace(source, signature=replace(source.signature, outputs=tuple(specs[name] for name in results)))
