"""The outline of a large JSON document: its members, and what it would take as Python objects, before it is parsed.

A document of 16 MB can take half a gigabyte as Python objects (`[[],[],…]`, very many fields), and a parser holds the
interpreter's lock all the time. Here numpy scans the bytes in blocks, without an object for each value.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, TypeAlias

import numpy as np
import orjson
from numpy.typing import NDArray

from penstock.errors import InvalidInput

BLOCK: Final = 1 << 16
LIGHT_BYTES: Final = 16 << 20
"""A document may take so many bytes as Python objects, and once its own length more."""
MAX_MEMBERS: Final = 2048
"""Of an object or a list whose members are read one by one."""
MAX_NAME_BYTES: Final = 64 * 1024
"""Of the name of a field in such an object."""
LONG_NUMBER: Final = 20
"""Digits in a row from which a number takes a parser long: in the end as the square of their count."""
MANY_NAMES: Final = 4096
"""Different names in one object from which they weigh more: they take a parser longer than those that recur."""

_LIST, _OBJECT, _LIST_END, _OBJECT_END, _COMMA, _COLON, _QUOTE = range(1, 8)
_TABLE = bytes({ord(mark): kind for kind, mark in enumerate('[{]},:"', 1)}.get(byte, 0) for byte in range(256))
_WEIGHTS = np.array([0, 88, 200, 0, 0, 40, 40, 32], np.int64)
"""Bytes per mark: a list, an object, a value after a comma or a colon, and half a text for each quote."""
_LONG_NUMBER_WEIGHT, _DIGIT_WEIGHT, _ESCAPE_WEIGHT, _NAME_WEIGHT = 400, 24, 8, 300
"""In place of memory the time that they take: the interpreter's lock is held while a document is parsed."""
_BLANKS = re.compile(rb"[ \t\r\n]*")

Marks: TypeAlias = NDArray[Any]
"""Positions in the document."""


class Member(NamedTuple):
    """A value of an object or a list: its key (empty in a list), and its place in the document."""

    key: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Outline:
    """A value of a document: an object, a list or neither."""

    kind: str
    """`{`, `[` or the empty text."""
    weight: int
    """Bytes that it takes as Python objects, at least as many as a scan saw before it stopped."""
    members: list[Member]
    too_many: bool
    """True for more than MAX_MEMBERS members, which are then not all listed."""


def is_light(document: bytes) -> bool:
    """True if the document may be parsed into Python objects."""
    most = allowance(len(document))
    return _heaviest_possible(document) <= most or outline(document, listed=False).weight <= most


def _heaviest_possible(document: bytes) -> int:
    """The weight if no mark were inside a text, which most documents can afford; a scan costs ten times more."""
    lists = objects = marks = names = more = 0
    for low in range(0, len(document), 16 * BLOCK):
        block = document[low : low + 16 * BLOCK]
        lists += block.count(b"[")
        objects += block.count(b"{")
        names += block.count(b":")
        marks += len(block) - len(block.translate(None, b'[{,:"'))
        more += _weight_of_digits(_long_numbers(block)) + _ESCAPE_WEIGHT * block.count(b"\\")
    more += _NAME_WEIGHT * max(0, names - MANY_NAMES)
    return 88 * lists + 200 * objects + 40 * (marks - lists - objects) + more


def _long_numbers(block: bytes) -> Marks:
    """The places of digits that begin a row of LONG_NUMBER digits."""
    if len(block) < LONG_NUMBER:
        return np.empty(0, np.int64)
    digits = (np.frombuffer(block, np.uint8) - np.uint8(ord("0"))) < 10
    for shift in (1, 2, 4, 8, LONG_NUMBER - 16):
        digits = digits[shift:] & digits[: len(digits) - shift]
    return np.flatnonzero(digits)


def _weight_of_digits(places: Marks) -> int:
    if not len(places):
        return 0
    numbers = 1 + int(np.count_nonzero(np.diff(places) > 1))
    return _LONG_NUMBER_WEIGHT * numbers + _DIGIT_WEIGHT * len(places)


def allowance(size: int) -> int:
    """How many bytes a document of this size may take as Python objects."""
    return LIGHT_BYTES + size


