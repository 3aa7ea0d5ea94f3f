"""`penstock tune`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from penstock.cli.options import ConfigOption, DeviceOption, JsonOption, RefArgument, RegistryOption, TrustOption
from penstock.cli.output import print_json, print_table

if TYPE_CHECKING:
    from penstock.toolchain.tune.exploring import Trial
    from penstock.toolchain.tune.result import Tuning

NOTHING_BETTER, MISSED = 3, 4
"""Exit codes: the settings in force are the best; no configuration met the objective."""


def tune(
    ref: RefArgument,
    p99: Annotated[
        str,
        typer.Option(metavar="TIME", help="Latency that 99 % of the requests must keep: 20ms, 0.5s; a number is ms."),
    ],
    out: Annotated[
        Path | None,
        typer.Option(help="Settings file to write; its other settings stay.", show_default="--config or penstock.toml"),
    ] = None,
    time_budget: Annotated[str, typer.Option(metavar="TIME", help="How long it may take: 90s, 3m.")] = "3m",
    payload: Annotated[
        Path | None,
        typer.Option(
            help="File with a request to send: .json, .jsonl or an image.", show_default="an example of the model"
        ),
    ] = None,
    device: DeviceOption = None,
    trust: TrustOption = None,
    config: ConfigOption = None,
    registry: RegistryOption = None,
    as_json: JsonOption = False,
) -> None:
    """Find the workers, threads, batch size and wait that serve a model best on this machine, and write penstock.toml.

    It starts the server with one configuration after another and drives it with requests at fixed times. Best is the
    highest rate whose p99 keeps the objective. Exit code 3: the settings in force are the best; 4: no configuration
    keeps the objective, and nothing is written.
    """
    from penstock.settings import CONFIG_FILE
    from penstock.toolchain.report.terminal import progress
    from penstock.toolchain.tune.tuning import COLUMNS
    from penstock.toolchain.tune.tuning import tune as run

    path = out or config or Path(CONFIG_FILE)
    try:
        with progress(f"Tuning {ref} for p99 within {p99}", COLUMNS, ticking=False) as live:
            tuning = run(
                ref,
                p99,
                out=path,
                time_budget=time_budget,
                registry=registry,
                config=config,
                device=device,
                trust=trust,
                payload=payload,
                progress=live,
            )
    except KeyboardInterrupt:
        typer.echo("interrupted; the same command goes on with what was measured", err=True)
        raise
    if as_json:
        print_json({**tuning.to_json(), "out": str(path) if tuning.best else None})
    else:
        _print(tuning, path)
    raise typer.Exit({"chosen": 0, "baseline": NOTHING_BETTER, "missed": MISSED}[tuning.outcome])


def _print(tuning: Tuning, path: Path) -> None:
    print_table(
        ("workers", "threads", "batch", "wait ms", "requests/s", "p99 ms", "outcome", "why"),
        (_row(trial) for trial in tuning.trials),
        title=f"{tuning.ref}, p99 within {tuning.p99_ms:g} ms, with {tuning.payload or 'its example'}",
    )
    for warning in tuning.warnings:
        typer.echo(f"warning: {warning}")
    if not tuning.complete:
        typer.echo("the time did not suffice for every configuration; give more with --time-budget")
    typer.echo(tuning.sentence)
    if tuning.best is not None:
        typer.echo(f"written to {path}")


def _row(trial: Trial) -> tuple[object, ...]:
    from penstock.toolchain.report.wording import number

    setting, best = trial.configuration, trial.capacity.best
    figures = ("", "") if best is None else (number(best.rate), number(best.p99_ms))
    threads = "default" if setting.threads is None else setting.threads
    return (setting.workers, threads, setting.batch_size, f"{setting.max_wait_ms:g}", *figures, trial.status, trial.why)
