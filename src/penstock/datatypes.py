"""The one table of datatypes, and conversions of the types that numpy or JSON do not have."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from penstock.errors import InvalidInput, UnsupportedFormat

BF16 = "BF16"


class DataType(NamedTuple):
    """One row of the datatype table: the names of one type in the Open Inference Protocol, numpy, PyTorch and ONNX.

    numpy has no bfloat16: arrays of BF16 hold its bits as uint16.
    """

    wire: str
    numpy: np.dtype[Any]
    torch: str | None
    onnx: str

    @property
    def kind(self) -> str:
        """The kind of values, as numpy's `dtype.kind`; "f" for BF16 too."""
        return "f" if self.wire == BF16 else self.numpy.kind

    @property
    def names(self) -> tuple[str, ...]:
        """The names that a user may write, in lower case."""
        return (self.wire.lower(), self.torch or self.numpy.name) if self.wire != "BYTES" else ("bytes", "object")


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
    ("BF16", np.uint16, "bfloat16", "tensor(bfloat16)"),
    ("FP32", np.float32, "float32", "tensor(float)"),
    ("FP64", np.float64, "float64", "tensor(double)"),
    ("BYTES", np.object_, None, "tensor(string)"),
)
DATATYPES: dict[str, DataType] = {
    wire: DataType(wire, np.dtype(numpy), torch, onnx) for wire, numpy, torch, onnx in _TABLE
}
"""By Open Inference Protocol name."""

_BY_ONNX = {row.onnx: row for row in DATATYPES.values()}
_BY_NUMPY = {row.numpy: row.wire for row in DATATYPES.values() if row.wire != BF16}


def datatype_of_onnx(name: str) -> str:
    """The wire name of an ONNX type such as `tensor(float)`. Raises UnsupportedFormat for an unknown one."""
    try:
        return _BY_ONNX[name].wire
    except KeyError:
        raise UnsupportedFormat(f"unsupported tensor type {name}") from None


def datatype_of_numpy(dtype: np.dtype[Any]) -> str | None:
    """The wire name of a numpy dtype, or None; uint16 is UINT16, although BF16 tensors have that dtype as well."""
    return _BY_NUMPY.get(dtype)


def bf16_from_float(values: NDArray[Any]) -> NDArray[Any]:
    """The bits of floats as bfloat16, rounded to nearest even; NaN stays NaN, and numbers too large become infinite."""
    with np.errstate(over="ignore", invalid="ignore"):
        bits = np.array(values, np.float32, ndmin=1, order="C").view(np.uint32)
    upper = bits >> np.uint32(16)
    rounded = (bits + ((upper & np.uint32(1)) + np.uint32(0x7FFF))) >> np.uint32(16)
    is_nan = (bits & np.uint32(0x7FFFFFFF)) > np.uint32(0x7F800000)
    return np.where(is_nan, upper | np.uint32(0x0040), rounded).astype(np.uint16).reshape(np.shape(values))


def float_from_bf16(bits: NDArray[Any]) -> NDArray[Any]:
    """The float32 values of bfloat16 bits, exactly."""
    return (np.array(bits, np.uint32, ndmin=1) << np.uint32(16)).view(np.float32).reshape(np.shape(bits))


def as_text(name: str, array: NDArray[Any]) -> NDArray[Any]:
    """A BYTES tensor as an array of str. Raises InvalidInput naming the tensor if a value is not valid UTF-8."""
    values = array.ravel().tolist()
    if all(type(value) is str for value in values):
        return array
    texts = np.empty(len(values), object)
    try:
        texts[:] = [value.decode() if isinstance(value, bytes) else value for value in values]
    except UnicodeDecodeError:
        raise InvalidInput(f"{name}: a text is not valid UTF-8", field=name) from None
    return texts.reshape(array.shape)


def to_json_values(name: str, array: NDArray[Any], dtype: str) -> Any:
    """A tensor as nested lists for JSON: BF16 as numbers, BYTES as text.

    Raises InvalidInput naming the tensor if a BYTES value is not valid UTF-8.
    """
    if dtype == BF16:
        return float_from_bf16(array).tolist()
    return (as_text(name, array) if dtype == "BYTES" else array).tolist()
