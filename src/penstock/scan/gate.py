"""Whether what a scan found is allowed: the sentence that says why not, and all files of an artifact."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from penstock.artifacts.artifact import Artifact, Variant
from penstock.errors import IntegrityError, Untrusted
from penstock.scan.findings import Finding, Report
from penstock.scan.scanner import scan_file

_LIBRARIES = (".so", ".dll", ".dylib", ".py", ".pyc", ".pyd", ".sh", ".pkl", ".pickle")


def require_allowed(report: Report, trust: str) -> None:
    """Raise IntegrityError for what nothing allows, Untrusted for what `trust` does not, naming the file."""
    beyond = report.against(trust)
    for finding in beyond:
        if finding.needs is None:
            raise IntegrityError(f"{report.path}: {finding.what}; it was not opened")
    for finding in beyond:
        raise Untrusted(untrusted(report.path, finding.what, report.tier))


def untrusted(path: Path, what: str, tier: str) -> str:
    """The sentence for a file that needs a tier of trust that it was not given."""
    return f"{path}: {what}; if you trust where it comes from, say --trust {tier}, or publish it with --trust {tier}"


def scan_artifact(artifact: Artifact) -> Iterator[Report]:
    """A report on every file of an artifact that something opens: variants, their companions, golden samples."""
    for variant in artifact.variants:
        yield scan_file(artifact.variant_path(variant), variant.format)
        yield from _companions(artifact, variant)
    if artifact.manifest.golden is not None:
        yield scan_file(artifact.path / artifact.manifest.golden.file.path)


def _companions(artifact: Artifact, variant: Variant) -> Iterator[Report]:
    """Files beside a model are numbers to its runtime; those that a system would run have no business there."""
    for entry in variant.files:
        if entry.path != variant.file and entry.path.lower().endswith(_LIBRARIES):
            finding = Finding(None, "a program beside a model, which nothing here runs")
            yield Report(artifact.path / entry.path, "program", (finding,))
