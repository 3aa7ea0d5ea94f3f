"""What is tuned: four settings of a server, and the values of each that are worth a try on this machine."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

KEYS = ("workers", "threads", "batch_size", "max_wait_ms")
"""The settings that are tuned, by their names in `penstock.toml`."""

_BATCH_SIZES = (1, 4, 8, 16, 32, 64, 128, 256)
_WAITS_MS = (1.0, 2.0, 5.0, 10.0)
_WAIT_SHARE = 0.25
"""The longest wait that is tried, as a share of the latency objective."""


@dataclass(frozen=True, slots=True)
class Configuration:
    """One way to serve. `threads` None: the server finds out whether one thread or all cores suit a run."""

    workers: int = 1
    threads: int | None = None
    batch_size: int = 32
    max_wait_ms: float = 0.0

    def settings(self) -> dict[str, Any]:
        """The settings by name; None is the default of `threads`."""
        return {key: getattr(self, key) for key in KEYS}

    def __str__(self) -> str:
        threads = "default threads" if self.threads is None else counted(self.threads, "thread")
        wait = f"wait {self.max_wait_ms:g} ms" if self.max_wait_ms else "no wait"
        return f"{counted(self.workers, 'worker')}, {threads}, batch {self.batch_size}, {wait}"


def processes(cores: int, before: Configuration) -> Iterator[list[Configuration]]:
    """Numbers of workers and threads that fill the cores at most: one list for each number of workers, rising.

    With several workers the default is the cores that each may use, so that number is not tried again.
    """
    for workers in _powers(cores):
        each = cores // workers
        threads: list[int | None] = [None, *(count for count in _powers(each) if workers == 1 or count != each)]
        yield [replace(before, workers=workers, threads=count) for count in threads]


def batches(before: Configuration) -> Iterator[list[Configuration]]:
    """Larger batch sizes, rising, and smaller ones, falling: each list ends where one brings nothing."""
    larger = [size for size in _BATCH_SIZES if size > before.batch_size]
    smaller = [size for size in reversed(_BATCH_SIZES) if size < before.batch_size]
    for sizes in (larger, smaller):
        yield [replace(before, batch_size=size) for size in sizes]


def waits(before: Configuration, p99_ms: float) -> Iterator[list[Configuration]]:
    """Waits that leave most of the objective for the run, rising from the one before."""
    worth = [wait for wait in _WAITS_MS if before.max_wait_ms < wait <= _WAIT_SHARE * p99_ms]
    yield [replace(before, max_wait_ms=wait) for wait in worth]


def _powers(most: int) -> list[int]:
    """1, 2, 4 … up to `most`, and `most` itself."""
    return sorted({most, *(2**power for power in range(most.bit_length()) if 2**power <= most)})


def counted(number: int, what: str) -> str:
    """`1 worker`, `2 workers`."""
    return f"{number} {what}{'' if number == 1 else 's'}"
