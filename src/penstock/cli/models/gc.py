"""`penstock models gc`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from penstock.cli import completion
from penstock.cli.options import ConfigOption, JsonOption, RegistryOption, open_registry, read_settings
from penstock.cli.output import print_json, print_table, size, working

if TYPE_CHECKING:
    from penstock.registry.gc import Garbage


def gc(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="NAME",
            help="Only versions of these models; default: of every model.",
            autocompletion=completion.names,
        ),
    ] = None,
    keep: Annotated[
        int, typer.Option(min=0, help="Keep this many of the highest versions of each model in any case.")
    ] = 3,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List what would be removed and remove nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")] = False,
    as_json: JsonOption = False,
    config: ConfigOption = None,
    registry: RegistryOption = None,
) -> None:
    """Remove versions that no alias points at, and the leftovers of interrupted publishes.

    The version that a bare name resolves to is kept, and so is every version with an alias.
    """
    with open_registry(read_settings(config, registry=registry)) as models:
        from penstock.registry.gc import find_garbage, remove_garbage

        garbage = find_garbage(models, names or (), keep)
        empty = not (garbage.versions or garbage.leftovers or garbage.records)
        if not as_json:
            _print(garbage)
        if not (dry_run or empty):
            if not yes:
                typer.confirm(f"Remove {_summary(garbage)}?", abort=True, err=as_json)
            with working("removing"):
                garbage = remove_garbage(models, garbage)
    if as_json:
        print_json({**_as_json(garbage), "dry_run": dry_run})
    elif not empty and not dry_run:
        typer.echo(f"removed {_summary(garbage)}")


def _print(garbage: Garbage) -> None:
    rows: list[tuple[str, object, str]] = [("version", ref, size(count)) for ref, count in garbage.versions]
    rows += [("leftover", path, size(count)) for path, count in garbage.leftovers]
    rows += [("record", ref, "") for ref in garbage.records]
    if rows:
        print_table(("kind", "item", "size"), rows)
    else:
        typer.echo("There is nothing to remove.")


def _summary(garbage: Garbage) -> str:
    counts = (
        (len(garbage.versions), "version"),
        (len(garbage.leftovers), "leftover"),
        (len(garbage.records), "record"),
    )
    named = [f"{count} {word}{'s' if count > 1 else ''}" for count, word in counts if count]
    return f"{', '.join(named) or 'nothing'} ({size(garbage.size_bytes)})"


def _as_json(garbage: Garbage) -> dict[str, Any]:
    return {
        "versions": [{"ref": str(ref), "size_bytes": count} for ref, count in garbage.versions],
        "leftovers": [{"path": str(path), "size_bytes": count} for path, count in garbage.leftovers],
        "records": [str(ref) for ref in garbage.records],
        "size_bytes": garbage.size_bytes,
    }
