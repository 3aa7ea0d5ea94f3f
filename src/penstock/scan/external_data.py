"""Files next to a model that it refers to: external data of ONNX, the weights of OpenVINO."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from penstock.artifacts.variant import check_path
from penstock.errors import quoted
from penstock.scan.findings import Refused

_IN_MEMORY = "_ORT_MEM_ADDR_"
"""The marker that makes runtimes read an offset as an address in their own memory."""


def plain_location(location: str) -> str:
    """A location without the steps that stay where they are, as in `./weights.bin`."""
    return "/".join(part for part in location.split("/") if part != ".")


def external_size(model: Path, location: str) -> int:
    """The size of the file that `model` names; raises Refused unless it is a regular file in the model's directory.

    Hard links are refused as symbolic links are: one makes any file of the same disk appear in the directory.
    """
    if _IN_MEMORY in location:
        raise Refused(f"its external data {quoted(location)} is an address in memory")
    plain = plain_location(location)
    try:
        check_path(plain)
    except ValueError:
        raise Refused(f"its external data {quoted(location)} is not a relative path inside its directory") from None
    path = model.parent
    for part in plain.split("/"):
        path = path / part
        status = _status(path, location)
        if stat.S_ISLNK(status.st_mode):
            raise Refused(f"its external data {quoted(location)} is, or is reached through, a symbolic link")
    if not stat.S_ISREG(status.st_mode):
        raise Refused(f"its external data {quoted(location)} is not a regular file")
    if status.st_nlink > 1:
        raise Refused(f"its external data {quoted(location)} has a hard link elsewhere; copy it")
    return status.st_size


def _status(path: Path, location: str) -> os.stat_result:
    try:
        return path.lstat()
    except (OSError, ValueError):
        raise Refused(f"its external data {quoted(location)} is missing; put it next to the model") from None
