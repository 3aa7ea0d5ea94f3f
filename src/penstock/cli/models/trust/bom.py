"""`penstock models bom`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from penstock.cli.models.trust.subject import SubjectArgument, subject
from penstock.cli.options import ConfigOption, JsonOption, RegistryOption, open_registry, read_settings
from penstock.cli.output import print_json
from penstock.errors import ConfigError, not_written

_Format = Annotated[
    Literal["cyclonedx", "slsa"],
    typer.Option(
        "--format", help="cyclonedx (bill of materials, CycloneDX 1.6) or slsa (provenance, in-toto statement)."
    ),
]
_Out = Annotated[Path | None, typer.Option("--out", metavar="FILE", help="Write it there.", show_default="print it")]


def bom(
    ref: SubjectArgument,
    format: _Format = "cyclonedx",
    out: _Out = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
    registry: RegistryOption = None,
) -> None:
    """Print the bill of materials of a version: files, datasets, licences, measurements, installed packages.

    Either format is a JSON document. It repeats what the manifest and the card state.
    """
    from penstock.artifacts.bills.cyclonedx import cyclonedx
    from penstock.artifacts.bills.provenance import provenance
    from penstock.artifacts.files import replace_file

    with open_registry(read_settings(config, registry=registry)) as models:
        artifact = subject(models, ref)
        document = cyclonedx(artifact) if format == "cyclonedx" else provenance(artifact)
    if out is None:
        print_json(document)
        return
    path = out.expanduser()
    try:
        replace_file(path, f"{json.dumps(document, indent=2, ensure_ascii=False)}\n".encode(), path.parent)
    except OSError as error:
        raise ConfigError(not_written(error, path)) from None
    if as_json:
        print_json({"ref": artifact.ref, "format": format, "path": path})
    else:
        typer.echo(f"wrote {path} ({format}) for {artifact.ref}")
