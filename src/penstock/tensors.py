"""What tensors look like: the one datatype table, `Signature`, and stacking and splitting of batches."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from penstock.errors import InferenceError, InvalidInput, UnsupportedFormat

Array: TypeAlias = NDArray[Any]
Arrays: TypeAlias = dict[str, Array]
"""Tensors by name; axis 0 of each is the batch."""


class DataType(NamedTuple):
    """One row of the datatype table: the same type in each of the languages we speak."""

    wire: str
    numpy: np.dtype[Any]
    torch: str | None
    onnx: str


_TABLE = (
    ("BOOL", np.bool_, "bool", "tensor(bool)"),
    ("UINT8", np.uint8, "uint8", "tensor(uint8)"),
    ("UINT16", np.uint16, "uint16", "tensor(uint16)"),
    ("UINT32", np.uint32, "uint32", "tensor(uint32)"),
    ("UINT64", np.uint64, "uint64", "tensor(uint64)"),
    ("INT8", np.int8, "int8", "tensor(int8)"),
    ("INT16", np.int16, "int16", "tensor(int16)"),
    ("INT32", np.int32, "int32", "tensor(int32)"),
    ("INT64", np.int64, "int64", "tensor(int64)"),
    ("FP16", np.float16, "float16", "tensor(float16)"),
    ("FP32", np.float32, "float32", "tensor(float)"),
    ("FP64", np.float64, "float64", "tensor(double)"),
    ("BYTES", np.object_, None, "tensor(string)"),
)
DATATYPES: dict[str, DataType] = {
    wire: DataType(wire, np.dtype(numpy), torch, onnx) for wire, numpy, torch, onnx in _TABLE
}
"""By Open Inference Protocol name."""

_BY_ONNX = {row.onnx: row for row in DATATYPES.values()}
_KIND_NAMES = {"f": "numbers", "i": "whole numbers", "u": "whole numbers of 0 or more", "b": "booleans", "O": "text"}


def datatype_of_onnx(name: str) -> str:
    """The wire name of an ONNX type such as `tensor(float)`; raises UnsupportedFormat for one we do not speak."""
    try:
        return _BY_ONNX[name].wire
    except KeyError:
        raise UnsupportedFormat(f"the model uses the type {name}, which Penstock does not speak") from None


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """Name, wire datatype and shape of one tensor; -1 in the shape is free, axis 0 is the batch."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        if self.dtype not in DATATYPES:
            raise InvalidInput(
                f"tensor {self.name!r}: {self.dtype!r} is not a datatype; use one of {', '.join(DATATYPES)}",
                field=self.name,
            )

    @property
    def numpy(self) -> np.dtype[Any]:
        """The numpy dtype."""
        return DATATYPES[self.dtype].numpy

    @property
    def row_elements(self) -> int:
        """How many numbers one row holds, or -1 when an axis past the batch is free."""
        row = self.shape[1:]
        return -1 if any(n < 0 for n in row) else math.prod(row)

    def check(self, value: ArrayLike) -> Array:
        """`value` as a C-contiguous array of this dtype and shape; raises InvalidInput that names the tensor."""
        if type(value) is np.ndarray and value.dtype == self.numpy:
            array: Array = value
        else:
            array = self._cast(value)
        # Most models fix every axis but the batch: one comparison tells, and the loop is for the others.
        shape = self.shape
        if (array.shape[1:] != shape[1:] or shape[:1] != (-1,) or not array.ndim) and not _fits(array.shape, shape):
            raise InvalidInput(
                f"{self.name}: the shape is {list(array.shape)}, the model takes {list(shape)}", field=self.name
            )
        return array if array.flags.c_contiguous else np.ascontiguousarray(array)

    def _cast(self, value: ArrayLike) -> Array:
        try:
            array = np.asarray(value)
        except (ValueError, TypeError, OverflowError):
            raise InvalidInput(f"{self.name}: the rows are not of one length", field=self.name) from None
        if self.numpy.kind == "O" and array.dtype.kind in "OUS":
            return array.astype(object)
        with np.errstate(over="ignore", invalid="ignore"):
            if array.size and not _castable(array, self.numpy):
                wanted = _KIND_NAMES.get(self.numpy.kind, "values")
                raise InvalidInput(f"{self.name}: the model takes {wanted} of type {self.dtype}", field=self.name)
            result = array.astype(self.numpy)
            if self.numpy.kind in "fiu" and not _same_finite(array, result):
                raise InvalidInput(f"{self.name}: a number does not fit into {self.dtype}", field=self.name)
        return result

    def to_json(self) -> dict[str, Any]:
        """As in a manifest."""
        return {"name": self.name, "dtype": self.dtype, "shape": list(self.shape)}


