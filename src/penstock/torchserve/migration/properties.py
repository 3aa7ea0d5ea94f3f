"""`.properties` files by the rules of Java (`java.util.Properties.load`), by which TorchServe reads them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final, NamedTuple

from penstock.errors import ConfigError

_WHITE: Final = " \t\f"
_ENDS = re.compile(r"\r\n|\r|\n")
_SPLIT = re.compile(r"((?:[^\\=: \t\f]|\\.)*)[ \t\f]*[=:]?[ \t\f]*(.*)", re.DOTALL)
_ESCAPE = re.compile(r"\\(u[0-9A-Fa-f]{4}|.)", re.DOTALL)
_SIGNS: Final = {"t": "\t", "r": "\r", "n": "\n", "f": "\f"}


class Property(NamedTuple):
    """A key with its value, and the number of the line that it begins in."""

    key: str
    value: str
    line: int


def parse_properties(data: bytes, name: str) -> list[Property]:
    r"""Every property in its order; of a key that is set twice, the last one counts. `name` is the file in errors.

    Bytes are Latin-1, other characters are written as `\uXXXX`. Raises ConfigError for one that is malformed.
    """
    found = []
    for line, text in _logical_lines(data.decode("latin-1")):
        split = _SPLIT.fullmatch(text)
        assert split is not None, text
        try:
            found.append(Property(_unescaped(split[1]), _unescaped(split[2]), line))
        except ValueError:
            raise ConfigError(
                f"{name}, line {line}: \\u is not followed by four hexadecimal digits; a backslash is written \\\\"
            ) from None
    return found


def _logical_lines(text: str) -> Iterator[tuple[int, str]]:
    """Lines without comments, joined where a backslash ends them, with the number of their first line."""
    pending, first, lone = "", 0, 0
    naturals = _ENDS.split(text)
    for number, natural in enumerate(naturals, start=1):
        line = natural.lstrip(_WHITE)
        if not pending:
            if not line or line[0] in "#!":
                continue
            first = number
            lone = number if line == "\\" else 0
        if (len(line) - len(line.rstrip("\\"))) % 2:
            pending += line[:-1]
            continue
        yield first, pending + line
        pending = ""
    at_end = lone and (naturals[lone:] == [] or (naturals[lone:] == [""] and not text.endswith("\r\n")))
    if pending or at_end:  # a backslash that is all of the last line is an empty key
        yield first, pending


def _unescaped(text: str) -> str:
    r"""Raises ValueError for a malformed `\uXXXX`."""
    if "\\" not in text:
        return text
    plain = _ESCAPE.sub(_sign, text)
    return plain.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")  # joins pairs


def _sign(match: re.Match[str]) -> str:
    sign = match[1]
    if sign == "u":
        raise ValueError(sign)
    return chr(int(sign[1:], 16)) if len(sign) > 1 else _SIGNS.get(sign, sign)
