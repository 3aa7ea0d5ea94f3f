"""Proves a loaded model again: it runs a golden sample as a request would, and compares the answer.

That is no request of a client: nothing is counted or observed, and everybody else's requests go first.
"""

from __future__ import annotations

import asyncio
import logging
import time

from penstock.artifacts.golden import Golden
from penstock.backends.verification import compare_all
from penstock.engine.loading.loaded_model import LoadedModel
from penstock.engine.loading.model_cache import ModelCache
from penstock.errors import (
    DeadlineExceeded,
    GoldenMismatch,
    InferenceError,
    InvalidInput,
    ModelLoadError,
    ModelNotReady,
    Overloaded,
)
from penstock.tensors import Arrays

log = logging.getLogger(__name__)

PRIORITY = -(1 << 31)
"""Below that of any request."""
TIMEOUT_S = 30.0
"""How long an answer may take, unless the model has a shorter time-out of its own."""


class GoldenProof:
    """Asks loaded models one of their golden samples."""

    def __init__(self, cache: ModelCache) -> None:
        self._cache = cache

    async def __call__(self, model: LoadedModel) -> bool | None:
        """True if the model answers a golden sample right; None if it could not be asked.

        The file is read and the answer compared in a thread, and so is the run of a model that runs on the event loop
        otherwise: it may not be as quick any more as it was.
        """
        why = ""
        try:
            with self._cache.leased(model):
                for sample in await asyncio.to_thread(_samples, model):
                    why = await self._why_wrong(model, sample)
                    if not why:
                        return True
        except (ModelNotReady, Overloaded):
            return None
        except (ModelLoadError, InvalidInput, OSError) as error:  # which says nothing about the loaded model
            log.warning("%s: its golden samples cannot be read, so a request tries it: %s", model.key, error)
            return True
        log.warning("%s still fails, and the fallback of its route goes on answering: %s", model.key, why)
        return False

    async def _why_wrong(self, model: LoadedModel, sample: Golden) -> str:
        """Why the answer is not the recorded one; empty if it is."""
        limit_s = min(TIMEOUT_S, model.batcher.timeout_s or TIMEOUT_S)
        try:
            async with asyncio.timeout(limit_s):
                if model.batcher.inline:
                    await asyncio.to_thread(self._run_alone, model, sample)
                else:
                    answer = await model.batcher.submit(sample.inputs, time.monotonic() + limit_s, PRIORITY)
                    await asyncio.to_thread(_compare, answer.outputs, sample, model.key)
        except (TimeoutError, DeadlineExceeded):
            return f"its golden sample had no answer within {limit_s:g} s"
        except (GoldenMismatch, InferenceError, InvalidInput) as error:
            return str(error)
        return ""

    def _run_alone(self, model: LoadedModel, sample: Golden) -> None:
        with self._cache.leased(model):  # of its own, since the caller may stop waiting
            _compare(model.backend.run(sample.inputs), sample, model.key)


def _samples(model: LoadedModel) -> list[Golden]:
    """What to ask: one sample, or as many as the model always runs; of a model without a batch, first all at once."""
    if model.artifact is None:
        return []
    golden = model.artifact.golden_for(model.artifact.manifest.variant(model.variant))
    if golden is None:
        return []
    one = golden.first(model.signature.fixed_rows or 1)
    return [golden, one] if model.batcher.limits.whole and golden.rows > 1 else [one]


def _compare(outputs: Arrays, sample: Golden, what: str) -> None:
    compare_all(outputs, sample.outputs, sample, what)
