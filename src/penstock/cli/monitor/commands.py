"""`penstock monitor`: the files for Prometheus and Grafana, and the alerts that servers evaluate."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from penstock.cli.options import ConfigOption, JsonOption, RegistryOption, open_registry, read_settings
from penstock.cli.output import naming, print_json, print_table

app = typer.Typer(
    help="Alerts: those that servers send, and the files for Prometheus and Grafana.", no_args_is_help=True
)

OutOption = Annotated[Path | None, typer.Option("--out", metavar="FILE", help="Write this file; else print it.")]
CheckOption = Annotated[
    Path | None, typer.Option("--check", metavar="FILE", help="Exit 1 if this file is not what would be written.")
]


@app.command()
def rules(out: OutOption = None, check: CheckOption = None) -> None:
    """Write the alerting rules for Prometheus."""
    from penstock.monitor.alerts.files import rules_file

    _write(rules_file, out, check)


@app.command()
def dashboard(out: OutOption = None, check: CheckOption = None) -> None:
    """Write the dashboard for Grafana."""
    from penstock.monitor.alerts.files import dashboard_file

    _write(dashboard_file, out, check)


@app.command()
def alerts(config: ConfigOption = None, registry: RegistryOption = None, as_json: JsonOption = False) -> None:
    """Show the alerts of all servers of a registry that are pending or firing."""
    from penstock.registry.alert_book import AlertBook

    with open_registry(read_settings(config, registry=registry)) as models:
        book = AlertBook(models.database_url)
        try:
            found, waiting = [_shown(alert.state) for alert in book.alerts()], book.waiting()
        finally:
            book.close()
    if as_json:
        print_json({"alerts": found, "messages_waiting": waiting})
        return
    if found:
        print_table(("state", "alert", "since", "labels"), map(_row, found))
    else:
        typer.echo("No alert is pending or firing.")
    if waiting:
        typer.echo(f"{waiting} messages wait for a webhook that has not taken them yet")


def _shown(state: Mapping[str, Any]) -> dict[str, Any]:
    from penstock.monitor.alerts.evaluation import described
    from penstock.monitor.alerts.messages import moment
    from penstock.monitor.alerts.states import AlertState

    alert = AlertState.of(state)
    return {
        "alert": alert.labels["alertname"],
        "state": alert.phase,
        "since": moment(alert.since),
        "value": alert.value,
        "labels": alert.labels,
        **described(alert),
    }


def _row(alert: Mapping[str, Any]) -> tuple[str, str, str, str]:
    labels = ", ".join(f"{name}={text}" for name, text in alert["labels"].items() if name != "alertname")
    return alert["state"], alert["alert"], alert["since"], labels


def _write(make: Callable[[], str], out: Path | None, check: Path | None) -> None:
    text = make()
    if check is not None:
        if check.read_bytes() != text.encode("utf-8"):
            typer.echo(f"penstock: {check} is not what this release writes; write it again with --out", err=True)
            raise typer.Exit(1)
    elif out is None:
        typer.echo(text, nl=False)
    else:
        from penstock.artifacts.files import replacing

        with naming(out), replacing(out) as new:
            new.write_text(text, encoding="utf-8")
