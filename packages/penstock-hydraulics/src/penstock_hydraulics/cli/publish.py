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
    epochs: Annotated[int, EPOCHS] = 40,
    members: Annotated[int, MEMBERS] = 1,
    validation: Annotated[float, VALIDATION] = 0.0,
    simulated: Annotated[int, SIMULATED] = 120,
    seed: Annotated[int, SEED] = 0,
) -> None:
    """Train the selected model and the runner-up on all recordings; write their artifacts with model cards."""
    from penstock_hydraulics.learning.data.recordings import load
    from penstock_hydraulics.learning.evaluation.comparison import read_figures
    from penstock_hydraulics.learning.publishing.publish import publish as write

    figures = read_figures(evaluation)
    network = network_as_trained(epochs, members, validation, simulated, seed)
    write(load(data), figures, network, out, echo=typer.echo)
