"""The result of a scan: findings, each with the tier of trust it needs, and the report on one file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from penstock.formats import Trust
from penstock.scan.trust import at_least, strongest


class Refused(Exception):
    """A file, or a part of one, that must not be opened at any tier of trust; `str` gives the reason as a clause."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that a file could do. `needs` is the tier that allows it; None when no tier does."""

    needs: Trust | None
    what: str

    def inside(self, member: str) -> Finding:
        """The same finding, of a member of an archive."""
        return Finding(self.needs, f"{member}: {self.what}")


@dataclass(frozen=True, slots=True)
class Report:
    """What one model file could do, found without running or unpickling any of it."""

    path: Path
    kind: str
    """The kind of file: onnx, checkpoint, torchscript, pt2, aoti, safetensors, pickle, …"""
    findings: tuple[Finding, ...] = ()

    @property
    def tier(self) -> Trust:
        """The trust that opening it takes, if it may be opened at all."""
        return strongest("data", *(finding.needs for finding in self.findings if finding.needs is not None))

    @property
    def refused(self) -> bool:
        """True when it must not be opened at any tier of trust."""
        return any(finding.needs is None for finding in self.findings)

    def against(self, trust: str) -> tuple[Finding, ...]:
        """The findings that `trust` does not allow."""
        return tuple(each for each in self.findings if each.needs is None or not at_least(trust, each.needs))

    def to_json(self) -> dict[str, Any]:
        """The report as JSON; `needs` is null for what no tier allows."""
        return {
            "path": str(self.path),
            "kind": self.kind,
            "tier": self.tier,
            "refused": self.refused,
            "findings": [{"needs": finding.needs, "what": finding.what} for finding in self.findings],
        }
