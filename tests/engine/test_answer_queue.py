"""The queue between the path of the requests and the thread that looks at the answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from penstock.engine.observation import AnsweredRun, Observation
from penstock.engine.statistics import AnswerQueue, Sampling, Statistics

KEY = ("m", "v1.0")


@dataclass
class Request:
    start: int
    rows: int = 1
    request_id: str = ""
    key: str | None = None


def run_of(requests: list[Request], rows: int, first: int = 0) -> AnsweredRun:
    values = np.arange(first, first + rows, dtype=np.float32)[:, None]
    shared: dict[str, Any] = dict.fromkeys(("pre_ms", "run_ms", "post_ms"), 1.0)
    return AnsweredRun(
        model="m", version="v1.0", variant="", task="", protocol="", route="", arm="", batch_rows=rows, **shared,
        requests=requests, totals_ms=[1.0] * len(requests), queues_ms=[0.0] * len(requests),
        inputs={"x": values}, outputs={"y": values * 2},
    )  # fmt: skip


def alone(value: float, outcome: Any = "ok", rows: int = 1) -> Observation:
    x = np.full((rows, 1), value, np.float32)
    return Observation(
        model="m", version="v1.0", variant="", outcome=outcome, total_ms=1.0, rows=rows, inputs={"x": x},
        outputs={"y": x * 2},
    )  # fmt: skip


def sampled(queue: AnswerQueue) -> list[float]:
    return [value for one in queue.take(10**9) if one.inputs is not None for value in one.inputs["x"].ravel().tolist()]


@pytest.mark.parametrize("every", [1, 2, 8, 64])
@pytest.mark.parametrize("sizes", [[1] * 300, [7] * 43, [64, 3, 100, 1, 1, 131]])
def test_one_of_so_many_requests_is_sampled_however_they_were_bundled(every: int, sizes: list[int]) -> None:
    queue, first = AnswerQueue(), 0
    queue.sampling[KEY] = Sampling(every)
    for size in sizes:
        queue.answered(run_of([Request(n) for n in range(size)], size, first))
        first += size
    assert sampled(queue) == list(range(every - 1, first, every))


def test_requests_that_come_alone_and_bundled_share_one_count() -> None:
    queue = AnswerQueue()
    queue.sampling[KEY] = Sampling(4)
    for start in range(0, 40, 5):
        queue(alone(start))
        queue.answered(run_of([Request(n) for n in range(4)], 4, start + 1))
    assert sampled(queue) == list(range(3, 40, 4))


def test_a_sample_holds_the_rows_of_its_request_and_no_others() -> None:
    queue = AnswerQueue()
    queue.sampling[KEY] = Sampling(2)
    queue.answered(run_of([Request(0, 2), Request(2, 3), Request(6, 1)], 8))  # rows 5 and 7 have no answer
    outputs, sample = queue.take(100)
    assert sample.inputs is not None
    assert sample.inputs["x"].ravel().tolist() == [2, 3, 4]
    assert sample.outputs["y"].ravel().tolist() == [4, 6, 8]
    assert outputs.outputs["y"].ravel().tolist() == [0, 2, 4, 6, 8, 12]


def test_a_sample_keeps_no_other_rows_in_memory() -> None:
    queue = AnswerQueue()
    queue.sampling[KEY] = Sampling(8)
    run = run_of([Request(n) for n in range(8)], 8)
    queue.answered(run)
    *_, sample = queue.take(100)
    assert not np.shares_memory(sample.inputs["x"], run.inputs["x"])  # type: ignore[index]


def test_failures_are_not_looked_at() -> None:
    queue = AnswerQueue()
    queue.sampling[KEY] = Sampling(1)
    queue(alone(1, "error"))
    queue(Observation(model="m", version="v1.0", variant="", outcome="invalid", total_ms=1.0))
    assert not queue.items


def test_what_does_not_fit_is_left_out_and_counted() -> None:
    queue = AnswerQueue()
    queue.whole.add(KEY)
    for _ in range(50):
        queue(alone(1, rows=1 << 18))
    assert queue.held <= queue.MOST_BYTES
    assert queue.left_out == 50 - len(queue.items) > 0
    queue.take(10**9)
    queue(alone(1))
    assert len(queue.items) == 1


def test_of_a_large_output_few_numbers_of_every_row_wait() -> None:
    queue = AnswerQueue()
    seen = alone(0)
    seen.outputs = {"mask": np.zeros((4, 512, 512), np.float32)}
    seen.rows = 4
    queue(seen)
    (one,) = queue.take(1)
    assert one.outputs["mask"].size == 4 * 64


def test_statistics_hand_a_run_to_the_queue_in_one_call() -> None:
    queue = AnswerQueue()
    Statistics([queue]).add_run(run_of([Request(n) for n in range(3)], 3))
    (one,) = queue.items
    assert one.rows == 3
