"""Writes archives in each form, completely or not at all; what is written has been read back."""

from __future__ import annotations

import io
import re
import secrets
import shutil
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from penstock.artifacts.files import discard, new_directory, replacing
from penstock.errors import IntegrityError, InvalidInput, not_written, quoted
from penstock.torchserve.archives.archive import open_archive

SUFFIXES: Final = {"default": ".mar", "zip-store": ".mar", "tgz": ".tar.gz", "no-archive": ""}
"""What `archive_format` may be, and the suffix of each."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_\-.]*")


def check_name(option: str, name: str) -> None:
    """Raises InvalidInput for a name that upstream refuses."""
    if not _NAME.fullmatch(name):
        raise InvalidInput(
            f"{option}: {quoted(name)} should begin with a letter or digit and hold letters, digits, '_', '-' and '.'",
            field=option,
        )


def target_in(export_path: Path, name: str, suffix: str, *, force: bool) -> Path:
    """The file to write; raises InvalidInput if the directory is missing or, without `force`, the file is there."""
    if not export_path.is_dir():
        raise InvalidInput(f"export_path: {quoted(export_path)} is not a directory", field="export_path")
    target = export_path / f"{name}{suffix}"
    if target.exists() and not force:
        raise InvalidInput(f"{target} already exists; force=True overwrites it", field="force")
    return target


def write_zip(target: Path, files: Mapping[str, Path], manifest: tuple[str, str], *, stored: bool = False) -> None:
    """`manifest` is the name of its member and the text. Raises InvalidInput if it cannot be written."""
    method = zipfile.ZIP_STORED if stored else zipfile.ZIP_DEFLATED
    try:
        with replacing(target) as new:
            with zipfile.ZipFile(new, "w", method, strict_timestamps=False) as archive:
                for name, source in sorted(files.items()):
                    archive.write(source, name)
                archive.writestr(*manifest)
            _read_back(new, target)
    except OSError as error:
        raise InvalidInput(not_written(error, target), field="export_path") from None


def write_tar(target: Path, top: str, files: Mapping[str, Path], manifest: tuple[str, str]) -> None:
    """A `.tar.gz` with everything below the directory `top`. Raises InvalidInput if it cannot be written."""
    name, text = manifest
    try:
        with replacing(target) as new:
            with tarfile.open(new, "w:gz", format=tarfile.PAX_FORMAT) as archive:
                for each, source in sorted(files.items()):
                    with source.open("rb") as file:
                        archive.addfile(_member(f"{top}/{each}", source), file)
                member = tarfile.TarInfo(f"{top}/{name}")
                member.size = len(text.encode())
                archive.addfile(member, io.BytesIO(text.encode()))
            _read_back(new, target)
    except OSError as error:
        raise InvalidInput(not_written(error, target), field="export_path") from None


def _member(name: str, source: Path) -> tarfile.TarInfo:
    """A plain file, also for a link and for the second name of a file."""
    status = source.stat()
    member = tarfile.TarInfo(name)
    member.size, member.mtime = status.st_size, int(status.st_mtime)
    return member


def write_directory(target: Path, files: Mapping[str, Path], manifest: tuple[str, str]) -> None:
    """A directory in place of one that holds a model, or none. Raises InvalidInput if it cannot be written."""
    if not target.exists():
        _new_directory(target, files, manifest)
        return
    if not target.is_dir() or target.is_symlink() or not _holds_model(target):
        raise InvalidInput(f"{target} is no directory of a model, so it is not overwritten; remove it", field="force")
    aside = target.with_name(f".{target.name}.{secrets.token_hex(6)}")
    old = target.with_name(f".{target.name}.{secrets.token_hex(6)}")
    _new_directory(aside, files, manifest)
    try:
        target.rename(old)
        try:
            aside.rename(target)
        except OSError:
            old.rename(target)
            raise
    except OSError as error:
        raise InvalidInput(not_written(error, target), field="export_path") from None
    finally:
        discard(aside)
        discard(old)


def _holds_model(directory: Path) -> bool:
    return (directory / "MAR-INF" / "MANIFEST.json").is_file()


def _new_directory(target: Path, files: Mapping[str, Path], manifest: tuple[str, str]) -> None:
    name, text = manifest
    with new_directory(target) as new:
        for each, source in files.items():
            (new / each).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, new / each)
        (new / name).parent.mkdir()
        (new / name).write_text(text, encoding="utf-8")


def _read_back(new: Path, target: Path) -> None:
    """Raises InvalidInput for an archive that would be refused when it is loaded."""
    try:
        open_archive(new, name=target)
    except IntegrityError as error:
        why = str(error).removeprefix(f"{target}: ").partition("; pack its files")[0]
        raise InvalidInput(
            f"{target}: {why}, and would be refused; store its files with `--archive-format zip-store`",
            field="archive_format",
        ) from None
