"""The frozen plan of a canary: what it replaces, in which steps, and what its figures must stay below."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from itertools import pairwise
from typing import Any, Literal, Self, TypeAlias, get_args

from penstock.errors import InvalidInput

OnInconclusive: TypeAlias = Literal["pause", "rollback", "advance"]

DEFAULT_STEPS = (1, 5, 25, 50, 100)
_LONGEST_S = 30 * 86_400.0
_LARGEST_COUNT = 10_000_000
_MOST_STEPS = 50
_CHECKS = ("max_error_rate", "max_error_ratio", "max_p99_ratio", "max_disagreement")


@dataclass(frozen=True, kw_only=True)
class CanarySpec:
    """What was asked for when the canary was started; it does not change while it runs.

    `stable` and `to` are versions. `steps` are percentages of the requests, the last one 100: reaching it is the
    promotion. A step takes at least `hold_s`, and until `min_requests` were answered by both arms; after `max_hold_s`
    without enough evidence `on_inconclusive` says what happens. The latencies of the first `warmup_s` of a step do not
    count. A limit that is None is not checked. `strict` asks for proof that every limit is kept. `alpha` is the chance
    that a version exactly at its limits is rolled back. `shadow` is the share of the stable version's requests that the
    new one answers as well, unseen, where `max_disagreement` is checked. After the promotion the old version stays
    loaded for `bake_s`, with the checks on.
    """

    stable: str
    to: str
    steps: tuple[int, ...] = DEFAULT_STEPS
    hold_s: float = 600.0
    max_hold_s: float = 3600.0
    warmup_s: float = 30.0
    bake_s: float = 600.0
    min_requests: int = 100
    max_error_rate: float | None = 0.01
    max_error_ratio: float | None = None
    max_p99_ratio: float | None = None
    max_disagreement: float | None = None
    shadow: float = 0.1
    on_inconclusive: OnInconclusive = "pause"
    strict: bool = False
    alpha: float = 0.05

    @classmethod
    def of(cls, document: Mapping[str, Any], stable: str) -> Self:
        """The plan of a request's JSON. Raises InvalidInput naming the field."""
        known = {field.name for field in fields(cls)} - {"stable"}
        if unknown := sorted(document.keys() - known):
            raise _refused(unknown[0], f"there is no such field; there are {', '.join(sorted(known))}")
        if not isinstance(document.get("to"), str) or not document["to"]:
            raise _refused("to", "names the version that is rolled out, as v2.0")
        given = {name: _value(name, value) for name, value in document.items() if value is not None or name in _CHECKS}
        return replace(cls(stable=stable, to=document["to"]), **(_derived(given) | given)).checked()

    @classmethod
    def stored(cls, document: Mapping[str, Any]) -> Self:
        """The plan as `to_document` wrote it; fields of a newer release are left out."""
        known = {field.name for field in fields(cls)}
        given = {name: value for name, value in document.items() if name in known}
        return cls(**given | {"steps": tuple(given["steps"])})

    def to_document(self) -> dict[str, Any]:
        """The plan as JSON."""
        return asdict(self) | {"steps": list(self.steps)}

    def checked(self) -> Self:
        """The plan itself. Raises InvalidInput naming the field that contradicts another one."""
        if self.to == self.stable:
            raise _refused("to", f"{self.to} answers already; name another version")
        _check_steps(self.steps)
        if self.max_hold_s < self.hold_s:
            raise _refused("max_hold_s", f"give at least hold_s, {self.hold_s:g}, not {self.max_hold_s:g}")
        if self.warmup_s > self.hold_s:
            raise _refused("warmup_s", f"give at most hold_s, {self.hold_s:g}, not {self.warmup_s:g}")
        if not self.checks:
            raise _refused("max_error_rate", "at least one limit is needed, or nothing would be decided by evidence")
        return self

    @property
    def checks(self) -> tuple[str, ...]:
        """The names of the limits that are checked."""
        return tuple(name for name in _CHECKS if getattr(self, name) is not None)

    @property
    def alpha_each(self) -> float:
        """The chance of a false alarm that each check may have."""
        return self.alpha / max(1, len(self.checks))


def _derived(given: Mapping[str, Any]) -> dict[str, float]:
    """Times that follow from the hold where they were not given."""
    hold_s = given.get("hold_s", CanarySpec.hold_s)
    return {"max_hold_s": 6 * hold_s, "warmup_s": min(hold_s / 10, 30.0), "bake_s": hold_s}


def _check_steps(steps: tuple[int, ...]) -> None:
    rising = all(a < b for a, b in pairwise(steps))
    if not steps or len(steps) > _MOST_STEPS or not rising or steps[0] < 1 or steps[-1] != 100:
        raise _refused("steps", "give rising whole percentages, the last one 100, such as 1,5,25,50,100")


def _value(name: str, value: Any) -> Any:
    """A value of a request as the plan holds it. Raises InvalidInput naming the field."""
    if name in ("to",):
        return value
    if name == "steps":
        return _steps(value)
    if name == "strict":
        return _strict(value)
    if name == "on_inconclusive":
        if value not in get_args(OnInconclusive):
            raise _refused(name, f"give pause, rollback or advance, not {value!r}")
        return value
    return None if value is None and name in _CHECKS else _number(name, value)


def _steps(value: Any) -> tuple[int, ...]:
    whole = isinstance(value, list | tuple) and all(isinstance(step, int) and step is not True for step in value)
    if not whole or False in value:
        raise _refused("steps", "give rising whole percentages, the last one 100, such as 1,5,25,50,100")
    return tuple(value)


def _strict(value: Any) -> bool:
    if not isinstance(value, bool):
        raise _refused("strict", f"give true or false, not {value!r}")
    return value


_RANGES: Mapping[str, tuple[float, float, str]] = {
    "hold_s": (0.0, _LONGEST_S, "seconds, more than 0 and at most 30 days"),
    "max_hold_s": (0.0, _LONGEST_S, "seconds, more than 0 and at most 30 days"),
    "warmup_s": (-1.0, _LONGEST_S, "seconds, at least 0 and at most 30 days"),
    "bake_s": (-1.0, _LONGEST_S, "seconds, at least 0 and at most 30 days"),
    "min_requests": (0, _LARGEST_COUNT, f"a whole number from 1 to {_LARGEST_COUNT:,}"),
    "max_error_rate": (0.0, 0.5, "a share above 0 and at most 0.5, such as 0.01"),
    "max_error_ratio": (0.0, 100.0, "a ratio above 0 and at most 100, such as 1.5"),
    "max_p99_ratio": (0.999, 100.0, "a ratio from 1 to 100, such as 1.1"),
    "max_disagreement": (0.0, 0.5, "a share above 0 and at most 0.5, such as 0.05"),
    "shadow": (0.0, 1.0, "a share above 0 and at most 1, such as 0.1"),
    "alpha": (0.0, 0.2, "a chance above 0 and at most 0.2, such as 0.05"),
}


def _number(name: str, value: Any) -> float | int:
    above, most, what = _RANGES[name]
    whole = name == "min_requests"
    right = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
    lowest_open = above if above >= 0 else -math.ulp(0.0)
    if not right or not math.isfinite(value) or not lowest_open < value <= most:
        raise _refused(name, f"give {what}, not {value!r}")
    return value if whole else float(value)


def _refused(field: str, problem: str) -> InvalidInput:
    return InvalidInput(f"{field}: {problem}", field=field)
