"""Versions of the manifest's schema, and how a manifest of a newer minor version is read.

A new minor version only adds fields. An older Penstock keeps the fields that it does not know and ignores them. A new
major version changes the meaning of a manifest, and an older Penstock refuses it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from copy import deepcopy
from typing import Any, NamedTuple, TypeVar

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from penstock.artifacts.refs import shown
from penstock.errors import InvalidInput, in_json_words, printable

_VERSION = re.compile(r"(0|[1-9][0-9]{0,5})\.(0|[1-9][0-9]{0,5})", re.ASCII)
_LARGEST = 999_999
_UNKNOWN = "extra_forbidden"
"""Pydantic's type of the error for a field that a model does not have."""
_SHOWN_FIELDS = 10
_SHOWN_CHARACTERS = 100

T = TypeVar("T")


class SchemaVersion(NamedTuple):
    """`major.minor`, ordered."""

    major: int
    minor: int

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}"


FIRST = SchemaVersion(1, 0)
"""Written as the integer 1. A variant's name is always `<format>-<precision>`."""

CURRENT = SchemaVersion(1, 4)
"""The newest version that this release reads: 1.1 adds the free name of a variant, 1.2 its errors, exporter and recipe,
1.3 the reference, 1.4 `log_inputs`."""

WRITTEN = SchemaVersion(1, 2)
"""The version of a manifest without these two: the same model keeps its digest, and older releases read it."""

WITH_REFERENCE = SchemaVersion(1, 3)
WITH_LOG_INPUTS = SchemaVersion(1, 4)


def parse_version(value: object) -> SchemaVersion:
    """The version in a manifest's `schema_version`; the integer 1 of the first releases is 1.0.

    Raises ValueError in one sentence for anything else, for versions before the first, and for a newer major version.
    """
    version = _parsed(value)
    if version is None:
        raise ValueError(f'{shown(value)} is not a schema version; write "major.minor", such as "{CURRENT}"')
    if version < FIRST:
        raise ValueError(f"there is no schema version {version}; the first is {FIRST}")
    if version.major > CURRENT.major:
        raise ValueError(
            f"schema version {version} needs a newer Penstock; this one reads {CURRENT.major}.x and writes {CURRENT}; "
            "upgrade Penstock"
        )
    return version


def _parsed(value: object) -> SchemaVersion | None:
    if isinstance(value, int) and not isinstance(value, bool):
        return SchemaVersion(value, 0) if 0 <= value <= _LARGEST else None
    match = _VERSION.fullmatch(value) if isinstance(value, str) else None
    return SchemaVersion(int(match[1]), int(match[2])) if match else None


class UnknownField(NamedTuple):
    """A field that this Penstock does not know: the steps to it in the document, and its value."""

    path: tuple[str | int, ...]
    value: Any

    @property
    def name(self) -> str:
        """The path as text, such as `variants.0.ancestry`."""
        return printable(".".join(map(str, self.path)))[:_SHOWN_CHARACTERS]


def validate_newer(validate: Callable[[dict[str, Any]], T], document: dict[str, Any]) -> tuple[T, list[UnknownField]]:
    """Validate a document of a newer minor version without the fields that the validation does not know.

    Raises the ValidationError of any other fault.
    """
    known, unknown = deepcopy(document), list[UnknownField]()
    while True:
        try:
            return validate(known), unknown
        except ValidationError as error:
            paths = [fault["loc"] for fault in _faults(error) if fault["type"] == _UNKNOWN]
            if not paths:
                raise
            unknown += [UnknownField(path, _removed(known, path)) for path in paths]


def _removed(document: Any, path: tuple[str | int, ...]) -> Any:
    *steps, last = path
    for step in steps:
        document = document[step]
    return document.pop(last)


def put_back(document: dict[str, Any], unknown: Iterable[UnknownField]) -> dict[str, Any]:
    """The document with the unknown fields in their places again."""
    for field in unknown:
        place: Any = document
        *steps, last = field.path
        for step in steps:
            place = place[step]
        place[last] = field.value
    return document


def describe_unknown(version: str, names: list[str]) -> str:
    """One sentence that names ignored fields."""
    more = f" and {len(names) - _SHOWN_FIELDS} more" if len(names) > _SHOWN_FIELDS else ""
    fields = ", ".join(names[:_SHOWN_FIELDS]) + more
    return (
        f"the manifest has schema version {version}, this Penstock knows {CURRENT}; it ignores the fields {fields}; "
        "upgrade Penstock to use them"
    )


def describe(error: ValidationError) -> str:
    """The first fault of a validation, with its field."""
    faults = _faults(error)
    first = faults[0]
    where = printable(".".join(map(str, first["loc"]))) or "the manifest"
    what = first["msg"].removeprefix("Value error, ").removeprefix(f"{where}: ")
    if not first["msg"].startswith("Value error"):
        what = in_json_words(what)
    if first["type"] == _UNKNOWN:
        what = "there is no such field"
    return f"{where}: {what}" + (f" (and {len(faults) - 1} more)" if len(faults) > 1 else "")


def _faults(error: ValidationError) -> list[ErrorDetails]:
    """The errors, without those of lists that are too short because their members are faulty."""
    faults = error.errors(include_url=False, include_input=False)
    inner = {fault["loc"][:depth] for fault in faults for depth in range(len(fault["loc"]))}
    return [fault for fault in faults if fault["type"] != "too_short" or fault["loc"] not in inner]


def invalid(error: ValidationError, version: SchemaVersion) -> InvalidInput:
    """The error for a manifest with a fault; it mentions a newer schema version."""
    newer = f"; its schema version {version} is newer than {CURRENT}, upgrade Penstock" if version > CURRENT else ""
    return InvalidInput(describe(error) + newer)
