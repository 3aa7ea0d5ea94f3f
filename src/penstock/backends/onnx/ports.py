"""Inputs and outputs of an ONNX session as tensors: bfloat16 as its bits, and the maps of scikit-learn flattened."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from penstock.datatypes import BF16, DATATYPES, datatype_of_onnx
from penstock.errors import UnsupportedFormat
from penstock.tensors import Array, Arrays, TensorSpec, named_dims

if TYPE_CHECKING:
    import onnxruntime

CLASSES = "_classes"
"""Ends the name of the tensor with the keys of a map; its values have the name of the output."""
_MAPS = re.compile(r"seq\(map\((int64|string),tensor\((float|double)\)\)\)")
_BF16_TYPE = 16  # TensorProto.BFLOAT16


class Port(NamedTuple):
    """An input or output that is a tensor; `of_map` is the name of the output that holds it in maps, one per row."""

    name: str
    type: str
    shape: list[Any]
    of_map: str | None = None

    def spec(self) -> TensorSpec:
        """As in a signature: symbolic and unnamed lengths are free (-1), fixed ones stay."""
        lengths = tuple(length if isinstance(length, int) else -1 for length in self.shape)
        return TensorSpec(self.name, datatype_of_onnx(self.type), lengths, named_dims(self.shape))


def ports(path: Path, side: str, found: Sequence[onnxruntime.NodeArg]) -> list[Port]:
    """The tensors of a session's inputs or outputs (`side`).

    Raises UnsupportedFormat naming the one that is no tensor of a known type.
    """
    return [port for value in found for port in _ports(path, side, value)]


def _ports(path: Path, side: str, value: onnxruntime.NodeArg) -> list[Port]:
    maps = _MAPS.fullmatch(value.type)
    if maps is not None and side == "output":
        key, number = maps.groups()
        shape = [None, None]
        return [
            Port(value.name, f"tensor({number})", shape, value.name),
            Port(value.name + CLASSES, f"tensor({key})", shape, value.name),
        ]
    try:
        datatype_of_onnx(value.type)
    except UnsupportedFormat:
        fix = "convert it with the option zipmap=False" if "map(" in value.type else "export it with tensors only"
        raise UnsupportedFormat(
            f"{path}: the {side} {value.name!r} is of type {value.type}, and models are served with tensors; {fix}"
        ) from None
    return [Port(value.name, value.type, value.shape)]


def names_to_run(outputs: Sequence[Port], wanted: Sequence[str]) -> list[str]:
    """The session's outputs that hold the tensors `wanted`."""
    holders = {port.name: port.of_map or port.name for port in outputs}
    return list(dict.fromkeys(holders[name] for name in wanted))


def flatten(name: str, rows: Sequence[Mapping[Any, float]], wanted: Mapping[str, Port]) -> Arrays:
    """The maps of an output, one per row and all with the same keys, as their values and their keys."""
    keys = wanted.get(name + CLASSES)
    found: Arrays = {}
    if name in wanted:
        found[name] = np.array([list(row.values()) for row in rows], DATATYPES[wanted[name].spec().dtype].numpy)
    if keys is not None:
        found[keys.name] = np.array([list(row) for row in rows], DATATYPES[keys.spec().dtype].numpy)
    return found


def run_with_bf16(
    session: onnxruntime.InferenceSession,
    names: list[str],
    inputs: Arrays,
    types: Mapping[str, str],
    options: onnxruntime.RunOptions,
) -> list[Array]:
    """A run of a model with inputs or outputs of bfloat16, which are arrays of its bits; `types` are datatypes."""
    import onnxruntime as ort

    make = ort.OrtValue
    given = {
        name: (
            make.ortvalue_from_numpy_with_onnx_type(array, _BF16_TYPE)
            if types[name] == BF16
            else make.ortvalue_from_numpy(array)
        )
        for name, array in inputs.items()
    }
    return [_bits_or_values(value) for value in session.run_with_ort_values(names, given, options)]


def _bits_or_values(value: onnxruntime.OrtValue) -> Array:
    if value.element_type() != _BF16_TYPE:
        return np.asarray(value.numpy())
    content = ctypes.string_at(value.data_ptr(), value.tensor_size_in_bytes())
    return np.frombuffer(bytearray(content), np.uint16).reshape(value.shape())
