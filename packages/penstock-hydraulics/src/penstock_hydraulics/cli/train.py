"""The subcommand `penstock-hydraulics train`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from penstock_hydraulics.cli.options import DATA

if TYPE_CHECKING:
    from penstock_hydraulics.learning.training.config import Epoch


def train(
    data: Annotated[Path, DATA],
    out: Annotated[Path, typer.Option(help="Directory for the model, its weights and the checkpoint.")],
    epochs: Annotated[int, typer.Option(min=1, help="Maximum number of passes over the recordings.")] = 40,
    members: Annotated[int, typer.Option(min=1, max=8, help="Networks in the ensemble.")] = 1,
    validation: Annotated[
        float, typer.Option(min=0.0, max=0.5, help="Share of runs held out for early stopping; 0 disables it.")
    ] = 0.1,
    simulated: Annotated[
        int, typer.Option(min=0, help="Simulated windows of each other circuit to add to the training data.")
    ] = 120,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same weights.")] = 0,
) -> None:
    """Train the network on recordings. An interrupted training resumes when it is run again with the same options."""
    import numpy as np

    from penstock_hydraulics.learning.data.recordings import load
    from penstock_hydraulics.learning.data.simulated import simulated_machines
    from penstock_hydraulics.learning.training.config import TrainingConfig
    from penstock_hydraulics.learning.training.fitting import fit
    from penstock_hydraulics.learning.training.saved_model import CHECKPOINT, refuse_to_overwrite, save

    refuse_to_overwrite(out)
    recordings = load(data)
    typer.echo(f"{len(recordings)} cycles in {recordings.runs[-1] + 1} runs; {simulated} simulated windows per circuit")
    out.mkdir(parents=True, exist_ok=True)
    if (out / CHECKPOINT).is_file():
        typer.echo(f"resuming from {out / CHECKPOINT}")
    started = time.monotonic()
    config = TrainingConfig(epochs=epochs, members=members, validation=validation, seed=seed)
    machines = simulated_machines(simulated, seed) if simulated else []
    every = np.arange(len(recordings))
    fitted = fit(recordings, every, config, machines=machines, progress=_print_epoch, checkpoints=out / CHECKPOINT)
    typer.echo(f"trained in {time.monotonic() - started:.0f} s")
    for path in save(fitted, out):
        typer.echo(f"{path}: {path.stat().st_size / 1024:.0f} KiB")


def _print_epoch(epoch: Epoch) -> None:
    stage = "early stopping" if epoch.member == 0 else f"network {epoch.member}"
    validation = "" if epoch.validation is None else f"  validation {epoch.validation:.4f}"
    typer.echo(f"{stage}  epoch {epoch.epoch:2d}/{epoch.epochs}  loss {epoch.loss:.4f}{validation}")
