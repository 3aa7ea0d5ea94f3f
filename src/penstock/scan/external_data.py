"""Files that a model names and that lie beside it: external data of ONNX, the weights of OpenVINO."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from penstock.artifacts.manifest import check_path
from penstock.scan.findings import Refused, shown

_IN_MEMORY = "_ORT_MEM_ADDR_"
"""The mark by which runtimes take an offset for an address in their own memory."""


def size_beside(model: Path, location: str) -> int:
    """The size of the file that `model` names; raises Refused unless it is a plain file inside the model's directory.

    A hard link is refused as a symbolic one is: it makes any file of the same disk appear in the directory.
    """
    if _IN_MEMORY in location:
        raise Refused(f"its external data {shown(location)} is an address in memory")
    try:
        check_path(location)
    except ValueError:
        raise Refused(f"its external data {shown(location)} is not a plain relative path") from None
    path = model.parent
    for part in location.split("/"):
        path = path / part
        status = _status(path, location)
        if stat.S_ISLNK(status.st_mode):
            raise Refused(f"its external data {shown(location)} is, or lies behind, a symbolic link")
    if not stat.S_ISREG(status.st_mode):
        raise Refused(f"its external data {shown(location)} is not a plain file")
    if status.st_nlink > 1:
        raise Refused(f"its external data {shown(location)} has a second name elsewhere (a hard link); copy it")
    return status.st_size


def _status(path: Path, location: str) -> os.stat_result:
    try:
        return path.lstat()
    except (OSError, ValueError):
        raise Refused(f"its external data {shown(location)} is missing; put it beside the model") from None
