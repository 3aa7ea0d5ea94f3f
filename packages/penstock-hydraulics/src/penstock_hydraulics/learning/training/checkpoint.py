"""Checkpoints: a resumed training gives the same weights as an uninterrupted one."""

from __future__ import annotations

import os
import pickle
import zipfile
from pathlib import Path
from typing import Any, Final

import torch

from penstock.errors import InvalidInput

DAMAGED: Final = (
    OSError,
    RuntimeError,
    EOFError,
    KeyError,
    TypeError,
    ValueError,
    zipfile.BadZipFile,
    pickle.UnpicklingError,
)
"""What reading a file that is damaged, or is no checkpoint, raises."""


def write(path: Path, state: dict[str, Any]) -> None:
    """Write `state` atomically: a kill during the write leaves the previous checkpoint."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        torch.save(state, draft)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def read(path: Path, identity: str) -> dict[str, Any] | None:
    """The state in `path`, or None if there is no file. Tensors and plain values only: no code is executed.

    Raises `InvalidInput` for a damaged file, or a checkpoint of other data or another config.
    """
    if not path.is_file():
        return None
    try:
        with zipfile.ZipFile(path) as archive:  # torch does not verify the checksums
            if archive.testzip() is not None:
                raise RuntimeError("a checksum is wrong")
        state = torch.load(path, map_location="cpu", weights_only=True)
        found = state["identity"]
    except DAMAGED as error:
        raise InvalidInput(f"{path}: the checkpoint is damaged; remove it to start over") from error
    if found != identity:
        raise InvalidInput(
            f"{path}: the checkpoint belongs to a training with other data or options; use those, or another directory"
        )
    return dict(state)
