"""Retention of the history: the settings of this package, read here only."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Final

from penstock.errors import ConfigError
from penstock.plugin_api import package_settings

_PACKAGE: Final = "penstock_hydraulics"
_OTHER_SETTINGS: Final = frozenset({"data", "cmapss"})
"""Paths of recordings, read by the training commands and the tests."""


@dataclass(frozen=True, slots=True)
class Retention:
    """Limits of stored results: days, number per machine, total number; whether readings of last windows are kept."""

    keep_days: float = 400.0
    keep_per_machine: int = 100_000
    keep_results: int = 2_000_000
    keep_readings: bool = True

    @classmethod
    def load(cls, given: Mapping[str, str] | None = None) -> Retention:
        """From the environment (PENSTOCK_HYDRAULICS_KEEP_DAYS etc.); raises ConfigError that names the variable."""
        given = package_settings(_PACKAGE) if given is None else given
        known = {field.name: type(field.default) for field in fields(cls)}
        values = {}
        for name, text in given.items():
            if name in known:
                values[name] = _value(name, text, known[name])
            elif name not in _OTHER_SETTINGS:
                names = ", ".join(sorted(_full(name) for name in (*known, *_OTHER_SETTINGS)))
                raise ConfigError(f"{_full(name)} is not a setting; known settings: {names}")
        return cls(**values)  # type: ignore[arg-type]  # each is of its field's type


def _full(name: str) -> str:
    return f"{_PACKAGE}_{name}".upper()


def _value(name: str, text: str, kind: type) -> float | int:
    if kind is bool:
        if text.lower() not in ("true", "false"):
            raise ConfigError(f"{_full(name)} is {text!r}; it must be true or false")
        return text.lower() == "true"
    try:
        value: float | int = kind(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise ConfigError(f"{_full(name)} is {text!r}; it must be a {'whole ' * (kind is int)}number above 0")
    return value
