"""Arrays as bodies: plain bytes with their datatype and shape in headers, and files of numpy's `.npy` format."""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from penstock.datatypes import BF16, DATATYPES, datatype_of_numpy, float_from_bf16
from penstock.errors import InvalidInput, quoted
from penstock.gateway.bodies.compression import weights
from penstock.tasks.base import Task
from penstock.tensors import Array, TensorSpec

OCTETS = "application/octet-stream"
NPY = "application/x-npy"
DTYPE_HEADER = "X-Penstock-Dtype"
SHAPE_HEADER = "X-Penstock-Shape"
MOST_AXES = 32

_DTYPE = DTYPE_HEADER.lower()
_SHAPE = SHAPE_HEADER.lower()
_PIECE = 1 << 20
_MAGIC = b"\x93NUMPY"
_NAMES = {name: wire for wire, row in DATATYPES.items() if wire != "BYTES" for name in row.names}
_LENGTHS = re.compile(r"\[?\s*+(\d{1,18}(?:\s*+,\s*+\d{1,18})*+)?\s*+,?\s*+\]?")
_DESCR = re.compile(r"[<>=|]?(?:b1|[iu][1248]|f[248])")
_LONGEST_HEADER = 4096

Header: TypeAlias = Callable[[str], str | None]


def is_array(content_type: str) -> bool:
    """True for a content type of arrays."""
    return content_type in (OCTETS, NPY) or content_type.partition(";")[0].strip().lower() in (OCTETS, NPY)


def array_request(task: Task, content_type: str, header: Header, body: bytes) -> Any:
    """The request of a task from a body that is an array. Raises InvalidInput naming the header or the field."""
    return task.from_array(read_array_body(body, content_type, header, task.array_spec()))


def holds_array(task: Task, content_type: str, header: Header) -> bool:
    """True if a body is an array for this task. For a task that takes files, plain bytes without a datatype are one."""
    if not task.takes_arrays or not is_array(content_type):
        return False
    kind = content_type.partition(";")[0].strip().lower()
    return task.upload_field is None or kind == NPY or header(_DTYPE) is not None


def read_array_body(body: bytes, content_type: str, header: Header, spec: TensorSpec | None) -> Array:
    """The array of a body, without a copy where its bytes are those of this machine: then it cannot be written to.

    `spec` is what the datatype and the shape are where no header says them. Raises InvalidInput naming the header, or
    `body`.
    """
    if content_type.partition(";")[0].strip().lower() == NPY:
        return _from_npy(body)
    layout = _layout(header(_DTYPE), header(_SHAPE), spec, len(body))
    if layout.plain:
        return np.frombuffer(body, layout.dtype).reshape(layout.shape)
    array = _filled(memoryview(body), layout.dtype, layout.shape, f"{layout.wire} {list(layout.shape)}")
    return float_from_bf16(array) if layout.wire == BF16 else array


class _Layout(NamedTuple):
    wire: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    plain: bool
    """True if the bytes are those of the array, and as many."""


