"""`penstock models drift`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import typer

from penstock.cli.options import ConfigOption, JsonOption, RefArgument, read_settings
from penstock.cli.output import print_json, print_table

_Url = Annotated[str | None, typer.Option(help="Address of the server.", show_default="that of the settings")]


def drift(ref: RefArgument, url: _Url = None, as_json: JsonOption = False, config: ConfigOption = None) -> None:
    """Show how far the traffic of a model is from its reference, as a running server sees it.

    The exit code is 1 for an alarm in the last closed window.
    """
    from penstock.client import Client

    settings = read_settings(config)
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(settings.host, settings.host)  # noqa: S104  compared only
    with Client(url or f"http://{host}:{settings.port}") as client:
        found = client.drift(ref)
    if as_json:
        print_json(found)
    else:
        _print(found)
    raise typer.Exit(1 if found["verdict"] == "alarm" else 0)


def _print(found: Mapping[str, Any]) -> None:
    reason = f": {found['reason']}" if found["reason"] else ""
    typer.echo(f"{found['name']}: {found['verdict']}{reason}")
    if found["windows"]:
        print_table(
            ("version", "begin", "end", "rows", "verdict", "inputs", "predictions"), map(_row, found["windows"])
        )
    last = next((window for window in reversed(found["windows"]) if window["moved"]), None)
    if last is not None:
        columns = ("feature", "verdict", "PSI", "p", "most changed", "reference", "window")
        print_table(columns, _moved(last), title=f"moved in the window from {last['begin']}")
    bad = [(one["feature"], one["kind"], one["rate"], one["limit"]) for one in _bad(found)]
    if bad:
        print_table(("feature", "bad values", "share", "limit"), bad, title="data quality")


def _row(window: Mapping[str, Any]) -> tuple[object, ...]:
    end = window["end"] if window["closed"] else "open"
    sides = (window.get("inputs"), window.get("predictions"))
    return window["version"], window["begin"], end, window["rows"], window["verdict"], *sides


def _moved(window: Mapping[str, Any]) -> Iterator[tuple[object, ...]]:
    names = ("feature", "verdict", "psi", "p", "bin", "reference_share", "window_share")
    return (tuple(one[name] for name in names) for one in window["moved"])


def _bad(found: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Of the last window that has any."""
    return next((window["data_quality"] for window in reversed(found["windows"]) if window["data_quality"]), [])
