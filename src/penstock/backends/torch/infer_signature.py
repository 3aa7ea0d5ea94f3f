"""Infers the signature of a PyTorch model whose file records none, from runs of the model."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from penstock.backends.base import Backend, BackendOptions, ModelFile
from penstock.backends.examples import Examples
from penstock.backends.probing.example_file import read_example, several
from penstock.backends.torch.base import named_outputs, reason, spec_of
from penstock.datatypes import BF16
from penstock.errors import InferenceError, InvalidInput, ModelLoadError, UnsupportedFormat, first_line
from penstock.tensors import Array, Arrays, Signature, TensorSpec

if TYPE_CHECKING:
    import torch

Model: TypeAlias = "torch.nn.Module | Any"
"""What takes tensors and returns some, by position."""

_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def signature_of(path: Path, model: Model, example: Any, names: Sequence[str] | None = None) -> Signature:
    """The signature that `model` shows when it runs on `example`, whose first axis is the batch.

    `example` is an array or tensor, a tuple of them in the order of `forward`, a mapping by name, or a file. Inputs are
    named as the parameters of `forward`, which `names` gives where Python does not know them; outputs by the keys the
    model returns, else `output` or `output_0`, `output_1`, … Axis 0 is free, and every other length is fixed; an input
    whose axis 0 is not as long as that of the first has no batch there, see `_specs`. Raises ModelLoadError when the
    model does not run.
    """
    inputs = named_inputs(model, read_example(example), names)
    try:
        results = run_named(model, inputs)
        outputs = tuple(_output_spec(name, value) for name, value in results.items())
    except (Exception, SystemExit) as error:
        raise ModelLoadError(f"{path}: the model does not run on the example input: {first_line(error)}") from None
    return Signature(_specs(inputs), outputs)


def output_specs(path: Path, model: Model, inputs: Sequence[TensorSpec], example: Any = None) -> tuple[TensorSpec, ...]:
    """The outputs of `model` for inputs of these specs, on `example` or else on made-up values.

    Lengths that change with the number of rows and with free lengths of the inputs are free (-1). Inputs are passed in
    their order, or by name; outputs are named as by `signature_of`. Raises ModelLoadError when the model does not run.
    """
    trial = _Trial(path, model, Signature(tuple(inputs), ()))
    try:
        examples = Examples(trial, trial.signature, None, example)
        trial.seen.clear()
        for batch in (examples.of(2), *examples.longer(3)):
            with suppress(InferenceError):
                trial.run(batch)
        if not trial.seen:
            trial.run(examples.of(1))
    except (InferenceError, InvalidInput) as error:
        raise ModelLoadError(f"{path}: the model does not run on the inputs described: {error}") from None
    return tuple(map(_free_where_they_differ, zip(*trial.seen, strict=True)))


class _Trial(Backend):
    """A model whose outputs are not known yet; it keeps their specs of each run."""

    def __init__(self, path: Path, model: Model, signature: Signature) -> None:
        self.signature = signature
        self.seen: list[list[TensorSpec]] = []
        self._path = path
        self._model = model

    @classmethod
    def open(cls, file: ModelFile, options: BackendOptions) -> Backend:  # noqa: ARG003
        """Not supported: it has a model already."""
        raise UnsupportedFormat(f"{file.path}: open the model with the backend of its format")

    def run(self, inputs: Arrays) -> Arrays:
        """The outputs; raises InferenceError when the model does not run."""
        try:
            results = run_named(self._model, as_tensors(inputs, self.signature.inputs))
            self.seen.append([spec_of(name, value.dtype, value.shape) for name, value in results.items()])
            return {name: value.float().numpy() for name, value in results.items()}
        except (Exception, SystemExit) as error:
            raise InferenceError(reason(error)) from error


def made_up(path: Path, model: Model, inputs: Sequence[TensorSpec], rows: int) -> Arrays:
    """Inputs of these specs that `model` runs with. Raises ModelLoadError when nothing that is tried runs."""
    trial = _Trial(path, model, Signature(tuple(inputs), ()))
    try:
        return Examples(trial, trial.signature, None).of(rows)
    except (InferenceError, InvalidInput) as error:
        raise ModelLoadError(f"{path}: the model does not run on the inputs described: {error}") from None


def as_tensors(arrays: Arrays, specs: Sequence[TensorSpec]) -> dict[str, torch.Tensor]:
    """Tensors with their own memory, in the order of the specs."""
    return {spec.name: _tensor(arrays[spec.name], spec) for spec in specs}


def _tensor(array: Array, spec: TensorSpec) -> torch.Tensor:
    import torch

    tensor = torch.from_numpy(array.copy())
    return tensor.view(torch.bfloat16) if spec.dtype == BF16 else tensor


def run_named(model: Model, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The outputs by name. Inputs go by name where each is a parameter of `forward`, as it is served; else in order.

    Raises what the model raises, and InferenceError for an output that is no tensor.
    """
    import torch

    with torch.inference_mode():
        by_name = tensors.keys() <= _parameters(model)
        taken = {name: tensor.clone() for name, tensor in tensors.items()}  # a model may write to its inputs
        results = named_outputs(model(**taken) if by_name else model(*taken.values()))
    for name, value in results.items():
        if not isinstance(value, torch.Tensor):
            raise InferenceError(
                f"its output {name!r} is {_described(value)}; a model that is served returns a tensor, "
                "or a tuple, list or mapping of tensors"
            )
    return results


