"""Scans checkpoints as `torch.save` writes them since 1.6: a zip archive of one pickle and its storages."""

from __future__ import annotations

import re
from collections.abc import Iterator

from penstock.errors import quoted
from penstock.scan import pickles
from penstock.scan.archive import NESTED, Archive
from penstock.scan.findings import Finding

_PLAIN = re.compile(
    r"data\.pkl|data/\d+|version|byteorder|\.format_version|\.storage_alignment|\.data/serialization_id"
    r"|\.data/version|\.metadata(/.*)?"
)


def scan(archive: Archive) -> Iterator[Finding]:
    """What a checkpoint could do when it is loaded."""
    for inner, name in archive.below_root().items():
        if not _PLAIN.fullmatch(inner) and not name.endswith("/"):
            yield Finding(None, f"it holds {quoted(name)}, which is not part of a checkpoint")
        elif inner.lower().endswith(".pkl"):
            yield from pickles.scan(archive.read(name))


def refuse_nested(archive: Archive, names: Iterator[str]) -> Iterator[Finding]:
    """A finding for each of these members that is itself an archive."""
    for name in names:
        if NESTED.match(archive.start(name)):
            yield Finding(None, f"it holds another archive, {quoted(name)}")
