"""`penstock routes`: by which rules a name resolves to versions."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from penstock.cli import completion
from penstock.cli.options import (
    ConfigOption,
    JsonOption,
    RegistryOption,
    TrustOption,
    open_registry,
    read_settings,
)
from penstock.cli.output import print_json, working
from penstock.cli.routes.canary import add_to as add_canaries
from penstock.cli.routes.results import add_to as add_results
from penstock.cli.routes.shown import print_entries, print_route, print_routes
from penstock.cli.routes.writing import arms_of, document_of, read_document

if TYPE_CHECKING:
    from penstock.registry.registry import Registry

app = typer.Typer(
    help="Split the requests of a model over versions: weights, rules, dark launches, blue-green, fallbacks.",
    no_args_is_help=True,
)

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="The model.", autocompletion=completion.names)]
WhyOption = Annotated[str, typer.Option("--why", help="The reason, for the audit log.")]
AgainOption = Annotated[
    bool, typer.Option("--again", help="Send requests also to a version that a canary has rolled back.")
]
ForceOption = Annotated[bool, typer.Option("--force", help="Set it also with versions that this machine cannot load.")]
LimitOption = Annotated[int, typer.Option("--limit", min=1, max=1000, help="How many changes, the newest first.")]


@contextmanager
def _routes(config: Path | None, registry: Path | None, trust: str | None = None) -> Iterator[tuple[Registry, str]]:
    """The registry, and the trust of the settings."""
    settings = read_settings(config, registry=registry, trust=trust)
    with open_registry(settings) as models:
        yield models, settings.trust


@app.command("set")
def set_route(
    name: NameArgument,
    arm: Annotated[
        list[str] | None, typer.Option("--arm", help="VERSION=WEIGHT; repeatable. Weights add up to 100 or 10000.")
    ] = None,
    sticky: Annotated[
        str,
        typer.Option(
            "--sticky",
            help="What keeps a client at its version: key, request_id, header:NAME, cookie:NAME, field:NAME.",
        ),
    ] = "",
    rule: Annotated[
        list[str] | None,
        typer.Option("--rule", help="'HEADER=VALUE->VERSION'; repeatable, the first that fits wins."),
    ] = None,
    shadow: Annotated[
        list[str] | None, typer.Option("--shadow", help="VERSION=SHARE of requests to copy, 0 to 1; repeatable.")
    ] = None,
    fallback: Annotated[str, typer.Option("--fallback", help="The version in place of one that keeps failing.")] = "",
    file: Annotated[
        Path | None, typer.Option("--file", help="The whole route as JSON, `-` for standard input; no other options.")
    ] = None,
    why: WhyOption = "",
    force: ForceOption = False,
    again: AgainOption = False,
    trust: TrustOption = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
    registry: RegistryOption = None,
) -> None:
    """Set the route of a model, in place of its present one. Every server follows within a second.

    Versions that are new in it are loaded first; if that fails, the route stays as it is.
    """
    options = bool(arm or sticky or rule or shadow or fallback)
    if (file is not None) == options:
        raise typer.BadParameter("give either --file or --arm with the other options")
    document = (
        document_of(arm or (), sticky, rule or (), shadow or (), fallback) if file is None else read_document(file)
    )
    with _routes(config, registry, trust) as (models, trusted), working(f"loading the versions of {name}"):
        stored = models.routes.set(name, document, why=why, force=force, again=again, trust=trusted)
    print_route(stored, as_json)


@app.command()
def split(
    name: NameArgument,
    arms: Annotated[list[str], typer.Argument(metavar="VERSION=WEIGHT…", help="Weights add up to 100 or 10000.")],
    why: WhyOption = "",
    force: ForceOption = False,
    again: AgainOption = False,
    trust: TrustOption = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
    registry: RegistryOption = None,
) -> None:
    """Change the weights of a route and nothing else, or make one: `penstock routes split digits v1.0=90 v2.0=10`."""
    with _routes(config, registry, trust) as (models, trusted), working(f"loading the versions of {name}"):
        found = models.routes.all().get(name)
        document: dict[str, Any] = {} if found is None else found.route.to_document() | {"revision": found.revision}
        document |= {"arms": arms_of(arms), "why": why}
        stored = models.routes.set(name, document, why=why, force=force, again=again, trust=trusted)
    print_route(stored, as_json)


@app.command()
def switch(
    name: NameArgument,
    to: Annotated[
        str | None, typer.Option("--to", help="The version for all requests.", autocompletion=completion.versions)
    ] = None,
    back: Annotated[bool, typer.Option("--back", help="Back to the route before its last change.")] = False,
    why: WhyOption = "",
    force: ForceOption = False,
    again: AgainOption = False,
    trust: TrustOption = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
    registry: RegistryOption = None,
) -> None:
    """Send all requests to one version, or back: blue-green. The other versions stay loaded, so --back is instant."""
    if (to is None) is not back:
        raise typer.BadParameter("give either --to VERSION or --back")
    with _routes(config, registry, trust) as (models, trusted):
        if to is None:
            stored = models.routes.back(name, why=why, again=again)
        else:
            with working(f"loading {name}:{to}"):
                stored = models.routes.switch(name, to, why=why, force=force, again=again, trust=trusted)
    print_route(stored, as_json)


@app.command()
def show(
    name: NameArgument, as_json: JsonOption = False, config: ConfigOption = None, registry: RegistryOption = None
) -> None:
    """Show the route of a model."""
    with _routes(config, registry) as (models, _):
        print_route(models.routes.get(name), as_json)


@app.command("list")
def list_routes(as_json: JsonOption = False, config: ConfigOption = None, registry: RegistryOption = None) -> None:
    """List every route."""
    with _routes(config, registry) as (models, _):
        routes = models.routes.all()
    print_routes((routes.stored[name] for name in sorted(routes.stored)), routes.broken.values(), as_json)
    for sentence in routes.broken.values():
        typer.echo(f"penstock: {sentence}", err=True)
    raise typer.Exit(1 if routes.broken else 0)


@app.command()
def remove(
    name: NameArgument,
    why: WhyOption = "",
    as_json: JsonOption = False,
    config: ConfigOption = None,
    registry: RegistryOption = None,
) -> None:
    """Remove the route of a model: its name means its alias champion again, or its highest release."""
    with _routes(config, registry) as (models, _):
        models.routes.remove(name, why=why)
    if as_json:
        print_json({"removed": name})
    else:
        typer.echo(f"removed the route {name}")


@app.command()
def history(
    name: Annotated[
        str | None,
        typer.Argument(metavar="[NAME]", help="The model; without it, all changes.", autocompletion=completion.names),
    ] = None,
    limit: LimitOption = 20,
    as_json: JsonOption = False,
    config: ConfigOption = None,
    registry: RegistryOption = None,
) -> None:
    """Show who changed a route, when and why; without a name, every change of the registry."""
    with _routes(config, registry) as (models, _):
        entries = models.routes.audit(limit) if name is None else models.routes.history(name, limit)
    print_entries(entries, as_json)


add_canaries(app)
add_results(app)
