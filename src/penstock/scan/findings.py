"""What a scan says: findings, each with the tier of trust it needs, and the report on one file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from penstock.scan.trust import Trust, at_least, strongest

_LONGEST = 80


class Refused(Exception):
    """A file, or a part of one, that is not to be opened whatever is trusted; `str` says why, in a clause."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that a file could do. `needs` is the tier that allows it; None: nothing does."""

    needs: Trust | None
    what: str

    def inside(self, member: str) -> Finding:
        """The same finding, of a member of an archive."""
        return Finding(self.needs, f"{member}: {self.what}")


@dataclass(frozen=True, slots=True)
class Report:
    """What one model file could do, as found without running or unpickling any of it."""

    path: Path
    kind: str
    """What it is: onnx, weights, torchscript, pt2, aoti, safetensors, pickle, …"""
    findings: tuple[Finding, ...] = ()

    @property
    def tier(self) -> Trust:
        """The trust that opening it takes, as far as it may be opened at all."""
        return strongest("data", *(finding.needs for finding in self.findings if finding.needs is not None))

    @property
    def refused(self) -> bool:
        """True when it is not to be opened whatever is trusted."""
        return any(finding.needs is None for finding in self.findings)

    def against(self, trust: str) -> tuple[Finding, ...]:
        """The findings that `trust` does not allow."""
        return tuple(each for each in self.findings if each.needs is None or not at_least(trust, each.needs))

    def to_json(self) -> dict[str, Any]:
        """For programs; `needs` is null for what nothing allows."""
        return {
            "path": str(self.path),
            "kind": self.kind,
            "tier": self.tier,
            "refused": self.refused,
            "findings": [{"needs": finding.needs, "what": finding.what} for finding in self.findings],
        }


def shown(text: object) -> str:
    """Text of a file as it may stand in a sentence: one line, no control characters, not endless."""
    quoted = repr(str(text))
    return quoted if len(quoted) <= _LONGEST else f"{quoted[:_LONGEST]}…'"
