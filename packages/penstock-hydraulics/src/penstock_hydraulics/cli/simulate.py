"""The subcommand `penstock-hydraulics simulate`."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer


def simulate_windows(
    topology: Annotated[
        str, typer.Option(help="Name of a template, or a JSON file with a topology.", show_default=True)
    ] = "zema_rig",
    fault: Annotated[str | None, typer.Option(help="One of the nine faults. Default: none.")] = None,
    severity: Annotated[float, typer.Option(min=0.0, max=1.0, help="0 healthy to 1 failed.")] = 0.5,
    component: Annotated[
        str | None, typer.Option(help="Faulty component. Default: the first that can have the fault.")
    ] = None,
    windows: Annotated[int, typer.Option(min=1, max=1_000_000, help="Number of work cycles of 60 s.")] = 10,
    degrade: Annotated[bool, typer.Option("--degrade", help="Grow the fault from 0 to the severity.")] = False,
    interval: Annotated[float, typer.Option(min=0.0, help="Seconds between the windows' timestamps.")] = 60.0,
    equipment: Annotated[str, typer.Option(help="Equipment id of the requests.")] = "simulated",
    seed: Annotated[int, typer.Option(min=0, help="Seed of the machine's parameters and the noise.")] = 0,
    url: Annotated[str | None, typer.Option(help="Send the windows to this server with POST /predict.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write requests and labels to this file as JSON lines.")] = None,
) -> None:
    """Simulate work cycles of a hydraulic machine, healthy or faulty. Default output: standard output."""
    from penstock_hydraulics.simulator.traffic import Plan, send, topology_named, traffic, write_lines, written

    plan = Plan(topology_named(topology), fault, severity, component, windows, degrade, interval, equipment, seed)
    pairs = traffic(plan)
    with out.open("w", encoding="utf-8") if out is not None else nullcontext() as file:
        if url is None:
            write_lines(pairs, _print if file is None else file.write)
        else:
            send(pairs if file is None else written(pairs, file.write), url, typer.echo)


def _print(line: str) -> None:
    typer.echo(line, nl=False)
