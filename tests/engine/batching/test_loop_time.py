"""Time on the event loop: preemption does not count, waiting does."""

from __future__ import annotations

import subprocess
import sys
import time

from penstock.backends.devices import usable_cores
from penstock.engine.batching.loop_time import LoopTime


def work(seconds: float) -> None:
    until = time.thread_time() + seconds
    while time.thread_time() < until:
        pass


def test_work_counts_with_its_time() -> None:
    with LoopTime() as taken:
        work(0.05)
    assert taken.seconds >= 0.049


def test_waiting_counts_with_the_whole_time() -> None:
    with LoopTime() as taken:
        time.sleep(0.05)
    assert taken.seconds >= 0.049


def test_the_time_that_other_processes_take_does_not_count() -> None:
    """With three busy processes for each core, work takes about four times as long as its own CPU time."""
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(3 * usable_cores())]
    try:
        samples = []
        for _ in range(50):
            started = time.monotonic()
            with LoopTime() as taken:
                work(0.01)
            samples.append((taken.seconds, time.monotonic() - started))
    finally:
        for process in busy:
            process.kill()
            process.wait()
    # a page fault, or a thread of another test that asks for the interpreter, counts as waiting now and then
    assert min(seconds for seconds, _ in samples) < 0.02
    assert sum(whole for _, whole in samples) > sum(seconds for seconds, _ in samples)
