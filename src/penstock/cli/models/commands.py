"""`penstock models`: the registry."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from penstock.cli.models.diff import diff
from penstock.cli.models.gc import gc
from penstock.cli.models.import_command import import_model
from penstock.cli.options import (
    ConfigOption,
    JsonOption,
    PinOption,
    RefArgument,
    RegistryOption,
    open_registry,
    read_settings,
)
from penstock.cli.output import print_json, print_table, size, working

if TYPE_CHECKING:
    from penstock.artifacts.artifact import Artifact
    from penstock.engine.loading.selection_cache import SelectionResult
    from penstock.registry.registry import Registry
    from penstock.settings import Settings

app = typer.Typer(help="List, show, publish, compare and remove the models of the registry.", no_args_is_help=True)


def _registry(config: Path | None, registry: Path | None) -> Registry:
    return open_registry(read_settings(config, registry=registry))


@app.command("list")
def list_models(as_json: JsonOption = False, config: ConfigOption = None, registry: RegistryOption = None) -> None:
    """List every model and version, the newest version of each last."""
    broken: list[str] = []
    with _registry(config, registry) as models:
        rows = [_summary(models, artifact) for artifact in models.artifacts(lambda error: broken.append(str(error)))]
    if as_json:
        print_json({"models": rows, "broken": broken})
    elif rows:
        _print_models(rows)
    elif not broken:
        typer.echo("The registry is empty; `penstock models publish --bundled` publishes the starter models.")
    for sentence in broken:
        typer.echo(f"penstock: {sentence}", err=True)
    raise typer.Exit(1 if broken else 0)


def _print_models(rows: list[dict[str, Any]]) -> None:
    cells = (
        (row["name"], row["version"], ", ".join(row["aliases"]), row["task"], ", ".join(row["variants"]),
         size(row["size_bytes"]), row["created_at"])
        for row in rows
    )  # fmt: skip
    print_table(("name", "version", "aliases", "task", "variants", "size", "created"), cells)


def _summary(models: Registry, artifact: Artifact) -> dict[str, Any]:
    aliases = models.aliases(artifact.name)
    return {
        "name": artifact.name,
        "version": artifact.version,
        "aliases": sorted(alias for alias, version in aliases.items() if version == artifact.version),
        "task": artifact.manifest.task.kind,
        "variants": [variant.name for variant in artifact.variants],
        "size_bytes": artifact.size_bytes,
        "created_at": artifact.manifest.created_at,
        "digest": artifact.digest,
    }


@app.command()
def show(
    ref: RefArgument,
    measure: Annotated[bool, typer.Option("--try", help="Measure every variant now; remember the fastest.")] = False,
    as_json: JsonOption = False,
    config: ConfigOption = None,
    registry: RegistryOption = None,
) -> None:
    """Show what the manifest says, and which variant this machine takes and why."""
    settings = read_settings(config, registry=registry)
    with open_registry(settings) as models:
        artifact = models.get(ref)
        summary = _summary(models, artifact)
        results = _selection_results(models, settings, artifact, measure=measure)
    if as_json:
        manifest = artifact.manifest.model_dump(mode="json")
        choice = [result._asdict() for result in results]
        print_json({**summary, "path": artifact.path, "manifest": manifest, "choice": choice})
        return
    _print_facts(artifact, summary["aliases"])
    tensors = (
        (side, spec.name, spec.dtype, list(spec.shape))
        for side, specs in (("input", artifact.signature.inputs), ("output", artifact.signature.outputs))
        for spec in specs
    )
    print_table(("tensor", "name", "dtype", "shape"), tensors)
    variants = (
        (variant.name, variant.num_parameters, entry.path, size(entry.size), variant.max_abs_error, entry.sha256)
        for variant in artifact.variants
        for entry in variant.files
    )
    print_table(("variant", "parameters", "file", "size", "max error", "sha256"), variants)
    print_table(("variant", "taken here", "why"), ((v.variant, "yes" if v.taken else "no", v.reason) for v in results))


def _selection_results(
    models: Registry, settings: Settings, artifact: Artifact, *, measure: bool
) -> tuple[SelectionResult, ...]:
    """Of each variant whether a server with these settings takes it on this machine."""
    from penstock.engine.loading.manager import ModelManager

    manager = ModelManager(models, settings)
    if not measure:
        return manager.selection_results(artifact.ref)
    with working(f"measuring {artifact.ref}"):
        return manager.selection_results(artifact.ref, measure=True)


def _print_facts(artifact: Artifact, aliases: list[str]) -> None:
    manifest = artifact.manifest
    golden = manifest.golden
    facts: list[tuple[str, object]] = [
        ("model", artifact.ref),
        ("aliases", ", ".join(aliases)),
        ("task", manifest.task.kind),
        ("created", manifest.created_at),
        ("size", size(artifact.size_bytes)),
        ("digest", artifact.digest),
        ("path", artifact.path),
        (
            "golden samples",
            f"{golden.rows} rows, within {golden.atol:g} + {golden.rtol:g} × value" if golden else "none",
        ),
    ]
    for title, table in (("lineage", manifest.lineage), ("data", manifest.training_data), ("metric", manifest.metrics)):
        facts.extend((f"{title}: {key}", value) for key, value in table.items())
    print_table(("fact", "value"), facts)


@app.command()
def publish(
    path: Annotated[
        Path | None,
        typer.Argument(metavar="[PATH]", help="An artifact directory, or a bare .onnx file."),
    ] = None,
    bundled: Annotated[bool, typer.Option("--bundled", help="Publish every model that ships in a package.")] = False,
    name: Annotated[str | None, typer.Option(help="For a file: the model's name.", show_default="the file's")] = None,
    version: Annotated[str | None, typer.Option(help="For a file: the version.", show_default="v1.0")] = None,
    task: Annotated[
        str | None, typer.Option(help="For a file: its task, such as vector-classification.", show_default="what fits")
    ] = None,
    labels: Annotated[Path | None, typer.Option(help="For a file: a text file with one class name a line.")] = None,
    card: Annotated[
        Path | None, typer.Option(help="For a file: its model card, Markdown.", show_default="a minimal one")
    ] = None,
    alias: Annotated[list[str] | None, typer.Option(help="Point this alias at the version; repeatable.")] = None,
    prove: Annotated[
        bool, typer.Option(help="Load an artifact first and run its golden samples; it is refused when that fails.")
    ] = True,
    trust: PinOption = "data",
    as_json: JsonOption = False,
    config: ConfigOption = None,
    registry: RegistryOption = None,
) -> None:
    """Publish a model: every file is verified, and the version is there as a whole or not at all.

    A bare file is imported, as by `penstock models import`: it gets golden samples from its own answers
    to random inputs, which prove later loads against this one and not the model against its training.
    """
    if (path is None) != bundled:
        raise typer.BadParameter("give either PATH or --bundled")
    from penstock.artifacts.refs import check_name

    for one in alias or ():
        check_name(one, "alias")
    about = {"name": name, "version": version, "task": task, "labels": labels, "card": card}
    with _registry(config, registry) as models:
        published = _publish(models, path, about, prove=prove, trust=trust)
        for artifact in published:
            for one in alias or ():
                models.set_alias(artifact.name, one, artifact.version)
        summaries = [_summary(models, artifact) for artifact in published]
    if as_json:
        print_json({"models": summaries})
        return
    for artifact in published:
        typer.echo(f"published {artifact.ref} ({size(artifact.size_bytes)}) to {artifact.path}")


def _publish(models: Registry, path: Path | None, about: dict[str, Any], *, prove: bool, trust: str) -> list[Artifact]:
    """All bundled models without a path; one artifact directory, or one file, with it."""
    if path is None:
        _only_for_files(about, "--bundled")
        return _publish_bundled(models, trust)
    with working(f"publishing {path.name}"):
        if path.is_dir():
            _only_for_files(about, "an artifact directory")
            if prove:
                _prove(path, trust)
            return [models.publish(path, trust)]
        from penstock.cli.models.import_file import publish_file

        return [publish_file(models, path, trust=trust, **about)]


def _prove(path: Path, trust: str) -> None:
    """What no server here could load is no use in the registry: say so now and not at the next start."""
    from penstock.artifacts.artifact import Artifact
    from penstock.engine.loading.load import load_artifact
    from penstock.options import EngineOptions

    load_artifact(Artifact.open(path), EngineOptions(trust=trust)).close()


def _only_for_files(about: dict[str, Any], what: str) -> None:
    given = next((option for option, value in about.items() if value is not None), None)
    if given is not None:
        raise typer.BadParameter(f"--{given} describes a bare file; {what} says it itself")


def _publish_bundled(models: Registry, trust: str) -> list[Artifact]:
    from penstock.artifacts.bundled import bundled

    published = []
    for name in sorted(bundled()):
        with working(f"publishing {name}"):
            artifact = models.publish_bundled(name, trust)
        if artifact is not None:
            published.append(artifact)
    return published


@app.command()
def alias(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The model.")],
    alias: Annotated[str, typer.Argument(metavar="ALIAS", help="Such as champion.")],
    version: Annotated[
        str | None, typer.Argument(metavar="[VERSION]", help="The version to point at; else the highest release.")
    ] = None,
    remove: Annotated[bool, typer.Option("--remove", help="Take the alias away instead.")] = False,
    config: ConfigOption = None,
    registry: RegistryOption = None,
) -> None:
    """Point an alias at a version: `penstock models alias digits champion v1.0` makes it digits@champion."""
    if remove and version is not None:
        raise typer.BadParameter("--remove takes the alias away whatever it points at; leave VERSION out")
    with _registry(config, registry) as models:
        if remove:
            models.remove_alias(name, alias)
            typer.echo(f"removed {name}@{alias}")
            return
        _, version = models.resolve(f"{name}:{version}" if version else name)
        models.set_alias(name, alias, version)
    typer.echo(f"{name}@{alias} is {name}:{version}")


@app.command()
def remove(
    ref: Annotated[str, typer.Argument(metavar="NAME:VERSION", help="The version to remove.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    config: ConfigOption = None,
    registry: RegistryOption = None,
) -> None:
    """Remove one version and its files; refused while an alias points at it."""
    if not yes:
        typer.confirm(f"Remove {ref} and its files?", abort=True)
    with _registry(config, registry) as models:
        models.remove(ref)
    typer.echo(f"removed {ref}")


@app.command()
def card(
    ref: RefArgument,
    html: Annotated[bool, typer.Option("--html", help="Print HTML.")] = False,
    config: ConfigOption = None,
    registry: RegistryOption = None,
) -> None:
    """Print the model card, as Markdown or as HTML."""
    with _registry(config, registry) as models:
        text = models.get(ref).card_text()
    if html:
        from penstock.artifacts.card import card_html

        text = card_html(text)
    typer.echo(text)


app.command("import")(import_model)
app.command("diff")(diff)
app.command("gc")(gc)
