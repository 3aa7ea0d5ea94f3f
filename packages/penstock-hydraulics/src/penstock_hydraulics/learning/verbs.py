"""The verbs `penstock-hydraulics evaluate` and `penstock-hydraulics publish`."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from penstock.errors import InvalidInput
from penstock_hydraulics.learning.command import DATA

if TYPE_CHECKING:
    from collections.abc import Sequence

    from penstock_hydraulics.learning.dataset import Machine
    from penstock_hydraulics.learning.network import Network

EPOCHS = typer.Option(min=1, help="As in `train`.")
MEMBERS = typer.Option(min=1, max=8, help="As in `train`.")
VALIDATION = typer.Option(min=0.0, max=0.5, help="As in `train`; it doubles the time.")
SIMULATED = typer.Option(min=0, help="As in `train`.")
SEED = typer.Option(min=0, help="Of splits and trainings.")


def evaluate(
    data: Annotated[Path, DATA],
    out: Annotated[Path, typer.Option(help="Directory for figures, tables and the answers; what it has is kept.")],
    random: Annotated[int, typer.Option(min=0, help="Folds of the random split; 0 for none.")] = 3,
    grouped: Annotated[int, typer.Option(min=0, help="Folds of the run-grouped split; 0 for none.")] = 5,
    leave_cooler: Annotated[bool, typer.Option(help="Leave out one cooler level after another.")] = True,
    models: Annotated[str, typer.Option(help="Names of models, separated by commas; all of them by default.")] = "",
    epochs: Annotated[int, EPOCHS] = 40,
    members: Annotated[int, MEMBERS] = 1,
    validation: Annotated[float, VALIDATION] = 0.0,
    simulated: Annotated[int, SIMULATED] = 120,
    seed: Annotated[int, SEED] = 0,
) -> None:
    """Measure the network and its baselines by three protocols, and say which one is to be served."""
    from penstock_hydraulics.data import load
    from penstock_hydraulics.learning.comparison import FIGURES, TABLES, compare, entries
    from penstock_hydraulics.learning.evaluation import protocols

    every = entries(_network(epochs, members, validation, simulated, seed))
    wanted = [name.strip() for name in models.split(",") if name.strip()]
    known = [entry.learner.name for entry in every]
    if unknown := sorted(set(wanted) - set(known)):
        raise InvalidInput(f"--models: there is no model {unknown[0]}; there are {', '.join(known)}", field="models")
    recordings = load(data)
    plan = protocols(recordings, random=random, grouped=grouped, leave_cooler=leave_cooler, seed=seed)
    chosen = [entry for entry in every if not wanted or entry.learner.name in wanted]
    figures = compare(recordings, plan, chosen, out, known, say=typer.echo)
    if "selection" in figures:
        typer.echo(figures["selection"]["sentence"])
    typer.echo(f"{out / FIGURES}\n{out / TABLES}")


def publish(
    data: Annotated[Path, DATA],
    evaluation: Annotated[Path, typer.Option(help="The directory that `evaluate` wrote, with the same options.")],
    out: Annotated[Path, typer.Option(help="Directory for the artifacts, below `hydraulics/`.")],
    epochs: Annotated[int, EPOCHS] = 40,
    members: Annotated[int, MEMBERS] = 1,
    validation: Annotated[float, VALIDATION] = 0.0,
    simulated: Annotated[int, SIMULATED] = 120,
    seed: Annotated[int, SEED] = 0,
) -> None:
    """Train the selected model and the runner-up on all recordings and write their artifacts, cards included."""
    from penstock_hydraulics.data import load
    from penstock_hydraulics.learning.comparison import read_figures
    from penstock_hydraulics.learning.publish import publish as write

    figures = read_figures(evaluation)
    write(load(data), figures, _network(epochs, members, validation, simulated, seed), out, say=typer.echo)


def _network(epochs: int, members: int, validation: float, simulated: int, seed: int) -> Network:
    """The network as `train` trains it."""
    from penstock_hydraulics.learning.config import TrainingConfig
    from penstock_hydraulics.learning.network import network
    from penstock_hydraulics.learning.simulated import simulated_machines

    @cache
    def machines() -> Sequence[Machine]:
        return tuple(simulated_machines(simulated, seed)) if simulated else ()

    return network(TrainingConfig(epochs=epochs, members=members, validation=validation, seed=seed), machines)