@lru_cache(maxsize=256)
def _layout(given_dtype: str | None, given_shape: str | None, spec: TensorSpec | None, size: int) -> _Layout:
    """That of a body of `size` bytes."""
    wire = _dtype(given_dtype, spec)
    dtype = DATATYPES[wire].numpy.newbyteorder("<")
    shape = _shape(given_shape, spec, size // dtype.itemsize)
    plain = dtype.isnative and dtype.kind != "b" and wire != BF16 and math.prod(shape) * dtype.itemsize == size
    return _Layout(wire, dtype, shape, plain)


def _dtype(given: str | None, spec: TensorSpec | None) -> str:
    if given is None:
        if spec is None or spec.dtype == "BYTES":
            raise _wrong(DTYPE_HEADER, f"name the datatype of the values; one of {', '.join(_named())}")
        return spec.dtype
    wire = _NAMES.get(given.strip().lower())
    if wire is None:
        raise _wrong(DTYPE_HEADER, f"{quoted(given)} is none of {', '.join(_named())}")
    return wire


def _named() -> list[str]:
    return [wire for wire in DATATYPES if wire != "BYTES"]


def _shape(given: str | None, spec: TensorSpec | None, size: int) -> tuple[int, ...]:
    if given is not None:
        match = _LENGTHS.fullmatch(given.strip())
        if match is None or given.count(",") > MOST_AXES:
            raise _wrong(SHAPE_HEADER, "give the lengths of the axes with commas between them, such as 1,784")
        return tuple(int(length) for length in (match[1] or "").split(",") if length)
    lengths = () if spec is None else spec.shape
    free = [length for length in lengths if length < 0]
    if spec is None or not spec.ranked or len(free) > 1:
        raise _wrong(SHAPE_HEADER, "give the lengths of the axes, such as 1,784; the model leaves them open")
    known = math.prod(length for length in lengths if length >= 0)
    rest = size // known if known else 0
    return tuple(rest if length < 0 else length for length in lengths)


def _filled(
    data: memoryview, dtype: np.dtype[Any], shape: tuple[int, ...], what: str, *, fortran: bool = False
) -> Array:
    wanted = math.prod(shape) * dtype.itemsize
    if wanted != len(data):
        raise _wrong("body", f"{len(data)} bytes given, {what} has {wanted}")
    array: Array = np.frombuffer(data, dtype)
    if dtype.kind == "b" and (array.view(np.uint8) > 1).any():
        raise _wrong("body", "a byte of BOOL is 0 or 1")
    if not (dtype.isnative and array.flags.aligned):
        array = array.astype(dtype.newbyteorder("="))
    return array.reshape(shape[::-1]).T if fortran else array.reshape(shape)


def _wrong(field: str, message: str) -> InvalidInput:
    return InvalidInput(f"{field}: {message}", field=field)


# .npy


class _Npy(NamedTuple):
    dtype: np.dtype[Any]
    fortran: bool
    shape: tuple[int, ...]


def _from_npy(body: bytes) -> Array:
    if not body.startswith(_MAGIC) or len(body) < 12 or body[6] not in (1, 2, 3):
        raise _wrong("body", "not a file of numpy's .npy format")
    start, bytes_of_length = (10, 2) if body[6] == 1 else (12, 4)
    end = start + int.from_bytes(body[8 : 8 + bytes_of_length], "little")
    if end > min(len(body), start + _LONGEST_HEADER):
        raise _wrong("body", "the header of the .npy file is cut short or too long")
    found = _npy_header(body[start:end])
    what = f"{found.dtype} {list(found.shape)}"
    return _filled(memoryview(body)[end:], found.dtype, found.shape, what, fortran=found.fortran)


@lru_cache(maxsize=64)
def _npy_header(text: bytes) -> _Npy:
    """What the header says. Raises InvalidInput, also for objects, which only pickles hold."""
    try:
        fields = ast.literal_eval(text.decode().strip())
        descr, fortran, shape = fields["descr"], fields["fortran_order"], fields["shape"]
    except (ValueError, TypeError, KeyError, SyntaxError, MemoryError, RecursionError):
        raise _wrong("body", "the header of the .npy file is not valid") from None
    if not isinstance(descr, str) or _DESCR.fullmatch(descr) is None:
        raise _wrong("body", f"the .npy file holds {quoted(str(descr))}; the values should be numbers or booleans")
    whole = isinstance(shape, tuple) and all(type(length) is int and 0 <= length < 1 << 62 for length in shape)
    if not whole or len(shape) > MOST_AXES or type(fortran) is not bool:
        raise _wrong("body", "the header of the .npy file is not valid")
    return _Npy(np.dtype(descr), fortran, shape)


def npy_file(array: Array) -> bytes:
    """The array as a `.npy` file."""
    plain = np.ascontiguousarray(array).reshape(array.shape)
    head = f"{{'descr': '{plain.dtype.str}', 'fortran_order': False, 'shape': {plain.shape}, }}"
    padded = head.ljust((len(head) + 11 + 63) // 64 * 64 - 11)
    start = b"%b\x01\x00%b%b\n" % (_MAGIC, (len(padded) + 1).to_bytes(2, "little"), padded.encode())
    return _written(plain, start)


def _written(array: Array, start: bytes = b"") -> bytes:
    """Some bytes and then those of the values: piece by piece, since each copy holds the interpreter's lock.

    To join pieces of more than a megabyte does not.
    """
    if array.nbytes <= _PIECE:
        return start + array.tobytes()
    flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    return b"".join([start, *(flat[low : low + _PIECE].tobytes() for low in range(0, len(flat), _PIECE))])


def octets(array: Array) -> tuple[bytes, list[tuple[str, str]]]:
    """The values as little-endian bytes, and the headers that say what they are; BF16 as its bits, UINT16."""
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    wire = datatype_of_numpy(array.dtype) or "FP32"
    shape = ",".join(map(str, array.shape))
    data = _written(array.astype(DATATYPES[wire].numpy.newbyteorder("<"), copy=False))
    return data, [(_DTYPE, wire), (_SHAPE, shape)]


def array_type(accept: str) -> str | None:
    """The content type of arrays that an Accept header prefers to JSON; None for JSON."""
    if OCTETS not in accept and NPY not in accept:
        return None
    found = weights(accept)
    best = max((NPY, OCTETS), key=lambda kind: found.get(kind, 0.0))
    return best if found.get(best, 0.0) >= max(found.get("application/json", 0.0), 1e-9) else None
