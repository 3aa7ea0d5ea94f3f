"""Scans what `torch.save` and `torch.jit.save` write: zip archives of pickles and storages.

What a TorchScript program calls is not looked at: see "What may be loaded" in docs/security.md.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from penstock.errors import quoted
from penstock.scan import pickles
from penstock.scan.archive import Archive, refuse_nested
from penstock.scan.findings import Finding

_PLAIN = re.compile(
    r"data\.pkl|data/\d+|version|byteorder|\.format_version|\.storage_alignment|\.data/serialization_id"
    r"|\.data/version|\.metadata(/.*)?"
)
_ATTRIBUTES = re.compile(r"torch\.jit\._pickle\.\w+|__torch__(\.\w+)*")
_DATA = re.compile(r"data/\d+|constants/\d+|traced_inputs/\d+")


def scan(archive: Archive) -> Iterator[Finding]:
    """What a checkpoint could do when it is loaded: one pickle and its storages, as PyTorch writes them since 1.6."""
    for inner, name in archive.below_root().items():
        if not _PLAIN.fullmatch(inner) and not name.endswith("/"):
            yield Finding(None, f"it holds {quoted(name)}, which is not part of a checkpoint")
        elif inner.lower().endswith(".pkl"):
            yield from pickles.scan(archive.read(name))


def scan_torchscript(archive: Archive) -> Iterator[Finding]:
    """What TorchScript could do: a program, and the pickles that hold its attributes."""
    archive.below_root()
    yield Finding("code", "TorchScript is a program, which runs with the model")
    for name in archive.members:
        if name.lower().endswith("pkl"):
            yield from _attributes(name, archive.read(name))
    extra = (n for n in archive.members if not _DATA.fullmatch(n.partition("/")[2]) and not n.endswith("/"))
    yield from refuse_nested(archive, extra)


def _attributes(member: str, data: bytes) -> Iterator[Finding]:
    for name in sorted(pickles.names_of(data)):
        if str(name) not in pickles.WEIGHTS and not _ATTRIBUTES.fullmatch(str(name)):
            yield Finding(None, f"{member}: its pickle looks up {quoted(name)}, which is not part of TorchScript")
