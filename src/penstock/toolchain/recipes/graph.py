"""Optimizes the graph of an ONNX file: constant folding, fused operators, nothing that is left unused."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import ClassVar, Literal

from penstock.backends.catalog import runnable
from penstock.errors import UnsupportedFormat, first_line
from penstock.formats import FORMATS
from penstock.toolchain.export.exported import ExportFailed
from penstock.toolchain.recipes.forms import directory, need_onnx, read_onnx, write_onnx
from penstock.toolchain.recipes.recipe import Technique
from penstock.toolchain.recipes.subject import Materials, Subject

Level = Literal["basic", "extended", "all"]


@dataclass(frozen=True)
class OptimizeGraph(Technique):
    """Store the graph as ONNX Runtime optimizes it at load, so that a load does less.

    `level`: basic gives standard operators, which every runtime reads; extended adds fused operators of ONNX Runtime.
    Neither depends on the CPU.
    """

    kind: ClassVar[str] = "optimize-graph"
    lossy: ClassVar[bool] = False
    level: Literal["basic", "extended"] = "extended"

    def apply(self, subject: Subject, materials: Materials) -> Subject:
        """The subject with another ONNX file and no other form."""
        subject, source = need_onnx(subject, self.kind, materials)
        path = directory(materials, self.kind) / "model.onnx"
        before = len(read_onnx(source).graph.node)
        model = read_onnx(optimized(source, path, self.level))
        after = len(model.graph.node)
        write_onnx(model, path)
        changed = subject.changed(f"onnxruntime {version('onnxruntime')}, graph level {self.level}", onnx=path)
        return changed.noted(f"the graph has {after} operators instead of {before}", operators=[before, after])


def optimized(source: Path, path: Path, level: Level) -> Path:
    """Write the graph of an ONNX file as a session on the CPU runs it at a level, and return `path`.

    Raises UnsupportedFormat where ONNX Runtime is not installed, ExportFailed when it cannot load the model.
    """
    if not runnable("onnx"):
        raise UnsupportedFormat(f"{source}: this needs onnxruntime; {FORMATS['onnx'].runtime.remedy}")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, f"ORT_ENABLE_{level.upper()}")
    options.optimized_model_filepath = str(path)
    try:
        onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # of a type that ONNX Runtime does not export
        raise ExportFailed(f"{source}: ONNX Runtime cannot load the model: {first_line(error)}") from None
    return path
