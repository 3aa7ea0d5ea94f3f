"""`penstock models import`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from penstock.cli.options import ConfigOption, JsonOption, PinOption, RegistryOption, open_registry, read_settings
from penstock.cli.output import print_json, size, working

if TYPE_CHECKING:
    from penstock.artifacts.artifact import Artifact
    from penstock.tensors import TensorSpec

_FORM = "x:FP32:-1x784; the first length is the batch, -1 is free; repeatable, in the model's order"

_File = Annotated[Path, typer.Argument(metavar="FILE", help="An ONNX, OpenVINO, TorchScript, .pt2 or weights file.")]
_Name = Annotated[str | None, typer.Option(help="The model's name.", show_default="the file's")]
_Version = Annotated[str | None, typer.Option(help="The version.", show_default="v1.0")]
_Architecture = Annotated[str | None, typer.Option(metavar="MODULE:CLASS", help="For weights: the class they fill.")]
_Arguments = Annotated[
    str | None, typer.Option(metavar="JSON", help="What that class is built with, as a JSON object.")
]
_Inputs = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME:DTYPE:SHAPE", help=f"An input, where the file does not record it, such as {_FORM}."),
]
_Outputs = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME:DTYPE:SHAPE", help="An output, likewise.", show_default="what runs on random inputs show"
    ),
]
_Task = Annotated[str | None, typer.Option(help="Its task, such as vector-classification.", show_default="what fits")]
_Labels = Annotated[Path | None, typer.Option(help="A text file with one class name a line.")]
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
    """Publish a bare model file: what it does not say itself is asked of you, or shown by running it.

    It gets golden samples from its own answers to random inputs, which prove later loads against this
    one and not the model against its training.
    """
    arguments = _json_object(architecture_args)
    if arguments and architecture is None:
        raise typer.BadParameter("--architecture-args needs --architecture")
    inputs, outputs = _tensors("--input", input), _tensors("--output", output)
    if outputs and not inputs:
        raise typer.BadParameter("--output needs --input")
    from penstock.artifacts.refs import check_name
    from penstock.cli.models.import_file import Described, publish_file

    for one in alias or ():
        check_name(one, "alias")
    described = Described(architecture, arguments, inputs, outputs)
    with open_registry(read_settings(config, registry=registry)) as models:
        with working(f"importing {path.name}"):
            artifact = publish_file(
                models, path, name=name, version=version, task=task, labels=labels, card=card, trust=trust,
                described=described,
            )  # fmt: skip
        for one in alias or ():
            models.set_alias(artifact.name, one, artifact.version)
    if as_json:
        manifest = artifact.manifest.model_dump(mode="json")
        print_json({"ref": artifact.ref, "path": artifact.path, "manifest": manifest})
    else:
        _tell(artifact)


def _tell(artifact: Artifact) -> None:
    manifest, variant = artifact.manifest, artifact.variants[0].name
    what = f"{variant}, {manifest.task.kind}, {size(artifact.size_bytes)}"
    typer.echo(f"imported {artifact.ref} ({what}) to {artifact.path}")
    if manifest.golden is None:
        typer.echo(f"golden samples: {manifest.lineage['golden_samples']}")


def _json_object(text: str | None) -> dict[str, Any]:
    try:
        value = json.loads(text) if text is not None else {}
    except ValueError as error:
        raise typer.BadParameter(f"--architecture-args is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise typer.BadParameter('--architecture-args should be an object, such as {"hidden": 64}')
    return value


def _tensors(option: str, texts: list[str] | None) -> tuple[TensorSpec, ...]:
    if not texts:
        return ()
    from penstock.cli.models.import_file import parse_tensor

    try:
        specs = tuple(parse_tensor(text) for text in texts)
    except ValueError as error:
        raise typer.BadParameter(f"{option}: {error}") from None
    if len({spec.name for spec in specs}) < len(specs):
        raise typer.BadParameter(f"{option}: two tensors have the same name")
    return specs
