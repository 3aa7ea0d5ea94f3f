"""Interprets the opcodes of a pickle without running them. Time and memory are linear in the file, within budgets."""

from __future__ import annotations

import codecs
import pickletools
from collections.abc import Callable
from typing import Any, NamedTuple, cast

from penstock.errors import quoted, shortened
from penstock.scan.findings import Refused

MAX_OPCODES = 10_000_000
"""Of all pickles in a file."""
MAX_MEMO = 2_000_000
"""The values that a pickle can refer to again."""
MAX_NAME = 1000
"""Characters of a module or a name; a longer text cannot be one."""
MAX_LINE = 16 * 2**20

_FREE_BYTES, _MAX_RATIO = 64 * 2**20, 10
"""What a file may make its reader allocate by a number in it, and by how much that may exceed its size."""
_MAX_BITS = 128
_ALLOCATES = ("bytearray", "Storage", "Tensor")
"""The ends of names that make a buffer of a given length. A storage's elements have up to 16 bytes; one counts."""
_BROKEN = (ValueError, IndexError, KeyError, TypeError, OverflowError, EOFError)
_BY_CODE = {opcode.code.encode("latin-1"): opcode for opcode in pickletools.opcodes}


class Name(NamedTuple):
    """A name that a pickle looks up, with its module."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"

    @property
    def is_plain(self) -> bool:
        """True when a module and an attribute could have these names."""
        return all(part.isidentifier() for text in self for part in text.split("."))


class Source:
    """Bytes as a file for the readers of `pickletools`, without a copy; counts the opcodes of all its pickles."""

    def __init__(self, data: memoryview | bytes) -> None:
        self._data = memoryview(data)
        self._place = 0
        self.opcodes = 0
        self.allocated = 0

    def __len__(self) -> int:
        return len(self._data)

    def tell(self) -> int:
        """The offset."""
        return self._place

    def read(self, count: int) -> bytes:
        """The next bytes; raises ValueError when there are fewer."""
        if not 0 <= count <= len(self._data) - self._place:
            raise ValueError("it ends too early")
        start, self._place = self._place, self._place + count
        return bytes(self._data[start : self._place])

    def line(self) -> bytes:
        """The next line without its end; raises ValueError when there is none."""
        size = 64
        while True:
            found = bytes(self._data[self._place : self._place + size]).find(b"\n")
            if found >= 0:
                line = self.read(found)
                self._place += 1
                return line
            if self._place + size >= len(self._data) or size >= MAX_LINE:
                raise ValueError("a line does not end")
            size *= 8

    def readline(self) -> bytes:
        """The next line with its end."""
        return self.line() + b"\n"


class _Unknown:
    """A value that is known only when the pickle runs."""


_UNKNOWN = _Unknown()


class Steps:
    """One pickle, from the position of the source to its end."""

    def __init__(self, source: Source) -> None:
        self.names: set[Name] = set()
        self.calls = False
        """True once it calls something, were it run so far."""
        self.ended = False
        self.exhausted = False
        """True when a budget was used up, and the rest is unknown."""
        self.result: Any = _UNKNOWN
        self._source = source
        self._stack: list[Any] = []
        self._marks: list[int] = []
        """The height of the stack at each mark."""
        self._memo: dict[int, Any] = {}

    def run(self) -> None:
        """Interpret up to the end; raises Refused for what is damaged, unknown or beyond a budget."""
        try:
            while not self.ended:
                self._next()
        except _BROKEN as error:
            raise Refused(f"its pickle is damaged ({shortened(' '.join(str(error).split()), 80)})") from None
        if self._stack or self._marks:
            raise Refused("its pickle leaves values on the stack")

    def _next(self) -> None:
        self._source.opcodes += 1
        if self._source.opcodes > MAX_OPCODES:
            raise self._beyond(f"its pickle has more than {MAX_OPCODES} opcodes")
        code = self._source.read(1)
        opcode = _BY_CODE.get(code)
        if opcode is None:
            raise ValueError(f"there is no opcode {code!r}")
        read = _LINES.get(opcode.name)
        if read is not None:
            argument = read(self._source)
        else:
            argument = opcode.arg.reader(cast(Any, self._source)) if opcode.arg is not None else None
        step = _SPECIAL.get(opcode.name)
        if step is not None:
            step(self, argument)
        else:
            self._other(opcode.name, argument)

    def _beyond(self, why: str) -> Refused:
        self.exhausted = True
        return Refused(why)

    def _other(self, name: str, argument: Any) -> None:
        """Any other opcode: pop and push as many values as its description says."""
        from_mark, pops, pushes = _EFFECTS[name]
        if from_mark:
            self._pop_mark()
        for _ in range(pops):
            self._pop()
        if pushes:
            self._stack.append(_kept(argument))

    def _pop(self) -> Any:
        self._require_value()
        return self._stack.pop()

    def _require_value(self) -> None:
        if self._marks and self._marks[-1] == len(self._stack):
            raise Refused("its pickle uses a mark as a value")

    def _pop_mark(self) -> list[Any]:
        """The values above the last mark, which are removed: each is looked at once."""
        place = self._marks.pop()
        taken = self._stack[place:]
        del self._stack[place:]
        return taken

    def _mark(self, _: Any) -> None:
        self._marks.append(len(self._stack))

    def _discard(self, _: Any) -> None:
        if self._marks and self._marks[-1] == len(self._stack):
            self._marks.pop()
        else:
            self._stack.pop()

    def _top(self) -> Any:
        self._require_value()
        return self._stack[-1]

    def _duplicate(self, _: Any) -> None:
        self._stack.append(self._top())

    def _put(self, place: Any) -> None:
        self._note(int(place))

    def _memoize(self, _: Any) -> None:
        self._note(len(self._memo))

    def _note(self, place: int) -> None:
        value = self._top()
        if not 0 <= place < MAX_MEMO:
            raise self._beyond(f"its pickle notes more than {MAX_MEMO} values")
        self._memo[place] = value

    def _get(self, place: Any) -> None:
        self._stack.append(self._memo[int(place)])

    def _global(self, argument: tuple[bytes, bytes]) -> None:
        module, name = argument
        self._stack.append(self._look_up(module.decode(), name.decode()))

    def _instance(self, argument: tuple[bytes, bytes]) -> None:
        self._pop_mark()
        self._global(argument)
        self.calls = True

    def _stack_global(self, _: Any) -> None:
        name, module = self._pop(), self._pop()
        self._stack.append(self._look_up(module, name))

    def _look_up(self, module: Any, name: Any) -> Name:
        if type(module) is not str or type(name) is not str or not module or not name:
            raise Refused("its pickle looks up a name that is computed at run time")
        if max(len(module), len(name)) > MAX_NAME:
            raise Refused(f"its pickle looks up a name of more than {MAX_NAME} characters")
        found = Name(module, name)
        self.names.add(found)
        return found

    def _tuple(self, count: int) -> None:
        values = [self._pop() for _ in range(count)]
        self._stack.append(_scalars(values))

    def _tuple_from_mark(self, _: Any) -> None:
        values = self._pop_mark()
        self._stack.append(_scalars(values) if len(values) <= 3 else _UNKNOWN)

    def _call(self, _: Any) -> None:
        """REDUCE and NEWOBJ: a callable and the tuple of its arguments."""
        arguments, called = self._pop(), self._pop()
        self._allocate(called, arguments)
        self.calls = True
        self._stack.append(_UNKNOWN)

    def _allocate(self, called: Any, arguments: Any) -> None:
        """A number in a file may not make its reader allocate much more memory than the file has."""
        if not isinstance(called, Name) or not called.name.endswith(_ALLOCATES) or not isinstance(arguments, tuple):
            return
        self._source.allocated += sum(number for number in arguments if type(number) is int and number > 0)
        if self._source.allocated > max(_FREE_BYTES, _MAX_RATIO * len(self._source)):
            raise self._beyond(f"its pickle allocates {self._source.allocated} bytes by {quoted(called)}")

    def _calls(self, name: str, argument: Any) -> None:
        self._other(name, argument)
        self.calls = True

    def _refuse(self, _: Any) -> None:
        raise Refused("its pickle uses a registered extension or an external buffer, whose content cannot be known")

    def _end(self, _: Any) -> None:
        self.result = self._pop()
        self.ended = True


def _kept(argument: Any) -> Any:
    """A constant that may be a name or a length; anything else is not held in memory."""
    if type(argument) is str and len(argument) <= MAX_NAME:
        return argument
    return argument if type(argument) is int and argument.bit_length() <= _MAX_BITS else _UNKNOWN


def _scalars(values: list[Any]) -> tuple[Any, ...]:
    """Without what they hold themselves: nothing grows by being wrapped again and again."""
    return tuple(_UNKNOWN if isinstance(value, tuple) else value for value in values)


def _number(source: Source) -> Any:
    """INT and LONG. What Python's own unpicklers read as a number differs a little: then it is unknown."""
    text = source.line().rstrip(b"L")
    try:
        return int(text, 0)
    except ValueError:
        return _UNKNOWN


