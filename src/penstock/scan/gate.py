"""Decides whether the findings of a scan are allowed, and scans all files of an artifact."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from penstock.artifacts.artifact import Artifact
from penstock.errors import IntegrityError, Untrusted
from penstock.scan.findings import Finding, Report
from penstock.scan.memory_map import mapped
from penstock.scan.scanner import disguised, scan_file

_PROGRAMS = (".so", ".dll", ".dylib", ".py", ".pyc", ".pyd", ".sh", ".pkl", ".pickle")


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
    """A report on every file of an artifact that is opened: variants, their companions, golden samples, card."""
    models = {variant.file for variant in artifact.variants}
    for variant in artifact.variants:
        yield scan_file(artifact.variant_path(variant), variant.format)
    golden = artifact.manifest.golden
    if golden is not None:
        models.add(golden.file.path)
        yield scan_file(artifact.path / golden.file.path)
    for entry in artifact.manifest.files():
        if entry.path not in models:
            yield from _companion(artifact.path / entry.path)


def _companion(path: Path) -> Iterator[Report]:
    """Other files are data for a runtime; what an operating system or an unpickler would run is refused."""
    what = "a program" if path.name.lower().endswith(_PROGRAMS) else None
    if what is None:
        with mapped(path) as data:
            what = disguised(data) if len(data) else None
    if what is not None:
        yield Report(path, "program", (Finding(None, f"it is {what}, which is not part of a model"),))
