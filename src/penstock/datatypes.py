"""The one table of datatypes, and conversions of the types that numpy or JSON do not have."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

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


# Reading values by a declared datatype

DEEPEST: Final = 32
"""The most axes of nested lists."""

_KIND_NAMES = {"f": "numbers", "i": "whole numbers", "u": "whole numbers of 0 or more", "b": "booleans", "O": "text"}
_GIVEN_NAMES = {"f": "floats", "i": "numbers", "u": "numbers", "b": "booleans", "O": "text", "U": "text", "S": "text"}
_OTHER_NAMES = {type(None): "null", dict: "objects"}
_FITTING = {"f": "fiu", "i": "iu", "u": "iu", "b": "b", "O": "O"}
"""Kinds of values that a datatype takes: whole numbers are numbers, and nothing else is converted."""
_EXACT: dict[str, set[type]] = {"f": {int, float}, "i": {int}, "u": {int}, "b": {bool}, "O": set()}
_KINDS: dict[type, str] = {bool: "b", int: "i", float: "f", str: "O", bytes: "O"}


def read_array(name: str, value: ArrayLike, dtype: str) -> NDArray[Any]:
    """Nested lists, an array or a tensor as an array of the datatype `dtype`; its shape is that of `value`.

    Values are read by the datatype, never by the type that numpy would choose. BYTES keeps each str and bytes as it is,
    BF16 takes numbers, or its bits as a uint16 array. Raises InvalidInput naming the tensor.
    """
    if isinstance(value, list | tuple):
        return _read_lists(name, value, dtype)
    array = _as_numpy(name, value)
    kind = DATATYPES[dtype].kind
    if array.dtype == object or (kind == "O" and array.dtype.kind in "UST"):
        return _read_objects(name, array.astype(object, copy=False), dtype)
    if array.dtype.kind not in _FITTING[kind] and array.size:
        raise _wrong_kind(name, dtype, _GIVEN_NAMES.get(array.dtype.kind, array.dtype.name))
    return _narrowed(name, array, dtype)


def _as_numpy(name: str, value: Any) -> NDArray[Any]:
    """An array or a tensor as numpy reads it, text and single values as objects; bfloat16 as float32, exactly."""
    dtype = getattr(value, "dtype", None)
    try:
        if str(dtype) == "torch.bfloat16":  # PyTorch is not imported here, and numpy has no such type
            value = value.cpu().float()
        elif getattr(dtype, "name", "") == "bfloat16":  # of ml_dtypes
            return np.asarray(value).astype(np.float32)
        known = dtype is not None or hasattr(value, "__array__")
        return np.asarray(value, object if not known and isinstance(value, _SCALARS) else None)
    except (ValueError, TypeError, OverflowError):
        raise _ragged(name) from None
    except Exception as error:  # of the value's own `__array__`, such as that of a tensor that requires gradients
        raise InvalidInput(f"{name}: it cannot be read as an array: {str(error).rstrip('.')}", field=name) from error


_SCALARS = (str, bytes, int, float, type(None), dict)


def _read_lists(name: str, value: Sequence[Any], dtype: str) -> NDArray[Any]:
    types: set[type] = set()
    _collect_types(name, value, types, DEEPEST)
    row = DATATYPES[dtype]
    exact = types <= _EXACT[row.kind]
    if not exact and any(hasattr(each, "__array__") and not issubclass(each, np.generic) for each in types):
        return _joined(name, value, dtype)
    try:
        if not exact:
            _check_types(name, types, dtype)
            return _read_objects(name, np.array(value, dtype=object), dtype)
        array = np.array(value, np.float64 if row.kind == "f" else row.numpy)
    except OverflowError:
        raise _too_large(name, dtype) from None
    except (ValueError, TypeError):
        raise _ragged(name) from None
    return array if array.dtype == row.numpy else _narrowed(name, array, dtype)


def _collect_types(name: str, items: Sequence[Any], types: set[type], depth: int) -> None:
    """Add the types of the values in nested lists."""
    if not depth:
        raise InvalidInput(f"{name}: lists are nested more than {DEEPEST} deep", field=name)
    here = set(map(type, items))
    if list in here or tuple in here:
        for item in items:
            if isinstance(item, list | tuple):
                _collect_types(name, item, types, depth - 1)
        here -= {list, tuple}
    types |= here


def _joined(name: str, value: Sequence[Any], dtype: str) -> NDArray[Any]:
    parts = [read_array(name, each, dtype) for each in value]
    if any(part.shape != parts[0].shape for part in parts):
        raise _ragged(name)
    return np.stack(parts)


def _check_types(name: str, types: set[type], dtype: str) -> None:
    """Raise InvalidInput unless the datatype takes values of all these types."""
    if not all(_kind(each) in _FITTING[DATATYPES[dtype].kind] for each in types):
        raise _wrong_values(name, types, dtype)


def _read_objects(name: str, array: NDArray[Any], dtype: str) -> NDArray[Any]:
    """An array of objects."""
    values = array.ravel().tolist()
    types = set(map(type, values))
    _check_types(name, types, dtype)
    known = types <= _KINDS.keys()
    if not known:  # numpy's own numbers wrap around where Python's do not
        values = [value.item() if isinstance(value, np.generic) else value for value in values]
    if dtype == "BYTES":
        _check_texts(name, values)
        return array if known else _as_objects(values).reshape(array.shape)
    row = DATATYPES[dtype]
    try:
        read = np.array(values, np.float64 if row.kind == "f" else row.numpy).reshape(array.shape)
    except OverflowError:
        raise _too_large(name, dtype) from None
    return _narrowed(name, read, dtype)


def _as_objects(values: Sequence[Any]) -> NDArray[Any]:
    array = np.empty(len(values), object)
    array[:] = values
    return array


def _kind(of: type) -> str:
    """Numpy's letter for the kind of a value; "-" for a value of no datatype."""
    found = _KINDS.get(of)
    if found is not None:
        return found
    if issubclass(of, np.generic):
        kind = np.dtype(of).kind
        return "O" if kind in "US" else kind
    return next((kind for base, kind in _KINDS.items() if issubclass(of, base)), "-")


