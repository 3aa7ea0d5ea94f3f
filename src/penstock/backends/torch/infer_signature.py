"""The signature of a PyTorch model that nobody wrote down: read from one run on an example."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from penstock.backends.base import ModelFile, first_line, require_file
from penstock.backends.torch import architecture, state_dict
from penstock.errors import InvalidInput, ModelLoadError
from penstock.tensors import Array, Signature, TensorSpec, datatype_of_numpy

if TYPE_CHECKING:
    import torch

_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def with_signature(file: ModelFile, example: Any, trust: str) -> ModelFile:
    """`file` with the signature that its model shows when it runs on `example`, whose first axis is the batch.

    `example` is an array or tensor, a tuple of them in the order of `forward`, or a mapping by name. Inputs are named
    as the parameters of `forward`; outputs by the keys the model returns, else `output` or `output_0`, `output_1`, …
    The batch is free, and so is an axis that follows it nowhere. Raises ModelLoadError when the model does not run.
    """
    require_file(file.path)
    if file.architecture is None:
        raise ModelLoadError(f"{file.path}: an example input needs the architecture too, the class or its module:Class")
    recorded = state_dict.read(file.path).arguments
    model = architecture.build(
        file.path, file.architecture, file.architecture_args, recorded=recorded, trust=trust
    ).eval()
    inputs = _named(model, example)
    try:
        outputs = _outputs(model, inputs)
    except (Exception, SystemExit) as error:
        raise ModelLoadError(f"{file.path}: the model does not run on the example input: {first_line(error)}") from None
    return replace(file, signature=Signature(_specs(inputs), _specs(outputs)))


def _named(model: torch.nn.Module, example: Any) -> dict[str, Array]:
    if isinstance(example, Mapping):
        return {str(name): _array(value) for name, value in example.items()}
    values = example if isinstance(example, tuple | list) else (example,)
    parameters = inspect.signature(model.forward).parameters.values()
    names = [parameter.name for parameter in parameters if parameter.kind in _POSITIONAL]
    names += [f"input_{number}" for number in range(len(names), len(values))]
    return {name: _array(value) for name, value in zip(names, values, strict=False)}


def _array(value: Any) -> Array:
    """A numpy array of a type that models take; Python's and numpy's own floats are fp32 to a model."""
    is_tensor = hasattr(value, "detach")
    array: Array = value.detach().cpu().numpy() if is_tensor else np.asarray(value)
    if array.dtype == np.float64 and not is_tensor:
        array = array.astype(np.float32)
    if array.ndim == 0:
        raise InvalidInput("example_input: it has no batch axis; give an array of at least one row")
    return array


def _outputs(model: torch.nn.Module, inputs: Mapping[str, Array]) -> dict[str, Array]:
    import torch

    with torch.inference_mode():
        result = model(*(torch.from_numpy(array.copy()) for array in inputs.values()))
    if isinstance(result, Mapping):
        return {str(name): value.numpy() for name, value in result.items()}
    values = list(result) if isinstance(result, tuple | list) else [result]
    names = ["output"] if len(values) == 1 else [f"output_{number}" for number in range(len(values))]
    return {name: value.numpy() for name, value in zip(names, values, strict=True)}


def _specs(arrays: Mapping[str, Array]) -> tuple[TensorSpec, ...]:
    return tuple(_spec(name, array) for name, array in arrays.items())


def _spec(name: str, array: Array) -> TensorSpec:
    word = datatype_of_numpy(array.dtype)
    if word is None:
        raise InvalidInput(f"example_input: {name} is of type {array.dtype}, which models here neither take nor give")
    return TensorSpec(name, word, (-1, *array.shape[1:]))
