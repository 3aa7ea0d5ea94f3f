"""Sampling of the requests of a version, and what a process says of its drift."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from penstock.artifacts.reference.reference import Answers, Reference, reference_of
from penstock.engine.observation import Answered
from penstock.engine.statistics import AnswerQueue
from penstock.errors import IntegrityError
from penstock.monitor.drift.verdicts import Rules
from penstock.monitor.drift.watch import MOST_OF_AN_ITEM, DriftWatch
from penstock.tensors import Signature, TensorSpec

SIGNATURE = Signature((TensorSpec("x", "FP64", (-1, 2)),), (TensorSpec("y", "FP64", (-1, 1)),))
RNG = np.random.default_rng(0)


def made_reference() -> Reference:
    x = RNG.standard_normal((500, 2))
    return reference_of({"x": x}, Answers(outputs={"y": x[:, :1]}), SIGNATURE)


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Manifest:
    reference: object = True


class Published:
    """An artifact, as far as drift looks at it."""

    def __init__(self, digest: str = "d1", damaged: str = "") -> None:
        self.digest, self.manifest, self._damaged = digest, Manifest(), damaged

    def reference(self) -> Reference:
        if self._damaged:
            raise IntegrityError(self._damaged)
        return made_reference()


class Model:
    """A loaded model, as far as drift looks at it."""

    name, version, key, signature = "m", "v1.0", "m:v1.0", SIGNATURE

    def __init__(self, artifact: Published | None) -> None:
        self.artifact = artifact
        self.runners: dict[str, Any] = {}


def sample(rows: int = 1, shift: float = 0.0) -> Answered:
    x = RNG.standard_normal((rows, 2)) + shift
    return Answered("m", "v1.0", {"y": x[:, :1]}, rows, {"x": x})


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def queue() -> AnswerQueue:
    return AnswerQueue()


@pytest.fixture
def watch(clock: Clock, queue: AnswerQueue) -> DriftWatch:
    return DriftWatch(Rules(window_s=60.0, min_rows=100), queue, clock=clock)


def follow(watch: DriftWatch, *models: Any) -> None:
    watch.follow(models)


def test_only_loaded_versions_with_a_reference_are_sampled(watch: DriftWatch, queue: AnswerQueue) -> None:
    follow(watch, Model(None))
    assert queue.sampling == {}
    follow(watch, Model(Published()))
    assert set(queue.sampling) == {("m", "v1.0")}
    follow(watch)
    assert queue.sampling == {}


def test_a_version_that_is_replaced_keeps_its_verdicts_and_the_new_one_begins(watch: DriftWatch, clock: Clock) -> None:
    follow(watch, Model(Published("d1")))
    for part in range(12):
        clock.now = 1020.0 + 5 * part
        watch.add([sample(20)])
    clock.now = 1100.0
    follow(watch, Model(Published("d2")))
    watch.add([sample(20)])
    old, new = watch.report([])
    assert (old["digest"], old["loaded"], new["digest"], new["loaded"]) == ("d1", False, "d2", True)
    assert [window["rows"] for window in old["windows"]] == [240, 0]
    assert [window["rows"] for window in new["windows"]] == [20]


def test_a_damaged_reference_is_one_warning_and_no_drift(
    watch: DriftWatch, queue: AnswerQueue, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(3):
        follow(watch, Model(Published(damaged="reference.json has another digest")))
    assert queue.sampling == {}
    assert [record.message for record in caplog.records] == [
        "the drift of m:v1.0 is not measured: reference.json has another digest"
    ]


def test_rows_that_do_not_fit_are_one_warning_and_a_reason(watch: DriftWatch, caplog: pytest.LogCaptureFixture) -> None:
    follow(watch, Model(Published()))
    wrong = Answered("m", "v1.0", {"y": np.zeros((1, 1))}, 1, {"x": np.zeros((1, 5))})
    for _ in range(3):
        watch.add([wrong, sample()])
    (found,) = watch.report([])
    assert found["problem"] == "x has 5 numbers a row, 2 in the reference"
    assert len(caplog.records) == 1


def test_of_a_large_request_few_rows_are_counted(watch: DriftWatch) -> None:
    follow(watch, Model(Published()))
    watch.add([sample(10_000), sample(3)])
    (found,) = watch.report([])
    assert found["windows"][-1]["rows"] <= MOST_OF_AN_ITEM + 3


def test_with_many_requests_fewer_of_them_are_sampled_and_later_all_again(
    watch: DriftWatch, queue: AnswerQueue, clock: Clock
) -> None:
    follow(watch, Model(Published()))
    sampling = queue.sampling["m", "v1.0"]

    def quarter(requests: int) -> None:
        for _ in range(requests // sampling.every):
            if sampling.room > 0:
                sampling.room -= 1
                watch.add([sample()])
        clock.now += 0.25
        watch.adapt()

    for _ in range(40):
        quarter(5000)
    assert 64 <= sampling.every <= 256, "20,000 requests a second for 200 rows"
    for _ in range(40):
        quarter(2)
    assert sampling.every == 1


def test_bad_values_in_the_open_window_are_an_alarm_at_once(watch: DriftWatch, clock: Clock) -> None:
    follow(watch, Model(Published()))
    for _ in range(3):
        clock.now += 6
        watch.add([sample(20, shift=50)])
    (found,) = watch.report([])
    assert (found["verdict"], [window["closed"] for window in found["windows"]]) == ("alarm", [False])


def test_a_window_that_alarms_is_in_the_log_once(
    watch: DriftWatch, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    follow(watch, Model(Published()))
    for part in range(12):
        clock.now = 1020.0 + 5 * part
        watch.add([sample(20, shift=1.5)])
    clock.now = 1085.0
    watch.advance([], speaks=False)
    assert not caplog.records
    other = DriftWatch(watch.rules, AnswerQueue(), clock=clock)
    follow(other, Model(Published()))
    for _ in range(2):
        other.advance([watch.snapshot()])
    (record,) = caplog.records
    assert record.message.startswith("m:v1.0 drifts: alarm in a window of 240 rows; ")
