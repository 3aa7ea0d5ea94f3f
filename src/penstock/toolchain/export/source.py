"""A PyTorch model with example inputs: what is exported, and the reference for every exported form."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from penstock.backends.base import Backend, ModelFile
from penstock.backends.catalog import open_backend
from penstock.backends.probing.example_file import read_example
from penstock.backends.torch.base import reason, spec_of
from penstock.backends.torch.eager import is_script
from penstock.backends.torch.infer_signature import as_tensors, made_up, named_inputs, run_named
from penstock.errors import InvalidInput, first_line
from penstock.libraries import quietly
from penstock.options import BackendOptions
from penstock.tensors import Array, Arrays, Signature, TensorSpec, named_dims
from penstock.toolchain.export.axes import Dynamic, FreeAxes, Tensors, measure

if TYPE_CHECKING:
    import torch

_TRAINING = (
    "the model was in training mode and is exported in evaluation mode: dropout is off, and norms use their statistics"
)
_NESTED = (
    "outputs at padded places differ from those of the model as it is: nn.TransformerEncoder writes zeros there with "
    "nested tensors, which cannot be exported"
)


@dataclass(frozen=True, eq=False)
class ModuleSource:
    """A module in evaluation mode on the CPU, with its signature and a batch that it runs with.

    A free axis of `signature` (-1, named in its `dims`) is an axis that was requested to be dynamic. `example` holds
    arrays by input name, with at least two rows unless the number of rows is fixed. `architecture` is the
    `module:Class` that weights alone would fill, if it is known. `notes` are sentences for the user, such as that the
    module was switched to evaluation mode.
    """

    name: str
    module: torch.nn.Module
    signature: Signature
    example: Arrays
    architecture: str | None = None
    architecture_args: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def reference(self) -> Backend:
        """The module as a backend: eager PyTorch in fp32, the reference. Its caller closes it."""
        file = ModelFile(Path(self.name), self.signature, module=self.module)
        return open_backend("pytorch", file, BackendOptions(device="cpu", trust="code"))

    def tensors(self) -> Tensors:
        """The example as tensors, in the order of the inputs."""
        return as_tensors(self.example, self.signature.inputs)

    def named(self, results: Tensors) -> Tensors:
        """Outputs under the names of the signature, which an artifact may have given to those of a tuple."""
        names = [spec.name for spec in self.signature.outputs]
        if results.keys() == set(names) or len(results) != len(names):
            return results
        return dict(zip(names, results.values(), strict=True))


def module_source(
    module: torch.nn.Module,
    example_input: Any = None,
    *,
    name: str | None = None,
    inputs: Sequence[TensorSpec] = (),
    dynamic: Dynamic | None = None,
    input_names: Sequence[str] | None = None,
    architecture: str | None = None,
    architecture_args: Mapping[str, Any] | None = None,
) -> ModuleSource:
    """A copy of `module` to export; the module itself is not changed.

    `example_input` is a tensor or array, a tuple of them in the order of `forward`, a mapping by name, or a .npz, .npy,
    .json or .safetensors file; without one, values are made up for `inputs`, whose free axes (-1) are then dynamic.
    `dynamic` gives the dynamic axes by input, as numbers or as names by number; axis 0 of every input that it does not
    name is dynamic. `input_names` rename the inputs, in the order of `forward`. Raises InvalidInput naming the argument
    when the module does not run, or takes one length only of an axis that was asked to be dynamic.
    """
    plain, notes = _prepared(module)
    title = name or type(plain).__name__
    names = _names(plain, input_names)
    example = _example(title, plain, example_input, inputs, names)
    notes += _without_nested_tensors(plain, example)
    _require_run(plain, example)
    free = measure(lambda tensors: run_named(plain, tensors), example, _dynamic(dynamic, inputs, example))
    return ModuleSource(
        title,
        plain,
        _signature(free),
        as_arrays(free.example),
        architecture,
        dict(architecture_args or {}),
        (*notes, *free.notes),
    )


def _prepared(module: Any) -> tuple[torch.nn.Module, tuple[str, ...]]:
    """A copy on the CPU, in evaluation mode, without gradients."""
    import torch

    if not isinstance(module, torch.nn.Module):
        raise InvalidInput(f"module: a torch.nn.Module is exported, not {_kind(module)}", field="module")
    inner = _unwrapped(module)
    _require_weights(inner)
    try:
        plain = _copied_script(inner) if is_script(inner) else copy.deepcopy(inner)
    except Exception as error:  # of the user's classes, or tensors that are results of other tensors
        raise InvalidInput(
            f"module: {type(inner).__name__} cannot be copied: {first_line(error)}; export a module that was not run "
            "with gradients since, and that holds no locks, files or generators",
            field="module",
        ) from None
    training = any(part.training for part in plain.modules()) and _in_evaluation(plain)
    plain = plain.cpu()
    for parameter in plain.parameters():
        parameter.requires_grad_(False)
    return plain, (_TRAINING,) if training else ()


def _copied_script(module: Any) -> torch.nn.Module:
    """A copy of TorchScript through its format: its own copies keep a connection to the weights."""
    import torch

    content = BytesIO()
    with quietly():  # deprecated, and what the user has
        torch.jit.save(module, content)
        content.seek(0)
        load: Any = torch.jit.load
        copied: torch.nn.Module = load(content, map_location="cpu")
    return copied


def _in_evaluation(module: torch.nn.Module) -> bool:
    """Switch to evaluation mode; False for a program, which has none."""
    try:
        module.eval()
    except NotImplementedError:  # the module of an exported program
        return False
    return True


def _unwrapped(module: torch.nn.Module) -> torch.nn.Module:
    """The module inside `torch.compile` and the wrappers of data-parallel training."""
    import torch

    parallel = (torch.nn.DataParallel, torch.nn.parallel.DistributedDataParallel)
    while True:
        inner = module.module if isinstance(module, parallel) else getattr(module, "_orig_mod", None)
        if not isinstance(inner, torch.nn.Module):
            return module
        module = inner


def _require_weights(module: torch.nn.Module) -> None:
    import torch

    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        if torch.nn.parameter.is_lazy(tensor):
            raise InvalidInput(
                f"module: {name} has no size yet; run the model once before it is exported", field="module"
            )
        if tensor.is_meta:
            raise InvalidInput(f"module: {name} is on the meta device and has no values; load weights", field="module")


def _kind(value: Any) -> str:
    return f"the class {value.__name__}" if isinstance(value, type) else f"a {type(value).__name__}"


def _names(module: torch.nn.Module, given: Sequence[str] | None) -> list[str] | None:
    """The names of inputs: given, or where Python does not know those of `forward`, the program's."""
    if given is not None:
        if isinstance(given, str) or len(set(given)) < len(given):
            raise InvalidInput("input_names: give a list of different names", field="input_names")
        return list(given)
    schema: Any = getattr(module.forward, "schema", None) if is_script(module) else None
    return None if schema is None else [argument.name for argument in schema.arguments[1:]]


