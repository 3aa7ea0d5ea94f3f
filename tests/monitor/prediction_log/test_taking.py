"""What is taken from the event loop."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

from penstock.engine.observation import AnsweredRun, Observation
from penstock.engine.routing import sampled
from penstock.monitor.prediction_log import taking
from penstock.monitor.prediction_log.taking import SAMPLE_SALT, Taker

X = np.arange(40, dtype=np.float32).reshape(10, 4)


def run(rows: list[int], keys: list[str | None] | None = None) -> AnsweredRun:
    starts = np.cumsum([0, *rows[:-1]])
    keys = keys or [None] * len(rows)
    requests: Any = [
        SimpleNamespace(request_id=f"r{index}", key=key, rows=count, start=int(start))
        for index, (count, start, key) in enumerate(zip(rows, starts, keys, strict=True))
    ]
    return AnsweredRun(
        model="m",
        version="1",
        variant="onnx-fp32",
        task="tensor",
        protocol="rest",
        route="",
        arm="",
        batch_rows=10,
        pre_ms=0.1,
        run_ms=0.2,
        post_ms=0.3,
        requests=requests,
        totals_ms=[float(index) for index in range(len(rows))],
        queues_ms=[0.5] * len(rows),
        inputs={"x": X},
        outputs={"y": X * 2},
    )


def observation(**fields: Any) -> Observation:
    base = {"model": "m", "version": "1", "variant": "v", "outcome": "ok", "total_ms": 1.0, "rows": 1}
    return Observation(**{**base, "inputs": {"x": X[:1]}, "outputs": {"y": X[:1]}, **fields})


def test_the_rows_of_each_sampled_request_of_a_run_are_its_own() -> None:
    share = 0.5
    taker = Taker(share, lambda *_: True)
    taker.answered(run([1, 3, 2, 4]))
    chosen = [index for index in range(4) if sampled(f"r{index}", SAMPLE_SALT, share)]
    assert 0 < len(chosen) < 4
    records = [record for taken in taker.drain(10) for record in taken.records()]
    assert [record.request_id for record in records] == [f"r{index}" for index in chosen]
    bounds = [(0, 1), (1, 4), (4, 6), (6, 10)]
    for record, index in zip(records, chosen, strict=True):
        low, high = bounds[index]
        assert record.inputs is not None
        assert record.outputs is not None
        assert np.array_equal(record.inputs["x"], X[low:high])
        assert np.array_equal(record.outputs["y"], X[low:high] * 2)
        assert record.total_ms == index
        assert record.rows == high - low


def test_what_is_kept_does_not_keep_the_arrays_of_the_run() -> None:
    taker = Taker(1, lambda *_: True)
    whole = run([1] * 10)
    taker.answered(whole)
    taker(observation())
    for taken in taker.drain(10):
        assert not np.shares_memory(taken.inputs["x"], X)  # type: ignore[index]
        assert taken.like.inputs is None


def test_a_key_decides_for_the_whole_session() -> None:
    key = next(key for key in map(str, range(1000)) if sampled(key, SAMPLE_SALT, 0.01))
    taker = Taker(0.01, lambda *_: False)
    taker.answered(run([1] * 10, [key] * 10))
    taker(observation(request_id="alone", key=key))
    taken = taker.drain(10)
    assert [len(each.requests) for each in taken] == [10, 1]
    assert all(each.inputs is None for each in taken)


def test_failures_are_taken_without_arrays() -> None:
    taker = Taker(1, lambda *_: True)
    taker(observation(outcome="error", inputs=None, outputs=None, request_id="bad"))
    ((record,),) = [list(taken.records()) for taken in taker.drain(10)]
    assert (record.outcome, record.inputs, record.outputs) == ("error", None, None)


def test_requests_without_an_id_get_one() -> None:
    taker = Taker(1, lambda *_: False)
    taker(observation())
    taker(observation())
    names = {record.request_id for taken in taker.drain(10) for record in taken.records()}
    assert len(names) == 2
    assert "" not in names


def test_beyond_its_room_it_drops_and_counts() -> None:
    taker = Taker(1, lambda *_: True)
    for _ in range(taking.MOST_REQUESTS // 10 + 3):
        taker.answered(run([1] * 10))
    assert taker.dropped == 30
    taker.drain(1)
    taker.answered(run([1] * 10))
    assert taker.dropped == 30
    large = {"x": np.zeros((1, taking.MOST_BYTES), np.uint8)}
    taker(observation(inputs=large))
    assert taker.dropped == 31


def test_copies_of_requests_are_not_logged() -> None:
    taker = Taker(1.0, lambda *_: True)
    taker(observation(request_id="a", protocol="shadow"))
    taker(observation(request_id="a", protocol="rest"))
    (taken,) = taker.drain(10)
    assert [record.protocol for record in taken.records()] == ["rest"]
