"""Infers the signature of a PyTorch model whose file records none, from runs of the model."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from penstock.backends.torch.base import named_outputs, reason, spec_of
from penstock.datatypes import datatype_of_numpy
from penstock.errors import InvalidInput, ModelLoadError, first_line
from penstock.tensors import Array, Arrays, Signature, TensorSpec

if TYPE_CHECKING:
    import torch

_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def signature_of(path: Path, model: torch.nn.Module, example: Any) -> Signature:
    """The signature that `model` shows when it runs on `example`, whose first axis is the batch.

    `example` is an array or tensor, a tuple of them in the order of `forward`, or a mapping by name. Inputs are named
    as the parameters of `forward`; outputs by the keys the model returns, else `output` or `output_0`, `output_1`, …
    Axis 0 is free, and every other length is fixed. Raises ModelLoadError when the model does not run.
    """
    inputs = _named_inputs(model, example)
    try:
        results = _run(model, inputs.values())
        outputs = {name: value.numpy() for name, value in results.items()}
    except (Exception, SystemExit) as error:
        raise ModelLoadError(f"{path}: the model does not run on the example input: {first_line(error)}") from None
    return Signature(_specs(inputs), _specs(outputs))


def output_specs(path: Path, model: torch.nn.Module, batches: Sequence[Arrays]) -> tuple[TensorSpec, ...]:
    """The outputs that `model` gives for `batches`; lengths that differ among them are free (-1).

    Inputs are passed in the order of a batch; outputs are named as by `signature_of`. Raises ModelLoadError when the
    model does not run.
    """
    try:
        results = [_run(model, batch.values()) for batch in batches]
        runs = [[spec_of(name, value.dtype, value.shape) for name, value in result.items()] for result in results]
        return tuple(_free_where_they_differ(specs) for specs in zip(*runs, strict=True))
    except Exception as error:
        raise ModelLoadError(f"{path}: the model does not run on the inputs described: {reason(error)}") from None


def _run(model: torch.nn.Module, arrays: Iterable[Array]) -> dict[str, torch.Tensor]:
    import torch

    with torch.inference_mode():
        return named_outputs(model(*(torch.from_numpy(array.copy()) for array in arrays)))


def _named_inputs(model: torch.nn.Module, example: Any) -> dict[str, Array]:
    if isinstance(example, Mapping):
        return {str(name): _array(value) for name, value in example.items()}
    values = example if isinstance(example, tuple | list) else (example,)
    parameters = inspect.signature(model.forward).parameters.values()
    names = [parameter.name for parameter in parameters if parameter.kind in _POSITIONAL]
    names += [f"input_{number}" for number in range(len(names), len(values))]
    return {name: _array(value) for name, value in zip(names, values, strict=False)}


def _array(value: Any) -> Array:
    """An array of a type that models take: float64 of Python and numpy becomes float32."""
    is_tensor = hasattr(value, "detach")
    array: Array = value.detach().cpu().numpy() if is_tensor else np.asarray(value)
    if array.dtype == np.float64 and not is_tensor:
        array = array.astype(np.float32)
    if array.ndim == 0:
        raise InvalidInput("example_input: it has no batch axis; give an array of at least one row")
    return array


def _specs(arrays: Mapping[str, Array]) -> tuple[TensorSpec, ...]:
    return tuple(_spec(name, array) for name, array in arrays.items())


def _spec(name: str, array: Array) -> TensorSpec:
    dtype = datatype_of_numpy(array.dtype)
    if dtype is None:
        raise InvalidInput(f"example_input: {name} has the unsupported tensor type {array.dtype}")
    return TensorSpec(name, dtype, (-1, *array.shape[1:]))


def _free_where_they_differ(specs: Sequence[TensorSpec]) -> TensorSpec:
    lengths = zip(*(spec.shape for spec in specs), strict=True)
    shape = tuple(several[0] if len(set(several)) == 1 else -1 for several in lengths)
    return TensorSpec(specs[0].name, specs[0].dtype, shape)
