"""Scans pickles without running them: which names one would look up, call and build.

A pickle is a program. Its opcodes are interpreted with a stack of known values, so that names which are computed
(STACK_GLOBAL, memo) are found as well. A pickle is refused when a name cannot be known, and when the unpickler would
fail only after it has run the part before.
"""

from __future__ import annotations

import io
import pickletools
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from penstock.errors import quoted, shortened
from penstock.scan.findings import Finding, Refused

_MAX_OPCODES = 20_000_000
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


class Name(NamedTuple):
    """A name that a pickle looks up, with its module."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


def scan(data: memoryview | bytes, _: Path | None = None) -> Iterator[Finding]:
    """What a file of one or more pickles could do other than rebuild weights."""
    for name in sorted(names_of(data)):
        if str(name) not in WEIGHTS:
            yield Finding("code", f"its pickle looks up {quoted(name)}, which weights do not need, and may call it")


def names_of(data: memoryview | bytes) -> set[Name]:
    """Every name that the pickles in a file would look up; raises Refused when one cannot be known."""
    file = io.BytesIO(data)
    names: set[Name] = set()
    count, legacy = 0, False
    while file.tell() < len(data) and not (legacy and count == _LEGACY_PICKLES):
        steps = _Steps(file)
        names |= steps.names
        count += 1
        legacy = legacy or (count == 1 and steps.result == _LEGACY_MAGIC)
    if legacy and count < _LEGACY_PICKLES:
        raise Refused("its pickle is truncated")
    return names


class _Unknown:
    """A value that is known only when the pickle runs."""


_UNKNOWN, _MARK = _Unknown(), object()


class _Steps:
    """One pickle, from the position of the file to its end."""

    def __init__(self, file: io.BytesIO) -> None:
        self.names: set[Name] = set()
        self.result: Any = _UNKNOWN
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        try:
            self._run(file)
        except Refused:
            raise
        except (ValueError, IndexError, KeyError, TypeError, OverflowError, EOFError) as error:
            raise Refused(f"its pickle is damaged ({shortened(' '.join(str(error).split()), 80)})") from None

    def _run(self, file: io.BytesIO) -> None:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(file)):
            if count > _MAX_OPCODES:
                raise Refused(f"its pickle has more than {_MAX_OPCODES} opcodes")
            special = _SPECIAL.get(opcode.name)
            if special is not None:
                special(self, argument)
            elif opcode.name in _CONSTANTS:
                self._stack.append(argument)
            else:
                self._step(opcode)
        if self._stack:
            raise Refused("its pickle leaves values on the stack")

    def _step(self, opcode: Any) -> None:
        """Any other opcode: pop and push as many values as its description says."""
        takes = list(opcode.stack_before)
        if pickletools.markobject in takes:
            self._pop_mark()
            takes = takes[: takes.index(pickletools.markobject)]
        for _ in takes:
            self._pop()
        self._stack.extend(_UNKNOWN for _ in opcode.stack_after)

    def _pop(self) -> Any:
        value = self._stack.pop()
        if value is _MARK:
            raise Refused("its pickle uses a mark as a value")
        return value

    def _pop_mark(self) -> list[Any]:
        place = len(self._stack) - 1 - self._stack[::-1].index(_MARK)
        taken = self._stack[place + 1 :]
        del self._stack[place:]
        return taken

    def _mark(self, _: Any) -> None:
        self._stack.append(_MARK)

    def _discard(self, _: Any) -> None:
        self._stack.pop()  # may be a mark

    def _top(self) -> Any:
        if self._stack[-1] is _MARK:
            raise Refused("its pickle uses a mark as a value")
        return self._stack[-1]

    def _duplicate(self, _: Any) -> None:
        self._stack.append(self._top())

    def _put(self, place: Any) -> None:
        self._memo[int(place)] = self._top()

    def _memoize(self, _: Any) -> None:
        self._memo[len(self._memo)] = self._top()

    def _get(self, place: Any) -> None:
        self._stack.append(self._memo[int(place)])

    def _global(self, argument: Any) -> None:
        module, _, name = str(argument).partition(" ")
        self._look_up(module, name)
        self._stack.append(_UNKNOWN)

    def _instance(self, argument: Any) -> None:
        self._pop_mark()
        self._global(argument)

    def _stack_global(self, _: Any) -> None:
        name, module = self._pop(), self._pop()
        self._look_up(module, name)
        self._stack.append(_UNKNOWN)

    def _look_up(self, module: Any, name: Any) -> None:
        if not (isinstance(module, str) and isinstance(name, str) and module and name):
            raise Refused("its pickle looks up a name that is computed at run time")
        self.names.add(Name(module, name))

    def _refuse(self, _: Any) -> None:
        raise Refused("its pickle uses a registered extension or an external buffer, whose content cannot be known")

    def _end(self, _: Any) -> None:
        self.result = self._pop()


_CONSTANTS = frozenset(
    [
        "INT",
        "BININT",
        "BININT1",
        "BININT2",
        "LONG",
        "LONG1",
        "LONG4",
        "STRING",
        "BINSTRING",
        "SHORT_BINSTRING",
        "BINBYTES",
        "SHORT_BINBYTES",
        "BINBYTES8",
        "BYTEARRAY8",
        "UNICODE",
        "SHORT_BINUNICODE",
        "BINUNICODE",
        "BINUNICODE8",
        "FLOAT",
        "BINFLOAT",
    ]
)
_SPECIAL: dict[str, Any] = {
    "MARK": _Steps._mark,
    "POP": _Steps._discard,
    "DUP": _Steps._duplicate,
    "PUT": _Steps._put,
    "BINPUT": _Steps._put,
    "LONG_BINPUT": _Steps._put,
    "MEMOIZE": _Steps._memoize,
    "GET": _Steps._get,
    "BINGET": _Steps._get,
    "LONG_BINGET": _Steps._get,
    "GLOBAL": _Steps._global,
    "INST": _Steps._instance,
    "STACK_GLOBAL": _Steps._stack_global,
    "EXT1": _Steps._refuse,
    "EXT2": _Steps._refuse,
    "EXT4": _Steps._refuse,
    "NEXT_BUFFER": _Steps._refuse,
    "READONLY_BUFFER": _Steps._refuse,
    "STOP": _Steps._end,
}
