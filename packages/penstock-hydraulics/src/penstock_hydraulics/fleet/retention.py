"""How much of the history is kept: the settings of this package, and the only place that reads them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Final

from penstock.errors import ConfigError
from penstock.plugin_api import package_settings

_PACKAGE: Final = "penstock_hydraulics"
_ELSEWHERE: Final = frozenset({"data", "cmapss"})
"""Where recordings are, for the training commands and the tests, which read it themselves."""


@dataclass(frozen=True, slots=True)
class Retention:
    """Results are kept for so many days, so many of one machine, and so many in all."""

    keep_days: float = 400.0
    keep_per_machine: int = 100_000
    keep_results: int = 2_000_000

    @classmethod
    def load(cls, given: Mapping[str, str] | None = None) -> Retention:
        """What the environment says (PENSTOCK_HYDRAULICS_KEEP_DAYS and the others); raises ConfigError naming it."""
        given = package_settings(_PACKAGE) if given is None else given
        known = {field.name: type(field.default) for field in fields(cls)}
        values = {}
        for name, text in given.items():
            if name in known:
                values[name] = _value(name, text, known[name])
            elif name not in _ELSEWHERE:
                names = ", ".join(sorted(_full(name) for name in (*known, *_ELSEWHERE)))
                raise ConfigError(f"{_full(name)} is not a setting; there are {names}")
        return cls(**values)  # type: ignore[arg-type]  # each is of its field's type


def _full(name: str) -> str:
    return f"{_PACKAGE}_{name}".upper()


def _value(name: str, text: str, kind: type) -> float | int:
    try:
        value: float | int = kind(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise ConfigError(f"{_full(name)} is {text!r}; it should be a {'whole ' * (kind is int)}number above 0")
    return value
