"""`penstock migrate`: what moves over from other servers."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from penstock.cli.options import JsonOption
from penstock.cli.output import print_json, print_table

if TYPE_CHECKING:
    from penstock.torchserve.migration.migration import Migration
    from penstock.torchserve.migration.models import ModelOutcome

app = typer.Typer(help="Move over from other servers.", no_args_is_help=True)

_SIGNS = {"moves": "ok", "not needed": "-", "attention": "!!"}


@app.callback()
def migrate() -> None:
    """Move over from other servers."""


@app.command()
def torchserve(
    config: Annotated[
        Path,
        typer.Argument(metavar="CONFIG", help="A config.properties, a snapshot (.cfg), or a directory."),
    ],
    model_store: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Directory of its archives.", show_default="model_store of CONFIG"),
    ] = None,
    out: Annotated[Path, typer.Option(metavar="FILE", help="Settings file to write.")] = Path("penstock.toml"),
    force: Annotated[bool, typer.Option("--force", "-f", help="Overwrite that file.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Report only, write nothing.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Say what moves over from an installation of TorchServe, what needs attention and why, and write penstock.toml.

    Variables of the environment (TS_… and those named in the file) are those of this command. No model is run.
    """
    from penstock.settings import environment
    from penstock.torchserve.migration.migration import migrate, write_settings

    migration = migrate(config, environment(), model_store)
    if not dry_run:
        write_settings(migration, out, force=force)
    if as_json:
        document = migration.to_json()
        for shown, model in zip(document["models"], migration.models, strict=True):
            shown["commands"] = _commands(model)
        print_json({**document, "out": None if dry_run else str(out)})
        return
    _print(migration)
    typer.echo(f"nothing was written; {out} would hold:\n\n{migration.toml}" if dry_run else f"wrote {out}")


def _commands(model: ModelOutcome) -> list[str]:
    """What publishes a model, in capitals what its user has to fill in."""
    if model.way is None:
        return []
    directory, file = shlex.quote(model.name), shlex.quote(f"{model.name}/{model.file}")
    named = f"--name {shlex.quote(model.name)} --version {shlex.quote(model.version)}"
    unpack = f"penstock archive unpack {shlex.quote(model.path)} {directory}"
    inputs = "--input NAME:TYPE:SHAPE"
    if model.way == "export":
        return [unpack, f"penstock export {model.module}:CLASS --weights {file} {named} {inputs}"]
    program = f" --trust code {inputs}" if model.way.endswith("program") else ""
    if model.way.startswith("archive"):
        return [f"penstock models import {shlex.quote(model.path)} {named}{program}"]
    return [unpack, f"penstock models import {file} {named}{program}"]


def _print(migration: Migration) -> None:
    from penstock.torchserve.migration.migration import DOCKERFILE, shown

    print_table(
        ("", "line", "setting", "value", "becomes", "why"),
        (
            (
                _SIGNS[line.outcome.state],
                line.setting.line or line.setting.source,
                line.setting.key,
                shown(line.setting) if len(line.setting.value) <= 60 else "…",
                ", ".join(f"{name} = {value}" for name, value in line.outcome.settings.items()),
                line.outcome.why,
            )
            for line in migration.lines
        ),
        title=str(migration.path),
    )
    if migration.models:
        print_table(
            ("", "model", "version", "archive", "options", "why"),
            (
                (
                    _SIGNS[model.state],
                    model.name,
                    model.version,
                    model.archive,
                    ", ".join(f"{name} = {value}" for name, value in model.settings.items()),
                    model.why,
                )
                for model in migration.models
            ),
            title="models",
        )
    for model in migration.models:
        for command in _commands(model):
            typer.echo(command)
        for note in model.notes:
            typer.echo(f"note: {model.name}: {note}")
    typer.echo(f"Dockerfile: {DOCKERFILE}")