def _fits(have: tuple[int, ...], want: tuple[int, ...]) -> bool:
    return len(have) == len(want) and all(w < 0 or h == w for w, h in zip(want, have, strict=True))


def _castable(array: Array, dtype: np.dtype[Any]) -> bool:
    """Numbers go to floats, whole numbers to integers, booleans to booleans; nothing else is guessed."""
    allowed = {"f": "fiu", "i": "iu", "u": "iu", "b": "b"}.get(dtype.kind, "")
    return array.dtype.kind in allowed


def _same_finite(before: Array, after: Array) -> bool:
    """False when a cast turned a finite number into an infinite one or changed a whole number."""
    if after.dtype.kind in "iu":
        return bool(np.array_equal(before, after))
    return bool(np.array_equal(np.isfinite(before), np.isfinite(after)))


@dataclass(frozen=True, slots=True)
class Signature:
    """Names, datatypes and shapes of a model's inputs and outputs. It validates one request; nothing else does."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def validate(self, arrays: Mapping[str, ArrayLike]) -> tuple[Arrays, int]:
        """The checked inputs in signature order, and their number of rows (axis 0, the same for all).

        Raises InvalidInput naming the tensor that is missing, unknown, of another type, shape or row count.
        """
        checked: Arrays = {}
        rows = -1
        for spec in self.inputs:
            if spec.name not in arrays:
                raise InvalidInput(f"{spec.name}: this input is missing", field=spec.name)
            array = checked[spec.name] = spec.check(arrays[spec.name])
            if rows < 0:
                rows = len(array)
            elif len(array) != rows:
                raise InvalidInput(f"{spec.name}: {len(array)} rows, other inputs have {rows}", field=spec.name)
        if len(arrays) != len(checked):
            unknown = next(name for name in arrays if name not in checked)
            known = ", ".join(spec.name for spec in self.inputs)
            raise InvalidInput(f"{unknown}: the model has no such input; it takes {known}", field=unknown)
        return checked, rows

    def to_json(self) -> dict[str, Any]:
        """As in a manifest."""
        return {"inputs": [t.to_json() for t in self.inputs], "outputs": [t.to_json() for t in self.outputs]}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Signature:
        """The inverse of `to_json`; raises InvalidInput when a datatype is unknown."""
        return cls(_specs(data["inputs"]), _specs(data["outputs"]))


def _specs(items: Iterable[Mapping[str, Any]]) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(str(i["name"]), str(i["dtype"]), tuple(int(n) for n in i["shape"])) for i in items)


def group_key(arrays: Arrays) -> tuple[Any, ...]:
    """Equal for inputs that can be stacked: same names, dtypes and shapes past axis 0."""
    return tuple([(name, array.dtype.num, array.shape[1:]) for name, array in arrays.items()])


def nbytes(arrays: Arrays) -> int:
    """Memory the arrays hold, in bytes; of text its characters, not the references to them."""
    size = 0
    for array in arrays.values():
        size += array.nbytes
        if array.dtype.hasobject:
            size += sum(map(len, array.flat))
    return size


def stack(items: Sequence[Arrays]) -> Arrays:
    """One batch from several inputs of equal `group_key`, joined along axis 0."""
    if len(items) == 1:
        return items[0]
    return {name: np.concatenate([item[name] for item in items]) for name in items[0]}


def split(outputs: Arrays, rows: Sequence[int]) -> list[Arrays]:
    """The inverse of `stack` for a batch's outputs: views of `rows[i]` rows each.

    Raises InferenceError when an output has another number of rows than the batch.
    """
    total = sum(rows)
    for name, array in outputs.items():
        if array.ndim == 0 or len(array) != total:
            got = "a single value" if array.ndim == 0 else f"{len(array)} rows"
            raise InferenceError(f"the model's output {name!r} has {got} for a batch of {total}")
    parts: list[Arrays] = []
    start = 0
    for count in rows:
        end = start + count
        parts.append({name: array[start:end] for name, array in outputs.items()})
        start = end
    return parts
