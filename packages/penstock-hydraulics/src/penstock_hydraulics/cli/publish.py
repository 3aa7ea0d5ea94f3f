"""The subcommand `penstock-hydraulics publish`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from penstock_hydraulics.cli.evaluate import network_as_trained
from penstock_hydraulics.cli.options import DATA, EPOCHS, MEMBERS, SEED, SIMULATED, VALIDATION


def publish(
    data: Annotated[Path, DATA],
    evaluation: Annotated[Path, typer.Option(help="Output directory of `evaluate`, run with the same options.")],
    out: Annotated[Path, typer.Option(help="Directory; artifacts are written to its subdirectory `hydraulics/`.")],
    version: Annotated[
        str | None,
        typer.Option(help="Version of the network; the trees get `<version>-trees`.", show_default="the next free one"),
    ] = None,
    alias: Annotated[
        str | None,
        typer.Option(help="Publish to the registry, too, and point this alias at the selected model: `champion`."),
    ] = None,
    registry: Annotated[
        Path | None, typer.Option(envvar="PENSTOCK_REGISTRY", help="The registry for --alias.", show_default="registry")
    ] = None,
    database_url: Annotated[
        str | None, typer.Option(envvar="DATABASE_URL", help="The registry's database.", show_default="SQLite in it")
    ] = None,
    epochs: Annotated[int, EPOCHS] = 40,
    members: Annotated[int, MEMBERS] = 1,
    validation: Annotated[float, VALIDATION] = 0.0,
    simulated: Annotated[int, SIMULATED] = 120,
    seed: Annotated[int, SEED] = 0,
) -> None:
    """Train the network and the best trees on all recordings; write their artifacts with model cards.

    Nothing is overwritten. Without --alias, `penstock models publish DIRECTORY` publishes a version.
    """
    from penstock import Registry
    from penstock_hydraulics.learning.data.recordings import load
    from penstock_hydraulics.learning.evaluation.comparison import read_figures
    from penstock_hydraulics.learning.publishing.publish import publish as write
    from penstock_hydraulics.learning.publishing.publish import put_into
    from penstock_hydraulics.learning.publishing.versions import versions_of

    figures = read_figures(evaluation)
    versions_of(figures, version, out)  # refuses before the recordings are read
    network = network_as_trained(epochs, members, validation, simulated, seed)
    publication = write(load(data), figures, network, out, version, echo=typer.echo)
    if alias is None:
        typer.echo(
            f"selected: {publication.served.ref}; `penstock models publish {publication.served.path}` publishes it"
        )
        return
    with Registry(registry, database_url) as models:
        put_into(models, publication, alias)
        typer.echo(f"published to {models.path}; {publication.served.name}@{alias} is {publication.served.version}")
