"""The access log: one record per request, with the facts of the HTTP exchange and the engine's observations."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from contextvars import ContextVar
from typing import Any

from penstock.datatypes import datatype_of_numpy
from penstock.engine.observation import Observation

log = logging.getLogger("penstock.access")

_observed: ContextVar[list[Observation]] = ContextVar("penstock_observed")
"""The engine's observations of the request that this asyncio task handles."""

_PHASES = ("queue_ms", "pre_ms", "run_ms", "post_ms")


class AccessLog:
    """Writes the records. Create one only if `wanted()`: without one, requests have no overhead."""

    @staticmethod
    def wanted() -> bool:
        """False if the log level is above that of access records."""
        return log.isEnabledFor(logging.INFO)

    def begin(self) -> None:
        """Begin a request in this asyncio task, or in one that it will start."""
        _observed.set([])

    def observe(self, observation: Observation) -> None:
        """An observer of the engine; keeps the observations of a request that will be logged."""
        seen = _observed.get(None)
        if seen is not None:
            seen.append(observation)

    def write(self, **wire: Any) -> None:
        """Write the record of a finished request; `wire` has the facts of the HTTP exchange."""
        log.info("request", extra={**wire, **facts(_observed.get([]))})


def facts(observed: Sequence[Observation]) -> dict[str, Any]:
    """The fields of the access record about the predictions of a request; never their values.

    For several predictions (the items of a batch) `rows` is the sum; the phases and `throughput` (rows per second of
    its run) are those of the slowest item.
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
