"""Progress of a long batch: a bar on the terminal, or calls to a function."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeAlias

Progress: TypeAlias = bool | Callable[[int, int | None], object]
"""True for a bar on the terminal, or a function that takes the requests done and their number (None if unknown)."""


def reported(chunks: Iterable[list[Any]], total: int | None, progress: Progress) -> Iterator[list[Any]]:
    """The same chunks; each is reported when the next one is requested, and so after its use."""
    if progress is False:
        return iter(chunks)
    return _with_bar(chunks, total) if progress is True else _reported_to(chunks, total, progress)


def _reported_to(
    chunks: Iterable[list[Any]], total: int | None, report: Callable[[int, int | None], object]
) -> Iterator[Any]:
    done = 0
    for chunk in chunks:
        yield chunk
        done += len(chunk)
        report(done, total)


def _with_bar(chunks: Iterable[list[Any]], total: int | None) -> Iterator[list[Any]]:
    from rich.console import Console
    from rich.progress import Progress as Bar

    with Bar(console=Console(stderr=True)) as bar:
        shown = bar.add_task("predicting", total=total)
        yield from _reported_to(chunks, total, lambda done, _: bar.update(shown, completed=done))
