"""Regular expressions of operators: checked once, so that no text can make them slow later."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from re import _constants, _parser  # type: ignore[attr-defined]  # the only parser there is; it is stable
from typing import Any

MOST_CHARACTERS = 500
"""In one expression."""
LONGEST_TEXT = 500
"""Characters of a text that is searched at once."""
_SLOW_S = 0.05
"""Of processor time. Quadratic expressions, such as `\\w+x`, take a tenth of it, others far more."""
_LENGTHS = (*range(4, 30), 40, 60, 90, 130, 200, 280, 380, LONGEST_TEXT)
"""How often the repeated part of an expression is tried; an exponential one is slow from about 20 times."""
_CHARACTERS = {
    _constants.CATEGORY_DIGIT: "1",
    _constants.CATEGORY_SPACE: " ",
    _constants.CATEGORY_WORD: "a",
    _constants.CATEGORY_NOT_DIGIT: "a",
    _constants.CATEGORY_NOT_SPACE: "a",
    _constants.CATEGORY_NOT_WORD: "-",
}
_REPEATS = (_constants.MAX_REPEAT, _constants.MIN_REPEAT)


def checked_pattern(text: str) -> re.Pattern[str]:
    """The compiled expression.

    Raises ValueError for one that is not valid, is too long, matches an empty text, or takes more than 50 ms for a
    text of 500 characters that resembles what it looks for.
    """
    if len(text) > MOST_CHARACTERS:
        raise ValueError(f"should hold regular expressions of {MOST_CHARACTERS} characters at most")
    try:
        pattern, tree = re.compile(text), _parser.parse(text)
    except (re.error, RecursionError, OverflowError) as error:
        raise ValueError(f"should hold regular expressions; {text!r} is none: {error}") from None
    if pattern.search("") is not None:
        raise ValueError(f"should hold regular expressions that match something; {text!r} matches an empty text")
    if _is_slow(pattern, tree):
        raise ValueError(
            f"should hold regular expressions without repetitions of repetitions; {text!r} is too slow on some texts"
        )
    return pattern


def _is_slow(pattern: re.Pattern[str], tree: Any) -> bool:
    """Try texts that nearly match, from short to long, and stop at the first slow one.

    Repetitions of something that may be empty are slow without a try: there the shortest text can take minutes.
    """
    if _repeats_nothing(tree):
        return True
    for before, repeated in dict.fromkeys(_repetitions(tree, "")):
        for count in _LENGTHS:
            text = (before + repeated * count)[:LONGEST_TEXT]
            started = time.thread_time()
            for end in ("\0", ""):
                pattern.search(text + end)
            if time.thread_time() - started > _SLOW_S:
                return True
            if len(text) == LONGEST_TEXT:
                break
    return False


def _repeats_nothing(tree: Any) -> bool:
    for operator, value in tree:
        repeated = operator in _REPEATS or operator is _constants.POSSESSIVE_REPEAT
        if repeated and value[1] > 3 and value[2].getwidth()[0] == 0:
            return True
        if any(map(_repeats_nothing, _parts(operator, value))):
            return True
    return False


def _repetitions(tree: Any, before: str) -> Iterator[tuple[str, str]]:
    """For every part that may be repeated often: a text that leads up to it, and each text that it repeats."""
    for operator, value in tree:
        if operator in _REPEATS or operator is _constants.POSSESSIVE_REPEAT:
            _, most, body = value
            if most > 8:
                yield from ((before, text) for text in _samples(body) if text)
        for part in _parts(operator, value):
            yield from _repetitions(part, before)
        before += next(_samples([(operator, value)]), "")


def _parts(operator: Any, value: Any) -> list[Any]:
    """The expressions inside of one element."""
    if operator is _constants.BRANCH:
        return list(value[1])
    if operator is _constants.SUBPATTERN:
        return [value[3]]
    if operator in _REPEATS or operator is _constants.POSSESSIVE_REPEAT:
        return [value[2]]
    if operator in (_constants.ASSERT, _constants.ASSERT_NOT):
        return [value[1]]
    return [value] if operator is _constants.ATOMIC_GROUP else []


def _samples(tree: Any) -> Iterator[str]:
    """Short texts that an expression matches: one for each alternative, with every other part in its simplest form."""
    texts = [""]
    for operator, value in tree:
        choices = list(dict.fromkeys(_of(operator, value)))[:8]
        texts = [text + choice for text in texts for choice in choices][:16]
    yield from texts


def _of(operator: Any, value: Any) -> Iterator[str]:
    if operator is _constants.LITERAL:
        yield chr(value)
    elif operator is _constants.NOT_LITERAL:
        yield "a" if value != ord("a") else "b"
    elif operator is _constants.ANY:
        yield "a"
    elif operator is _constants.IN:
        yield from (_member(*value[0]), *(_member(*each) for each in value[1:2]))
    elif operator in _REPEATS or operator is _constants.POSSESSIVE_REPEAT:
        for text in _samples(value[2]):
            yield text * max(1, min(value[0], 50))
    elif operator in (_constants.BRANCH, _constants.SUBPATTERN, _constants.ATOMIC_GROUP):
        for part in _parts(operator, value):
            yield from _samples(part)
    else:
        yield ""


def _member(operator: Any, value: Any) -> str:
    """A character of a set; of a negated set, one that is in few."""
    if operator is _constants.LITERAL:
        return chr(value)
    if operator is _constants.RANGE:
        return chr(value[0])
    return _CHARACTERS.get(value, "~") if operator is _constants.CATEGORY else "~"