def _string(source: Source) -> Any:
    """STRING, in quotes. Its encoding is chosen by the reader; names are in ASCII."""
    text = source.line()
    if len(text) < 2 or text[0] != text[-1] or text[:1] not in (b"'", b'"'):
        raise ValueError("a string has no quotes")
    return codecs.escape_decode(text[1:-1])[0].decode("latin-1")


def _unread(source: Source) -> Any:
    source.line()
    return _UNKNOWN


def _pair(source: Source) -> tuple[bytes, bytes]:
    return source.line(), source.line()


_LINES: dict[str, Callable[[Source], Any]] = {
    "INT": _number,
    "LONG": _number,
    "FLOAT": _unread,
    "STRING": _string,
    "PERSID": _unread,
    "GLOBAL": _pair,
    "INST": _pair,
    "PUT": Source.line,
    "GET": Source.line,
}
"""The arguments that are lines, as unpicklers read them; `pickletools` is stricter, and would stop before a name."""


def _effect(opcode: Any) -> tuple[bool, int, bool]:
    """Whether an opcode takes all values above a mark, how many it takes, and whether it leaves one."""
    takes = list(opcode.stack_before)
    from_mark = pickletools.markobject in takes
    return from_mark, takes.index(pickletools.markobject) if from_mark else len(takes), bool(opcode.stack_after)


