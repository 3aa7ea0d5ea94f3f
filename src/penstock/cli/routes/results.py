"""`penstock routes results`: what the versions that share the requests of a model have shown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import typer

from penstock.cli.options import ConfigOption, JsonOption, RegistryOption, open_registry, read_settings
from penstock.cli.output import print_json, print_table
from penstock.cli.routes.canary import NameArgument
from penstock.cli.routes.shown import moment

_HEAD = ("version", "share", "requests", "errors", "p50 ms", "p99 ms", "confidence", "labels", "accuracy")


def results(
    name: NameArgument, as_json: JsonOption = False, config: ConfigOption = None, registry: RegistryOption = None
) -> None:
    """Compare the versions that share the requests of a model: errors, latency, confidence, and accuracy by labels.

    The verdicts hold however often one looks. The figures begin anew when the shares change.
    """
    from penstock.rollouts.results.reading import results as read

    with open_registry(read_settings(config, registry=registry)) as models:
        document = read(models, name)
    if as_json:
        print_json(document)
        return
    title = f"{name} since {moment(document['since'])}, compared with {document['compared_with']}"
    print_table(_HEAD, [_row(version, arm) for version, arm in document["arms"].items()], title=title)
    for each in document["comparisons"]:
        typer.echo(each["sentence"])
    for note in document["notes"]:
        typer.echo(f"note: {note}")


def add_to(app: typer.Typer) -> None:
    """Add it to the commands of routes."""
    app.command()(results)


def _row(version: str, arm: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        version,
        _percent(arm["share"]),
        f"{arm['requests']:,}",
        f"{arm['failures']:,}{_of(arm['error_rate'])}",
        _number(arm["p50_ms"]),
        _number(arm["p99_ms"]),
        _number(arm["mean_confidence"]),
        f"{arm['labelled']:,}{_of(arm['labelled_share'])}",
        _percent(arm["accuracy"]),
    )


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share * 100:.4g} %"


def _of(share: float | None) -> str:
    return "" if share is None else f" ({share:.2%})"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"
