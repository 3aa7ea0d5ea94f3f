"""Temporary files in memory, where there is room: tests write, sync and remove a hundred thousand small files."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

_MEMORY = Path("/dev/shm")
_ROOM = 3 << 30


def load() -> None:
    """Let this process and those that it starts keep temporary files in memory, unless TMPDIR says where."""
    if "TMPDIR" not in os.environ and _is_fit(_MEMORY):
        os.environ["TMPDIR"] = str(_MEMORY)
        tempfile.tempdir = None


def _is_fit(place: Path) -> bool:
    """A container's /dev/shm is small, and compiled models could not run where programs may not be executed."""
    if not place.is_mount() or not os.access(place, os.W_OK):
        return False
    return shutil.disk_usage(place).free >= _ROOM and not os.statvfs(place).f_flag & os.ST_NOEXEC
