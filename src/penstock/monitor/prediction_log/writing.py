"""Writes lines to the segment of this process: rotation, compression, retention, and what to do on a full disk."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from penstock.errors import ConfigError, disk_problem
from penstock.monitor.prediction_log.segments import (
    PLAIN,
    OpenSegment,
    changing,
    clean,
    compress,
    prune,
    recover,
    segments,
)

log = logging.getLogger(__name__)

ROTATE_BYTES = 64 * 2**20
ROTATE_S = 600.0
RETRY_S = 30.0
TEND_S = 30.0
_SMALLEST = 64 * 2**10
ROTATE = ".rotate"
"""A file that asks every process to complete its segment, each time it is touched."""


class Caps(NamedTuple):
    """What a log may take."""

    bytes: int
    days: float

    @property
    def segment(self) -> int:
        """When a segment is completed: only complete ones can be removed."""
        return min(ROTATE_BYTES, max(_SMALLEST, self.bytes // 8))


class SegmentWriter:
    """The writer of one process, for one thread. Nothing here raises OSError: a disk that fails stops the log alone."""

    def __init__(self, directory: Path, caps: Caps, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` gives seconds."""
        self._directory = directory
        self._caps = caps
        self._clock = clock
        self._segment: OpenSegment | None = None
        self._opened = self._tended = 0.0
        self._blocked_until = self._synced = float("-inf")
        self._unsynced = False
        self._asked = self._last_asked()
        self.stopped = ""
        """Why nothing is written; empty while all is well."""

    @property
    def blocked(self) -> bool:
        """True until it is time to try again, after a failure."""
        return self._clock() < self._blocked_until

    def begin(self) -> None:
        """Complete what processes have left that were killed."""
        self._guarded(self._begin)

    def write(self, lines: Sequence[bytes]) -> bool:
        """Write whole lines; False if they are lost."""
        if self.blocked or not self._guarded(lambda: self._append(b"".join(lines))):
            return False
        if self.stopped:
            log.warning("the prediction log in %s is written again", self._directory)
            self.stopped = ""
        return True

    def tend(self) -> None:
        """Make the disk keep what was written a second ago; now and then compress, and remove what is too much."""
        now = self._clock()
        if self.blocked:
            return
        if self._unsynced and now - self._synced >= 1.0:
            self._guarded(self._sync)
        segment = self._segment
        if segment is not None and (
            segment.size >= self._caps.segment or now - self._opened >= ROTATE_S or self._last_asked() != self._asked
        ):
            self._guarded(self._rotate)
        if now - self._tended >= TEND_S:
            self._guarded(self._tidy)

    def close(self) -> None:
        """Complete the segment; the next start compresses it."""
        self._guarded(self._rotate)

    # Inside the guard

    def _begin(self) -> None:
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o750)
        count = recover(self._directory)
        if count:
            log.info("%d segments of the prediction log were completed, whose processes had ended", count)
        self._tidy()

    def _append(self, lines: bytes) -> None:
        if self._segment is None:
            self._directory.mkdir(parents=True, exist_ok=True, mode=0o750)
            self._segment, self._opened = OpenSegment(self._directory), self._clock()
        if not self._segment.path.exists():  # removed by hand: what is written there is lost
            self._segment = None
            return self._append(lines)
        self._segment.append(lines)
        self._unsynced = True
        return None

    def _sync(self) -> None:
        self._synced, self._unsynced = self._clock(), False
        if self._segment is not None:
            self._segment.sync()

    def _rotate(self) -> None:
        self._asked = self._last_asked()
        segment, self._segment, self._unsynced = self._segment, None, False
        if segment is not None:
            segment.close()
            self._tended = float("-inf")

    def _tidy(self) -> None:
        """Compress and prune, unless another process does so."""
        self._tended = self._clock()
        with changing(self._directory) as mine:
            if mine:
                clean(self._directory)
                self._prune()
                with contextlib.suppress(OSError):  # no room for both forms: it stays as it is until there is
                    self._compress()

    def _prune(self) -> None:
        removed = prune(self._directory, self._caps.bytes, self._caps.days, time.time())
        if removed:
            log.info("%d segments of the prediction log were removed: its caps are reached", removed)

    def _compress(self) -> None:
        for path in segments(self._directory, opened=False):
            if path.name.endswith(PLAIN):
                compress(path)

    def _last_asked(self) -> int:
        try:
            return (self._directory / ROTATE).stat().st_mtime_ns
        except OSError:
            return 0

    def _guarded(self, work: Callable[[], None]) -> bool:
        """Do it; on a failure stop for a while, and warn once."""
        try:
            work()
        except (OSError, ConfigError) as error:
            self.fail(error)
            return False
        return True

    def fail(self, error: OSError | ConfigError) -> None:
        """Stop for a while, and warn once."""
        self._blocked_until = self._clock() + RETRY_S
        reason = disk_problem(error, "it") or (error.strerror if isinstance(error, OSError) else None) or str(error)
        if not self.stopped:
            log.warning(
                "the prediction log in %s cannot be written (%s): predictions go on, its records are lost and counted, "
                "and it is tried again every %.0f s",
                self._directory,
                reason,
                RETRY_S,
            )
        self.stopped = reason
