"""`penstock monitor`: the files for Prometheus and Grafana."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Write alerting rules for Prometheus and a dashboard for Grafana.", no_args_is_help=True)

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


def _write(make: Callable[[], str], out: Path | None, check: Path | None) -> None:
    text = make()
    if check is not None:
        if check.read_bytes() != text.encode("utf-8"):
            typer.echo(f"penstock: {check} is not what this release writes; write it again with --out", err=True)
            raise typer.Exit(1)
    elif out is None:
        typer.echo(text, nl=False)
    else:
        out.write_text(text, encoding="utf-8")
