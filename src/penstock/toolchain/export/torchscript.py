"""Exports PyTorch models to TorchScript, by a trace or by its compiler. PyTorch has deprecated the format."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from penstock.backends.torch.eager import is_script
from penstock.libraries import quietly
from penstock.toolchain.export.branches import decisions
from penstock.toolchain.export.exported import ExportFailed, ExportOptions, Written
from penstock.toolchain.export.failures import REWRITE, SCRIPT, explained
from penstock.toolchain.export.program import call_of
from penstock.toolchain.export.source import ModuleSource

_OWN = ("aten", "prim", "prims", "quantized", "_quantized", "sparse", "mkldnn", "prepacked")
"""Namespaces of operators that every PyTorch has."""


def export_trace(source: ModuleSource, directory: Path, options: ExportOptions) -> Written:  # noqa: ARG001
    """The operators that ran on the example. Raises ExportFailed for a model whose values decide what it does."""
    import torch

    if is_script(source.module):
        raise ExportFailed(f"the model is TorchScript already; export {SCRIPT}, which keeps it as it is")
    decided = decisions(source)
    if decided:
        raise ExportFailed(
            f"a trace would keep one branch of the model ({decided[0]}), where values decide which one runs; {REWRITE}"
        )
    call = call_of(source, None)
    with quietly(), torch.no_grad():
        try:
            traced: Any = torch.jit.trace(  # type: ignore[no-untyped-call]
                source.module,
                example_inputs=call.arguments if not call.keywords else None,
                example_kwarg_inputs=call.keywords or None,
                strict=False,
                check_trace=False,
            )
        except Exception as error:  # PyTorch raises errors of many kinds, also of the user's module
            raise explained(error, source, "torch.jit.trace") from None
        return _saved(traced, directory, source, "torch.jit.trace")


def export_script(source: ModuleSource, directory: Path, options: ExportOptions) -> Written:  # noqa: ARG001
    """The compiled Python code of the model, which keeps its branches and loops. Raises ExportFailed."""
    import torch

    with quietly():
        try:
            scripted: Any = torch.jit.script(source.module)
        except Exception as error:  # PyTorch raises errors of many kinds
            raise explained(error, source, "torch.jit.script") from None
        return _saved(scripted, directory, source, "torch.jit.script")


def _saved(module: Any, directory: Path, source: ModuleSource, exporter: str) -> Written:
    import torch

    strange = next((kind for kind in _operators(module.inlined_graph) if kind.partition("::")[0] not in _OWN), None)
    if strange is not None:
        raise ExportFailed(
            f"the model calls 'ops.{strange.replace('::', '.')}', which is not a PyTorch operator: a process that "
            "serves it does not have it; export onnx, with the ONNX function of this operator in translations"
        )
    path = directory / "model.ts"
    try:
        module.save(str(path))
    except Exception as error:  # an attribute or an operator that cannot be stored
        raise explained(error, source, exporter) from None
    return Written(path, f"{exporter} of torch {torch.__version__}")


def _operators(block: Any) -> Iterator[str]:
    """The operators of a graph, those in its branches and loops included."""
    for node in block.nodes():
        yield node.kind()
        for inner in node.blocks():
            yield from _operators(inner)
