"""The verb `penstock-hydraulics train`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from penstock_hydraulics.learning.config import Epoch

DATA = typer.Option(
    envvar="PENSTOCK_HYDRAULICS_DATA",
    help="The directory of the UCI text files (https://archive.ics.uci.edu/dataset/447, unpacked), or an npz of them.",
)


def train(
    data: Annotated[Path, DATA],
    out: Annotated[Path, typer.Option(help="Directory for the model, its weights and the checkpoint.")],
    epochs: Annotated[int, typer.Option(min=1, help="At most so many passes over the recordings.")] = 40,
    members: Annotated[int, typer.Option(min=1, max=8, help="Networks whose answers are averaged.")] = 1,
    validation: Annotated[
        float, typer.Option(min=0.0, max=0.5, help="Share of runs left out to find the epoch to stop at; 0 for none.")
    ] = 0.1,
    simulated: Annotated[
        int, typer.Option(min=0, help="Simulated windows of each other circuit to train on as well.")
    ] = 120,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same weights.")] = 0,
) -> None:
    """Train the network on recordings. Called again after a break with the same options, it goes on where it was."""
    import numpy as np

    from penstock_hydraulics.data import load
    from penstock_hydraulics.learning.config import TrainingConfig
    from penstock_hydraulics.learning.simulated import simulated_machines
    from penstock_hydraulics.learning.trained import CHECKPOINT, refuse_to_overwrite, save
    from penstock_hydraulics.learning.training import fit

    refuse_to_overwrite(out)
    recordings = load(data)
    typer.echo(f"{len(recordings)} cycles in {recordings.runs[-1] + 1} runs; {simulated} simulated windows a circuit")
    out.mkdir(parents=True, exist_ok=True)
    if (out / CHECKPOINT).is_file():
        typer.echo(f"going on from {out / CHECKPOINT}")
    started = time.monotonic()
    config = TrainingConfig(epochs=epochs, members=members, validation=validation, seed=seed)
    machines = simulated_machines(simulated, seed) if simulated else []
    every = np.arange(len(recordings))
    fitted = fit(recordings, every, config, machines=machines, progress=_say, checkpoints=out / CHECKPOINT)
    typer.echo(f"trained in {time.monotonic() - started:.0f} s")
    for path in save(fitted, out):
        typer.echo(f"{path}: {path.stat().st_size / 1024:.0f} KiB")


def _say(epoch: Epoch) -> None:
    stage = "to find when to stop" if epoch.member == 0 else f"network {epoch.member}"
    watched = "" if epoch.validation is None else f"  left-out runs {epoch.validation:.4f}"
    typer.echo(f"{stage}  epoch {epoch.epoch:2d}/{epoch.epochs}  loss {epoch.loss:.4f}{watched}")
