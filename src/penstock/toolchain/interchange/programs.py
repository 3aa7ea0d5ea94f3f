"""Makes a program of weights and the class that they fill, for readers that do not have that class."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from penstock.artifacts.artifact import Artifact, Variant
from penstock.errors import InvalidInput
from penstock.toolchain.export.exported import ExportOptions
from penstock.toolchain.export.program import export_program
from penstock.toolchain.recipes.opening import subject_of


def write_program(artifact: Artifact, variant: Variant, path: Path, trust: str) -> None:
    """Export a variant of the format pytorch to the file `path` (.pt2), without a pickle in it.

    Raises InvalidInput where its class cannot be built with this `trust`, ExportFailed if it cannot be exported.
    """
    subject = subject_of(artifact, trust)
    if subject.module is None or variant.precision != "fp32":
        why = "; ".join(subject.notes) or f"it is not fp32 but {variant.precision}"
        raise InvalidInput(
            f"{artifact.ref}: the variant {variant.name} cannot be made a program for MLflow: {why}; write its files "
            "as they are, plain=True",
            field="variant",
        )
    with tempfile.TemporaryDirectory(prefix="penstock-") as scratch:
        made = export_program(subject.module, Path(scratch), ExportOptions())
        shutil.copyfile(made.path, path)
