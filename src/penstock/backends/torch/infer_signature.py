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
from penstock.datatypes import datatype_of_numpy
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
    inputs = _named_inputs(model, read_example(example), names)
    try:
        results = _run(model, inputs)
        outputs = {name: value.detach().numpy() for name, value in results.items()}
    except (Exception, SystemExit) as error:
        raise ModelLoadError(f"{path}: the model does not run on the example input: {first_line(error)}") from None
    return Signature(_specs(inputs), tuple(_spec(name, array) for name, array in outputs.items()))


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
            results = _run(self._model, inputs)
            self.seen.append([spec_of(name, value.dtype, value.shape) for name, value in results.items()])
            return {name: value.float().numpy() for name, value in results.items()}
        except (Exception, SystemExit) as error:
            raise InferenceError(reason(error)) from error


def _run(model: Model, arrays: Mapping[str, Array]) -> dict[str, torch.Tensor]:
    """By name where every name is a parameter of `forward`, as it is served; else in order."""
    import torch

    tensors = {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}
    with torch.inference_mode():
        by_name = tensors.keys() <= _parameters(model)
        return named_outputs(model(**tensors) if by_name else model(*tensors.values()))


def _parameters(model: Model) -> set[str]:
    """The names that `forward` takes; none where Python does not know them."""
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    try:
        return {each.name for each in inspect.signature(model.forward).parameters.values() if each.kind in kinds}
    except (ValueError, TypeError, AttributeError):  # a program without a Python function
        return set()


def _named_inputs(model: Model, example: Any, names: Sequence[str] | None) -> dict[str, Array]:
    """The arrays in the order of the parameters."""
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
    return {name: _array(value) for name, value in given.items()}


def _array(value: Any) -> Array:
    """An array of a type that models take: float64 of Python and numpy becomes float32."""
    is_tensor = hasattr(value, "detach")
    array: Array = value.detach().cpu().numpy() if is_tensor else np.asarray(value)
    if array.dtype == np.float64 and not is_tensor:
        array = array.astype(np.float32)
    return array


def _specs(arrays: Mapping[str, Array]) -> tuple[TensorSpec, ...]:
    """Axis 0 is free. Where it has another number of rows, the first axis with that number is: `[2, batch, 128]`."""
    rows = next((array.shape[0] for array in arrays.values() if array.ndim), 0)
    return tuple(_spec(name, array, rows) for name, array in arrays.items())


def _spec(name: str, array: Array, rows: int | None = None) -> TensorSpec:
    dtype = datatype_of_numpy(array.dtype)
    if dtype is None:
        raise InvalidInput(f"example_input: {name} has the unsupported tensor type {array.dtype}")
    shape = list(array.shape)
    free = 0 if rows is None or array.shape[:1] == (rows,) else shape.index(rows) if rows in shape else len(shape)
    return TensorSpec(name, dtype, tuple(-1 if axis == free else length for axis, length in enumerate(shape)))


def _free_where_they_differ(specs: Sequence[TensorSpec]) -> TensorSpec:
    lengths = zip(*(spec.shape for spec in specs), strict=True)
    shape = tuple(several[0] if len(set(several)) == 1 else -1 for several in lengths)
    return TensorSpec(specs[0].name, specs[0].dtype, shape)
