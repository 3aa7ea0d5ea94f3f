"""Checkpoints: a training that was cut off goes on where it stopped, and ends as if it had not been."""

from __future__ import annotations

import os
import pickle
import zipfile
from pathlib import Path
from typing import Any, Final

import torch

from penstock.errors import InvalidInput

_DAMAGED: Final = (
    OSError,
    RuntimeError,
    EOFError,
    KeyError,
    TypeError,
    ValueError,
    zipfile.BadZipFile,
    pickle.UnpicklingError,
)


def write(path: Path, state: dict[str, Any]) -> None:
    """Write all of `state` or nothing: a training killed meanwhile leaves the checkpoint before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        torch.save(state, draft)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def read(path: Path, identity: str) -> dict[str, Any] | None:
    """The state in `path`, or None where there is none. Tensors and plain values only: no code is run.

    Raises `InvalidInput` for a file that is damaged or of a training with other data or another config.
    """
    if not path.is_file():
        return None
    try:
        with zipfile.ZipFile(path) as archive:  # torch does not look at the checksums that it wrote
            if archive.testzip() is not None:
                raise RuntimeError("a checksum is wrong")
        state = torch.load(path, map_location="cpu", weights_only=True)
        found = state["identity"]
    except _DAMAGED as error:
        raise InvalidInput(f"{path}: this checkpoint cannot be read; remove it to start anew") from error
    if found != identity:
        raise InvalidInput(
            f"{path}: this checkpoint is of a training with other data or options; give those, or another directory"
        )
    return dict(state)
