"""The directories of cached, optimized models. Runtimes load them unchecked, so only this user may write to them."""

from __future__ import annotations

import os
from pathlib import Path


def private_directory(directory: Path) -> Path | None:
    """The directory, created if needed; None when that fails, or when other users may write to it."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = directory.stat()
    except OSError:
        return None
    if not hasattr(os, "geteuid"):
        return directory
    return directory if status.st_uid == os.geteuid() and not status.st_mode & 0o022 else None
