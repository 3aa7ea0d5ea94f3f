"""Runs the canaries in a server process while there are any; nothing else is imported before the first one."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from penstock.engine.engine import InferenceEngine
from penstock.errors import ConfigError

if TYPE_CHECKING:
    from penstock.rollouts.conductor import Conductor

log = logging.getLogger(__name__)

EVERY_S = 0.5
"""How often a process looks at the canaries while there are any, and else whether a route was changed."""


async def run_canaries(engine: InferenceEngine) -> None:
    """Follow, count and decide until it is cancelled; then what was counted is stored."""
    conductor: Conductor | None = None
    seen = None
    try:
        while True:
            await asyncio.sleep(EVERY_S)
            revision = engine.deployment.traffic.stored.revision  # counted up by the start of a canary
            if revision == seen and (conductor is None or conductor.idle):
                continue
            try:
                if conductor is None and await asyncio.to_thread(engine.registry.routes.has_canaries):
                    conductor = _conductor(engine)
                if conductor is not None:
                    await conductor.tick()
                seen = revision
            except ConfigError as error:
                log.debug("canaries cannot be read: %s", error)  # the routes cannot either, which is logged there
            except Exception:
                log.exception("the canaries of this process cannot go on")
    finally:
        if conductor is not None:
            await conductor.close()


def _conductor(engine: InferenceEngine) -> Conductor:
    from penstock.rollouts.conductor import Conductor, EngineServing

    return Conductor(engine.registry, EngineServing(engine))
