"""The requests of a long batch: pulled from their source in chunks, and prepared in threads while the model runs."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Any, TypeVar

from penstock.engine.tasks.request_copies import pulled
from penstock.errors import InvalidInput

Prepared = TypeVar("Prepared")

_CHUNKS_AHEAD = 1
"""Number of batches prepared while one runs; more would let a fast source fill the memory."""


def requests_of(values: Iterable[Any]) -> Iterator[Any]:
    """The requests one by one, each as it was when it was pulled. Raises InvalidInput for a single value."""
    try:
        return pulled(values)
    except TypeError:
        raise InvalidInput(
            f"values: {type(values).__name__} holds no requests to go through; predict() answers a single one",
            field="values",
        ) from None


def chunked(iterator: Iterator[Any], size: int) -> Iterator[list[Any]]:
    """Lists of `size` requests; the last may be shorter."""
    while chunk := list(islice(iterator, size)):
        yield chunk


def prepared_ahead(
    prepare: Callable[[Any], Prepared], chunks: Iterable[list[Any]], workers: int
) -> Iterator[list[Prepared]]:
    """Prepared chunks in order; while one is used, threads prepare the next."""
    pool = ThreadPoolExecutor(workers, thread_name_prefix="penstock-prepare")
    waiting: deque[list[Future[list[Prepared]]]] = deque()
    try:
        for chunk in chunks:
            share = -(-len(chunk) // workers)
            parts = (chunk[start : start + share] for start in range(0, len(chunk), share))
            waiting.append([pool.submit(lambda part: [prepare(value) for value in part], part) for part in parts])
            if len(waiting) > _CHUNKS_AHEAD:
                yield [item for part in waiting.popleft() for item in part.result()]
        while waiting:
            yield [item for part in waiting.popleft() for item in part.result()]
    finally:
        pool.shutdown(cancel_futures=True)
