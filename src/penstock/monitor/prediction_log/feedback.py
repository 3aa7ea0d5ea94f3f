"""Predictions that can get a label: those that are logged, recorded in the database of the registry by a thread."""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from penstock.errors import ConfigError, PenstockError
from penstock.monitor.prediction_log.records import Record
from penstock.monitor.prediction_log.segments import DAY_S
from penstock.tasks.classification import ClassScores

if TYPE_CHECKING:
    from penstock.registry.database.feedback import FeedbackStore, Labelled, Prediction, Result, Total

log = logging.getLogger(__name__)

PAUSE_S = 0.5
RETRY_S = 5.0
PRUNE_S = 3600.0
MOST_ROWS = 20_000
"""Predictions that wait while the database is away; beyond it, the oldest are lost."""
MOST_ITEMS = 256
"""Of one request, as many predictions can get a label."""
FRESH_S = 2.0
CLOSE_S = 5.0

Scores = Callable[[str, str], ClassScores | None]
"""What reads the classes of a model and version; None for one without classes."""


class Feedback:
    """Records predictions of one process, and the labels that clients send to it."""

    def __init__(self, url: str, days: float, scores: Scores, known: Callable[[], bool] = lambda: False) -> None:
        """`url` is the address of the registry's database. Predictions are deleted after so many `days`. `known` says
        whether the database was there before: while it is gone, none is made in its place.
        """
        self._known = known
        self._url = url
        self._days = days
        self._scores = scores
        self._opened: FeedbackStore | None = None
        self._opening = threading.Lock()
        self._rows: deque[Prediction] = deque()
        self._lock = threading.Lock()
        self._changed = threading.Event()
        self._ending = False
        self._thread: threading.Thread | None = None
        self._pruned = self._summed = float("-inf")
        self._sums: list[Total] = []
        self._stopped = ""
        self._duplicates = self._lost = 0

    def start(self) -> None:
        """Begin to record."""
        self._thread = threading.Thread(target=self._run, name="penstock-feedback", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Record what waits. Safe to call twice."""
        self._ending = True
        self._changed.set()
        if self._thread is not None:
            self._thread.join(CLOSE_S)

    def figures(self) -> dict[str, int]:
        """Of this process: predictions whose id was there already, and those that no database took."""
        return {"feedback_duplicates": self._duplicates, "feedback_lost": self._lost}

    def add(self, records: Sequence[Record]) -> None:
        """Record the answers among these requests, soon."""
        rows = [row for record in records if record.outcome == "ok" for row in self._rows_of(record)]
        with self._lock:
            self._rows.extend(rows)
            while len(self._rows) > MOST_ROWS:
                self._rows.popleft()
                self._lost += 1

    def label(self, labels: Sequence[Labelled]) -> list[Result]:
        """Record labels; what became of each. Raises ConfigError if the database cannot be used."""
        return self._store().label(labels, int(time.time() * 1000))

    def totals(self) -> Sequence[Total]:
        """Sums over what is recorded, by all servers, at most a few seconds old; the last known without a database."""
        began = time.monotonic()
        if began - self._summed > FRESH_S:
            try:
                self._sums = self._store().totals()
            except PenstockError as error:
                log.debug("feedback cannot be summed: %s", error)
            took = time.monotonic() - began
            self._summed = began + 20 * took  # of a large table less often
        return self._sums

    def _store(self) -> FeedbackStore:
        with self._opening:
            if self._opened is None:
                from penstock.registry.database.feedback import FeedbackStore  # SQLAlchemy takes long to import

                self._opened = FeedbackStore(self._url, known=self._known())
            return self._opened

    # Rows

    def _rows_of(self, record: Record) -> Iterator[Prediction]:
        from penstock.registry.database.feedback import Prediction

        if record.item is not None and record.rows != 1:
            return
        count = min(record.rows, MOST_ITEMS)
        for index, (predicted, name, confidence) in enumerate(self._classes(record, count)):
            yield Prediction(
                request_id=record.request_id[:200],
                item=index if record.item is None else record.item,
                at=int(record.at * 1000),
                model=record.model[:200],
                version=record.version[:100],
                route=record.route[:100],
                arm=record.arm[:100],
                key_digest=record.key,
                predicted=predicted,
                class_name=name,
                confidence=confidence,
            )

    def _classes(self, record: Record, count: int) -> Sequence[tuple[int | None, str | None, float | None]]:
        """The class of each row, its name, and its probability."""
        scores = self._scores(record.model, record.version)
        outputs: Any = record.outputs or {}
        if scores is None or scores.name not in outputs:
            return [(None, None, None)] * count
        try:
            best = zip(*scores.best(outputs), strict=True)
        except PenstockError:  # it is not finite
            return [(None, None, None)] * count
        named = scores.labels is not None
        return [
            (index, scores.label(index)[:200] if named else None, confidence)
            for index, confidence in list(best)[:count]
        ]

    # The thread

    def _run(self) -> None:
        while not self._ending:
            self._changed.wait(PAUSE_S if not self._stopped else RETRY_S)
            self._flush()
            if time.monotonic() - self._pruned > PRUNE_S:
                self._guarded(self._prune)
        self._flush()
        if self._opened is not None:
            self._opened.close()

    def _flush(self) -> None:
        while self._rows and self._guarded(self._write):
            pass

    def _write(self) -> None:
        from penstock.registry.database.feedback import AT_ONCE

        with self._lock:
            rows = list(itertools.islice(self._rows, AT_ONCE))
        self._duplicates += self._store().add(rows)
        with self._lock:
            for row in rows:
                if self._rows and self._rows[0] is row:  # unless it was dropped meanwhile
                    self._rows.popleft()

    def _prune(self) -> None:
        self._pruned = time.monotonic()
        self._store().prune(int((time.time() - self._days * DAY_S) * 1000))

    def _guarded(self, work: Callable[[], None]) -> bool:
        """Do it; False on a failure, of which only the first is logged."""
        try:
            work()
        except ConfigError as error:
            if not self._stopped:
                log.warning("predictions cannot be recorded for feedback, and are kept for a while: %s", error)
            self._stopped = str(error)
            return False
        except Exception:
            log.exception("predictions could not be recorded for feedback")
            self._lost += len(self._rows)
            self._rows.clear()
            return False
        if self._stopped:
            log.warning("predictions are recorded for feedback again")
            self._stopped = ""
        return True


def forget_predictions(url: str, *, key_digest: str | None, request_id: str | None) -> int:
    """Delete the recorded predictions of a key or of a request: how many. Raises ConfigError."""
    from penstock.registry.database.feedback import FeedbackStore

    store = FeedbackStore(url)
    try:
        return store.forget(key_digest=key_digest, request_id=request_id)
    finally:
        store.close()
