"""`penstock models import`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from penstock.cli.file_options import (
    BatchAxisOption,
    ExampleOption,
    LabelsOption,
    NoBatchOption,
    PreprocessOption,
    TaskOption,
    describe,
    file_options,
)
from penstock.cli.models.summary import check_aliases, live, set_aliases
from penstock.cli.models.trust.remote_source import is_artifact, local_source
from penstock.cli.options import (
    AliasesOption,
    ConfigOption,
    JsonOption,
    PinOption,
    ProveOption,
    RegistryOption,
    open_registry,
    read_settings,
)
from penstock.cli.output import print_json, size, working

if TYPE_CHECKING:
    from penstock.artifacts.artifact import Artifact
    from penstock.tensors import Signature, TensorSpec

_FORM = "x:FP32:-1x784; -1 is free; repeatable, in the model's order"

_File = Annotated[
    str,
    typer.Argument(
        metavar="FILE", help="A model file, or a directory of MLflow or Hugging Face; also by address (https, s3, gs)."
    ),
]
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
_Card = Annotated[Path | None, typer.Option(help="Its model card, Markdown.", show_default="a minimal one")]


def import_model(
    path: _File,
    name: _Name = None,
    version: _Version = None,
    architecture: _Architecture = None,
    architecture_args: _Arguments = None,
    input: _Inputs = None,
    output: _Outputs = None,
    task: TaskOption = None,
    labels: LabelsOption = None,
    preprocess: PreprocessOption = None,
    example: ExampleOption = None,
    batch_axis: BatchAxisOption = None,
    no_batch: NoBatchOption = None,
    card: _Card = None,
    alias: AliasesOption = None,
    prove: ProveOption = True,
    trust: PinOption = "data",
    as_json: JsonOption = False,
    config: ConfigOption = None,
    registry: RegistryOption = None,
) -> None:
    """Publish a bare model file; options give what the file does not record.

    It gets golden samples from its own answers to random inputs. They prove that later loads answer
    alike, not that the model is right.
    """
    description = describe(
        {
            **file_options(locals()),
            "architecture": architecture,
            "architecture_args": _arguments(architecture, architecture_args),
            "signature": _signature(input or [], output or []),
        }
    )
    aliases = alias or []
    check_aliases(aliases)
    from penstock.cli.models.import_file import publish_file

    settings = read_settings(config, registry=registry)
    with open_registry(settings) as models, local_source(path, settings) as source:
        assert source is not None
        with working(f"importing {source.name}"):
            if is_artifact(source, path):
                artifact = models.publish(source, trust, prove=prove)
            else:
                artifact = publish_file(
                    models, source, name=name, version=version, card=card, trust=trust, prove=prove,
                    description=description,
                )  # fmt: skip
        set_aliases(models, artifact, aliases, prove=prove)
        sentence = live(models, artifact)
    if as_json:
        print_json({"ref": artifact.ref, "path": artifact.path, "manifest": artifact.manifest.to_json()})
    else:
        _print(artifact)
        typer.echo(sentence)


def _print(artifact: Artifact) -> None:
    manifest, variant = artifact.manifest, artifact.variants[0].name
    facts = f"{variant}, {manifest.task.kind}, {size(artifact.size_bytes)}"
    typer.echo(f"imported {artifact.ref} ({facts}) to {artifact.path}")
    if manifest.golden is None:
        typer.echo(f"golden samples: {manifest.lineage['golden_samples']}")


def _arguments(architecture: str | None, text: str | None) -> dict[str, Any] | None:
    """The arguments of the class; raises BadParameter if they are malformed or there is no class."""
    from penstock.file_description import parse_arguments

    try:
        arguments = parse_arguments(text) if text is not None else None
    except ValueError as error:
        raise typer.BadParameter(f"--architecture-args is no JSON object: {error}") from None
    if arguments and architecture is None:
        raise typer.BadParameter("--architecture-args needs --architecture")
    return arguments


def _signature(inputs: list[str], outputs: list[str]) -> Signature | None:
    """The inputs and outputs that are described; raises BadParameter for one that is malformed."""
    if outputs and not inputs:
        raise typer.BadParameter("--output needs --input")
    from penstock.tensors import Signature

    return Signature(_tensors("--input", inputs), _tensors("--output", outputs)) if inputs else None


def _tensors(option: str, texts: list[str]) -> tuple[TensorSpec, ...]:
    from penstock.file_description import parse_tensors

    try:
        return parse_tensors(texts)
    except ValueError as error:
        raise typer.BadParameter(f"{option}: {error}") from None
