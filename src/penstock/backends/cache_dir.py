"""Where runtimes keep what they made of a model. What is found there is run unseen, so nobody else may write to it."""

from __future__ import annotations

import os
from pathlib import Path


def private_directory(directory: Path) -> Path | None:
    """The directory, made if need be; None where that cannot be done, or others may write to it."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = directory.stat()
    except OSError:
        return None
    if not hasattr(os, "geteuid"):
        return directory
    return directory if status.st_uid == os.geteuid() and not status.st_mode & 0o022 else None
