"""Runs programs that `torch.export` saved as `.pt2`: a graph of operators with its weights."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from penstock.backends.base import BackendOptions, ModelFile, require_file
from penstock.backends.devices import Device, torch_placement
from penstock.backends.signature_match import require_fit, same_type, same_type_and_lengths
from penstock.backends.torch.base import (
    TorchBackend,
    is_memory,
    load_error,
    output_names,
    reason,
    set_threads,
    spec_of,
)
from penstock.backends.torch.pt2_archive import copy_program, open_archive
from penstock.errors import InferenceError, ModelLoadError, PenstockError, UnsupportedFormat
from penstock.libraries import quietly
from penstock.tensors import Signature, TensorSpec

if TYPE_CHECKING:
    import torch
    from torch.export import ExportedProgram

_KEEPS_PRECISION = "{} was requested, but an exported program keeps the precision of its export"


class Calling(NamedTuple):
    """How a program is called: the inputs in its order, and the tree of arguments whose leaves they are.

    `tree` is None when they are all the arguments, by position.
    """

    names: tuple[str, ...]
    tree: Any


class ExportedBackend(TorchBackend):
    """One exported program as a module."""

    format = "pt2"
    _calling: Calling
    _plain = False

    @classmethod
    def open(cls, file: ModelFile, options: BackendOptions) -> ExportedBackend:
        """Load a program from a copy that has nothing for PyTorch to unpickle or evaluate.

        The signature of a bare file is read from the program: inputs are named as the parameters of `forward`, outputs
        as the keys of the dict that it returned, else `output`. Raises ModelLoadError or a subclass, naming the file.
        """
        require_file(file.path)
        device, warnings = torch_placement(options.device)
        if options.precision != "fp32":
            warnings += (_KEEPS_PRECISION.format(options.precision),)
        set_threads(options.threads)
        with quietly():
            program = _load(file.path)
            found = _described(file.path, program)
            signature = found if file.signature is None else file.signature
            calling = _calling(file.path, program, found, signature)
            try:
                module = _moved(program, device).module()
                backend = cls(module, signature, device, warnings=warnings, pin_memory=options.pin_memory)
            except RuntimeError as error:
                raise load_error(file.path, device, error) from None
        backend._calling, backend._plain = calling, _is_plain(program)
        return backend

    @classmethod
    def module_of(cls, file: ModelFile, trust: str) -> torch.nn.Module:  # noqa: ARG003
        """The program as a module. Raises UnsupportedFormat when it takes a nested structure of tensors."""
        require_file(file.path)
        with quietly():
            program = _load(file.path)
            found = _described(file.path, program)
            calling = _calling(file.path, program, found, file.signature or found)
            module: torch.nn.Module = program.module()
        if calling.tree is not None:
            raise UnsupportedFormat(f"{file.path}: the program takes keywords or a nested structure, and not tensors")
        for switch in ("train", "eval"):  # a program has no modes, and its own methods refuse
            vars(module).pop(switch, None)
        return module.eval()

    def cost_depends_on_rows_only(self) -> bool:
        """True for a program without loops, branches and sizes from values, on inputs of fixed lengths."""
        return self._plain and all(spec.row_elements >= 0 for spec in self.signature.inputs)

    def _call(self, tensors: dict[str, torch.Tensor]) -> Any:
        model = self._model
        if model is None:
            raise InferenceError("the model is closed")
        names, tree = self._calling
        leaves = [tensors[name] for name in names]
        if tree is None:
            return model(*leaves)
        from torch.utils import _pytree

        arguments, keywords = _pytree.tree_unflatten(leaves, tree)
        return model(*arguments, **keywords)


def _load(path: Path) -> ExportedProgram:
    import torch

    with (
        tempfile.TemporaryDirectory(prefix="penstock-") as private,
        open_archive(path, "archive_format", "a .pt2 program") as archive,
    ):
        copy = Path(private) / "model.pt2"
        copy_program(path, archive, copy)
        try:
            with quietly(logger="torch.export"):  # it logs the traceback of the error below
                return torch.export.load(copy)
        except Exception as error:  # an invalid program may raise anything
            if is_memory(error):
                raise load_error(path, "cpu", error) from None
            raise ModelLoadError(f"{path}: PyTorch cannot load the program: {reason(error)}") from None


def _is_plain(program: ExportedProgram) -> bool:
    """True if every size follows from those of the inputs, and no operator runs another graph, as loops do."""
    from torch._ops import HigherOrderOperator
    from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols

    return not any(
        isinstance(node.target, HigherOrderOperator) or free_unbacked_symbols(node.meta.get("val"))
        for node in program.graph.nodes
    )


def _moved(program: ExportedProgram, device: Device) -> ExportedProgram:
    if device.kind == "cpu":
        return program
    from torch.export.passes import move_to_device_pass

    return move_to_device_pass(program, str(device))


def _described(path: Path, program: ExportedProgram) -> Signature:
    """The signature that the program records."""
    values = {node.name: node.meta.get("val") for node in program.graph.nodes if node.op == "placeholder"}
    results = next(node for node in program.graph.nodes if node.op == "output").args[0]
    outputs = [node.meta.get("val") for node in results[-len(program.graph_signature.user_outputs) :]]
    names = _input_names(program)
    try:
        return Signature(
            _specs(names, [values[name] for name in program.graph_signature.user_inputs]),
            _specs(_output_names(program, len(outputs)), outputs),
        )
    except PenstockError as error:
        raise UnsupportedFormat(f"{path}: {error}") from None


def _specs(names: Sequence[str], values: Sequence[Any]) -> tuple[TensorSpec, ...]:
    import torch

    strange = next(
        (name for name, value in zip(names, values, strict=True) if not isinstance(value, torch.Tensor)), None
    )
    if strange is not None:
        raise UnsupportedFormat(f"{strange} is not a tensor; export a model that takes and returns tensors")
    return tuple(spec_of(name, value.dtype, value.shape) for name, value in zip(names, values, strict=True))


def _input_names(program: ExportedProgram) -> list[str]:
    """The parameters of `forward`, positional ones before keywords."""
    names = list(program.graph_signature.user_inputs)
    keywords = _keywords(program)
    return [*names[: len(names) - len(keywords)], *keywords]


def _keywords(program: ExportedProgram) -> list[str]:
    return [str(key) for key in program.call_spec.in_spec.children()[1].context or ()]


def _output_names(program: ExportedProgram, count: int) -> list[str]:
    """The keys of a dict or the fields of a named tuple, else `output_names`."""
    spec = program.call_spec.out_spec
    if spec.type is dict:
        return [str(key) for key in spec.context]
    fields = getattr(spec.type, "_fields", None)
    if fields is not None and len(fields) == count:
        return list(fields)
    return output_names(count)


def _calling(path: Path, program: ExportedProgram, found: Signature, wanted: Signature) -> Calling:
    """Match inputs by name when all names agree, else by position; raises ModelLoadError when they do not fit."""
    own = [spec.name for spec in found.inputs]
    given = {spec.name: spec for spec in wanted.inputs}
    inputs = [given[name] for name in own] if given.keys() == set(own) else list(wanted.inputs)
    require_fit(path, "inputs", inputs, found.inputs, same_type_and_lengths)
    by_name = {spec.name: spec for spec in found.outputs}
    has_names = program.call_spec.out_spec.type is dict
    outputs = [by_name.get(spec.name) for spec in wanted.outputs] if has_names else list(found.outputs)
    known = [spec for spec in outputs if spec is not None]
    require_fit(path, "outputs", wanted.outputs, known, same_type)
    return Calling(tuple(spec.name for spec in inputs), None if _is_flat(program) else program.call_spec.in_spec)


def _is_flat(program: ExportedProgram) -> bool:
    arguments, keywords = program.call_spec.in_spec.children()
    return not keywords.num_leaves and all(child.is_leaf() for child in arguments.children())
