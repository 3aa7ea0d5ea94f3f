"""`penstock models publish`."""

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
from penstock.cli.models.summary import check_aliases, live, set_aliases, summarize
from penstock.cli.models.trust.remote_source import local_source
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
    from penstock.registry.registry import Registry

_Path = Annotated[
    str | None,
    typer.Argument(
        metavar="[PATH]", help="An artifact directory or a bare .onnx file; also by address (https, s3, gs)."
    ),
]
_Bundled = Annotated[bool, typer.Option("--bundled", help="Publish every model that an installed package ships.")]
_Name = Annotated[str | None, typer.Option(help="For a file: the model's name.", show_default="the file's")]
_Version = Annotated[str | None, typer.Option(help="For a file: the version.", show_default="v1.0")]
_Card = Annotated[Path | None, typer.Option(help="For a file: its model card, Markdown.", show_default="a minimal one")]


_Reference = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE.npz",
        help="Rows that are known to be good, arrays named as the inputs; drift is measured from them.",
        show_default="none",
    ),
]
_NoLogInputs = Annotated[
    bool,
    typer.Option("--no-log-inputs", help="Forbid servers to log inputs of this version, whatever their settings are."),
]


def publish(
    path: _Path = None,
    bundled: _Bundled = False,
    name: _Name = None,
    version: _Version = None,
    task: TaskOption = None,
    labels: LabelsOption = None,
    preprocess: PreprocessOption = None,
    example: ExampleOption = None,
    batch_axis: BatchAxisOption = None,
    no_batch: NoBatchOption = None,
    card: _Card = None,
    reference: _Reference = None,
    no_log_inputs: _NoLogInputs = False,
    alias: AliasesOption = None,
    prove: ProveOption = True,
    trust: PinOption = "data",
    as_json: JsonOption = False,
    config: ConfigOption = None,
    registry: RegistryOption = None,
) -> None:
    """Publish a model: every file is verified, and the version appears completely or not at all.

    A bare file is imported, as by `penstock models import`: it gets golden samples from its own answers
    to random inputs. They prove that later loads answer alike, not that the model is right.

    A model's first version gets the alias champion, which its bare name means. Later versions do not
    answer to the bare name until `penstock models alias NAME champion VERSION`.
    """
    if (path is None) != bundled:
        raise typer.BadParameter("give either PATH or --bundled")
    aliases = alias or []
    check_aliases(aliases)
    options = {"name": name, "version": version, "card": card}
    about = file_options(locals())
    settings = read_settings(config, registry=registry)
    with open_registry(settings) as models, local_source(path, settings) as source:
        more = {"reference": reference, "log_inputs": False if no_log_inputs else None}
        published = _publish(models, source, options, about, more, prove=prove, trust=trust)
        for artifact in published:
            set_aliases(models, artifact, aliases, prove=prove)
        summaries = [summarize(models, artifact) for artifact in published]
        sentences = dict.fromkeys(live(models, artifact) for artifact in published)
    if as_json:
        print_json({"models": summaries})
        return
    for artifact in published:
        typer.echo(f"published {artifact.ref} ({size(artifact.size_bytes)}) to {artifact.path}")
    for sentence in sentences:
        typer.echo(sentence)


def _publish(
    models: Registry,
    path: Path | None,
    options: dict[str, Any],
    about: dict[str, Any],
    more: dict[str, Any],
    *,
    prove: bool,
    trust: str,
) -> list[Artifact]:
    """Publish every bundled model without a path, else the artifact directory or the model file.

    `more` are options of both.
    """
    if path is None:
        _refuse_file_options(options | about, "--bundled")
        given = next((option for option, value in more.items() if value is not None), None)
        if given is not None:
            flag = "--reference" if given == "reference" else "--no-log-inputs"
            raise typer.BadParameter(f"{flag} belongs to one model; publish its artifact directory by PATH")
        return _publish_bundled(models, trust, prove=prove)
    with working(f"publishing {path.name}"):
        if path.is_dir():
            _refuse_file_options(options | about, "an artifact directory")
            return [models.publish(path, trust, prove=prove, **more)]
        from penstock.cli.models.import_file import publish_file

        described = {"description": describe(about), **options}
        return [publish_file(models, path, trust=trust, prove=prove, **described, **more)]


def _refuse_file_options(options: dict[str, Any], source: str) -> None:
    given = next((option for option, value in options.items() if value is not None), None)
    if given is not None:
        flag = f"--{given.replace('_', '-')}"
        raise typer.BadParameter(f"{flag} describes a bare file; {source} has its own manifest")


def _publish_bundled(models: Registry, trust: str, *, prove: bool) -> list[Artifact]:
    from penstock.artifacts.bundled import bundled

    published = []
    for name in sorted(bundled()):
        with working(f"publishing {name}"):
            artifact = models.publish_bundled(name, trust, prove=prove)
        if artifact is not None:
            published.append(artifact)
    return published
