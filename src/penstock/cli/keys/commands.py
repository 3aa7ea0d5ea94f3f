"""`penstock keys`: who may use the servers of a registry."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from penstock.cli.options import ConfigOption, JsonOption, RegistryOption, open_registry, read_settings
from penstock.cli.output import print_json, print_table

if TYPE_CHECKING:
    from penstock.registry.access.book import KeyBook, NewKey
    from penstock.registry.access.key import Key

app = typer.Typer(
    help="API keys: who may use the servers of this registry, which models, and how often.", no_args_is_help=True
)

IdArgument = Annotated[str, typer.Argument(metavar="ID", help="The id of the key, as `penstock keys list` shows it.")]
WhyOption = Annotated[str, typer.Option("--why", help="The reason, for the audit log.")]
ExpiresOption = Annotated[
    str | None, typer.Option("--expires", help="Time for which the key is valid: 12h, 30d, 8w; without it, for ever.")
]


@contextmanager
def _keys(config: Path | None, registry: Path | None, why: str = "") -> Iterator[KeyBook]:
    from penstock.registry.audit import acting

    settings = read_settings(config, registry=registry)
    with open_registry(settings) as models, acting(why=why):
        yield models.keys.with_pepper(settings.key_pepper, settings.previous_key_pepper)


@app.command()
def create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Whose key it is, for people.")],
    scopes: Annotated[
        str,
        typer.Option(
            "--scopes", help="infer (predictions), read (models and figures), admin (everything); a comma list."
        ),
    ] = "infer",
    models: Annotated[
        str, typer.Option("--models", help="Models it reaches: patterns of names or of name:version; a comma list.")
    ] = "",
    expires: ExpiresOption = None,
    rate: Annotated[str | None, typer.Option("--rate", help="Most requests in a time: 600/m, 10/s.")] = None,
    burst: Annotated[
        int | None, typer.Option("--burst", help="How many of them may come at once; by default as many as the rate.")
    ] = None,
    quota: Annotated[
        str | None, typer.Option("--quota", help="Most requests in a day or month, in UTC: 5000/day, 100000/month.")
    ] = None,
    weight: Annotated[float, typer.Option("--weight", help="Its share where requests wait for a model.")] = 1.0,
    why: WhyOption = "",
    as_json: JsonOption = False,
    config: ConfigOption = None,
    registry: RegistryOption = None,
) -> None:
    """Make a key. It is shown once; the registry keeps only a digest. Every server follows within a second.

    As soon as there is a key, servers ask for one, unless the setting `require_auth` is false.
    """
    with _keys(config, registry, why) as keys:
        first = not keys.list()
        made = keys.create(
            name,
            _listed(scopes),
            models=_listed(models),
            expires=expires,
            rate=rate,
            burst=burst,
            quota=quota,
            weight=weight,
        )
    _print_new(made, as_json)
    if first:
        typer.echo("it is the first key: the servers of this registry ask for one from now on (require_auth)", err=True)


@app.command("list")
def list_keys(as_json: JsonOption = False, config: ConfigOption = None, registry: RegistryOption = None) -> None:
    """List every key, without its secret."""
    with _keys(config, registry) as keys:
        found = keys.list()
        used = keys.used(found)
    if as_json:
        print_json([{**key.to_document(), "used": used.get(key.id)} for key in found])
    else:
        titles = ("id", "name", "scopes", "models", "rate", "quota", "weight", "expires", "state")
        print_table(titles, (_row(key, used.get(key.id)) for key in found))


@app.command()
def revoke(
    key: IdArgument,
    why: WhyOption = "",
    as_json: JsonOption = False,
    config: ConfigOption = None,
    registry: RegistryOption = None,
) -> None:
    """End a key for good. Every server refuses it within a second."""
    with _keys(config, registry, why) as keys:
        revoked = keys.revoke(key)
    if as_json:
        print_json(revoked.to_document())
    else:
        typer.echo(f"revoked the key {key} ({revoked.name})")


@app.command()
def rotate(
    key: IdArgument,
    grace: Annotated[
        str, typer.Option("--grace", help="Time for which the old secret is valid as well, such as 1h.")
    ] = "0s",
    expires: ExpiresOption = None,
    why: WhyOption = "",
    as_json: JsonOption = False,
    config: ConfigOption = None,
    registry: RegistryOption = None,
) -> None:
    """Give a key another secret, which is shown once. Its id, scopes, models and limits stay."""
    with _keys(config, registry, why) as keys:
        made = keys.rotate(key, grace=grace, expires=expires)
    _print_new(made, as_json)


def _listed(given: str) -> list[str]:
    return [part.strip() for part in given.split(",") if part.strip()]


def _print_new(made: NewKey, as_json: bool) -> None:
    if as_json:
        print_json({"id": made.id, "key": made.key, **made.stored.to_document()})
        return
    typer.echo(made.key)
    typer.echo(f"the key {made.id} is shown this once; send it as `Authorization: Bearer KEY` or `X-API-Key`", err=True)


def _row(key: Key, used: int | None) -> Sequence[Any]:
    shown = key.to_document()
    rate = shown["rate"] if key.burst is None else f"{key.rate}, {key.burst} at once"
    models = ", ".join(key.models) or "all"
    quota = None if key.quota is None else f"{used} of {key.quota}"
    scopes = ", ".join(key.scopes)
    return (key.id, key.name, scopes, models, rate, quota, f"{key.weight:g}", shown["expires_at"], key.state())
