"""MLflow's signature of a model: tensors as JSON in the file `MLmodel`, -1 for a free length."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from penstock.datatypes import datatype_of_numpy
from penstock.errors import UnsupportedFormat, first_line
from penstock.tensors import Signature, TensorSpec

UNNAMED = "input"
"""The name of a tensor that MLflow's signature does not name; a second one is `input_2`."""


def to_mlflow(signature: Signature, *, named: bool = True) -> dict[str, str | None]:
    """The value of `signature` in `MLmodel`.

    Without names a model takes an array instead of a mapping, as MLflow's PyTorch flavor needs it. Texts are `object`,
    and BF16 is the type of its bits, `uint16`, since numpy has no such type.
    """
    sides = {"inputs": signature.inputs, "outputs": signature.outputs}
    return {
        **{side: json.dumps([_entry(spec, named) for spec in specs]) for side, specs in sides.items()},
        "params": None,
    }


def _entry(spec: TensorSpec, named: bool) -> dict[str, Any]:
    tensor = {"dtype": spec.numpy.name, "shape": list(spec.shape)}
    return {**({"name": spec.name} if named else {}), "type": "tensor", "tensor-spec": tensor}


def from_mlflow(value: Any, where: str) -> Signature | None:
    """The inputs of a signature in `MLmodel`, without outputs; None where it has none.

    Columns of one table are one tensor, a row for each row of the table, as MLflow's PyTorch flavor passes them on.
    Raises UnsupportedFormat naming what cannot be read in the file `where`.
    """
    inputs = value.get("inputs") if isinstance(value, dict) else None
    if inputs is None:
        return None
    try:
        entries = json.loads(inputs) if isinstance(inputs, str) else inputs
        tensors = [entry for entry in entries if entry["type"] == "tensor"]
        specs = tuple(_spec(entry, number) for number, entry in enumerate(tensors))
    except UnsupportedFormat as error:
        raise UnsupportedFormat(f"{where}: signature: {error}") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UnsupportedFormat(f"{where}: its signature cannot be read: {first_line(error)}") from None
    if len({spec.name for spec in specs}) < len(specs):
        raise UnsupportedFormat(f"{where}: signature: two inputs have the same name")
    if len(tensors) < len(entries):
        specs = (_table(entries, where),)
    return Signature(specs, ()) if specs else None


def _spec(entry: dict[str, Any], number: int) -> TensorSpec:
    name = entry.get("name") or (UNNAMED if number == 0 else f"{UNNAMED}_{number + 1}")
    tensor = entry["tensor-spec"]
    dtype = np.dtype(str(tensor["dtype"]))
    wire = "BYTES" if dtype.kind in "OUS" else datatype_of_numpy(dtype)
    if wire is None:
        raise UnsupportedFormat(f"the input {name!r} has the type {dtype.name}, which Penstock has not")
    shape = tuple(tensor["shape"])
    if not all(type(length) is int and length >= -1 for length in shape):
        raise UnsupportedFormat(f"the shape {list(shape)} of the input {name!r} is none")
    return TensorSpec(str(name), wire, shape)


def _table(entries: Sequence[dict[str, Any]], where: str) -> TensorSpec:
    numbers = {"float", "double", "integer", "long"}
    other = next((entry for entry in entries if entry["type"] not in numbers), None)
    if other is not None:
        raise UnsupportedFormat(
            f"{where}: signature: the column {str(other.get('name', ''))!r} is of the type {str(other['type'])!r}, not "
            "a number; describe the model's inputs, inputs=[…]"
        )
    return TensorSpec(UNNAMED, "FP32", (-1, len(entries)))
