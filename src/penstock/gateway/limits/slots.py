"""The states of all limits in one table of fixed size, in memory or in a file that the processes of a server share.

A set of slots is locked by a lock of the kernel on its bytes of the file, which ends with the process that holds it: a
process that is killed keeps nobody waiting.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import struct
from hashlib import blake2b
from pathlib import Path
from typing import TypeAlias

from penstock.gateway.limits.gcra import Gcra

SETS = 8192
WAYS = 8
"""Slots of a set. A limit whose set is full takes the slot that is nearest to full, whose holder then begins anew."""

_SLOT = struct.Struct("=Qd")
_SET = struct.Struct("=" + "Qd" * WAYS)
FILE = "limits"


class OwnSlots:
    """In the memory of this process. For its event loop."""

    def __init__(self) -> None:
        self.buffer = bytearray(SETS * _SET.size)
        self.taken: dict[Limit, int] | None = None
        """Requests that were admitted here, where other hosts are told."""

    def lock(self, start: int) -> None:
        """Nothing: no other process sees it."""

    def unlock(self, start: int) -> None:
        """Nothing."""


class SharedSlots:
    """In a file of the directory that the processes of a server share."""

    def __init__(self, directory: Path) -> None:
        """Raises OSError."""
        self._file = os.open(directory / FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        os.ftruncate(self._file, SETS * _SET.size)
        self.buffer = mmap.mmap(self._file, SETS * _SET.size)
        self.taken: dict[Limit, int] | None = None
        """Requests that this process has admitted, where other hosts are told."""

    def lock(self, start: int) -> None:
        """Exclude the other processes; bounded, since they hold it for microseconds."""
        fcntl.lockf(self._file, fcntl.LOCK_EX, _SET.size, start)

    def unlock(self, start: int) -> None:
        """Let them in again."""
        fcntl.lockf(self._file, fcntl.LOCK_UN, _SET.size, start)

    def __del__(self) -> None:
        with contextlib.suppress(AttributeError, OSError):
            os.close(self._file)


Slots: TypeAlias = OwnSlots | SharedSlots


class Limit:
    """The rate of one key or address. For the event loop of a process."""

    __slots__ = ("_at", "_shared", "_slots", "_start", "rate", "tag")

    def __init__(self, slots: Slots, name: str, rate: Gcra) -> None:
        digest = blake2b(name.encode(), digest_size=12, person=b"penstock-limit").digest()
        self.tag = int.from_bytes(digest[:8], "little") or 1  # 0 is a free slot
        self._start = int.from_bytes(digest[8:], "little") % SETS * _SET.size
        self._at = self._start
        self.rate = rate
        self._slots = slots
        self._shared = isinstance(slots, SharedSlots)

    def take(self, now: float) -> float:
        """0 if a request is admitted now, else the seconds until one is. `now` is `time.monotonic()`."""
        slots = self._slots
        if not self._shared:
            wait = self._take(slots.buffer, now)
        else:
            slots.lock(self._start)
            try:
                wait = self._take(slots.buffer, now)
            finally:
                slots.unlock(self._start)
        if slots.taken is not None and not wait:
            slots.taken[self] = slots.taken.get(self, 0) + 1
        return wait

    def raise_to(self, full_at: float) -> None:
        """Other hosts have admitted requests as well: the bucket is not full before this time."""
        slots = self._slots
        slots.lock(self._start)
        try:
            tag, known = _SLOT.unpack_from(slots.buffer, self._at)
            if tag != self.tag:
                known = self._find(slots.buffer)
            _SLOT.pack_into(slots.buffer, self._at, self.tag, max(known, full_at))
        finally:
            slots.unlock(self._start)

    def _take(self, buffer: bytearray | mmap.mmap, now: float) -> float:
        tag, full_at = _SLOT.unpack_from(buffer, self._at)
        if tag != self.tag:
            full_at = self._find(buffer)
        full_at, wait = self.rate.take(full_at, now)
        _SLOT.pack_into(buffer, self._at, self.tag, full_at)
        return wait

    def _find(self, buffer: bytearray | mmap.mmap) -> float:
        """Its state, and from now on its slot: its own, else a free one, else the one that is nearest to full."""
        found = _SET.unpack_from(buffer, self._start)
        tags, times = found[::2], found[1::2]
        if self.tag in tags:
            way = tags.index(self.tag)
        else:
            way = min(range(WAYS), key=lambda each: (tags[each] != 0, times[each]))
        self._at = self._start + way * _SLOT.size
        return times[way] if tags[way] == self.tag else 0.0