def _example(
    title: str, module: torch.nn.Module, example: Any, inputs: Sequence[TensorSpec], names: Sequence[str] | None
) -> Tensors:
    if example is None and not inputs:
        raise InvalidInput(
            "example_input: give an example input, or describe the inputs (such as x:FP32:-1,3,32,32)",
            field="example_input",
        )
    if example is None:
        return as_tensors(made_up(Path(title), module, inputs, 2), inputs)
    content = _content(example)
    known = [spec.name for spec in inputs] or names
    _require_tensors(content)
    _require_known(content, known or _parameters(module))
    tensors = named_inputs(module, content, known)
    if not tensors:
        raise InvalidInput(
            "example_input: it is empty; give a value for every input of the model", field="example_input"
        )
    for spec in inputs:
        _require_spec(spec, tensors)
    return tensors


def _content(example: Any) -> Any:
    try:
        content = read_example(example)
    except InvalidInput as error:
        raise InvalidInput(f"example_input: {str(error).removeprefix('example: ')}", field="example_input") from None
    inner = content.get("inputs") if isinstance(content, Mapping) and len(content) == 1 else None
    if isinstance(inner, Mapping):
        return inner
    return tuple(content) if isinstance(content, list) and _holds_tensors(content) else content


def _is_container(value: Any) -> bool:
    return isinstance(value, Mapping) or (isinstance(value, list | tuple) and _holds_tensors(value))


def _holds_tensors(values: Any) -> bool:
    return bool(values) and all(hasattr(value, "ndim") for value in values)


def _require_tensors(content: Any) -> None:
    """Raise InvalidInput for an argument of `forward` that is a container of tensors."""
    several = isinstance(content, tuple) or (isinstance(content, list) and any(map(_is_container, content)))
    values = content if isinstance(content, Mapping) else dict(enumerate(content)) if several else {}
    for name, value in values.items():
        if _is_container(value):
            raise InvalidInput(
                f"example_input: input {name} is a {type(value).__name__} of tensors; wrap the model in a module whose "
                "forward takes each tensor by itself",
                field="example_input",
            )
        if value is None or isinstance(value, str | bytes):
            raise InvalidInput(
                f"example_input: input {name} is {value!r:.40}, not a tensor; leave it out where forward has a "
                "default, or wrap the model in a module that sets it",
                field="example_input",
            )


def _require_known(content: Any, known: Sequence[str]) -> None:
    """Raise InvalidInput for a name that is no input, or more values than inputs."""
    if isinstance(content, Mapping):
        strange = next((str(name) for name in content if str(name) not in known), None)
        positional = all(str(name) == f"arr_{number}" for number, name in enumerate(content))
        if strange is not None and known and not positional:
            raise InvalidInput(
                f"example_input: the model has no input {strange!r}; it takes {', '.join(known)}", field="example_input"
            )
    count = len(content) if isinstance(content, tuple | Mapping) else 1
    if known and count > len(known):
        raise InvalidInput(
            f"example_input: it has {count} values, the model takes {len(known)}: {', '.join(known)}",
            field="example_input",
        )