def outline(document: bytes, start: int = 0, end: int | None = None, *, listed: bool = True) -> Outline:
    """The outline of the value at `start`. Without `listed` it stops at a weight that is not light.

    Raises InvalidInput if the marks of an object do not alternate as in JSON.
    """
    end = len(document) if end is None else end
    first = _BLANKS.match(document, start, end)
    start = first.end() if first else start
    kind = document[start : start + 1].decode("latin-1")
    kind = kind if kind in ("{", "[") else ""
    most = allowance(len(document))
    found: list[tuple[Marks, Marks]] = []
    weight = depth = count = names = 0
    for positions, kinds, more in _marks(document, start, end):
        excess, names = _excess_names(kinds, names)
        weight += int(_WEIGHTS[kinds].sum()) + more + _NAME_WEIGHT * excess
        changes = (kinds <= _OBJECT).astype(np.int32) - ((kinds == _LIST_END) | (kinds == _OBJECT_END))
        depths = depth + np.cumsum(changes)
        if listed and kind:
            top = ((depths == 1) & ((kinds == _COMMA) | (kinds == _COLON))) | ((depths == 0) & (changes < 0))
            found.append((positions[top], kinds[top]))
            count += int(np.count_nonzero(top))
        depth = int(depths[-1]) if len(depths) else depth
        if (weight > most and not (listed and kind)) or count > 2 * MAX_MEMBERS:
            break
    members = list(_members(document, start, found, kind)) if listed and kind else []
    return Outline(kind, weight, members[:MAX_MEMBERS], len(members) > MAX_MEMBERS)


def _excess_names(kinds: Marks, before: int) -> tuple[int, int]:
    """How many names are beyond MANY_NAMES in one object, and how many there are since the last brace."""
    names = np.cumsum(kinds == _COLON)
    braces = np.flatnonzero((kinds == _OBJECT) | (kinds == _OBJECT_END))
    total = int(names[-1]) if len(names) else 0
    counts = np.diff(names[braces], prepend=-before, append=total)  # since the brace before, for each and for the end
    return int((counts - MANY_NAMES).clip(0).sum()) - max(0, before - MANY_NAMES), int(counts[-1])


def _members(document: bytes, start: int, found: list[tuple[Marks, Marks]], kind: str) -> Iterator[Member]:
    marks = [(int(at), int(mark)) for positions, kinds in found for at, mark in zip(positions, kinds, strict=True)]
    key, began = "", start + 1
    expected = _COLON if kind == "{" else _COMMA
    for number, (at, mark) in enumerate(marks):
        if mark in (_LIST_END, _OBJECT_END):
            if number or document[began:at].strip():
                yield _closed(Member(key, began, at), expected, kind)
            return
        if mark != expected:
            raise InvalidInput("body: not valid JSON", field="body")
        if mark == _COLON:
            key, expected = _key(document[began:at]), _COMMA
        else:
            yield Member(key, began, at)
            expected = _COLON if kind == "{" else _COMMA
        began = at + 1
    if len(marks) <= MAX_MEMBERS:
        raise InvalidInput("body: not valid JSON: it ends too early", field="body")


def _closed(member: Member, expected: int, kind: str) -> Member:
    if kind == "{" and expected == _COLON:
        raise InvalidInput("body: not valid JSON", field="body")
    return member


def _key(text: bytes) -> str:
    if len(text) > MAX_NAME_BYTES:
        raise InvalidInput(f"body: the name of a field has more than {MAX_NAME_BYTES} bytes; shorten it", field="body")
    try:
        key = orjson.loads(text)
    except ValueError:
        key = None
    if not isinstance(key, str):
        raise InvalidInput("body: not valid JSON", field="body")
    return key


def _marks(document: bytes, start: int, end: int) -> Iterator[tuple[Marks, Marks, int]]:
    """Positions and kinds of the marks outside of texts, and of the quotes around texts, block by block; and what the
    escapes in texts and the long numbers outside weigh.
    """
    in_text = odd_backslashes = False
    for low in range(start, end, BLOCK):
        block = document[low : min(low + BLOCK, end)]
        all_kinds = np.frombuffer(block.translate(_TABLE), np.uint8)
        places = np.flatnonzero(all_kinds)
        kinds = all_kinds[places]
        quotes = kinds == _QUOTE
        if odd_backslashes or b"\\" in block:
            escaped, odd_backslashes = _escaped(block, odd_backslashes)
            quotes &= ~escaped[places]
        before = np.cumsum(quotes) - quotes + in_text
        kept = quotes | ((before & 1 == 0) & (kinds != _QUOTE))
        digits = _long_numbers(block)
        if len(digits):
            digits = digits[(np.searchsorted(places[quotes], digits) + in_text) & 1 == 0]
        in_text ^= bool(np.count_nonzero(quotes) & 1)
        yield places[kept] + low, kinds[kept], _weight_of_digits(digits) + _ESCAPE_WEIGHT * block.count(b"\\")


def _escaped(block: bytes, odd_before: bool) -> tuple[NDArray[np.bool_], bool]:
    """Which bytes follow an odd number of backslashes, and whether the byte after the block does."""
    places = np.arange(len(block) + 1)
    other = np.ones(len(block) + 1, np.bool_)
    other[1:] = np.frombuffer(block, np.uint8) != ord("\\")
    last = np.maximum.accumulate(np.where(other, places, 0))
    run = places - last  # backslashes that end at each place, the start of the block being place 0
    run[last == 0] += odd_before
    return (run[:-1] & 1).astype(np.bool_), bool(run[-1] & 1)
