"""One diagnosis as it is stored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple


class Result(NamedTuple):
    """One diagnosis of one machine; `at_s` is seconds since 1970 (UTC), `health` is None without evidence.

    `components` maps component ids to health. `trend` is the model, `name:version`, whose trend `health` belongs to,
    since models differ in scale; it is None for answers from rules alone, which are not part of a trend.
    """

    equipment_id: str
    at_s: float
    health: float | None
    status: str
    rate: float | None = None
    time_to_failure_hours: float | None = None
    basis: str = "none"
    detected: Sequence[str] = ()
    components: Mapping[str, float] = {}
    coverage: float = 1.0
    model_version: str = ""
    trend: str | None = ""


class Stored(NamedTuple):
    """A stored result; `late` if the database was unavailable when it was made."""

    id: int
    result: Result
    late: bool
