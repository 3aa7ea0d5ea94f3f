"""Exports PyTorch models to ONNX files. Needs `penstock[export]`."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import onnx

from penstock.backends.torch.eager import is_script
from penstock.errors import InvalidInput, first_line
from penstock.libraries import import_attribute, quietly
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
    import torch

    found = _attempt(source, options)
    if isinstance(found, ExportFailed):
        model, how = _legacy(source, options, found), "dynamo=False"
        notes += (f"the legacy ONNX exporter was used, since {found}",)
    else:
        model, how = found, "dynamo=True"
    _name_axes(model, source)
    path = directory / "model.onnx"
    companions = _write(model, path, external=options.external_data)
    opset = next(one.version for one in model.opset_import if one.domain in ("", "ai.onnx"))
    exporter = f"torch.onnx.export({how}) of torch {torch.__version__}, opset {opset}"
    return Written(path, exporter, companions, notes)


def _attempt(source: ModuleSource, options: ExportOptions) -> onnx.ModelProto | ExportFailed:
    """The model of the current exporter, or the failure that the legacy one may not have."""
    try:
        return _current(source, options)
    except ExportFailed as error:
        if not options.fallback or is_decision(error):
            raise
        return error


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


def _legacy(source: ModuleSource, options: ExportOptions, reason: ExportFailed) -> onnx.ModelProto:
    """The exporter on TorchScript."""
    import torch

    axes = {
        spec.name: {axis: _axis_name(spec.name, spec.dims, axis) for axis, n in enumerate(spec.shape) if n < 0}
        for spec in (*source.signature.inputs, *source.signature.outputs)
    }
    call = call_of(source, None)
    arguments = (*call.arguments, call.keywords) if call.keywords else call.arguments
    sink = BytesIO()
    try:
        with _quiet(), _without_printed_graphs(), torch.no_grad():
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
        second = explained(error, source, "the legacy ONNX exporter")
        raise ExportFailed(
            f"{second if is_script(source.module) else reason}; the other ONNX exporter fails too"
        ) from None
    model = onnx.load_model_from_string(sink.getvalue())
    require_free(source.signature, _shapes(model), "the legacy ONNX exporter")
    return model


@contextmanager
def _without_printed_graphs() -> Iterator[None]:
    """Keep the legacy exporter from printing the graph of a failure; it switches its log on, whatever is asked."""
    import torch

    log = torch._C._jit_onnx_log
    torch._C._jit_onnx_log = lambda *_: None
    try:
        yield
    finally:
        torch._C._jit_onnx_log = log


def _axis_name(tensor: str, dims: Sequence[str | None], axis: int) -> str:
    return (dims[axis] if dims else None) or f"{tensor}_{axis}"


def _shapes(model: onnx.ModelProto) -> list[tuple[int | str, ...]]:
    weights = {tensor.name for tensor in model.graph.initializer}
    shapes = [value.type.tensor_type.shape.dim for value in model.graph.input if value.name not in weights]
    return [tuple(dim.dim_param or int(dim.dim_value) for dim in shape) for shape in shapes]


def _name_axes(model: onnx.ModelProto, source: ModuleSource) -> None:
    """Give free axes the names that were asked for, and forget the shapes in between.

    Exporters write `s77`, and for a recurrent network lengths of the example, which its steps do not have.
    """
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    del model.graph.value_info[:]
    for values, specs in ((inputs, source.signature.inputs), (model.graph.output, source.signature.outputs)):
        for value, spec in zip(values, specs, strict=True):
            for axis, dim in enumerate(value.type.tensor_type.shape.dim):
                if spec.shape[axis] < 0:
                    dim.dim_param = _axis_name(spec.name, spec.dims, axis)


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
