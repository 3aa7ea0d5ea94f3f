"""The timers of the batcher on both kinds of event loop: uvloop rounds to milliseconds, and a wait may be over."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st
from waiting import LONG_S

from penstock.engine.batching.batcher import Batcher
from penstock.engine.batching.collation import ArrayCollator
from penstock.engine.batching.limits import BatchLimits
from penstock.errors import DeadlineExceeded, Overloaded

NewLoop = Callable[[], asyncio.AbstractEventLoop]

request = st.tuples(
    st.sampled_from([0.0, 1e-7, 0.0002, 0.0006, 0.003]),  # seconds before it is sent
    st.sampled_from([None, -1.0, 0.0, 1e-7, 0.0004, 0.002, LONG_S]),  # seconds to its deadline
    st.integers(1, 5),  # rows
)


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
@pytest.mark.parametrize("steady", [True, False], ids=["inline", "threads"])
@given(max_wait_ms=st.sampled_from([0.0, 1e-6, 0.1, 0.4, 0.6, 1.0, 2.5]), requests=st.lists(request, max_size=12))
@settings(deadline=None, max_examples=60)
def test_every_request_is_answered_at_any_wait(
    new_loop: NewLoop, steady: bool, max_wait_ms: float, requests: list[tuple[float, float | None, int]]
) -> None:
    unhandled: list[dict[str, Any]] = []

    async def all_requests() -> list[Any]:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: unhandled.append(context))
        limits = BatchLimits(batch_rows=4, max_wait_ms=max_wait_ms)
        batcher = Batcher(
            lambda inputs: {"y": inputs["x"] * 2}, ArrayCollator(), limits, full_batch_s=1e-6, steady=steady
        )

        async def ask(number: int, after_s: float, left_s: float | None, rows: int) -> Any:
            await asyncio.sleep(after_s)
            x = np.full((rows, 1), number, np.float32)
            deadline = None if left_s is None else time.monotonic() + left_s
            return (await batcher.submit({"x": x}, deadline)).outputs["y"].tolist()

        try:
            async with asyncio.timeout(LONG_S):
                return await asyncio.gather(*(ask(n, *each) for n, each in enumerate(requests)), return_exceptions=True)
        finally:
            batcher.close()

    with asyncio.Runner(loop_factory=new_loop) as runner:
        answers = runner.run(all_requests())
    assert not unhandled
    for number, (answer, (_, left_s, rows)) in enumerate(zip(answers, requests, strict=True)):
        if isinstance(answer, DeadlineExceeded | Overloaded):
            assert left_s is not None
            assert left_s < LONG_S
        else:
            assert answer == [[2 * number]] * rows
