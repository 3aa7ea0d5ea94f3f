"""One diagnosis as it is stored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple


class Result(NamedTuple):
    """One diagnosis of one machine; `at_s` is seconds since 1970 (UTC), `health` is None without evidence.

    `components` maps component ids to health. `trend` is the model, `name:version`, and `evidence` what its answer
    rests on: results with the same of both make a trend, since models differ in scale, and sensors in what they tell.
    `trend` is None for results that are part of none: answers from rules alone, and windows of unknown time.
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
    evidence: str = ""


class Stored(NamedTuple):
    """A stored result; `late` if the database was unavailable when it was made."""

    id: int
    result: Result
    late: bool
