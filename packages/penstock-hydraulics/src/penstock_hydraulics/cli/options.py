"""Options that several subcommands share."""

from __future__ import annotations

import typer

DATA = typer.Option(
    envvar="PENSTOCK_HYDRAULICS_DATA",
    help="Directory of the unpacked UCI text files (https://archive.ics.uci.edu/dataset/447), or an npz file of them.",
)
EPOCHS = typer.Option(min=1, help="As in `train`.")
MEMBERS = typer.Option(min=1, max=8, help="As in `train`.")
VALIDATION = typer.Option(min=0.0, max=0.5, help="As in `train`; doubles the training time.")
SIMULATED = typer.Option(min=0, help="As in `train`.")
SEED = typer.Option(min=0, help="Seed of splits and training.")
