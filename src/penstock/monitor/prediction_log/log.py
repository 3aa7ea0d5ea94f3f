"""The prediction log of one server process: an observer for the event loop, and the thread that writes."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

from penstock.errors import ConfigError, not_written
from penstock.monitor.prediction_log.keys import digest_of, salt_of
from penstock.monitor.prediction_log.records import Record, line_of
from penstock.monitor.prediction_log.taking import Consent, Taker
from penstock.monitor.prediction_log.writing import Caps, SegmentWriter

log = logging.getLogger(__name__)

Figures: TypeAlias = dict[str, int]

PAUSE_S = 0.25
SHARE = 0.2
"""Of the time of its process that the thread works at most: beyond it, records are dropped."""
RUNS_AT_ONCE = 256
CLOSE_S = 5.0


class PredictionLog:
    """Logs a sample of the requests. `start` in the process that serves; `close` when it ends."""

    def __init__(
        self,
        directory: Path,
        caps: Caps,
        share: float,
        inputs: Consent,
        also: Callable[[Sequence[Record]], None] = lambda _: None,
    ) -> None:
        """`also` gets the records as they are written, in the same thread, with the digests of their keys."""
        self.directory = directory
        self.taker = Taker(share, inputs)
        self._writer = SegmentWriter(directory, caps)
        self._also = also
        self._salt: bytes | None = None
        self._ending = threading.Event()
        self._thread: threading.Thread | None = None
        self._written = self._failed = 0

    def start(self) -> None:
        """Begin to write. Raises ConfigError if the directory can never be one."""
        try:
            self.directory.mkdir(parents=True, exist_ok=True, mode=0o750)
        except (FileExistsError, NotADirectoryError, PermissionError) as error:
            raise ConfigError(f"prediction_log: {self.directory} cannot be a directory: {error.strerror}") from None
        except OSError as error:
            log.warning("prediction_log: %s", not_written(error, self.directory))
        self._thread = threading.Thread(target=self._run, name="penstock-prediction-log", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Write what waits, and complete the segment. Safe to call twice."""
        self._ending.set()
        if self._thread is not None:
            self._thread.join(CLOSE_S)

    def figures(self) -> Figures:
        """Records of this process: written, dropped for want of room, failed to be written."""
        return {"written": self._written, "dropped": self.taker.dropped, "failed": self._failed}

    # The thread

    def _run(self) -> None:
        _lowest_priority()
        self._writer.begin()
        while not self._ending.wait(self._turn()):
            pass
        while self._write_some():
            pass
        self._writer.close()

    def _turn(self) -> float:
        """Write what waits; how long to pause then."""
        began = time.thread_time()
        try:
            while self._write_some() and time.thread_time() - began < PAUSE_S * SHARE:
                pass
            self._writer.tend()
        except Exception:
            log.exception("the prediction log has failed; it goes on")
        return max(PAUSE_S, (time.thread_time() - began) * (1 / SHARE - 1))

    def _write_some(self) -> bool:
        """Write some records; False if none waited."""
        records = [record for taken in self.taker.drain(RUNS_AT_ONCE) for record in taken.records()]
        if not records:
            return False
        try:
            digested = [self._without_key(record) for record in records]
            good = self._writer.write([line_of(record) for record in digested])
        except (OSError, ConfigError) as error:  # of the salt: without it no key may be written
            self._writer.fail(error)
            good = False
        except Exception:
            log.exception("records could not be written to the prediction log")
            good = False
        if good:
            self._written += len(records)
            self._also(digested)
        else:
            self._failed += len(records)
        return True

    def _without_key(self, record: Record) -> Record:
        """The record with the digest of its key in the place of the key."""
        if not record.key:
            return record
        if self._salt is None:
            self._salt = salt_of(self.directory)
        return replace(record, key=digest_of(record.key, self._salt))


def _lowest_priority() -> None:
    """Let the threads that serve go first; Linux has a priority for each thread."""
    try:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)
    except (AttributeError, OSError):
        log.debug("the prediction log has no lower priority on this system")


def merged(everyone: Iterable[Mapping[str, int]]) -> Figures:
    """The figures of several processes as one."""
    total: Figures = {}
    for figures in everyone:
        for name, count in figures.items():
            total[name] = total.get(name, 0) + count
    return total
