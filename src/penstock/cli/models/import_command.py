"""`penstock models import`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from penstock.cli.models.summary import check_aliases, set_aliases
from penstock.cli.options import ConfigOption, JsonOption, PinOption, RegistryOption, open_registry, read_settings
from penstock.cli.output import print_json, size, working

if TYPE_CHECKING:
    from penstock.artifacts.artifact import Artifact
    from penstock.cli.models.import_file import ModelDescription
    from penstock.tensors import TensorSpec

_FORM = "x:FP32:-1x784; the first length is the batch, -1 is free; repeatable, in the model's order"

_File = Annotated[Path, typer.Argument(metavar="FILE", help="An ONNX, OpenVINO, TorchScript, .pt2 or weights file.")]
_Name = Annotated[str | None, typer.Option(help="The model's name.", show_default="the file's")]
_Version = Annotated[str | None, typer.Option(help="The version.", show_default="v1.0")]
_Architecture = Annotated[str | None, typer.Option(metavar="MODULE:CLASS", help="For weights: their class.")]
_Arguments = Annotated[
    str | None, typer.Option(metavar="JSON", help="The arguments of that class's constructor, a JSON object.")
]
_Inputs = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME:DTYPE:SHAPE", help=f"An input, if the file does not record it, such as {_FORM}."),
]
_Outputs = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME:DTYPE:SHAPE", help="An output, likewise.", show_default="from runs on random inputs"),
]
_Task = Annotated[
    str | None, typer.Option(help="Its task, such as vector-classification.", show_default="by its signature")
]
_Labels = Annotated[Path | None, typer.Option(help="A text file with one class name per line.")]
_Card = Annotated[Path | None, typer.Option(help="Its model card, Markdown.", show_default="a minimal one")]
_Aliases = Annotated[list[str] | None, typer.Option(help="Point this alias at the version; repeatable.")]


def import_model(
    path: _File,
    name: _Name = None,
    version: _Version = None,
    architecture: _Architecture = None,
    architecture_args: _Arguments = None,
    input: _Inputs = None,
    output: _Outputs = None,
    task: _Task = None,
    labels: _Labels = None,
    card: _Card = None,
    alias: _Aliases = None,
    trust: PinOption = "data",
    as_json: JsonOption = False,
    config: ConfigOption = None,
    registry: RegistryOption = None,
) -> None:
    """Publish a bare model file; options give what the file does not record.

    It gets golden samples from its own answers to random inputs. They prove that later loads answer
    alike, not that the model is right.
    """
    description = _description(architecture, architecture_args, input, output)
    aliases = alias or []
    check_aliases(aliases)
    from penstock.cli.models.import_file import publish_file

    with open_registry(read_settings(config, registry=registry)) as models:
        with working(f"importing {path.name}"):
            artifact = publish_file(
                models, path, name=name, version=version, task=task, labels=labels, card=card, trust=trust,
                description=description,
            )  # fmt: skip
        set_aliases(models, artifact, aliases)
    if as_json:
        print_json({"ref": artifact.ref, "path": artifact.path, "manifest": artifact.manifest.to_json()})
    else:
        _print(artifact)


def _print(artifact: Artifact) -> None:
    manifest, variant = artifact.manifest, artifact.variants[0].name
    facts = f"{variant}, {manifest.task.kind}, {size(artifact.size_bytes)}"
    typer.echo(f"imported {artifact.ref} ({facts}) to {artifact.path}")
    if manifest.golden is None:
        typer.echo(f"golden samples: {manifest.lineage['golden_samples']}")


def _description(
    architecture: str | None, architecture_args: str | None, inputs: list[str] | None, outputs: list[str] | None
) -> ModelDescription:
    """The options that describe the model; raises BadParameter for one that is malformed or needs another."""
    from penstock.cli.models.import_file import ModelDescription

    arguments = _json_object(architecture_args)
    if arguments and architecture is None:
        raise typer.BadParameter("--architecture-args needs --architecture")
    described = ModelDescription(
        architecture, arguments, _tensors("--input", inputs or []), _tensors("--output", outputs or [])
    )
    if described.outputs and not described.inputs:
        raise typer.BadParameter("--output needs --input")
    return described


def _json_object(text: str | None) -> dict[str, Any]:
    try:
        value = json.loads(text) if text is not None else {}
    except ValueError as error:
        raise typer.BadParameter(f"--architecture-args is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise typer.BadParameter('--architecture-args should be an object, such as {"hidden": 64}')
    return value


def _tensors(option: str, texts: list[str]) -> tuple[TensorSpec, ...]:
    from penstock.cli.models.import_file import parse_tensor

    try:
        specs = tuple(parse_tensor(text) for text in texts)
    except ValueError as error:
        raise typer.BadParameter(f"{option}: {error}") from None
    if len({spec.name for spec in specs}) < len(specs):
        raise typer.BadParameter(f"{option}: two tensors have the same name")
    return specs
