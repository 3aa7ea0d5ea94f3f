"""The subcommand `penstock-hydraulics evaluate`."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from penstock.errors import InvalidInput
from penstock_hydraulics.cli.options import DATA, EPOCHS, MEMBERS, SEED, SIMULATED, VALIDATION

if TYPE_CHECKING:
    from collections.abc import Sequence

    from penstock_hydraulics.learning.data.dataset import Machine
    from penstock_hydraulics.learning.training.network import Network


def evaluate(
    data: Annotated[Path, DATA],
    out: Annotated[Path, typer.Option(help="Directory for figures, tables and answers; existing answers are reused.")],
    random: Annotated[int, typer.Option(min=0, help="Folds of the random split; 0 skips it.")] = 3,
    grouped: Annotated[int, typer.Option(min=0, help="Folds of the run-grouped split; 0 skips it.")] = 5,
    leave_cooler: Annotated[bool, typer.Option(help="Leave out one cooler level at a time.")] = True,
    coverage: Annotated[bool, typer.Option(help="Measure which sensors tell which state, for `publish`.")] = True,
    models: Annotated[str, typer.Option(help="Comma-separated model names. Default: all.")] = "",
    epochs: Annotated[int, EPOCHS] = 40,
    members: Annotated[int, MEMBERS] = 1,
    validation: Annotated[float, VALIDATION] = 0.0,
    simulated: Annotated[int, SIMULATED] = 120,
    seed: Annotated[int, SEED] = 0,
) -> None:
    """Evaluate the network and its baselines by three protocols and select the model to serve."""
    from penstock_hydraulics.learning.data.recordings import load
    from penstock_hydraulics.learning.evaluation.comparison import FIGURES, TABLES, compare, entries
    from penstock_hydraulics.learning.evaluation.cross_validation import protocols
    from penstock_hydraulics.learning.evaluation.report import selection_table

    every = entries(network_as_trained(epochs, members, validation, simulated, seed))
    wanted = [name.strip() for name in models.split(",") if name.strip()]
    known = [entry.learner.name for entry in every]
    if unknown := sorted(set(wanted) - set(known)):
        raise InvalidInput(f"--models: unknown model {unknown[0]}; known models: {', '.join(known)}", field="models")
    recordings = load(data)
    plan = protocols(
        recordings, random=random, grouped=grouped, leave_cooler=leave_cooler, seed=seed, coverage=coverage
    )
    chosen = [entry for entry in every if not wanted or entry.learner.name in wanted]
    figures = compare(recordings, plan, chosen, out, known, echo=typer.echo)
    if "selection" in figures:
        typer.echo(f"{selection_table(figures)}\n{figures['selection']['sentence']}")
    typer.echo(f"{out / FIGURES}\n{out / TABLES}")


def network_as_trained(epochs: int, members: int, validation: float, simulated: int, seed: int) -> Network:
    """The network with the configuration that `train` uses."""
    from penstock_hydraulics.learning.data.simulated import simulated_machines
    from penstock_hydraulics.learning.training.config import TrainingConfig
    from penstock_hydraulics.learning.training.network import network

    @cache
    def machines() -> Sequence[Machine]:
        return tuple(simulated_machines(simulated, seed)) if simulated else ()

    return network(TrainingConfig(epochs=epochs, members=members, validation=validation, seed=seed), machines)
