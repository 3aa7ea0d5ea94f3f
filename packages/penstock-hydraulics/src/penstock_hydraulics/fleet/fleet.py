"""What lives as long as the server: the machines, their recent health, and the writer of the history.

Predictions read memory only. One thread a database writes what they record, and reads what other processes wrote.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
import time
import uuid
from bisect import bisect_right
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import numpy as np

from penstock.errors import ConfigError, InvalidInput, ModelNotReady
from penstock_hydraulics.fleet.equipment import Equipment, check_equipment_id, parse_equipment
from penstock_hydraulics.fleet.health_history import HealthHistories, HealthHistory
from penstock_hydraulics.fleet.results import Result, Stored
from penstock_hydraulics.fleet.retention import Retention

if TYPE_CHECKING:
    from penstock import Registry
    from penstock_hydraulics.fleet.store import Store

__all__ = ["Equipment", "Fleet", "HealthHistory", "Result", "Stored", "check_equipment_id", "parse_equipment"]

log = logging.getLogger(__name__)

MAX_EQUIPMENT: Final = 10_000
MAX_QUEUED: Final = 65_536
"""Results that wait for a database; beyond it every second one is dropped, so that the rest spans the whole outage."""
TICK_S: Final = 0.25
RETRY_S: Final = 1.0
LATE_S: Final = 5.0
"""A database that answers so slowly counts as one that was away."""
_BATCH_SIZE: Final = 2_000
_FOLLOWED_ROWS: Final = 5_000
_LOADS_PER_CYCLE: Final = 20
"""Trails that are read between two writes."""
_LOAD_TIMEOUT_S: Final = 2.0
_FLUSH_TIMEOUT_S: Final = 2.0
_RETAIN_EVERY_S: Final = 600.0
_DATABASE_UNAVAILABLE: Final = "the database of the plant does not answer; predictions go on, try again when it is back"


class Fleet:
    """The machines of one database and what became of them. Threads may share it; `of` shares it within a process."""

    def __init__(self, registry: Registry, retention: Retention | None = None) -> None:
        """Starts its thread. Raises ConfigError for a bad setting, never for a database that is down."""
        self._registry = registry
        self._retention = retention or Retention.load()
        self._writer = uuid.uuid4().hex[:16]
        self._store: Store | None = None
        self._equipment: dict[str, Equipment] = {}
        self._histories = HealthHistories()
        self._queue: deque[Result] = deque()
        self._batch: list[Result] = []
        self._written = 0
        self._late_left = 0
        self._cycle_started = time.monotonic()
        self._lock = threading.Lock()
        self._equipment_lock = threading.Lock()
        self._revision, self._last_id = -1, -1
        self._outage = ""
        self._loaded, self._wake, self._stopping = threading.Event(), threading.Event(), threading.Event()
        self._cycle_done = threading.Condition()
        self._retain_at = time.monotonic() + _RETAIN_EVERY_S / 10
        self._users = 0
        self._thread = threading.Thread(target=self._run, name="hydraulics-plant", daemon=True)
        self._thread.start()

    @classmethod
    def of(cls, registry: Registry) -> Fleet:
        """The one of this registry's database in this process; every `of` needs its `close`.

        Waits until the machines are known, no longer than seconds.
        """
        key = (os.getpid(), registry.database_url)
        with _SHARED_LOCK:
            fleet = _SHARED.get(key)
            if fleet is None:
                fleet = _SHARED[key] = cls(registry)
            fleet._users += 1
        fleet._loaded.wait(_LOAD_TIMEOUT_S)
        return fleet

    def close(self) -> None:
        """Write what waits and end the thread, once the last user has closed. Safe to call more often."""
        with _SHARED_LOCK:
            self._users -= 1
            if self._users > 0:
                return
            for key in [key for key, fleet in _SHARED.items() if fleet is self]:
                del _SHARED[key]
        self._stop()

    def _stop(self) -> None:
        self._stopping.set()
        self._wake.set()
        self._thread.join(10)
        left = len(self._queue) + len(self._batch)
        if left:
            log.error("%d results were never written: %s", left, self._outage or "the database does not answer")
            self._queue.clear()
            self._batch = []

    # For predictions: memory only

    def equipment(self, equipment_id: str) -> Equipment | None:
        """A machine as registered; the same object until it is changed."""
        return self._equipment.get(equipment_id)

    def recent(self, equipment_id: str, model: str = "") -> HealthHistory:
        """Times and health of the machine's last results by a model, thinned, the present one not among them."""
        return self._histories.recent((equipment_id, model))

    def record(self, result: Result) -> None:
        """Note a result; it is in the trail at once, in the history within a second or when the database is back."""
        if result.trend is not None and result.health is not None:
            self._histories.add((result.equipment_id, result.trend), result.at_s, result.health)
        with self._lock:
            self._queue.append(result)
            if len(self._queue) > MAX_QUEUED:
                self._thin()
            if self._outage:
                self._late_left = len(self._batch) + len(self._queue)

    def _thin(self) -> None:
        self._queue = deque(list(self._queue)[::2])
        self._late_left = min(self._late_left, len(self._queue))
        log.warning("results wait for the database of the plant: every second one of them was dropped")

    # For operators: these wait for the database, and raise ModelNotReady while it does not answer

    def page(self, after: str = "", limit: int = 100) -> list[Equipment]:
        """The machines that follow an id, sorted by their ids."""
        self._refresh()
        ids = sorted(self._equipment)
        start = bisect_right(ids, after)
        found = (self._equipment.get(each) for each in ids[start : start + limit])
        return [equipment for equipment in found if equipment is not None]

    def count(self) -> int:
        """How many machines are registered, as far as is known here."""
        return len(self._equipment)

    def find(self, equipment_id: str) -> Equipment | None:
        """As `equipment`, with what another process has changed a moment ago."""
        self._refresh(needed=equipment_id not in self._equipment)
        return self._equipment.get(equipment_id)

    def put_equipment(self, equipment: Equipment) -> bool:
        """Register a machine, or change one; True when it is new. InvalidInput where there are too many."""
        with self._equipment_lock:
            try:
                new = self._opened().put_equipment(equipment, MAX_EQUIPMENT)
            except ConfigError as error:
                raise self._unavailable(error) from None
            except ValueError as error:
                raise InvalidInput(str(error), field="equipment_id") from None
            self._equipment[equipment.id] = equipment
        return new

    def remove_equipment(self, equipment_id: str, history: bool = False) -> bool:
        """Forget a machine, with its history where asked; False when nothing is known of it."""
        if history:
            self._flush()
        with self._equipment_lock:
            try:
                removed = self._opened().remove_equipment(equipment_id, history)
            except ConfigError as error:
                raise self._unavailable(error) from None
            self._equipment.pop(equipment_id, None)
        if history:
            self._histories.forget(equipment_id)
        return removed

    def history(
        self,
        equipment_id: str,
        start_s: float | None = None,
        end_s: float | None = None,
        limit: int = 100,
        before: tuple[float, int] | None = None,
    ) -> list[Stored]:
        """The latest results from a time, up to and without another, rising in time; `before` (time, id) goes on."""
        self._flush()
        try:
            return self._opened().history(equipment_id, start_s, end_s, before, limit)
        except ConfigError as error:
            raise self._unavailable(error) from None

    def _unavailable(self, error: ConfigError) -> ModelNotReady:
        log.warning("%s", error)
        return ModelNotReady(_DATABASE_UNAVAILABLE)

    def _refresh(self, needed: bool = True) -> None:
        """See what others changed; memory does while the database is away, unless it was never read and is `needed`."""
        if not self._outage:
            try:
                store = self._opened()
                self._sync_equipment(store, store.changes().revision)
            except ConfigError as error:
                log.warning("%s", error)
        if needed and self._revision < 0:
            raise ModelNotReady(_DATABASE_UNAVAILABLE)

    def _flush(self) -> None:
        """Wait until what is recorded by now is written, no longer than seconds."""
        until = time.monotonic() + _FLUSH_TIMEOUT_S
        with self._lock:
            goal = self._written + len(self._batch) + len(self._queue)
        with self._cycle_done:
            while self._written < goal and not self._outage and time.monotonic() < until:
                self._wake.set()
                self._cycle_done.wait(TICK_S)

    def _opened(self) -> Store:
        from penstock_hydraulics.fleet.store import Store  # SQLAlchemy takes a quarter of a second to import

        with _OPENING:
            if self._store is None:
                self._store = Store(self._registry)
            return self._store

    # The thread

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._run_cycle()
            self._wake.wait(RETRY_S if self._outage else TICK_S)
            self._wake.clear()
        self._run_cycle(last=True)
        if self._store is not None:
            self._store.close()

    def _run_cycle(self, last: bool = False) -> None:
        self._detect_slow_cycle()
        try:
            store = self._opened()
            self._write(store, all_of_it=last)
            if not last:
                self._follow_others(store)
                self._load_histories(store)
                self._retain(store)
        except Exception as error:  # whatever it is, the next turn may fare better
            self._fail(error)
        else:
            self._report_outage("")
        self._loaded.set()
        with self._cycle_done:
            self._cycle_done.notify_all()

    def _detect_slow_cycle(self) -> None:
        """Results that waited for a turn which hung are late, though nothing failed."""
        before, self._cycle_started = self._cycle_started, time.monotonic()
        if self._cycle_started - before > LATE_S:
            with self._lock:
                self._late_left = len(self._batch) + len(self._queue)

    def _fail(self, error: Exception) -> None:
        with self._lock:
            self._late_left = len(self._batch) + len(self._queue)
        known = isinstance(error, ConfigError)
        if not known and not self._outage:
            log.error("the plant's thread failed", exc_info=error)
        self._report_outage(str(error) if known else f"{type(error).__name__}: {error}")

    def _report_outage(self, outage: str) -> None:
        """Once when it begins or ends: an outage of hours is no reason for thousands of lines."""
        if outage and not self._outage:
            log.warning("machines and history wait, predictions go on: %s", outage)
        elif self._outage and not outage:
            log.info("machines and history are read and written again")
        self._outage = outage

    def _write(self, store: Store, *, all_of_it: bool) -> None:
        """Whole batches, and the rest of them once a turn: a commit costs as much as a hundred results."""
        more = True
        while more:
            late = self._fill_batch()
            if not self._batch:
                return
            more = all_of_it or late or len(self._batch) == _BATCH_SIZE
            store.write(self._writer, self._written, self._batch, late)
            with self._lock:
                self._written += len(self._batch)
                self._late_left = max(0, self._late_left - len(self._batch))
                self._batch = []

    def _fill_batch(self) -> bool:
        """Fill the batch, unless one is left from a write that failed; True when it is late."""
        with self._lock:
            late = self._late_left > 0
            if not self._batch:
                count = min(len(self._queue), _BATCH_SIZE, self._late_left or _BATCH_SIZE)
                self._batch = [self._queue.popleft() for _ in range(count)]
            return late

    def _follow_others(self, store: Store) -> None:
        changes = store.changes()
        self._sync_equipment(store, changes.revision)
        if self._last_id < 0:
            self._last_id = changes.last_id  # what is older is read with its trail
        self._last_id = min(self._last_id, changes.last_id)  # the latest may have been deleted
        while changes.last_id > self._last_id:
            points, self._last_id = store.points(self._last_id, self._writer, _FOLLOWED_ROWS)
            self._histories.follow(points)
            if not points:
                self._last_id = max(self._last_id, changes.last_id)

    def _sync_equipment(self, store: Store, revision: int) -> None:
        if revision == self._revision:
            return
        with self._equipment_lock:
            since = self._revision if revision > self._revision else -1  # another database is in its place
            ids, changed = store.equipment(since)
            for equipment in changed:
                if self._equipment.get(equipment.id) != equipment:
                    self._equipment[equipment.id] = equipment
            for gone in self._equipment.keys() - ids:
                del self._equipment[gone]
                self._histories.forget(gone)
            self._revision = revision

    def _load_histories(self, store: Store) -> None:
        for key in self._histories.unread()[:_LOADS_PER_CYCLE]:
            past: Sequence[tuple[float, float, int]] = store.past(key)
            columns = np.array(past, np.float64).reshape(-1, 3)
            self._histories.merge_stored(key, columns[:, 0], columns[:, 1], columns[:, 2])

    def _retain(self, store: Store) -> None:
        if time.monotonic() < self._retain_at:
            return
        keep = self._retention
        removed = store.retain(time.time() - keep.keep_days * 86_400, keep.keep_per_machine, keep.keep_results)
        self._retain_at = time.monotonic() + _RETAIN_EVERY_S
        if removed:
            log.info("%d old results were deleted", removed)


_SHARED: dict[tuple[int, str], Fleet] = {}
_SHARED_LOCK = threading.Lock()
_OPENING = threading.Lock()


@atexit.register
def _stop_all() -> None:
    """Nobody has to remember to close before a program ends."""
    for (pid, _), fleet in list(_SHARED.items()):
        if pid == os.getpid():
            fleet._stop()
