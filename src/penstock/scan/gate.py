"""Decides whether the findings of a scan are allowed, and scans all files of an artifact."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from penstock.artifacts.artifact import Artifact, Variant
from penstock.errors import IntegrityError, Untrusted
from penstock.scan.findings import Finding, Report
from penstock.scan.scanner import scan_file

_LIBRARIES = (".so", ".dll", ".dylib", ".py", ".pyc", ".pyd", ".sh", ".pkl", ".pickle")


def require_allowed(report: Report, trust: str) -> None:
    """Raise IntegrityError for what no tier allows, Untrusted for what `trust` does not allow, naming the file."""
    beyond = report.against(trust)
    for finding in beyond:
        if finding.needs is None:
            raise IntegrityError(f"{report.path}: {finding.what}; it was not opened")
    for finding in beyond:
        raise Untrusted(untrusted(report.path, finding.what, report.tier))


def untrusted(path: Path, what: str, tier: str) -> str:
    """The sentence for a file that needs more trust than it has."""
    return f'{path}: {what}; if you trust its source, pass trust="{tier}", or publish it with trust="{tier}"'


def scan_artifact(artifact: Artifact) -> Iterator[Report]:
    """A report on every file of an artifact that is opened: variants, their companions, golden samples."""
    for variant in artifact.variants:
        yield scan_file(artifact.variant_path(variant), variant.format)
        yield from _companions(artifact, variant)
    if artifact.manifest.golden is not None:
        yield scan_file(artifact.path / artifact.manifest.golden.file.path)


def _companions(artifact: Artifact, variant: Variant) -> Iterator[Report]:
    """Companions of a model are data for its runtime; files that an operating system would run are refused."""
    for entry in variant.files:
        if entry.path != variant.file and entry.path.lower().endswith(_LIBRARIES):
            finding = Finding(None, "it is a program, which is not part of a model")
            yield Report(artifact.path / entry.path, "program", (finding,))
