"""The zip files that PyTorch saves programs in: what is in one, without handing it to PyTorch."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from penstock.errors import IntegrityError

_BROKEN = (zipfile.BadZipFile, EOFError, KeyError, NotImplementedError, OSError, RuntimeError, ValueError)
"""What zipfile raises for files that are no zip, cut off, encrypted or compressed in a way it does not know."""


@contextmanager
def open_archive(path: Path, holding: str, what: str) -> Iterator[zipfile.ZipFile]:
    """An archive with a member `holding` (below its one directory); raises IntegrityError that it is no `what`."""
    try:
        with zipfile.ZipFile(path) as archive:
            roots = {name.partition("/")[0] for name in archive.namelist()}
            if len(roots) != 1 or f"{next(iter(roots))}/{holding}" not in archive.NameToInfo:
                raise zipfile.BadZipFile
            for member in archive.infolist():  # a damaged header is found here, and not deep inside PyTorch
                archive.open(member).close()
            yield archive
    except _BROKEN:
        raise IntegrityError(f"{path}: the file is damaged or no {what}") from None


def members(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """By name below the archive's one directory."""
    return {member.filename.partition("/")[2]: member for member in archive.infolist()}


def format_of_archive(path: Path) -> str | None:
    """The format of a PyTorch archive by what is in it; None for any other file, weights among them.

    All have the same suffixes in practice, and torch.save writes weights as a zip file too.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = {name.partition("/")[2] for name in archive.namelist()}
    except _BROKEN:
        return None
    if any(name.startswith("data/aotinductor/") for name in names):
        return "aoti"
    if "models/model.json" in names:
        return "pt2"
    has_code = any(name.startswith("code/") for name in names)
    return "torchscript" if has_code and "constants.pkl" in names else None