def _narrowed(name: str, array: NDArray[Any], dtype: str) -> NDArray[Any]:
    """The array in its final type. Raises InvalidInput if that changes a whole number or loses a finite one."""
    if dtype == BF16:
        narrow = bf16_from_float(array)
        same = _same_finite(array, float_from_bf16(narrow))
    else:
        wanted = DATATYPES[dtype].numpy
        if array.dtype == wanted:
            return array
        with np.errstate(over="ignore", invalid="ignore"):
            narrow = array.astype(wanted)
        same = np.array_equal(array, narrow) if wanted.kind in "iu" else _same_finite(array, narrow)
    if not same:
        raise _too_large(name, dtype)
    return narrow


def _same_finite(before: NDArray[Any], after: NDArray[Any]) -> bool:
    return bool(np.array_equal(np.isfinite(before), np.isfinite(after)))


def _check_texts(name: str, values: Sequence[Any]) -> None:
    for value in values:
        if type(value) is str and not value.isascii():
            try:
                value.encode()
            except UnicodeEncodeError:  # half of a surrogate pair, which no runtime takes
                raise InvalidInput(f"{name}: a text is not valid UTF-8", field=name) from None


def _wrong_values(name: str, types: set[type], dtype: str) -> InvalidInput:
    if not types.isdisjoint((list, tuple)):
        return _ragged(name)
    wrong = {each for each in types if _kind(each) not in _FITTING[DATATYPES[dtype].kind]}
    given = {_OTHER_NAMES.get(each) or _GIVEN_NAMES.get(_kind(each)) or each.__name__ for each in wrong}
    return _wrong_kind(name, dtype, " and ".join(sorted(given)))


def _wrong_kind(name: str, dtype: str, given: str) -> InvalidInput:
    wanted = f"{_KIND_NAMES[DATATYPES[dtype].kind]} of type {dtype}" if dtype != "BYTES" else "text"
    return InvalidInput(f"{name}: the model takes {wanted}, not {given}", field=name)


def _too_large(name: str, dtype: str) -> InvalidInput:
    return InvalidInput(f"{name}: a number does not fit into {dtype}", field=name)


def _ragged(name: str) -> InvalidInput:
    return InvalidInput(f"{name}: the rows differ in length", field=name)
