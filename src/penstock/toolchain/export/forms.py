"""The forms that a module can be exported to, one row each, and the checks that every export passes."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import numpy as np

from penstock.artifacts.variant import default_variant_name
from penstock.backends.base import Backend, ModelFile
from penstock.backends.catalog import open_backend, runnable
from penstock.errors import PenstockError, first_line
from penstock.formats import FORMATS as ROWS
from penstock.libraries import import_attribute
from penstock.options import BackendOptions
from penstock.tensors import Array
from penstock.toolchain.export.branches import Probe, probes
from penstock.toolchain.export.exported import Exported, ExportFailed, ExportOptions, ExportSkipped, Written
from penstock.toolchain.export.source import ModuleSource

_RTOL, _ATOL, _AGREEMENT = 1e-2, 1e-4, 0.9
"""Coarse: what a frozen branch or length exceeds. How far an export may be from its reference is decided elsewhere."""


class Form(NamedTuple):
    """A form under the name that users ask for; `exporter` is imported when it is used."""

    name: str
    format: str
    exporter: str

    def variant(self, precision: str) -> str:
        """The name of its variant: `torchscript-trace-fp32`."""
        return default_variant_name(self.name, precision)


_EXPORT = "penstock.toolchain.export"
FORMS: dict[str, Form] = {
    row.name: row
    for row in (
        Form("onnx", "onnx", f"{_EXPORT}.onnx:export_onnx"),
        Form("torchscript-trace", "torchscript", f"{_EXPORT}.torchscript:export_trace"),
        Form("torchscript-script", "torchscript", f"{_EXPORT}.torchscript:export_script"),
        Form("pt2", "pt2", f"{_EXPORT}.program:export_program"),
        Form("aoti", "aoti", f"{_EXPORT}.aoti:export_aoti"),
        Form("pytorch", "pytorch", f"{_EXPORT}.weights:export_weights"),
    )
}
"""Every form by the name that users ask for."""

DEFAULTS = ("onnx", "pt2", "pytorch")
"""What is exported when no form is asked for: the fastest on most CPUs, PyTorch's own, and the weights."""
FALLBACK = "torchscript-script"
"""What is tried besides where neither `onnx` nor `pt2` of the defaults can hold the model: it keeps control flow."""


def export_form(form: str, source: ModuleSource, directory: Path, options: ExportOptions | None = None) -> Exported:
    """Export to one form, into a new directory of its variant's name below `directory`, and check what was exported.

    It is opened and run on other lengths of each free axis, and on values that take other branches of the model, and
    must agree with the module. Raises ExportFailed with one sentence, ExportSkipped where the form does not apply here.
    """
    row = FORMS.get(form)
    if row is None:
        raise ExportFailed(f"there is no form {form!r} to export to; use {', '.join(FORMS)}")
    if not runnable(row.format):
        runtime = ROWS[row.format].runtime
        raise ExportSkipped(f"{form} needs {runtime.package} to be verified, which is not installed; {runtime.remedy}")
    precision = precision_of(source)
    name = row.variant(precision)
    target = directory / name
    target.mkdir(parents=True, exist_ok=True)
    written: Written = import_attribute(row.exporter)(source, target, options or ExportOptions())
    exported = Exported(name, row.format, precision, **vars(written))
    _require_agreement(form, exported, source)
    return exported


def precision_of(source: ModuleSource) -> str:
    """The type of most weights, as in a manifest: fp32, fp16, bf16 or fp64."""
    import torch

    names = {torch.float16: "fp16", torch.bfloat16: "bf16", torch.float64: "fp64"}
    counts: dict[str, int] = {"fp32": 0}
    for parameter in source.module.parameters():
        kind = names.get(parameter.dtype, "fp32")
        counts[kind] = counts.get(kind, 0) + parameter.numel()
    return max(counts, key=lambda one: counts[one])


def open_exported(exported: Exported, source: ModuleSource) -> Backend:
    """The exported file as a backend on the CPU, code and native code trusted; its caller closes it."""
    file = ModelFile(
        exported.path,
        source.signature,
        architecture=exported.architecture,
        architecture_args=exported.architecture_args,
    )
    return open_backend(exported.format, file, BackendOptions(device="cpu", trust="native"))


def _require_agreement(form: str, exported: Exported, source: ModuleSource) -> None:
    try:
        backend = open_exported(exported, source)
    except PenstockError as error:
        said = first_line(error, 400).replace(f"{exported.path}: ", "")
        raise ExportFailed(f"{form} was exported, but would not be served: {said}") from None
    with closing(backend):
        for probe in probes(source):
            objection = _objection(backend, probe)
            if objection is not None:
                raise ExportFailed(f"{form} {objection}")


def _objection(backend: Backend, probe: Probe) -> str | None:
    """Why an export is wrong on these inputs; None if it agrees."""
    try:
        got = backend.run(dict(probe.inputs))
    except PenstockError as error:
        return f"{probe.frozen(f'it fails ({first_line(error)})')}"
    wrong = next((name for name, expected in probe.outputs.items() if _differs(expected, got[name])), None)
    return None if wrong is None else probe.frozen(f"its output {wrong} is another one than the model's")


def _differs(expected: Array, got: Array) -> bool:
    if expected.shape != got.shape:
        return True
    if expected.dtype.kind != "f" or expected.dtype != got.dtype:
        return bool(expected.size and np.mean(expected == got) < _AGREEMENT)
    one, other = expected.astype(np.float64), got.astype(np.float64)
    scale = float(np.max(np.abs(one), initial=0.0, where=np.isfinite(one)))
    return not np.allclose(other, one, rtol=_RTOL, atol=_ATOL + _RTOL * scale, equal_nan=True)
