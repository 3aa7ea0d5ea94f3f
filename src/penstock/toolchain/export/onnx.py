"""Exports PyTorch models to ONNX files. Needs `penstock[export]`."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import onnx

from penstock.backends.torch.quiet import quietly
from penstock.errors import InvalidInput, first_line
from penstock.imports import import_attribute
from penstock.toolchain.export.axes import require_free
from penstock.toolchain.export.exported import ExportFailed, ExportOptions, Written
from penstock.toolchain.export.failures import explained, is_decision
from penstock.toolchain.export.program import call_of, captured, is_recurrent, quiet_capture
from penstock.toolchain.export.source import ModuleSource

_TREE_SPECS = r"`isinstance\(treespec, LeafSpec\)` is deprecated"
"""torch 2.10 to 2.13 use one of their own classes that is deprecated."""
_AXIS_NAMES = r"# The axis name: \w+ will not be used"
_REGISTRATION = "torch.onnx._internal.exporter._registration"
"""This logger warns that torchvision is missing, which the model does not use."""
_LARGEST = 2_000_000_000
"""A protobuf holds 2 GB at most; weights above this go into a file beside it."""
_LEAST_EXTERNAL = 1024
"""Smaller tensors, such as shapes, stay in the graph in any case."""
_OPSETS = range(7, 26)


def quiet_exporter(*, shares_axes: bool = False) -> AbstractContextManager[None]:
    """Suppress warnings of the exporter that need no action; `shares_axes`: several inputs have an axis in common."""
    messages = (_TREE_SPECS, _AXIS_NAMES) if shares_axes else (_TREE_SPECS,)
    return quietly(*messages, logger=_REGISTRATION, level=logging.ERROR)


def write_onnx(program: Any, path: Path) -> None:
    """Write the program of `torch.onnx.export` as one checked file, the same bytes for the same weights.

    Raises RuntimeError when the export returned nothing.
    """
    if program is None:
        raise RuntimeError("torch.onnx.export returned no program")
    _write(program.model_proto, path)


def export_onnx(source: ModuleSource, directory: Path, options: ExportOptions) -> Written:
    """`model.onnx` by the current exporter, or where that fails by the legacy one, with a note that says why.

    Raises ExportFailed. A model whose values decide what it does is not given to the legacy exporter, which would keep
    one of its branches.
    """
    _require_names(source)
    _require_opset(options.opset)
    notes: tuple[str, ...] = ()
    try:
        model, how = _current(source, options), "dynamo=True"
    except ExportFailed as error:
        if not options.fallback or is_decision(error):
            raise
        model, how, notes = _legacy(source, options, error)
    import torch

    _rename_axes(model, source)
    path = directory / "model.onnx"
    companions = _write(model, path, external=options.external_data)
    opset = next(one.version for one in model.opset_import if one.domain in ("", "ai.onnx"))
    exporter = f"torch.onnx.export({how}) of torch {torch.__version__}, opset {opset}"
    return Written(path, exporter, companions, notes)


def _require_names(source: ModuleSource) -> None:
    inputs = {spec.name for spec in source.signature.inputs}
    both = next((spec.name for spec in source.signature.outputs if spec.name in inputs), None)
    if both is not None:
        raise ExportFailed(
            f"ONNX needs different names for inputs and outputs, and {both} is both; rename the input (input_names)"
        )


def _require_opset(opset: int | None) -> None:
    if opset is not None and opset not in _OPSETS:
        raise InvalidInput(
            f"opset: {opset} is not from {_OPSETS[0]} to {_OPSETS[-1]}; 18 or later is usual", field="opset"
        )


def _names(source: ModuleSource) -> dict[str, list[str]]:
    signature = source.signature
    return {
        "input_names": [spec.name for spec in signature.inputs],
        "output_names": [spec.name for spec in signature.outputs],
    }


def _current(source: ModuleSource, options: ExportOptions) -> onnx.ModelProto:
    """The exporter on `torch.export`. Recurrent networks go to it as modules: it has operators for them."""
    import torch

    more: dict[str, Any] = {
        **_names(source),
        "custom_translation_table": _translations(options.translations),
        "verbose": False,
    }
    with _quiet():
        if is_recurrent(source):
            call = call_of(source, torch.export.Dim.AUTO)
            nodes: Sequence[Any] = ()
            what: Any = source.module
            more |= {"kwargs": call.keywords, "dynamic_shapes": call.shapes}
            arguments = call.arguments
        else:
            what, arguments = captured(source), ()
            nodes = what.graph.nodes
        try:
            with torch.no_grad():
                program = torch.onnx.export(what, arguments, dynamo=True, opset_version=options.opset, **more)
        except Exception as error:  # PyTorch raises errors of many kinds, also of the user's module
            raise explained(error, source, "the ONNX exporter", nodes) from None
    if program is None:
        raise ExportFailed("the ONNX exporter returned no program")
    model: onnx.ModelProto = program.model_proto
    require_free(source.signature, _shapes(model), "the ONNX exporter")
    return model


@contextmanager
def _quiet() -> Iterator[None]:
    with quiet_capture(), quietly(logger=_REGISTRATION), quietly(logger="torch.onnx"):
        yield


def _translations(given: str | Mapping[Any, Any] | None) -> Mapping[Any, Any] | None:
    """The table of ONNX functions by operator. Raises InvalidInput where there is none under that name."""
    if not isinstance(given, str):
        return given
    try:
        table = import_attribute(given)
    except (Exception, SystemExit) as error:  # of the user's module
        raise InvalidInput(
            f"translations: {given} cannot be imported: {first_line(error)}; give module:table", field="translations"
        ) from None
    if not isinstance(table, Mapping):
        raise InvalidInput(
            f"translations: {given} is a {type(table).__name__}, not a mapping of operators to ONNX functions",
            field="translations",
        )
    return table


def _legacy(
    source: ModuleSource, options: ExportOptions, reason: ExportFailed
) -> tuple[onnx.ModelProto, str, tuple[str, ...]]:
    """The exporter on TorchScript."""
    import torch

    axes = {
        spec.name: {axis: _axis_name(spec.name, spec.dims, axis) for axis, n in enumerate(spec.shape) if n < 0}
        for spec in (*source.signature.inputs, *source.signature.outputs)
    }
    call = call_of(source, None)
    arguments = (*call.arguments, call.keywords) if call.keywords else call.arguments
    sink = _Sink()
    try:
        with _quiet(), torch.no_grad():
            torch.onnx.export(
                source.module,
                arguments,
                sink,  # type: ignore[arg-type]
                dynamo=False,
                dynamic_axes={name: free for name, free in axes.items() if free},
                opset_version=options.opset,
                **_names(source),  # type: ignore[arg-type]
            )
    except Exception as error:
        second = explained(error, source, "the legacy exporter")
        raise ExportFailed(f"{reason}; {second}") from None
    model = onnx.load_model_from_string(sink.content)
    require_free(source.signature, _shapes(model), "the legacy ONNX exporter")
    return model, "dynamo=False", (f"the legacy ONNX exporter was used, since {reason}",)


def _axis_name(tensor: str, dims: Sequence[str | None], axis: int) -> str:
    return (dims[axis] if dims else None) or f"{tensor}_{axis}"


class _Sink:
    """A file in memory, of which the exporter uses `write`."""

    def __init__(self) -> None:
        self.content = b""

    def write(self, data: bytes) -> int:
        """Append."""
        self.content += data
        return len(data)


def _shapes(model: onnx.ModelProto) -> list[tuple[int | str, ...]]:
    weights = {tensor.name for tensor in model.graph.initializer}
    shapes = [value.type.tensor_type.shape.dim for value in model.graph.input if value.name not in weights]
    return [tuple(dim.dim_param or int(dim.dim_value) for dim in shape) for shape in shapes]


def _rename_axes(model: onnx.ModelProto, source: ModuleSource) -> None:
    """Give free axes the names that were asked for instead of those of the exporter, `s77`."""
    asked: dict[str, str] = {}
    for spec, shape in zip(source.signature.inputs, _shapes(model), strict=True):
        for axis, symbol in enumerate(shape):
            if isinstance(symbol, str) and spec.dims and spec.dims[axis]:
                asked[symbol] = str(spec.dims[axis])
    if not asked:
        return
    pattern = re.compile(rf"\b({'|'.join(map(re.escape, asked))})\b")
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_param = pattern.sub(lambda found: asked[found[1]], dim.dim_param)


def _write(model: onnx.ModelProto, path: Path, *, external: bool = False) -> dict[str, Path]:
    """Write a checked model, the same bytes for the same weights; the files beside it, by their names."""
    _strip_metadata(model)
    large = model.ByteSize() > _LARGEST or sum(len(one.raw_data) for one in model.graph.initializer) > _LARGEST
    if not external and not large:
        onnx.checker.check_model(model, full_check=True)
        path.write_bytes(model.SerializeToString(deterministic=True))
        return {}
    beside = f"{path.name}.data"
    (path.parent / beside).unlink(missing_ok=True)
    onnx.save_model(
        model,
        path,
        save_as_external_data=True,
        location=beside,
        size_threshold=_LEAST_EXTERNAL,
        convert_attribute=False,
    )
    onnx.checker.check_model(str(path), full_check=True)
    return {beside: path.parent / beside} if (path.parent / beside).exists() else {}


def _strip_metadata(model: onnx.ModelProto) -> None:
    """Remove source lines and paths of the machine that exported the model."""
    del model.metadata_props[:]
    model.doc_string = ""
    _strip_graph(model.graph)
    for function in model.functions:
        _strip(function)
        for node in function.node:
            _strip_node(node)


def _strip_graph(graph: onnx.GraphProto) -> None:
    for part in (graph, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        _strip(part)
    for node in graph.node:
        _strip_node(node)


def _strip_node(node: onnx.NodeProto) -> None:
    _strip(node)
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs) if attribute.HasField("g") or attribute.graphs else ():
            _strip_graph(graph)


def _strip(part: Any) -> None:
    part.doc_string = ""
    del part.metadata_props[:]
