"""The fleet in memory: registered machines, their recent health, and a background writer of the history.

Predictions read memory only. One thread per database writes recorded results and reads changes by other processes.
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
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final, TypeVar

import numpy as np

from penstock.errors import ConfigError, InvalidInput, ModelNotReady
from penstock_hydraulics.fleet.cycle_times import CycleTimes
from penstock_hydraulics.fleet.equipment import Equipment, check_equipment_id, parse_equipment
from penstock_hydraulics.fleet.health_history import HealthHistories, HealthHistory
from penstock_hydraulics.fleet.latest import Consent, Diagnosed, LatestQueue
from penstock_hydraulics.fleet.results import Result, Stored
from penstock_hydraulics.fleet.retention import Retention

if TYPE_CHECKING:
    from penstock import Registry
    from penstock_hydraulics.fleet.store import Store

__all__ = ["Equipment", "Fleet", "HealthHistory", "Result", "Stored", "check_equipment_id", "parse_equipment"]

log = logging.getLogger(__name__)

Read = TypeVar("Read")

MAX_EQUIPMENT: Final = 10_000
MAX_QUEUED: Final = 65_536
"""Maximum number of queued results; beyond it every second one is dropped, so that the rest spans the whole outage."""
TICK_S: Final = 0.25
RETRY_S: Final = 1.0
LATE_S: Final = 5.0
"""A cycle of the thread longer than this counts as an outage of the database."""
_BATCH_SIZE: Final = 2_000
_FOLLOWED_ROWS: Final = 5_000
_LOADS_PER_CYCLE: Final = 20
"""Histories read between two writes."""
_LOAD_TIMEOUT_S: Final = 2.0
_FLUSH_TIMEOUT_S: Final = 2.0
_RETAIN_EVERY_S: Final = 600.0
_DATABASE_UNAVAILABLE: Final = "the fleet database is unavailable; predictions continue without it, try again later"


class Fleet:
    """The machines of one database and their results. Thread-safe; `of` returns one shared object per process."""

    def __init__(self, registry: Registry, retention: Retention | None = None) -> None:
        """Starts its thread. Raises ConfigError for an invalid setting, never for an unavailable database."""
        self._registry = registry
        self._retention = retention or Retention.load()
        self._writer = uuid.uuid4().hex[:16]
        self._store: Store | None = None
        self._equipment: dict[str, Equipment] = {}
        self._histories = HealthHistories()
        self._cycle_times = CycleTimes()
        self._queue: deque[Result] = deque()
        self._latest = LatestQueue()
        self._consent = Consent(registry, self._retention.keep_readings)
        self._batch: list[Result] = []
        self._written = 0
        self._late_left = 0
        self._cycles, self._cycle_started = 0, time.monotonic()
        self._lock = threading.Lock()
        self._equipment_lock = threading.Lock()
        self._revision, self._last_id = -1, -1
        self._outage = ""
        self._loaded, self._wake, self._stopping = threading.Event(), threading.Event(), threading.Event()
        self._cycle_done = threading.Condition()
        self._retain_at = time.monotonic() + _RETAIN_EVERY_S / 10
        self._users = 0
        self._thread = threading.Thread(target=self._run, name="hydraulics-fleet", daemon=True)
        self._thread.start()

    @classmethod
    def of(cls, registry: Registry) -> Fleet:
        """The shared fleet of this registry's database in this process; every `of` needs a `close`.

        Waits at most 2 s until the machines are loaded.
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
        """Write queued results and end the thread once the last user has closed. Safe to call repeatedly."""
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
        unwritten = len(self._queue) + len(self._batch)
        if unwritten:
            log.error("%d results were not written: %s", unwritten, self._outage or "the database is unavailable")
            self._queue.clear()
            self._batch = []

    # For predictions: memory only

    def equipment(self, equipment_id: str) -> Equipment | None:
        """A registered machine; the same object until it changes."""
        return self._equipment.get(equipment_id)

    def recent(self, equipment_id: str, model: str = "", evidence: str = "") -> HealthHistory:
        """Times and health of the machine's recent results of one trend, thinned, without the present one."""
        return self._histories.recent((equipment_id, model, evidence))

    def next_time(self, equipment: Equipment, model: str) -> float | None:
        """The time of a window without a timestamp, by its order; None for a machine of unknown cycle length."""
        if equipment.cycle_s is None:
            return None
        return self._cycle_times.next(equipment.id, model, equipment.cycle_s, time.time())

    def record(self, result: Result) -> None:
        """Queue a result; it is in `recent` at once, in the database within a second or after an outage."""
        if result.trend is not None and result.health is not None:
            self._histories.add((result.equipment_id, result.trend, result.evidence), result.at_s, result.health)
        if result.trend is not None:
            self._note_time(result.equipment_id, result.trend, result.at_s)
        with self._lock:
            self._queue.append(result)
            if len(self._queue) > MAX_QUEUED:
                self._thin()
            if self._outage:
                self._late_left = len(self._batch) + len(self._queue)

    def keep_latest(self, diagnosed: Diagnosed) -> None:
        """Queue the latest diagnosis of a machine; it is in the database within a second, also for other servers."""
        self._latest.put(diagnosed)

    def _note_time(self, equipment_id: str, model: str, at_s: float) -> None:
        equipment = self._equipment.get(equipment_id)
        if equipment is not None and equipment.cycle_s is not None:
            self._cycle_times.seen(equipment_id, model, at_s)

    def _thin(self) -> None:
        self._queue = deque(list(self._queue)[::2])
        self._late_left = min(self._late_left, len(self._queue))
        log.warning("the queue of results for the fleet database is full: every second one was dropped")

    # For operators: these access the database, and raise ModelNotReady while it is unavailable

    def page(self, after: str = "", limit: int = 100) -> list[Equipment]:
        """The machines after an id, sorted by id."""
        self._refresh()
        ids = sorted(self._equipment)
        start = bisect_right(ids, after)
        found = (self._equipment.get(each) for each in ids[start : start + limit])
        return [equipment for equipment in found if equipment is not None]

    def count(self) -> int:
        """Number of registered machines, as cached here."""
        return len(self._equipment)

    def find(self, equipment_id: str) -> Equipment | None:
        """Like `equipment`, after reading changes by other processes."""
        self._refresh(needed=equipment_id not in self._equipment)
        return self._equipment.get(equipment_id)

    def put_equipment(self, equipment: Equipment) -> bool:
        """Register or replace a machine; True if it is new. Raises InvalidInput beyond `MAX_EQUIPMENT`."""
        with self._equipment_lock:
            try:
                new = self._opened().put_equipment(equipment, MAX_EQUIPMENT)
                self._read_times(self._opened(), [equipment])
            except ConfigError as error:
                raise self._unavailable(error) from None
            except ValueError as error:
                raise InvalidInput(str(error), field="equipment_id") from None
            self._equipment[equipment.id] = equipment
        return new

    def remove_equipment(self, equipment_id: str, history: bool = False) -> bool:
        """Delete a machine, and its results with `history`; False if there was nothing to delete."""
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
            self._latest.forget(equipment_id)
            self._cycle_times.forget(equipment_id)
        return removed

    def read(self, read: Callable[[Store], Read]) -> Read:
        """What a function finds in the database, with what was recorded so far."""
        self._flush()
        try:
            return read(self._opened())
        except ConfigError as error:
            raise self._unavailable(error) from None

    def history(
        self,
        equipment_id: str,
        start_s: float | None = None,
        end_s: float | None = None,
        limit: int = 100,
        before: tuple[float, int] | None = None,
    ) -> list[Stored]:
        """The latest results with start <= time < end, ascending; `before` (time, id) continues a page."""
        return self.read(lambda store: store.history(equipment_id, start_s, end_s, before, limit))

    def _unavailable(self, error: ConfigError) -> ModelNotReady:
        log.warning("%s", error)
        return ModelNotReady(_DATABASE_UNAVAILABLE)

    def _refresh(self, needed: bool = True) -> None:
        """Read changes by other processes; in an outage memory is used if it was ever loaded or is not `needed`."""
        if not self._outage:
            try:
                store = self._opened()
                self._sync_equipment(store, store.changes().revision)
            except ConfigError as error:
                log.warning("%s", error)
        if needed and self._revision < 0:
            raise ModelNotReady(_DATABASE_UNAVAILABLE)

    def _flush(self) -> None:
        """Wait until the results recorded so far are written, at most 2 s."""
        until = time.monotonic() + _FLUSH_TIMEOUT_S
        with self._lock:
            goal = self._written + len(self._batch) + len(self._queue)
        cycles = self._cycles + 2 if self._latest else 0  # the one in progress may be past them
        with self._cycle_done:
            while (self._written < goal or self._cycles < cycles) and not self._outage and time.monotonic() < until:
                self._wake.set()
                self._cycle_done.wait(TICK_S)

    def _opened(self) -> Store:
        from penstock_hydraulics.fleet.store import Store  # importing SQLAlchemy takes 0.25 s

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
            self._write(store, everything=last)
            self._write_latest(store)
            if not last:
                self._follow_others(store)
                self._load_histories(store)
                self._retain(store)
        except Exception as error:  # any failure is retried in the next cycle
            self._fail(error)
        else:
            self._report_outage("")
        self._loaded.set()
        with self._cycle_done:
            self._cycles += 1
            self._cycle_done.notify_all()

    def _detect_slow_cycle(self) -> None:
        """Results that waited for a slow cycle are late, although nothing failed."""
        before, self._cycle_started = self._cycle_started, time.monotonic()
        if self._cycle_started - before > LATE_S:
            with self._lock:
                self._late_left = len(self._batch) + len(self._queue)

    def _fail(self, error: Exception) -> None:
        with self._lock:
            self._late_left = len(self._batch) + len(self._queue)
        known = isinstance(error, ConfigError)
        if not known and not self._outage:
            log.error("the fleet thread failed", exc_info=error)
        self._report_outage(str(error) if known else f"{type(error).__name__}: {error}")

    def _report_outage(self, outage: str) -> None:
        """Log only the start and the end of an outage."""
        if outage and not self._outage:
            log.warning("fleet database unavailable, predictions continue without it: %s", outage)
        elif self._outage and not outage:
            log.info("fleet database available again")
        self._outage = outage

    def _write(self, store: Store, *, everything: bool) -> None:
        """Write full batches, and a partial one once per cycle: a commit costs as much as a hundred results."""
        more = True
        while more:
            late = self._fill_batch()
            if not self._batch:
                return
            more = everything or late or len(self._batch) == _BATCH_SIZE
            store.write(self._writer, self._written, self._batch, late)
            with self._lock:
                self._written += len(self._batch)
                self._late_left = max(0, self._late_left - len(self._batch))
                self._batch = []

    def _write_latest(self, store: Store) -> None:
        several = self._latest.some()
        if several:
            store.write_latest([diagnosed.row(self._consent) for diagnosed in several])
            self._latest.written(several)

    def _fill_batch(self) -> bool:
        """Fill the batch, unless one is left from a failed write; True if its results are late."""
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
            self._last_id = changes.last_id  # older results are read with each history
        self._last_id = min(self._last_id, changes.last_id)  # the latest may have been deleted
        while changes.last_id > self._last_id:
            points, self._last_id = store.points_after(self._last_id, self._writer, _FOLLOWED_ROWS)
            self._histories.follow(points)
            for (equipment_id, model, _), at_s, _ in points:
                self._note_time(equipment_id, model, at_s)
            if not points:
                self._last_id = max(self._last_id, changes.last_id)

    def _sync_equipment(self, store: Store, revision: int) -> None:
        if revision == self._revision:
            return
        with self._equipment_lock:
            since = self._revision if revision > self._revision else -1  # the database was replaced
            ids, changed = store.equipment(since)
            self._read_times(store, changed)
            for equipment in changed:
                if self._equipment.get(equipment.id) != equipment:
                    self._equipment[equipment.id] = equipment
            for removed_id in self._equipment.keys() - ids:
                del self._equipment[removed_id]
                self._histories.forget(removed_id)
                self._cycle_times.forget(removed_id)
            self._revision = revision

    def _read_times(self, store: Store, changed: Sequence[Equipment]) -> None:
        """The next window of a machine follows the latest stored one, here and after a restart."""
        of_cycles = [equipment.id for equipment in changed if equipment.cycle_s is not None]
        for equipment_id, model, at_s in store.latest_times(of_cycles) if of_cycles else ():
            self._cycle_times.seen(equipment_id, model, at_s)

    def _load_histories(self, store: Store) -> None:
        for key in self._histories.unread()[:_LOADS_PER_CYCLE]:
            rows: Sequence[tuple[float, float, int]] = store.load_points(key)
            columns = np.array(rows, np.float64).reshape(-1, 3)
            self._histories.merge_stored(key, columns[:, 0], columns[:, 1], columns[:, 2])

    def _retain(self, store: Store) -> None:
        if time.monotonic() < self._retain_at:
            return
        keep = self._retention
        removed = store.retain(time.time() - keep.keep_days * 86_400, keep.keep_per_machine, keep.keep_results)
        self._retain_at = time.monotonic() + _RETAIN_EVERY_S
        if removed:
            log.info("deleted %d old results", removed)


_SHARED: dict[tuple[int, str], Fleet] = {}
_SHARED_LOCK = threading.Lock()
_OPENING = threading.Lock()


@atexit.register
def _stop_all() -> None:
    """Stop all threads at exit, for programs that do not close."""
    for (pid, _), fleet in list(_SHARED.items()):
        if pid == os.getpid():
            fleet._stop()
