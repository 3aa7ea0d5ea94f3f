"""The subcommand `penstock-hydraulics faults`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from penstock.errors import InvalidInput


def faults(
    artifact: Annotated[Path, typer.Argument(help="Directory of a published version: new/hydraulics/v1.1.")],
    windows: Annotated[int, typer.Option(min=1, max=1000, help="Windows of each fault, component and severity.")] = 10,
) -> None:
    """Measure which simulated faults a version detects, by fault, component and severity: the table of its card."""
    from penstock import Artifact
    from penstock_hydraulics.learning.publishing.simulated_faults import simulated_faults, simulated_section
    from penstock_hydraulics.task import HydraulicDiagnostics

    found = Artifact.open(artifact)
    task, variant = found.manifest.task, next((one for one in found.variants if one.format == "onnx"), None)
    if task.kind != HydraulicDiagnostics.kind or variant is None:
        raise InvalidInput(
            f"{artifact} is no ONNX model with the task {HydraulicDiagnostics.kind}; choose another version"
        )
    outcomes = simulated_faults(task.config, found.manifest.signature, found.variant_path(variant), windows)
    typer.echo(simulated_section(outcomes), nl=False)
