"""Checkpoints as `torch.save` writes them since 1.6: a zip archive of one pickle and the numbers it refers to."""

from __future__ import annotations

import re
from collections.abc import Iterator

from penstock.scan import pickles
from penstock.scan.archive import NESTED, Archive
from penstock.scan.findings import Finding, Refused, shown

_PLAIN = re.compile(
    r"data\.pkl|data/\d+|version|byteorder|\.format_version|\.storage_alignment|\.data/serialization_id"
    r"|\.data/version|\.metadata(/.*)?"
)


def scan(archive: Archive) -> Iterator[Finding]:
    """What a checkpoint could do when it is loaded."""
    root_of(archive)
    for name in archive.members:
        inner = name.partition("/")[2]
        if not _PLAIN.fullmatch(inner) and not name.endswith("/"):
            yield Finding(None, f"it holds {shown(name)}, which is no part of a checkpoint")
        elif inner.lower().endswith(".pkl"):
            yield from pickles.scan(archive.read(name))


def root_of(archive: Archive) -> str:
    """The one directory of an archive that PyTorch wrote; raises Refused where there are more."""
    roots = {name.partition("/")[0] for name in archive.members}
    if len(roots) != 1 or any("/" not in name for name in archive.members):
        raise Refused("its members do not lie in one directory, as PyTorch writes them")
    return roots.pop()


def refuse_nested(archive: Archive, names: Iterator[str]) -> Iterator[Finding]:
    """A finding for each of these members that is an archive itself."""
    for name in names:
        if NESTED.match(archive.start(name)):
            yield Finding(None, f"it holds another archive, {shown(name)}")
