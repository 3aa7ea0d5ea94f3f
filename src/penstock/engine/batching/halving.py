"""Halve work that failed: a batch down to the requests at fault, rows until they fit into memory."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TypeVar

from penstock.errors import InferenceError, OutOfMemory, PenstockError, WorkerDied

log = logging.getLogger(__name__)

Item = TypeVar("Item")
Payload = TypeVar("Payload")
Result = TypeVar("Result")


def halve_batch(
    run: Callable[[Sequence[Item]], list[Result]],
    items: Sequence[Item],
    error: BaseException,
    failed: Callable[[Item, BaseException], Result],
) -> list[Result]:
    """One result per item of a batch whose run raised `error`: its halves run separately, down to single items.

    `failed(item, error)` makes the result of an item that fails alone, whatever the model raises, SystemExit included.
    A batch that ends the processes that run it is not halved: its halves would end more of them.
    """
    if len(items) == 1 or isinstance(error, WorkerDied):
        return [failed(item, error) for item in items]
    middle = len(items) // 2
    results: list[Result] = []
    for half in (items[:middle], items[middle:]):
        try:
            results += run(half)
        except BaseException as again:
            results += halve_batch(run, half, again, failed)
    return results


def halve_rows(
    run: Callable[[Payload], Result],
    payload: Payload,
    rows: int,
    cut: Callable[[Payload, int], Sequence[Payload]],
    error: OutOfMemory,
) -> list[Result]:
    """The results, in order, of the parts of a payload whose run raised `error`: its halves, down to a single row.

    `cut(payload, rows)` gives parts of at most `rows` rows. Raises the OutOfMemory of a single row.
    """
    if rows < 2:
        raise error
    half = -(-rows // 2)
    results: list[Result] = []
    for part, part_rows in zip(cut(payload, half), (half, rows - half), strict=True):
        try:
            results.append(run(part))
        except OutOfMemory as again:
            results += halve_rows(run, part, part_rows, cut, again)
    return results


def as_penstock_error(error: BaseException) -> PenstockError:
    """The error as the result of a request; a bug in a model is logged and becomes an InferenceError."""
    if isinstance(error, PenstockError):
        return error
    log.error("the model failed", exc_info=error)
    wrapped = InferenceError("the model failed on this input")
    wrapped.__cause__ = error
    return wrapped
