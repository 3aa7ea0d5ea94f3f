"""Access records combine facts of the HTTP exchange with the engine's observations."""

from __future__ import annotations

import asyncio
import logging

import numpy as np
import pytest

from penstock.engine.observation import Observation
from penstock.monitor.access import AccessLog, facts


def observation(outcome: str = "ok", total_ms: float = 3.0, rows: int = 2, run_ms: float = 0.5) -> Observation:
    inputs = {"x": np.zeros((rows, 4), np.float32), "mask": np.ones((rows, 1), np.bool_)}
    return Observation(
        model="m",
        version="1",
        variant="onnx-fp32",
        outcome=outcome,  # type: ignore[arg-type]
        total_ms=total_ms,
        rows=rows,
        batch_rows=8,
        pre_ms=0.1234567,
        queue_ms=1.0,
        run_ms=run_ms,
        post_ms=0.02,
        inputs=inputs,
    )


def test_a_record_has_shapes_types_times_and_throughput_of_a_prediction() -> None:
    assert facts([observation()]) == {
        "outcome": "ok",
        "model": "m:1",
        "variant": "onnx-fp32",
        "rows": 2,
        "batch_rows": 8,
        "queue_ms": 1.0,
        "pre_ms": 0.123,
        "run_ms": 0.5,
        "post_ms": 0.02,
        "throughput": 16000.0,
        "shapes": {"x": [2, 4], "mask": [2, 1]},
        "dtypes": {"x": "FP32", "mask": "BOOL"},
    }


def test_a_batch_has_the_sum_of_rows_and_the_times_of_its_slowest_item() -> None:
    found = facts([observation(run_ms=0.5), observation(total_ms=9.0, run_ms=2.0), observation("invalid", 20.0, 0)])
    assert found["outcomes"] == {"ok": 2, "invalid": 1}
    assert (found["rows"], found["run_ms"]) == (4, 2.0)


def test_an_answer_from_the_cache_has_no_throughput() -> None:
    assert "throughput" not in facts([observation(run_ms=0.0)])


def test_a_refused_request_has_its_outcome_and_no_times() -> None:
    nothing = Observation(model="", version="", variant="", outcome="not_found", total_ms=0.1)
    assert facts([nothing]) == {"outcome": "not_found"}
    assert facts([]) == {}


async def test_requests_at_the_same_time_do_not_see_each_other(caplog: pytest.LogCaptureFixture) -> None:
    access = AccessLog()

    async def request(number: int) -> None:
        access.begin()
        await asyncio.sleep(0)
        await asyncio.gather(*(asyncio.create_task(item(number)) for _ in range(2)))
        access.write(request_id=str(number))

    async def item(number: int) -> None:
        await asyncio.sleep(0)
        access.observe(observation(rows=number))

    with caplog.at_level(logging.INFO, "penstock.access"):
        await asyncio.gather(*(asyncio.create_task(request(number)) for number in (1, 5, 9)))
    seen = {record.request_id: record.rows for record in caplog.records}  # type: ignore[attr-defined]
    assert seen == {"1": 2, "5": 10, "9": 18}


async def test_observations_outside_of_a_request_are_not_kept() -> None:
    access = AccessLog()
    await asyncio.create_task(_observe(access))  # a separate asyncio task, in which no request has begun


async def _observe(access: AccessLog) -> None:
    access.observe(observation())
    assert facts([]) == {}


@pytest.mark.parametrize(("level", "wanted"), [(logging.INFO, True), (logging.WARNING, False)])
def test_the_level_decides_whether_there_is_an_access_log(level: int, wanted: bool) -> None:
    log = logging.getLogger("penstock.access")
    before = log.level
    try:
        log.setLevel(level)
        assert AccessLog.wanted() is wanted
    finally:
        log.setLevel(before)
