"""The curve of a model's batches, and the wait that a request is told to expect by it."""

from __future__ import annotations

import pytest

from penstock.engine.batching.batcher import Batcher
from penstock.engine.batching.collation import ArrayCollator
from penstock.engine.batching.limits import BatchLimits, relative_curve, share_of_full


def test_the_time_of_a_part_of_a_batch_lies_on_the_measured_curve() -> None:
    curve = relative_curve({1: 4.0, 8: 5.0, 32: 10.0}, 32)
    assert [share_of_full(curve, rows) for rows in (1, 8, 20, 32)] == [0.4, 0.5, 0.75, 1.0]


def test_without_a_curve_rows_count_in_proportion() -> None:
    for curve in (relative_curve({}, 32), relative_curve({1: 1.0}, 32), relative_curve({32: 1.0}, 32)):
        assert [share_of_full(curve, rows) for rows in (8, 16, 32)] == [0.25, 0.5, 1.0]


def test_noise_in_a_curve_never_makes_a_larger_batch_cheaper() -> None:
    curve = relative_curve({1: 3.0, 2: 20.0, 4: 2.0, 8: 10.0, 16: 99.0}, 8)
    shares = [share_of_full(curve, rows) for rows in range(1, 9)]
    assert shares == sorted(shares)
    assert shares[-1] == 1.0


def test_the_expected_wait_follows_the_curve() -> None:
    """A batch of one row that takes nearly as long as a full one makes the next request wait for nearly as long."""
    batcher = Batcher(
        lambda batch: batch, ArrayCollator(), BatchLimits(batch_rows=32), full_batch_s=1.0, curve={1: 0.9, 32: 1.0}
    )
    batcher.forecast.running_rows = 1
    assert batcher.wait_s == pytest.approx(0.9)
    batcher.forecast.running_rows = 33
    assert batcher.wait_s == pytest.approx(1.9)
