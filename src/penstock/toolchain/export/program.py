"""Captures a module with `torch.export`, for the formats made from its graph, and saves it as `.pt2`."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr
from functools import lru_cache
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from penstock.backends.torch.eager import is_script
from penstock.libraries import quietly
from penstock.toolchain.export.axes import require_free
from penstock.toolchain.export.exported import ExportOptions, Written
from penstock.toolchain.export.failures import explained
from penstock.toolchain.export.source import ModuleSource

if TYPE_CHECKING:
    from torch.export import ExportedProgram

_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


class Call(NamedTuple):
    """The arguments of `forward`, and the free axes of each in the same structure."""

    arguments: tuple[Any, ...]
    keywords: dict[str, Any]
    shapes: Any


def call_of(source: ModuleSource, dim: Any) -> Call:
    """The example as a call of the module; `dim` stands for every free axis.

    Inputs are positional, unless they skip a parameter of `forward` or are keywords only.
    """
    tensors = source.tensors()
    free = {spec.name: {axis: dim for axis, n in enumerate(spec.shape) if n < 0} for spec in source.signature.inputs}
    parameters = [] if is_script(source.module) else list(inspect.signature(source.module.forward).parameters.values())
    positional = [one.name for one in parameters if one.kind in _POSITIONAL]
    names = list(tensors)
    if set(names) <= {one.name for one in parameters} and names != positional[: len(names)]:
        return Call((), tensors, free)
    extra = len(names) - len(positional)
    spread = next((one.name for one in parameters if one.kind is inspect.Parameter.VAR_POSITIONAL), None)
    shapes = list(free.values())
    if spread is not None and extra >= 0:
        return Call(tuple(tensors.values()), {}, (*shapes[: len(positional)], tuple(shapes[len(positional) :])))
    return Call(tuple(tensors.values()), {}, tuple(shapes))


def is_recurrent(source: ModuleSource) -> bool:
    """True when some part is an LSTM or a GRU, whose steps exporters unroll."""
    import torch

    return any(isinstance(part, torch.nn.LSTM | torch.nn.GRU | torch.nn.RNN) for part in source.module.modules())


@lru_cache(maxsize=1)
def captured(source: ModuleSource) -> ExportedProgram:
    """The program of a module, with the free axes of its signature; the last one is kept.

    Raises ExportFailed with the operation, the module and the line.
    """
    import torch

    call = call_of(source, torch.export.Dim.DYNAMIC)
    with quiet_capture(), _loops(), torch.no_grad():
        try:
            program = torch.export.export(source.module, call.arguments, call.keywords, dynamic_shapes=call.shapes)
        except Exception as error:  # PyTorch raises errors of many kinds, also of the user's module
            raise explained(error, source, "torch.export") from None
    require_free(source.signature, _obtained(program), "torch.export")
    return program


@contextmanager
def quiet_capture() -> Iterator[None]:
    """Suppress warnings and logged graphs of failures; what they say is in the error."""
    loggers = ("torch.fx.experimental.symbolic_shapes", "torch.export", "torch._dynamo", "torch._export")
    with ExitStack() as stack:
        for logger in loggers:
            stack.enter_context(quietly(logger=logger))
        stack.enter_context(redirect_stderr(StringIO()))  # it prints the graph of a failure
        yield


@contextmanager
def _loops() -> Iterator[None]:
    """Capture LSTM and GRU as loops over any number of steps, where PyTorch has these decompositions.

    An operator remembers what it decomposed into last, so that is forgotten before and after.
    """
    from torch.export import _patches

    with ExitStack() as stack:
        _forget()
        stack.callback(_forget)
        for kind in ("lstm", "gru"):
            register = getattr(_patches, f"register_{kind}_while_loop_decomposition", None)
            if register is not None:
                stack.enter_context(register())
        yield


def _forget() -> None:
    import torch

    for operator in (torch.ops.aten.lstm.input, torch.ops.aten.gru.input):
        cache = getattr(operator, "_dispatch_cache", None)
        if cache is not None:
            cache.clear()


def _obtained(program: ExportedProgram) -> list[tuple[int | str, ...]]:
    """The shapes of the inputs in the order of the program, free lengths as symbols."""
    values = {node.name: node.meta["val"] for node in program.graph.nodes if node.op == "placeholder"}
    shapes = [values[name].shape for name in program.graph_signature.user_inputs]
    return [tuple(n if type(n) is int else str(n) for n in shape) for shape in shapes]


def export_program(source: ModuleSource, directory: Path, options: ExportOptions) -> Written:  # noqa: ARG001
    """The program as `model.pt2`, without example inputs, which PyTorch would pickle."""
    import torch

    program = captured(source)
    path = directory / "model.pt2"
    kept, program.example_inputs = program.example_inputs, None
    try:
        with quiet_capture():
            torch.export.save(program, path)
    except Exception as error:  # an operator or a constant that cannot be stored
        raise explained(error, source, "torch.export.save", program.graph.nodes) from None
    finally:
        program.example_inputs = kept
    return Written(path, f"torch.export of torch {torch.__version__}")