_EFFECTS = {opcode.name: _effect(opcode) for opcode in pickletools.opcodes}
_SPECIAL: dict[str, Callable[[Steps, Any], None]] = {
    "MARK": Steps._mark,
    "POP": Steps._discard,
    "DUP": Steps._duplicate,
    "PUT": Steps._put,
    "BINPUT": Steps._put,
    "LONG_BINPUT": Steps._put,
    "MEMOIZE": Steps._memoize,
    "GET": Steps._get,
    "BINGET": Steps._get,
    "LONG_BINGET": Steps._get,
    "GLOBAL": Steps._global,
    "INST": Steps._instance,
    "STACK_GLOBAL": Steps._stack_global,
    "TUPLE": Steps._tuple_from_mark,
    "TUPLE1": lambda steps, _: steps._tuple(1),
    "TUPLE2": lambda steps, _: steps._tuple(2),
    "TUPLE3": lambda steps, _: steps._tuple(3),
    "REDUCE": Steps._call,
    "NEWOBJ": Steps._call,
    "NEWOBJ_EX": lambda steps, argument: steps._calls("NEWOBJ_EX", argument),
    "OBJ": lambda steps, argument: steps._calls("OBJ", argument),
    "BUILD": lambda steps, argument: steps._calls("BUILD", argument),
    "EXT1": Steps._refuse,
    "EXT2": Steps._refuse,
    "EXT4": Steps._refuse,
    "NEXT_BUFFER": Steps._refuse,
    "READONLY_BUFFER": Steps._refuse,
    "STOP": Steps._end,
}