def _parameters(module: torch.nn.Module) -> list[str]:
    """The parameters of `forward`; none where it takes any."""
    try:
        parameters = inspect.signature(module.forward).parameters.values()
    except (ValueError, TypeError):
        return []
    open_ended = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    return [] if any(one.kind in open_ended for one in parameters) else [one.name for one in parameters]


def _require_spec(spec: TensorSpec, tensors: Tensors) -> None:
    """Raise InvalidInput where the example does not fit an input that is described."""
    if spec.name not in tensors:
        raise InvalidInput(f"example_input: the input {spec.name} is missing", field="example_input")
    found = spec_of(spec.name, tensors[spec.name].dtype, tensors[spec.name].shape)
    fits = len(found.shape) == len(spec.shape) and all(
        n in (-1, own) for n, own in zip(spec.shape, found.shape, strict=True)
    )
    if found.dtype != spec.dtype or not fits:
        raise InvalidInput(
            f"example_input: {spec.name} is {found.dtype} {list(found.shape)}, it was described as {spec.dtype} "
            f"{list(spec.shape)}",
            field="example_input",
        )


def _without_nested_tensors(module: torch.nn.Module, example: Tensors) -> tuple[str, ...]:
    """Switch off a shortcut of `nn.TransformerEncoder` that no exporter knows; a note where outputs show it."""
    import torch

    encoders = [part for part in module.modules() if isinstance(part, torch.nn.TransformerEncoder)]
    nested = [part for part in encoders if part.use_nested_tensor]
    if not nested:
        return ()
    before = _outputs(module, example)
    for part in nested:
        part.use_nested_tensor = part.enable_nested_tensor = False
    after = _outputs(module, example)
    same = before.keys() == after.keys() and all(torch.allclose(before[name], after[name], atol=1e-5) for name in after)
    return () if same else (_NESTED,)


def _outputs(module: torch.nn.Module, example: Tensors) -> Tensors:
    """The outputs; none where the module does not run, which is reported elsewhere."""
    with quietly(), suppress(Exception):
        return run_named(module, example)
    return {}


def _require_run(module: torch.nn.Module, example: Tensors) -> None:
    """Raise InvalidInput for a module that does not run, or not twice alike."""
    import torch

    try:
        once, again = run_named(module, example), run_named(module, example)
    except (Exception, SystemExit) as error:  # of the user's module
        given = ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in example.items())
        raise InvalidInput(
            f"example_input: the model does not run on it ({given}): {reason(error)}", field="example_input"
        ) from None
    for name, first in once.items():
        second = again[name]
        same = first.shape == second.shape and torch.allclose(
            first.double(), second.double(), 1e-2, 1e-4, equal_nan=True
        )
        if not same:
            raise InvalidInput(
                f"module: two runs on the same input differ (output {name!r}), so that no export can be compared with "
                "it; it draws random numbers or keeps a state in evaluation mode: take that out",
                field="module",
            )


def _dynamic(dynamic: Dynamic | None, inputs: Sequence[TensorSpec], example: Tensors) -> Dynamic | None:
    """The axes asked for, and those that the described inputs leave free."""
    if dynamic is not None and not isinstance(dynamic, Mapping):
        raise InvalidInput('dynamic: give axes by input, such as {"x": [0, 2]}', field="dynamic")
    if not inputs:
        return dynamic
    free = {
        spec.name: {axis: spec.dims[axis] if spec.dims else None for axis, n in enumerate(spec.shape) if n < 0}
        for spec in inputs
        if spec.name in example
    }
    return {**free, **(dynamic or {})}


def _signature(free: FreeAxes) -> Signature:
    inputs = [_spec(name, tensor, free.dims_of(name)) for name, tensor in free.example.items()]
    outputs = [_spec(name, tensor, free.output_dims[name]) for name, tensor in free.outputs.items()]
    return Signature(tuple(inputs), tuple(outputs))


def _spec(name: str, tensor: torch.Tensor, dims: Sequence[int | str]) -> TensorSpec:
    shape = tuple(one if isinstance(one, int) else -1 for one in dims)
    return TensorSpec(name, spec_of(name, tensor.dtype, shape).dtype, shape, named_dims(dims))


def as_arrays(tensors: Tensors) -> Arrays:
    """Arrays with their own memory; those of BF16 hold its bits."""
    return {name: _array(tensor) for name, tensor in tensors.items()}


def _array(tensor: torch.Tensor) -> Array:
    import torch

    plain = tensor.detach().contiguous()
    array: Array = (plain.view(torch.uint16) if plain.dtype == torch.bfloat16 else plain).numpy().copy()
    return array
