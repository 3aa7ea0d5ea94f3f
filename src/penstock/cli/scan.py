"""`penstock scan`: what a model file could do, found without running any of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from penstock.cli.options import ConfigOption, JsonOption, TrustOption, read_settings
from penstock.cli.output import print_json, print_table
from penstock.errors import InvalidInput, PenstockError

if TYPE_CHECKING:
    from penstock.scan.findings import Report


def scan(
    path: Annotated[
        Path, typer.Argument(metavar="PATH", help="A model file, an archive (.mar), or a directory with models.")
    ],
    trust: TrustOption = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Say what a model could do when it is opened, and which trust that needs; exit code 1 when it is not granted.

    Nothing of it is run, unpickled or imported. It finds what is known to be dangerous, and is no proof of the rest.
    """
    granted = read_settings(config, trust=trust).trust
    reports = list(_reports(path))
    allowed = not any(report.against(granted) for report in reports)
    if as_json:
        print_json({"trust": granted, "allowed": allowed, "files": [report.to_json() for report in reports]})
    else:
        _print(reports, granted)
    raise typer.Exit(0 if allowed else 1)


def _print(reports: list[Report], granted: str) -> None:
    rows = (
        (_verdict(report, granted), report.path, report.kind, "-" if report.refused else report.tier)
        for report in reports
    )
    print_table(("", "file", "is", "needs trust"), rows)
    for report in reports:
        for finding in report.findings:
            typer.echo(f"{report.path}: {finding.what} ({_consequence(finding.needs)})")


def _verdict(report: Report, granted: str) -> str:
    return "!!" if report.against(granted) else "ok"


def _consequence(needs: str | None) -> str:
    return "refused" if needs is None else f"needs --trust {needs}"


def _reports(path: Path) -> Iterator[Report]:
    """Of an artifact what its manifest lists, verified first; of any other directory every file in it."""
    from penstock.artifacts.artifact import MANIFEST, Artifact
    from penstock.scan.gate import scan_artifact
    from penstock.scan.scanner import scan_file

    if not path.is_dir():
        yield scan_file(path)
    elif (path / MANIFEST).is_file():
        artifact = Artifact.open(path)
        artifact.verify()
        yield from scan_artifact(artifact)
    else:
        yield from _in_directory(path)


def _in_directory(path: Path) -> Iterator[Report]:
    from penstock.artifacts.artifact import MANIFEST

    files = sorted(file for file in path.rglob("*") if file.is_file())
    if not files:
        raise InvalidInput(f"{path} holds no files", field="path")
    inside = {file.parent for file in files if file.name == MANIFEST}
    loose = (file for file in files if not inside.intersection(file.parents))
    for each in (*sorted(inside), *loose):
        yield from _reports_or_why(each)


def _reports_or_why(path: Path) -> list[Report]:
    """What is damaged is a finding among the others: it hides nothing of them."""
    from penstock.scan.findings import Finding, Report

    try:
        return list(_reports(path))
    except PenstockError as error:
        return [Report(path, "damaged", (Finding(None, str(error)),))]
