"""Which configurations are worth a try."""

from __future__ import annotations

import pytest

from penstock.toolchain.tune.configuration import KEYS, Configuration, batches, processes, waits


def test_what_is_tuned_are_settings_of_the_server() -> None:
    from penstock.settings import Settings

    assert set(KEYS) <= set(Settings.model_fields)
    assert Configuration().settings() == {key: Settings.model_fields[key].default for key in KEYS}


@pytest.mark.parametrize("cores", [1, 2, 3, 4, 6, 16, 96])
def test_workers_and_threads_never_take_more_than_the_cores(cores: int) -> None:
    lists = list(processes(cores, Configuration(batch_size=8)))
    every = [one for many in lists for one in many]
    assert all(one.workers * (one.threads or 1) <= cores for one in every)
    assert all(one.batch_size == 8 for one in every)
    assert len(set(every)) == len(every)
    assert [many[0].workers for many in lists] == sorted({one.workers for one in every})
    assert max(one.workers for one in every) == cores
    assert Configuration(1, cores, 8) in every


def test_two_cores_give_few_configurations() -> None:
    found = [str(one) for many in processes(2, Configuration()) for one in many]
    assert found == [
        "1 worker, default threads, batch 32, no wait",
        "1 worker, 1 thread, batch 32, no wait",
        "1 worker, 2 threads, batch 32, no wait",
        "2 workers, default threads, batch 32, no wait",
    ]


def test_batch_sizes_go_up_and_down_from_the_one_before() -> None:
    larger, smaller = batches(Configuration(batch_size=24))
    assert [one.batch_size for one in larger] == [32, 64, 128, 256]
    assert [one.batch_size for one in smaller] == [16, 8, 4, 1]


def test_waits_leave_most_of_the_objective() -> None:
    (found,) = waits(Configuration(), 20.0)
    assert [one.max_wait_ms for one in found] == [1.0, 2.0, 5.0]
    assert list(waits(Configuration(), 2.0)) == [[]]
    (longer,) = waits(Configuration(max_wait_ms=2.0), 20.0)
    assert [one.max_wait_ms for one in longer] == [5.0]
