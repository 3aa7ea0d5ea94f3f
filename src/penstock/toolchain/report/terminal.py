"""Progress of a long command on standard error: a live table in a terminal, plain lines anywhere else."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from penstock.toolchain.report.wording import NOTHING, number, printable

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

__all__ = ["SILENT", "Progress", "progress"]

_ROOM = 8
"""Lines of a terminal that the live table leaves free."""
_FEWEST_ROWS = 4


class Progress(Protocol):
    """What a long command reports while it runs."""

    def step(self, what: str, done: int | None = None, total: int | None = None) -> None:
        """What happens now, and how many of how many parts are done."""

    def row(self, *cells: object) -> None:
        """A result, by the columns; a row whose first cell was seen before replaces it."""

    def note(self, sentence: str) -> None:
        """Something that the reader should know, such as a model that crashed."""


class _Silent:
    def step(self, what: str, done: int | None = None, total: int | None = None) -> None:
        pass

    def row(self, *cells: object) -> None:
        pass

    def note(self, sentence: str) -> None:
        pass


SILENT: Progress = _Silent()
"""Reports nothing: what a function uses that was given no progress."""


@contextmanager
def progress(
    title: str, columns: Sequence[str], stream: TextIO | None = None, *, ticking: bool = True
) -> Iterator[Progress]:
    """Progress on `stream`, standard error unless given; the live table vanishes at the end, where the result comes.

    `ticking`: the table is drawn four times a second, by a thread. Without, it is drawn at each report only, and takes
    no time from what this process measures in between.
    """
    stream = sys.stderr if stream is None else stream
    if not stream.isatty():
        yield _Lines(stream, columns)
        return
    from rich.console import Console
    from rich.live import Live

    console = Console(file=stream)
    table = _Table(console, title, columns)
    with Live(
        get_renderable=table.render, console=console, auto_refresh=ticking, refresh_per_second=4, transient=True
    ) as live:
        if not ticking:
            table.changed = live.refresh
        yield table


def _shown(cell: object) -> str:
    if cell is None:
        return NOTHING
    return number(cell) if isinstance(cell, float) else printable(cell)


def _share(done: int | None, total: int | None) -> str:
    return "" if done is None else f"{done}/{total} " if total else f"{done} "


class _Lines:
    """One line for each report, with the seconds since the start."""

    def __init__(self, stream: TextIO, columns: Sequence[str]) -> None:
        self._stream = stream
        self._columns = columns
        self._started = time.monotonic()

    def step(self, what: str, done: int | None = None, total: int | None = None) -> None:
        self._print(f"{_share(done, total)}{printable(what)}")

    def row(self, *cells: object) -> None:
        named = zip(self._columns[1:], cells[1:], strict=False)
        said = ", ".join(f"{column} {_shown(cell)}" for column, cell in named if cell not in (None, ""))
        self._print(f"{_shown(cells[0])}: {said}")

    def note(self, sentence: str) -> None:
        self._print(printable(sentence))

    def _print(self, text: str) -> None:
        print(f"[{time.monotonic() - self._started:6.1f} s] {text}", file=self._stream, flush=True)


class _Table:
    """The rows so far, what happens now, and the time since the start."""

    def __init__(self, console: Console, title: str, columns: Sequence[str]) -> None:
        self._console = console
        self._title = title
        self._columns = columns
        self._rows: dict[str, tuple[object, ...]] = {}
        self._notes: list[str] = []
        self._now = ""
        self._started = time.monotonic()
        self.changed: Callable[[], None] = lambda: None
        """Called after each report."""

    def step(self, what: str, done: int | None = None, total: int | None = None) -> None:
        self._now = f"{_share(done, total)}{printable(what)}"
        self.changed()

    def row(self, *cells: object) -> None:
        self._rows[str(cells[0])] = cells
        self.changed()

    def note(self, sentence: str) -> None:
        self._notes.append(printable(sentence))
        self.changed()

    def render(self) -> RenderableType:
        """The last rows that the terminal has room for."""
        from rich.box import SIMPLE_HEAD
        from rich.console import Group
        from rich.spinner import Spinner
        from rich.table import Table
        from rich.text import Text

        table = Table(box=SIMPLE_HEAD, title=printable(self._title), title_justify="left", pad_edge=False)
        for column in self._columns:
            table.add_column(column, overflow="ellipsis", no_wrap=True)
        room = max(_FEWEST_ROWS, self._console.size.height - _ROOM - len(self._notes[-2:]))
        for cells in list(self._rows.values())[-room:]:
            table.add_row(*(Text(_shown(cell)) for cell in cells))
        parts: list[Any] = [table] if self._rows else [Text(printable(self._title), style="italic")]
        parts += [Text(note, style="yellow") for note in self._notes[-2:]]
        return Group(*parts, Spinner("dots", Text(f"{time.monotonic() - self._started:.0f} s  {self._now}")))
