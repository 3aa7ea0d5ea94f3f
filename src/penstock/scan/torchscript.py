"""Scans TorchScript archives: a program, in Python syntax, and the pickles that hold its attributes.

What the program calls is not looked at: see "What may be loaded" in docs/security.md.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from penstock.errors import quoted
from penstock.scan import pickles
from penstock.scan.archive import Archive
from penstock.scan.checkpoint import refuse_nested
from penstock.scan.findings import Finding

_ATTRIBUTES = re.compile(r"torch\.jit\._pickle\.\w+|__torch__(\.\w+)*")
_DATA = re.compile(r"data/\d+|constants/\d+|traced_inputs/\d+")


def scan(archive: Archive) -> Iterator[Finding]:
    """What a TorchScript archive could do."""
    archive.below_root()
    yield Finding("code", "TorchScript is a program, which runs with the model")
    for name in archive.members:
        if name.lower().endswith("pkl"):
            yield from _pickle(name, archive.read(name))
    extra = (n for n in archive.members if not _DATA.fullmatch(n.partition("/")[2]) and not n.endswith("/"))
    yield from refuse_nested(archive, extra)


def _pickle(member: str, data: bytes) -> Iterator[Finding]:
    for name in sorted(pickles.names_of(data)):
        if str(name) not in pickles.WEIGHTS and not _ATTRIBUTES.fullmatch(str(name)):
            yield Finding(None, f"{member}: its pickle looks up {quoted(name)}, which is not part of TorchScript")
