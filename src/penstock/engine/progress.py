"""How far a long batch is, for whoever waits for it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeAlias

Progress: TypeAlias = bool | Callable[[int, int | None], object]
"""True for a bar on the terminal, or a function that takes the requests done and their number (None: not known)."""


def reported(chunks: Iterable[list[Any]], total: int | None, progress: Progress) -> Iterator[list[Any]]:
    """The same chunks, each one reported when its successor is asked for and so has been used."""
    if progress is False:
        return iter(chunks)
    return _with_bar(chunks, total) if progress is True else _told(chunks, total, progress)


def _told(chunks: Iterable[list[Any]], total: int | None, tell: Callable[[int, int | None], object]) -> Iterator[Any]:
    done = 0
    for chunk in chunks:
        yield chunk
        done += len(chunk)
        tell(done, total)


def _with_bar(chunks: Iterable[list[Any]], total: int | None) -> Iterator[list[Any]]:
    from rich.console import Console
    from rich.progress import Progress as Bar

    with Bar(console=Console(stderr=True)) as bar:
        shown = bar.add_task("predicting", total=total)
        yield from _told(chunks, total, lambda done, _: bar.update(shown, completed=done))
