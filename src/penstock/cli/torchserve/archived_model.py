"""What `penstock models import` takes from an archive of TorchServe: a model that needs no handler."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from penstock.errors import UnsupportedFormat, quoted
from penstock.scan.scanner import kind_of_file
from penstock.torchserve.archives.archive import ModelArchive, open_archive
from penstock.torchserve.archives.manifest import PLAIN_HANDLERS, Manifest
from penstock.torchserve.archives.tar import MAGIC

_SUFFIXES = (".mar", ".war", ".model")


class ArchivedModel(NamedTuple):
    """The model file of an archive, unpacked, and what goes into the lineage."""

    file: Path
    lineage: dict[str, Any]


def archive_in(path: Path) -> ModelArchive | None:
    """The archive that a file is; None for any other file. Raises IntegrityError for one that is not safe to unpack."""
    if not path.is_file():
        return None
    with path.open("rb") as file:
        packed = file.read(len(MAGIC)) == MAGIC
    return open_archive(path) if packed or path.suffix in _SUFFIXES or kind_of_file(path) == "mar" else None


@contextmanager
def unpacked_model(archive: ModelArchive) -> Iterator[ArchivedModel]:
    """The model of an archive, for the block. Raises UnsupportedFormat if it is not served without its handler."""
    name = _model_file(archive)
    with tempfile.TemporaryDirectory(prefix="penstock-") as scratch:
        directory = Path(scratch) / "model"
        digest = archive.unpack(directory)
        with archive.path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        time = int(archive.path.stat().st_mtime)
        os.utime(directory / name, (time, time))  # so that the same archive gives the same artifact
        lineage = {"archive": archive.path.name, "archive_sha256": sha256, "archive_digest": digest}
        yield ArchivedModel(directory / name, lineage)


def _model_file(archive: ModelArchive) -> str:
    path, manifest = archive.path, archive.manifest
    if not isinstance(manifest, Manifest):
        raise UnsupportedFormat(f"{path}: it is a workflow; import the archives of its models one by one")
    if manifest.handler not in PLAIN_HANDLERS:
        raise UnsupportedFormat(
            f"{path}: its handler {quoted(manifest.handler)} does more than run the model, and handlers do not run "
            "yet; unpack it with `penstock archive unpack`, and import the model file in it"
        )
    if manifest.model_file is not None:
        raise UnsupportedFormat(
            f"{path}: it holds weights and the class in {quoted(manifest.model_file)}; unpack it with "
            "`penstock archive unpack`, and export the model with `penstock export`"
        )
    if manifest.serialized_file is None or manifest.serialized_file not in archive.members:
        raise UnsupportedFormat(f"{path}: it holds no model file; name one with `penstock archive create`")
    return manifest.serialized_file
