"""`penstock replay`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from penstock.cli import completion
from penstock.cli.options import (
    ConfigOption,
    DeviceOption,
    JsonOption,
    RegistryOption,
    ThreadsOption,
    TrustOption,
    open_registry,
    read_settings,
)
from penstock.cli.output import print_json, print_table, working
from penstock.errors import PenstockError, worded

if TYPE_CHECKING:
    from penstock.monitor.replay.replaying import Limits, Replay

_SKIPPED = {
    "without_inputs": "have no inputs (see prediction_log_inputs)",
    "not_answered": "were not answered",
    "of_other_models": "are of other models",
}


def replay(
    log: Annotated[Path, typer.Argument(metavar="LOG", help="Directory of a prediction log, or one of its files.")],
    against: Annotated[
        str,
        typer.Option(
            "--against", metavar="REF", help="The version, or the model file, to run.", autocompletion=completion.refs
        ),
    ],
    max_disagreement: Annotated[
        float | None,
        typer.Option("--max-disagreement", min=0, max=1, help="Exit code 1 if a larger share of the rows disagrees."),
    ] = None,
    max_slowdown: Annotated[
        float | None,
        typer.Option("--max-slowdown", min=0, help="Exit code 1 if it takes more than this many times as long."),
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", help="Only requests for this model; default: the name in REF.")
    ] = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Replay so many requests at most.")] = None,
    seed: Annotated[
        int | None, typer.Option("--seed", help="Choose them at random with this seed, not the first ones.")
    ] = None,
    worst: Annotated[int, typer.Option("--worst", min=0, help="The number of requests to show that differ most.")] = 5,
    trust: TrustOption = None,
    device: DeviceOption = None,
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
    registry: RegistryOption = None,
) -> None:
    """Run logged requests on another version, and compare its answers and its speed.

    Nothing is written or sent. Exit code 0 if the limits are kept, 1 if not or if nothing could be compared, 2 if the
    log or the version cannot be used.
    """
    from penstock.monitor.replay.replaying import Limits, Selection
    from penstock.monitor.replay.replaying import replay as replayed

    limits = Limits(max_disagreement, max_slowdown)
    try:
        settings = read_settings(config, registry=registry, trust=trust, device=device, threads=threads)
        with open_registry(settings) as models, working("replaying"):
            found = replayed(log, against, models, settings, Selection(model, limit, seed), keep=worst)
    except PenstockError as error:
        typer.echo(f"penstock: {worded(str(error), 'cli')}", err=True)
        raise typer.Exit(2) from None
    if as_json:
        print_json(found.to_json(limits))
    else:
        _print(found, limits)
    raise typer.Exit(1 if found.breaches(limits) else 0)


def _print(found: Replay, limits: Limits) -> None:
    done = found.comparison
    if done.rows:
        rate, low, high = done.disagreement
        typer.echo(f"{found.against}: {done.requests} requests, {done.rows} rows")
        typer.echo(f"disagree: {done.disagreeing} rows, {rate:.2%} (95 % between {low:.2%} and {high:.2%})")
        kl = (
            f"; KL divergence {sum(done.kl) / len(done.kl):.3g} on average, {max(done.kl):.3g} at most"
            if done.kl
            else ""
        )
        typer.echo(f"numbers differ by {done.max_abs:.3g} at most{kl}")
    if done.not_finite:
        typer.echo(f"not finite in one of the two: {done.not_finite} rows")
    if done.failed:
        typer.echo(f"failed: {done.failed} requests; the first: {done.first_failure}")
    if done.slowdown is not None:
        typer.echo(f"time: {done.slowdown:.2f} of the earlier version's (median of {len(done.times)} requests)")
    for note in found.notes:
        typer.echo(note)
    for reason, count in found.skipped.items():
        typer.echo(f"skipped: {count} records {_SKIPPED[reason]}")
    if done.worst:
        columns = ("request", "at", "version", "was", "is", "max abs")
        rows = (
            (w["request_id"], w["at"], w["version"], w.get("was"), w.get("is"), _gap(w["max_abs"])) for w in done.worst
        )
        print_table(columns, rows, title="differ most")
    if found.reader.warning:
        typer.echo(f"penstock: {found.reader.warning}", err=True)
    for breach in found.breaches(limits):
        typer.echo(f"penstock: {breach}", err=True)


def _gap(value: float | None) -> str:
    return "failed" if value is None else f"{value:.4g}"
