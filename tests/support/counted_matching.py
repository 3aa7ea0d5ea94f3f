"""A backtracking matcher that counts its steps: how the one of Python goes about a text, without its short cuts."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from re import _constants  # type: ignore[attr-defined]
from typing import Any


class _TooMany(Exception):
    pass


class Matcher:
    """Tries a parsed pattern at every place of a text, as `search` does, until it matches."""

    def __init__(self, tree: Any, flags: int, most: int = 2_000_000) -> None:
        self._tree = tree
        self._flags = flags
        self._most = most
        self._count = 0
        self._text = ""

    def steps(self, text: str) -> int:
        """The steps of a match from the start of the text that fails at its end, as `fullmatch` makes it."""
        self._text, self._count = text, 0
        try:
            for end in self._sequence(list(self._tree), 0):
                if end == len(text):
                    break
        except _TooMany:
            pass
        return self._count

    def _step(self) -> None:
        self._count += 1
        if self._count >= self._most:
            raise _TooMany

    def _sequence(self, items: list[Any], at: int) -> Iterator[int]:
        if not items:
            yield at
            return
        for end in self._one(items[0], at):
            yield from self._sequence(items[1:], end)

    def _one(self, item: Any, at: int) -> Iterator[int]:
        self._step()
        operator, value = item
        if operator in (_constants.MAX_REPEAT, _constants.MIN_REPEAT, _constants.POSSESSIVE_REPEAT):
            yield from self._repeat(operator, *value, at)
        elif operator is _constants.BRANCH:
            for branch in value[1]:
                yield from self._sequence(list(branch), at)
        elif operator is _constants.SUBPATTERN:
            yield from self._sequence(list(value[3]), at)
        elif operator is _constants.ATOMIC_GROUP:
            yield from itertools.islice(self._sequence(list(value), at), 1)
        elif operator in (_constants.ASSERT, _constants.ASSERT_NOT):
            ahead = value[0] > 0
            found = ahead and any(True for _ in self._sequence(list(value[1]), at))
            if found == (operator is _constants.ASSERT) or not ahead:  # what lies behind has a fixed length
                yield at
        elif operator is _constants.AT:
            if self._is_place(value, at):
                yield at
        elif operator is _constants.GROUPREF:
            yield at
        elif at < len(self._text) and self._is_in(operator, value, self._text[at]):
            yield at + 1

    def _repeat(self, operator: Any, least: int, most: Any, body: Any, at: int) -> Iterator[int]:
        """All ends, the longest first; of a lazy one the shortest first. Ends of a long run need no recursion."""
        items = list(body)
        if len(items) == 1 and items[0][0] in _SINGLE:
            ends = [at]
            while len(ends) <= most and (found := next(self._one(items[0], ends[-1]), None)) is not None:
                ends.append(found)
            ends = ends[least:]
            if operator is _constants.POSSESSIVE_REPEAT:
                ends = ends[-1:]
            yield from (ends if operator is _constants.MIN_REPEAT else reversed(ends))
            return
        ends_of_group = self._repeat_group(operator is _constants.MIN_REPEAT, (least, most), items, at, 0)
        yield from itertools.islice(ends_of_group, 1) if operator is _constants.POSSESSIVE_REPEAT else ends_of_group

    def _repeat_group(self, lazy: bool, times: tuple[int, Any], items: list[Any], at: int, done: int) -> Iterator[int]:
        least, most = times
        if lazy and done >= least:
            yield at
        if done < most:
            for end in self._sequence(items, at):
                if end > at:
                    yield from self._repeat_group(lazy, times, items, end, done + 1)
        if not lazy and done >= least:
            yield at

    def _is_place(self, place: Any, at: int) -> bool:
        text = self._text
        if place in (_constants.AT_BEGINNING, _constants.AT_BEGINNING_STRING):
            return at == 0 or bool(self._flags & re.MULTILINE and text[at - 1] == "\n")
        if place in (_constants.AT_END, _constants.AT_END_STRING):
            return at == len(text) or bool(self._flags & re.MULTILINE and text[at] == "\n")
        before, after = (bool(re.match(r"\w", text[n : n + 1])) if n >= 0 else False for n in (at - 1, at))
        return (before != after) == (place is _constants.AT_BOUNDARY)

    def _is_in(self, operator: Any, value: Any, character: str) -> bool:
        if operator is _constants.LITERAL:
            return ord(character) == value or bool(self._flags & re.IGNORECASE and ord(character.lower()) == value)
        if operator is _constants.NOT_LITERAL:
            return ord(character) != value
        if operator is _constants.ANY:
            return character != "\n" or bool(self._flags & re.DOTALL)
        if operator is _constants.IN:
            negated = value[0][0] is _constants.NEGATE
            return negated != any(_in_set(*each, character) for each in value[negated:])
        return False


_SINGLE = (_constants.LITERAL, _constants.NOT_LITERAL, _constants.ANY, _constants.IN)
_CATEGORIES = {
    _constants.CATEGORY_DIGIT: r"\d",
    _constants.CATEGORY_NOT_DIGIT: r"\D",
    _constants.CATEGORY_SPACE: r"\s",
    _constants.CATEGORY_NOT_SPACE: r"\S",
    _constants.CATEGORY_WORD: r"\w",
    _constants.CATEGORY_NOT_WORD: r"\W",
}


def _in_set(operator: Any, value: Any, character: str) -> bool:
    if operator is _constants.LITERAL:
        return ord(character) == value
    if operator is _constants.RANGE:
        return bool(value[0] <= ord(character) <= value[1])
    return re.match(_CATEGORIES[value], character) is not None
