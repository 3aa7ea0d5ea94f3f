"""Writes a subject as OpenVINO IR. Needs `penstock[openvino]`."""

from __future__ import annotations

import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from penstock.backends.catalog import runnable
from penstock.backends.openvino import runtime
from penstock.errors import UnsupportedFormat, first_line
from penstock.formats import FORMATS
from penstock.toolchain.export.exported import ExportFailed
from penstock.toolchain.recipes.forms import need_onnx
from penstock.toolchain.recipes.subject import Materials, Subject

if TYPE_CHECKING:
    import openvino

_FORMAT = FORMATS["openvino"]


def write_openvino(subject: Subject, path: Path, materials: Materials) -> Subject:
    """Write the subject to `path` (.xml) and its weights beside it, in the precision that it has.

    Raises UnsupportedFormat where OpenVINO is not installed, ExportFailed when it cannot read the model.
    """
    if subject.openvino is not None:
        for suffix in (path.suffix, _FORMAT.weights_suffix):
            shutil.copyfile(subject.openvino.with_suffix(suffix), path.with_suffix(suffix))
        return subject
    require_openvino("the format openvino")
    subject, source = need_onnx(subject, "the format openvino", materials)
    save_openvino(read_openvino(subject.name, source), path)
    return replace(subject, openvino=path, writers=(*subject.writers, f"openvino {version()}"))


def require_openvino(what: str) -> None:
    """Raise UnsupportedFormat where OpenVINO is not installed, naming `what` needs it."""
    if not runnable("openvino"):
        raise UnsupportedFormat(f"{what} needs {_FORMAT.runtime.package}; {_FORMAT.runtime.remedy}")


def read_openvino(name: str, path: Path) -> openvino.Model:
    """The graph of an ONNX file. Raises ExportFailed."""
    try:
        return runtime().read_model(path)
    except Exception as error:
        raise ExportFailed(f"{name}: OpenVINO cannot read its ONNX file: {_detail(error)}") from None


def save_openvino(model: openvino.Model, path: Path) -> None:
    """Write IR in the precision of the graph (by default OpenVINO stores weights in fp16), with names that last.

    OpenVINO names operators by a counter of the process; here they are counted in the graph, so that the same model has
    the same bytes.
    """
    runtime()
    for number, operator in enumerate(model.get_ordered_ops()):
        kind = operator.get_type_name()
        if re.fullmatch(rf"{kind}_\d+", operator.get_friendly_name()):
            operator.set_friendly_name(f"{kind}_of_{number}")
    sys.modules["openvino"].save_model(model, path, compress_to_fp16=False)


def version() -> str:
    """The version of OpenVINO that is installed, without its build."""
    runtime()
    return str(sys.modules["openvino"].__version__).partition("-")[0]


def _detail(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1].rstrip(".") if lines else first_line(error)
