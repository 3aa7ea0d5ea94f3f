"""Scans pickles without running them: which names one would look up, call and build.

A pickle is a program. Its opcodes are interpreted with a stack of known values, so that names which are computed
(STACK_GLOBAL, memo) are found as well. A pickle is refused when a name cannot be known, and when the unpickler would
fail only after it has run the part before.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from penstock.errors import quoted
from penstock.scan.findings import Finding, Refused
from penstock.scan.opcodes import Name, Source, Steps

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PICKLES = 5
"""What `torch.save` wrote before 1.6: magic number, protocol, system, object, keys of storages; then raw numbers."""

_TYPES = (
    "Double Float Half BFloat16 Long Int Short Char Byte Bool QUInt8 QInt8 QInt32 QUInt4x2 QUInt2x4 "
    "ComplexDouble ComplexFloat"
)
_SCALARS = (
    "float64 float32 float16 bfloat16 float8_e4m3fn float8_e5m2 float8_e4m3fnuz float8_e5m2fnuz float8_e8m0fnu "
    "float4_e2m1fn_x2 complex32 complex64 complex128 int64 int32 int16 int8 uint64 uint32 uint16 uint8 bool quint8 "
    "qint8 qint32 quint4x2 quint2x4 per_tensor_affine per_tensor_symmetric per_channel_affine per_channel_symmetric "
    "per_channel_affine_float_qparams"
)
_REBUILD = (
    "_rebuild_parameter _rebuild_parameter_with_state _rebuild_tensor _rebuild_tensor_v2 _rebuild_tensor_v3 "
    "_rebuild_sparse_tensor _rebuild_meta_tensor_no_storage _rebuild_nested_tensor _rebuild_qtensor "
    "_rebuild_wrapper_subclass _rebuild_device_tensor_from_numpy _rebuild_device_tensor_from_cpu_tensor"
)
WEIGHTS: frozenset[str] = frozenset(
    (
        "collections.OrderedDict",
        "collections.Counter",
        "torch.nn.parameter.Parameter",
        "torch.serialization._get_layout",
        "torch.Size",
        "torch.Tensor",
        "torch.device",
        "_codecs.encode",
        "builtins.bytearray",
        "builtins.set",
        "builtins.complex",
        "__builtin__.bytearray",
        "__builtin__.set",
        "__builtin__.complex",
        "torch._tensor._rebuild_from_type_v2",
        "torch.storage.UntypedStorage",
        "torch.storage.TypedStorage",
        *(f"torch.{device}{name}Storage" for device in ("", "cuda.") for name in _TYPES.split()),
        *(f"torch.{sign}int{bits}" for sign in ("", "u") for bits in range(1, 8)),
        *(f"torch.{name}" for name in _SCALARS.split()),
        *(f"torch._utils.{name}" for name in _REBUILD.split()),
    )
)
"""The names that PyTorch allows with `weights_only=True`; a test compares them with PyTorch's own list."""

_KNOWN_MODULES = sys.stdlib_module_names | {"__builtin__", "nt", "posix", "numpy", "torch"}
"""Modules that are there: a name of another one is proof of a pickle only when the pickle goes on to call it."""


class _Found(NamedTuple):
    """What the pickles in a file would look up, and whether any of it is called."""

    names: set[Name]
    calls: bool


def scan(data: memoryview | bytes, _: Path | None = None) -> Iterator[Finding]:
    """What a file of one or more pickles could do other than rebuild weights."""
    for name in sorted(names_of(data)):
        if str(name) not in WEIGHTS:
            yield Finding("code", f"its pickle looks up {quoted(name)}, which weights do not need, and may call it")


def names_of(data: memoryview | bytes) -> set[Name]:
    """Every name that the pickles in a file would look up; raises Refused when one cannot be known."""
    source = Source(data)
    names: set[Name] = set()
    count, legacy = 0, False
    while source.tell() < len(data) and not (legacy and count == _LEGACY_PICKLES):
        steps = Steps(source)
        steps.run()
        names |= steps.names
        count += 1
        legacy = legacy or (count == 1 and steps.result == _LEGACY_MAGIC)
    if legacy and count < _LEGACY_PICKLES:
        raise Refused("its pickle is truncated")
    return names


def hidden(data: memoryview) -> Finding | None:
    """What a file of another kind would do if it were read as a pickle: pickles need no mark, and may be text.

    An unpickler runs what comes before a fault, so the names that it would look up before the first one count. Text
    may begin like a pickle by chance: then the names are no modules, and nothing is called.
    """
    steps = Steps(Source(data))
    try:
        steps.run()
    except Refused as refused:
        if steps.exhausted:
            return Finding(None, f"it begins as a pickle: {refused}")
    names = sorted(name for name in steps.names if name.is_plain)
    proof = steps.calls or steps.ended or any(name.module.partition(".")[0] in _KNOWN_MODULES for name in names)
    if not names or not proof:
        return None
    return Finding("code", f"it is a pickle as well, which looks up {quoted(names[0])} and may call it")
