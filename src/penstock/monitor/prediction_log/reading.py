"""Reads a prediction log: all its records in a fixed order, around whatever is damaged."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from penstock.errors import ConfigError
from penstock.libraries import zstd
from penstock.monitor.prediction_log.records import Record, Unreadable, record_of
from penstock.monitor.prediction_log.segments import OPEN, PACKED, segments

LONGEST_LINE = 256 * 2**20
_CHUNK = 1 << 20


class LogReader:
    """The records of a log's directory, or of one of its files; `damaged` counts what was skipped."""

    def __init__(self, path: Path) -> None:
        """Raises ConfigError if there is nothing to read."""
        self.path = path
        self.damaged = 0
        """Lines that are no records."""
        self.cut_off: list[Path] = []
        """Segments that could not be read to their end."""
        if not path.exists():
            raise ConfigError(f"{path}: there is no prediction log here")
        self.segments = segments(path) if path.is_dir() else [path]
        if not self.segments:
            raise ConfigError(f"{path} holds no segments of a prediction log, which are named predictions.….jsonl")

    def __iter__(self) -> Iterator[Record]:
        """Every record: by the start of its segment, then by line."""
        self.damaged, self.cut_off = 0, []
        for path in self.segments:
            for line in self._lines(path):
                try:
                    yield record_of(line)
                except Unreadable:
                    self.damaged += 1

    def _lines(self, path: Path) -> Iterator[bytes]:
        try:
            yield from lines_of(path)
        except (OSError, EOFError, zstd().ZstdError):
            self.cut_off.append(path)

    @property
    def warning(self) -> str | None:
        """One sentence about what was skipped; None if there was nothing."""
        parts = [f"{self.damaged} damaged line{'s' * (self.damaged != 1)} skipped"] if self.damaged else []
        parts += [f"{path.name} could not be read to its end" for path in self.cut_off]
        return "; ".join(parts) or None


def lines_of(path: Path) -> Iterator[bytes]:
    """The lines of a segment, without their ends. Of one that is being written only whole lines.

    Raises OSError, EOFError or ZstdError where it is cut off, after the lines before.
    """
    parts: list[bytes] = []
    for piece in _pieces(path):
        parts.append(piece)
        if b"\n" in piece:
            *lines, left = b"".join(parts).split(b"\n")
            parts = [left]
            yield from filter(None, lines)
        elif sum(map(len, parts)) > LONGEST_LINE:
            raise EOFError("a line is too long")
    left = b"".join(parts)
    if left and not path.name.endswith(OPEN):
        yield left


def _pieces(path: Path) -> Iterator[bytes]:
    found, packed = _present(path)
    with zstd().open(found, "rb") if packed else found.open("rb") as file:
        while piece := file.read1(_CHUNK):  # read would give nothing of what comes before a damaged place
            yield piece


def _present(path: Path) -> tuple[Path, bool]:
    """The segment under its present name: a server may complete and compress it meanwhile."""
    stem = path.name.split(".jsonl")[0]
    for kind in (path.name.removeprefix(stem), ".jsonl", PACKED):
        other = path.with_name(f"{stem}{kind}")
        if other.exists():
            return other, other.name.endswith(".zst")
    return path, path.name.endswith(".zst")
