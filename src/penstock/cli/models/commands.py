"""`penstock models`: the registry."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from penstock.cli import completion
from penstock.cli.models.diff import diff
from penstock.cli.models.drift import drift
from penstock.cli.models.export_command import export_model
from penstock.cli.models.gc import gc
from penstock.cli.models.import_command import import_model
from penstock.cli.models.publish import publish
from penstock.cli.models.show import show
from penstock.cli.models.summary import print_summaries, remove_last_champion, summarize
from penstock.cli.models.trust.bom import bom
from penstock.cli.models.trust.sign import sign
from penstock.cli.models.trust.verify import verify
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
    from penstock.registry.registry import Registry

app = typer.Typer(
    help="List, show, publish, import, export, compare and remove the models of the registry.", no_args_is_help=True
)


def _registry(config: Path | None, registry: Path | None) -> Registry:
    return open_registry(read_settings(config, registry=registry))


@app.command("list")
def list_models(as_json: JsonOption = False, config: ConfigOption = None, registry: RegistryOption = None) -> None:
    """List every model and version, the newest version of each last."""
    broken: list[str] = []
    with _registry(config, registry) as models:
        artifacts = models.artifacts(lambda error: broken.append(str(error)))
        summaries = [summarize(models, artifact) for artifact in artifacts]
    if as_json:
        print_json({"models": summaries, "broken": broken})
    elif summaries:
        print_summaries(summaries)
    elif not broken:
        typer.echo("The registry is empty; `penstock models publish --bundled` publishes the starter models.")
    for sentence in broken:
        typer.echo(f"penstock: {sentence}", err=True)
    raise typer.Exit(1 if broken else 0)


app.command()(show)
app.command()(publish)


@app.command()
def alias(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The model.", autocompletion=completion.names)],
    alias: Annotated[str, typer.Argument(metavar="ALIAS", help="Such as champion.", autocompletion=completion.aliases)],
    version: Annotated[
        str | None,
        typer.Argument(
            metavar="[VERSION]",
            help="The version to point at; else the highest release.",
            autocompletion=completion.versions,
        ),
    ] = None,
    remove: Annotated[bool, typer.Option("--remove", help="Remove the alias instead.")] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Move it also to a version that this machine cannot load.")
    ] = False,
    trust: TrustOption = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
    registry: RegistryOption = None,
) -> None:
    """Point an alias at a version: after `penstock models alias digits champion v1.0`, digits@champion is v1.0.

    The version is loaded first; if that fails, the alias stays where it is. A bare name means its champion.
    """
    if remove and version is not None:
        raise typer.BadParameter("--remove removes the alias from any version; leave VERSION out")
    settings = read_settings(config, registry=registry, trust=trust)
    with open_registry(settings) as models:
        if remove:
            models.remove_alias(name, alias)
        else:
            version = version or models.highest(name)
            with working(f"loading {name}:{version}"):
                models.set_alias(name, alias, version, force=force, trust=settings.trust)
    if as_json:
        print_json({"name": name, "alias": alias, "version": version})
    else:
        typer.echo(f"removed {name}@{alias}" if remove else f"{name}@{alias} is {name}:{version}")


@app.command()
def remove(
    ref: Annotated[
        str,
        typer.Argument(metavar="NAME:VERSION", help="The version to remove.", autocompletion=completion.exact_refs),
    ],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")] = False,
    as_json: JsonOption = False,
    config: ConfigOption = None,
    registry: RegistryOption = None,
) -> None:
    """Remove one version and its files; refused while an alias points at it.

    With the last version of a model goes its alias champion.
    """
    if not yes:
        typer.confirm(f"Remove {ref} and its files?", abort=True, err=as_json)
    with _registry(config, registry) as models:
        remove_last_champion(models, ref)
        models.remove(ref)
    if as_json:
        print_json({"removed": ref})
    else:
        typer.echo(f"removed {ref}")


@app.command()
def card(
    ref: RefArgument,
    html: Annotated[bool, typer.Option("--html", help="Print HTML.")] = False,
    as_json: JsonOption = False,
    config: ConfigOption = None,
    registry: RegistryOption = None,
) -> None:
    """Print the model card, as Markdown or as HTML."""
    with _registry(config, registry) as models:
        artifact = models.get(ref)
        text = artifact.card_text()
    if html:
        from penstock.artifacts.card import card_html

        text = card_html(text)
    if as_json:
        print_json({"ref": artifact.ref, "format": "html" if html else "markdown", "card": text})
    else:
        typer.echo(text)


app.command("import")(import_model)
app.command("export")(export_model)
app.command()(sign)
app.command()(verify)
app.command()(bom)
app.command()(diff)
app.command()(drift)
app.command()(gc)
