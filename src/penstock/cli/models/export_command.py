"""`penstock models export`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from penstock.cli.options import (
    ConfigOption,
    JsonOption,
    RefArgument,
    RegistryOption,
    TrustOption,
    open_registry,
    read_settings,
)
from penstock.cli.output import print_json, working

if TYPE_CHECKING:
    from penstock.artifacts.artifact import Artifact, Variant

_Directory = Annotated[
    Path, typer.Argument(metavar="DIR", help="The directory to write; it must be empty or not exist.")
]
_Variant = Annotated[
    str | None, typer.Option(help="The variant to write, by its name.", show_default="the first ONNX one, else another")
]
_Plain = Annotated[bool, typer.Option("--plain", help="Write the files of the variant alone, without MLflow's.")]


def export_model(
    ref: RefArgument,
    directory: _Directory,
    variant: _Variant = None,
    plain: _Plain = False,
    trust: TrustOption = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
    registry: RegistryOption = None,
) -> None:
    """Write a version as an MLflow model directory, or with --plain its model file.

    MLflow's flavor is onnx where there is an ONNX variant, so that plain mlflow.pyfunc loads it, else
    pytorch. The directory appears completely or not at all.
    """
    from penstock.artifacts.files import new_directory
    from penstock.scan.trust import strongest

    settings = read_settings(config, registry=registry, trust=trust)
    with open_registry(settings) as models:
        artifact = models.get(ref)
        artifact.check_signed()
        with new_directory(directory.expanduser()) as target, working(f"writing {directory}"):
            facts = _plain_files if plain else _mlflow
            written = facts(artifact, variant, target, strongest(settings.trust, models.trusted(artifact.digest)))
    if as_json:
        print_json({"ref": artifact.ref, "path": directory, **written})
    else:
        what = f"{written['variant']} as MLflow's flavor {written['flavor']}" if not plain else written["variant"]
        typer.echo(f"wrote {artifact.ref} ({what}) to {directory}")
        for note in written["notes"]:
            typer.echo(note)


def _plain_files(artifact: Artifact, name: str | None, target: Path, trust: str) -> dict[str, Any]:  # noqa: ARG001
    from penstock.toolchain.interchange.plain_files import copy_variant

    variant = artifact.variants[0] if name is None else artifact.manifest.variant(name)
    files = copy_variant(artifact, variant, target)
    return {"format": variant.format, "variant": variant.name, "files": files, "notes": [*_needs(artifact, variant)]}


def _needs(artifact: Artifact, variant: Variant) -> list[str]:
    """What the files alone do not say."""
    if variant.architecture is None:
        return []
    inputs = " ".join(
        f"--input {spec.name}:{spec.dtype}:{'x'.join(map(str, spec.shape))}" for spec in artifact.signature.inputs
    )
    return [f"the weights fill the class {variant.architecture}; its inputs are {inputs}"]


def _mlflow(artifact: Artifact, name: str | None, target: Path, trust: str) -> dict[str, Any]:
    from penstock.toolchain.interchange.mlflow_directory import mlflow_variant, write_mlflow

    variant = mlflow_variant(artifact, name)
    written = write_mlflow(artifact, variant, target, trust)
    return {"format": "mlflow", "flavor": written.flavor, "variant": written.variant, "notes": [*written.notes]}
