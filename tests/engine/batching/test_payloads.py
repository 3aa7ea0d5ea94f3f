"""A batcher for payloads that are not arrays, with a custom collator: each request gets its own result."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.engine.batching import batcher as batcher_module
from penstock.engine.batching import queue as queue_module
from penstock.engine.batching.batcher import Batcher
from penstock.engine.batching.limits import BatchLimits
from penstock.engine.batching.outcome import Batched, Preempted
from penstock.errors import DeadlineExceeded, InferenceError, InvalidInput, OutOfMemory, Overloaded, PenstockError

SHORTEST_WAIT_S = 30.0


class Words:
    """Sentences share a run if they begin with the same letter; each word is a row."""

    shared = True

    def measure(self, payload: str) -> tuple[str, int, int]:
        """Raises InvalidInput for a sentence in capitals."""
        if payload.isupper():
            raise InvalidInput("in capitals")
        return payload[:1], len(payload.split()), len(payload)

    def stack(self, payloads: Sequence[str]) -> list[str]:
        return [word for payload in payloads for word in payload.split()]

    def split(self, outputs: list[str], payloads: Sequence[str]) -> list[tuple[str, ...]]:
        left = iter(outputs)
        return [tuple(next(left) for _ in payload.split()) for payload in payloads]

    def cut(self, payload: str, rows: int) -> list[str]:
        words = payload.split()
        return [" ".join(words[start : start + rows]) for start in range(0, len(words), rows)]

    def join(self, results: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
        return tuple(word for result in results for word in result)


@dataclass
class Reverser:
    """A backend that reverses words, fails on `poison` and has memory for `capacity` words."""

    capacity: int = 10**9
    batches: list[list[str]] = field(default_factory=list)

    def __call__(self, batch: list[str]) -> list[str]:
        self.batches.append(batch)
        if len(batch) > self.capacity:
            raise OutOfMemory("too many words")
        if "poison" in batch:
            raise ValueError("poison")
        return [word[::-1] for word in batch]


class Ask(NamedTuple):
    text: str
    priority: int
    timeout_s: float | None
    cancelled: bool


WORDS = st.sampled_from(["ape", "auk", "ant", "bee", "bat", "poison"])
ASKS = st.builds(
    Ask,
    text=st.lists(WORDS, min_size=1, max_size=7).map(" ".join),
    priority=st.integers(-2, 2),
    timeout_s=st.sampled_from([None, SHORTEST_WAIT_S, 2 * SHORTEST_WAIT_S, -1.0]),
    cancelled=st.booleans(),
)


@settings(deadline=None, max_examples=60)
@given(
    asks=st.lists(ASKS, min_size=1, max_size=25),
    batch_rows=st.integers(1, 8),
    queue_rows=st.integers(4, 40),
    capacity=st.integers(1, 9),
    inline=st.booleans(),
)
def test_each_request_gets_its_own_result_or_its_own_error(
    asks: list[Ask], batch_rows: int, queue_rows: int, capacity: int, inline: bool
) -> None:
    backend = Reverser(capacity)
    limits = BatchLimits(batch_rows=batch_rows, queue_rows=queue_rows)

    async def play() -> list[Batched[tuple[str, ...]] | BaseException]:
        batcher = Batcher(
            backend, Words(), limits, full_batch_s=1e-6 if inline else 0.001, steady=inline, concurrency=2
        )
        now = time.monotonic()
        tasks = [
            asyncio.create_task(
                batcher.submit(ask.text, None if ask.timeout_s is None else now + ask.timeout_s, ask.priority)
            )
            for ask in asks
        ]
        await asyncio.sleep(0)
        for ask, task in zip(asks, tasks, strict=True):
            if ask.cancelled:
                task.cancel()
        outcomes = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 10)
        assert batcher.queued_rows == 0
        batcher.close()
        return outcomes

    for ask, outcome in zip(asks, asyncio.run(play()), strict=True):
        if isinstance(outcome, asyncio.CancelledError):
            assert ask.cancelled
        elif isinstance(outcome, DeadlineExceeded):
            assert ask.timeout_s == -1.0
        elif isinstance(outcome, InferenceError):
            assert "poison" in ask.text.split()
        elif isinstance(outcome, BaseException):
            assert isinstance(outcome, Overloaded)
        else:
            assert "poison" not in ask.text.split()
            assert outcome.outputs == tuple(word[::-1] for word in ask.text.split())
            assert 1 <= outcome.batch_rows <= max(batch_rows, 1)
    for batch in backend.batches:
        assert len(batch) <= batch_rows


async def test_only_payloads_of_one_key_share_a_run() -> None:
    backend = Reverser()
    batcher = Batcher(backend, Words(), BatchLimits(), full_batch_s=1e-6, steady=True)
    await asyncio.gather(*(batcher.submit(text) for text in ("ape", "bee", "auk ant", "bat")))
    assert backend.batches == [["ape", "auk", "ant"], ["bee", "bat"]]
    batcher.close()


async def test_a_higher_priority_evicts_a_queued_payload() -> None:
    batcher = Batcher(Reverser(), Words(), BatchLimits(queue_rows=2), full_batch_s=1e-6, steady=True)
    low = asyncio.create_task(batcher.submit("ape auk"))
    await asyncio.sleep(0)
    assert (await batcher.submit("bee", None, 1)).outputs == ("eeb",)
    with pytest.raises(Preempted):
        await low
    batcher.close()


async def test_a_payload_that_cannot_be_measured_is_refused_alone() -> None:
    batcher = Batcher(Reverser(), Words(), BatchLimits(), full_batch_s=1e-6, steady=True)
    bad, good = await asyncio.gather(batcher.submit("APE"), batcher.submit("ape"), return_exceptions=True)
    assert isinstance(bad, InvalidInput)
    assert isinstance(good, Batched)
    batcher.close()


async def test_only_the_failing_part_of_a_batch_has_the_error() -> None:
    backend = Reverser()
    batcher = Batcher(backend, Words(), BatchLimits(), full_batch_s=1e-6, steady=True)
    texts = ["ape", "ape poison", "auk", "ant"]
    outcomes = await asyncio.gather(*map(batcher.submit, texts), return_exceptions=True)
    assert [isinstance(outcome, PenstockError) for outcome in outcomes] == [False, True, False, False]
    assert len(backend.batches[0]) == 5
    batcher.close()


def test_queue_and_batcher_know_no_arrays() -> None:
    for module in (queue_module, batcher_module):
        assert not {"np", "numpy", "Arrays", "tensors"} & set(vars(module))
