"""The access log: one record per request, with what the wire knows of it and what the engine observed."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from contextvars import ContextVar
from typing import Any

from penstock.engine.observation import Observation
from penstock.tensors import datatype_of_numpy

log = logging.getLogger("penstock.access")

_observed: ContextVar[list[Observation]] = ContextVar("penstock_observed")
"""What the engine observed for the request of this task."""

_PHASES = ("queue_ms", "pre_ms", "run_ms", "post_ms")


class AccessLog:
    """Writes the records. Make one only where `wanted()`: a request costs nothing where there is none."""

    @staticmethod
    def wanted() -> bool:
        """False when the level of the log leaves access records out."""
        return log.isEnabledFor(logging.INFO)

    def begin(self) -> None:
        """A request starts in this task, or in one that this task will start."""
        _observed.set([])

    def observe(self, observation: Observation) -> None:
        """An observer of the engine; keeps what belongs to a request that is to be logged."""
        seen = _observed.get(None)
        if seen is not None:
            seen.append(observation)

    def write(self, **wire: Any) -> None:
        """The request is answered; `wire` says how."""
        log.info("request", extra={**wire, **facts(_observed.get([]))})


def facts(observed: Sequence[Observation]) -> dict[str, Any]:
    """What is worth telling of the predictions a request asked for: never a value of theirs.

    Of several, the items of a batch, rows add up, the phases are the slowest item's, and so is `throughput`: the rows
    a second of the run it shared.
    """
    if not observed:
        return {}
    slowest = max(observed, key=lambda one: (one.outcome == "ok", one.total_ms))
    found: dict[str, Any] = {"outcome": slowest.outcome}
    if len(observed) > 1:
        found = {"outcomes": dict(Counter(one.outcome for one in observed))}
    if slowest.model:
        found |= {"model": f"{slowest.model}:{slowest.version}", "variant": slowest.variant}
    if slowest.outcome == "ok":
        found |= {"rows": sum(one.rows for one in observed), "batch_rows": slowest.batch_rows}
        found |= {name: round(getattr(slowest, name), 3) for name in _PHASES}
        found |= {"throughput": round(slowest.batch_rows / slowest.run_ms * 1e3, 1)} if slowest.run_ms else {}
    inputs = slowest.inputs or {}
    if inputs:
        found["shapes"] = {name: list(array.shape) for name, array in inputs.items()}
        found["dtypes"] = {name: datatype_of_numpy(array.dtype) or str(array.dtype) for name, array in inputs.items()}
    return found
