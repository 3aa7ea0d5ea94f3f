"""References to models, `name[:version|@alias]`, and the order of versions."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias

from penstock.errors import InvalidInput, ModelNotFound, shortened

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}")
_SEMVER = re.compile(r"[vV]?([0-9]+(?:\.[0-9]+)*)(?:-([0-9A-Za-z.-]+))?(?:\+[0-9A-Za-z.-]+)?")
_LISTED = 20
_CHUNKS = re.compile(r"[0-9]+|[^0-9]+")

FILE_VERSION = "v1.0"
"""The version of a bare model file, served as it is or published without another."""

_Part: TypeAlias = tuple[int, int, str]
VersionKey: TypeAlias = tuple[int, tuple[_Part, ...], int, tuple[_Part, ...]]
"""A sort key; versions of equal precedence, such as `v1.0` and `1.0.0`, have equal keys."""

_ZERO: _Part = (0, 0, "")


@dataclass(frozen=True, slots=True)
class Ref:
    """A parsed reference; at most one of `version` and `alias` is set."""

    name: str
    version: str | None = None
    alias: str | None = None

    def __str__(self) -> str:
        if self.version is not None:
            return f"{self.name}:{self.version}"
        return f"{self.name}@{self.alias}" if self.alias is not None else self.name


def name_of(ref: str) -> str:
    """The name in `name[:version|@alias]`, unchecked."""
    return ref.partition(":")[0].partition("@")[0]


def check_name(value: str, field: str = "name") -> str:
    """`value` if it is a valid name of a model or an alias; raises InvalidInput naming `field`."""
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise InvalidInput(
            f"{field}: {shown(value)} is not a name; use 1 to 100 letters, digits, '.', '_' and '-', "
            "the first a letter or digit",
            field=field,
        )
    return value


def check_version(value: str, field: str = "version") -> str:
    """`value` if it is a valid version; raises InvalidInput naming `field`."""
    if not isinstance(value, str) or not _VERSION.fullmatch(value):
        raise InvalidInput(
            f"{field}: {shown(value)} is not a version; use 1 to 100 letters, digits, '.', '_', '+' and '-', "
            "the first a letter or digit",
            field=field,
        )
    return value


def shown(value: object) -> str:
    """A faulty value as a message repeats it: its `repr`, truncated."""
    return shortened(repr(value), 120)


def listed(names: Iterable[str]) -> str:
    """Names as a message lists them: the first ones, and the number of the others."""
    known = list(names)
    more = f" and {len(known) - _LISTED} more" if len(known) > _LISTED else ""
    return ", ".join(known[:_LISTED]) + more


def no_alias(name: str, alias: str, aliases: Iterable[str]) -> ModelNotFound:
    """The error for an alias that a model does not have."""
    known = listed(aliases)
    return ModelNotFound(f"{name} has no alias {alias!r}; " + (f"aliases: {known}" if known else "it has no aliases"))


def parse_ref(text: str) -> Ref:
    """The parts of `name`, `name:version` or `name@alias`; raises InvalidInput."""
    if not isinstance(text, str) or not text:
        raise InvalidInput(
            f"ref: {shown(text)} is not a reference; write name, name:version or name@alias", field="ref"
        )
    split = re.search(r"[:@]", text)
    if split is None:
        return Ref(check_name(text, "ref"))
    name = check_name(text[: split.start()], "ref")
    rest = text[split.end() :]
    if split.group() == ":":
        return Ref(name, version=check_version(rest, "ref"))
    return Ref(name, alias=check_name(rest, "ref"))


def version_key(version: str) -> VersionKey:
    """The key to sort versions by semantic-version precedence; any string has one.

    A leading `v` is optional and missing numbers are 0; a pre-release is below its release; build metadata after `+` is
    ignored. Other strings sort below every semantic version, in natural order (`run9` < `run10`).
    """
    match = _SEMVER.fullmatch(version)
    if match is None:
        return (0, tuple(_part(chunk) for chunk in _CHUNKS.findall(version)), 0, ())
    numbers = [_part(number) for number in match[1].split(".")]
    while numbers and numbers[-1] == _ZERO:
        numbers.pop()
    if match[2] is None:
        return (1, tuple(numbers), 1, ())
    return (1, tuple(numbers), 0, tuple(_part(word) for word in match[2].split(".")))


def is_release(version: str) -> bool:
    """True for a semantic version without a pre-release part."""
    key = version_key(version)
    return key[0] == 1 and key[2] == 1


def sorted_versions(versions: list[str]) -> list[str]:
    """From low to high; versions of equal precedence are ordered by their text, so the order is total."""
    return sorted(versions, key=lambda version: (version_key(version), version))


def _part(text: str) -> _Part:
    """Numbers sort below words, numbers by value (of any length), words by their ASCII text."""
    if text.isascii() and text.isdigit():
        digits = text.lstrip("0")
        return (0, len(digits), digits)
    return (1, 0, text)