def _described(value: Any) -> str:
    return "None" if value is None else f"of the type {type(value).__name__}"


def _parameters(model: Model) -> set[str]:
    """The names that `forward` takes; none where Python does not know them."""
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    try:
        return {each.name for each in inspect.signature(model.forward).parameters.values() if each.kind in kinds}
    except (ValueError, TypeError, AttributeError):  # a program without a Python function
        return set()


def named_inputs(model: Model, example: Any, names: Sequence[str] | None) -> dict[str, torch.Tensor]:
    """The tensors of an example in the order of the parameters. Raises InvalidInput for a value that is no tensor."""
    known = names or [
        one.name for one in inspect.signature(model.forward).parameters.values() if one.kind in _POSITIONAL
    ]
    if isinstance(example, Mapping):
        given = {str(name): value for name, value in example.items()}
        if given.keys() <= {*known}:
            given = {name: given[name] for name in known if name in given}
        elif all(name == f"arr_{number}" for number, name in enumerate(given)):  # of `numpy.savez(file, x, y)`
            given = dict(zip(known, given.values(), strict=False))
    else:
        values = several(example)
        more = [f"input_{number}" for number in range(len(known), len(values))]
        given = dict(zip([*known, *more], values, strict=False))
    return {name: _given(name, value) for name, value in given.items()}


def _given(name: str, value: Any) -> torch.Tensor:
    """A tensor of a type that models take: float64 of Python and numpy becomes float32. Raises InvalidInput."""
    import torch

    if isinstance(value, torch.Tensor):
        return value.detach().cpu()
    try:
        array = np.asarray(value)
    except ValueError:
        raise InvalidInput(f"example_input: {name}: its lists have different lengths", field="example_input") from None
    if array.dtype.name == "bfloat16":  # of ml_dtypes
        return torch.from_numpy(array.astype(np.float32)).bfloat16()
    try:
        return torch.from_numpy(array.astype(np.float32 if array.dtype == np.float64 else array.dtype))
    except TypeError:
        raise _unsupported(name, array.dtype) from None


def _specs(tensors: Mapping[str, torch.Tensor]) -> tuple[TensorSpec, ...]:
    """Axis 0 is free. Where it has another number of rows, the first axis with that number is: `[2, batch, 128]`."""
    rows = next((tensor.shape[0] for tensor in tensors.values() if tensor.ndim), 0)
    return tuple(_input_spec(name, tensor, rows) for name, tensor in tensors.items())


def _input_spec(name: str, tensor: torch.Tensor, rows: int) -> TensorSpec:
    shape = list(tensor.shape)
    free = shape.index(rows) if rows in shape else len(shape)
    try:
        return spec_of(name, tensor.dtype, (-1 if axis == free else length for axis, length in enumerate(shape)))
    except UnsupportedFormat:
        raise _unsupported(name, tensor.dtype) from None


def _unsupported(name: str, dtype: Any) -> InvalidInput:
    return InvalidInput(f"example_input: {name} has the unsupported tensor type {dtype}", field="example_input")


def _output_spec(name: str, tensor: torch.Tensor) -> TensorSpec:
    """Axis 0 is free."""
    return spec_of(name, tensor.dtype, (length if axis else -1 for axis, length in enumerate(tensor.shape)))


def _free_where_they_differ(specs: Sequence[TensorSpec]) -> TensorSpec:
    lengths = zip(*(spec.shape for spec in specs), strict=True)
    shape = tuple(several[0] if len(set(several)) == 1 else -1 for several in lengths)
    return TensorSpec(specs[0].name, specs[0].dtype, shape)
