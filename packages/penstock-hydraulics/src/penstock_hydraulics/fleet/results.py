"""What is kept of one diagnosis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple


class Result(NamedTuple):
    """One diagnosis of one machine; `at_s` is seconds since 1970 (UTC), `health` None where nothing could be said.

    `components` is the health of each component by its id. `trend` is the model, `name:version`, in whose trend of the
    machine `health` is a point: another model's health has another scale, and what rules alone say is no point (None).
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
    """A result as it is in the history; `late` when the database was away while it was made."""

    id: int
    result: Result
    late: bool
