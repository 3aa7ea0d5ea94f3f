"""`penstock verify`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from penstock.cli.options import (
    ConfigOption,
    JsonOption,
    RefArgument,
    RegistryOption,
    TrustOption,
    open_registry,
    read_settings,
)
from penstock.cli.output import print_json, print_table, stepping

if TYPE_CHECKING:
    from penstock.toolchain.publishing.checking import Verification


def verify(
    ref: RefArgument,
    trust: TrustOption = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
    registry: RegistryOption = None,
) -> None:
    """Check every variant of a version on this machine: its golden samples, other inputs, and its rows.

    Each runs in a process of its own. Where eager PyTorch of the same weights runs here, the others are held to
    it as well. Exit code 1 when one gives other answers, or when none can be checked here.
    """
    settings = read_settings(config, registry=registry, trust=trust)
    with open_registry(settings) as models, stepping() as on_step:
        from penstock.scan.trust import strongest
        from penstock.toolchain.publishing.checking import verify_artifact

        artifact = models.get(ref)
        granted = strongest(settings.trust, models.trusted(artifact.digest))
        found = verify_artifact(artifact, granted, lambda name: on_step(f"verifying {artifact.ref}/{name}"))
    if as_json:
        print_json(found.to_json())
    else:
        _print(found)
    raise typer.Exit(0 if found.ok else 1)


def _print(found: Verification) -> None:
    rows = (
        (one.name, _VERDICTS[one.ok], *map(_number, (one.max_abs, one.max_rel, one.cosine, one.top1)),
         {True: "yes", False: "no", None: ""}[one.batch_invariant], one.why)
        for one in found.variants
    )  # fmt: skip
    print_table(("variant", "", "max abs", "max rel", "cosine", "top-1", "own rows", "why"), rows, title=found.ref)
    if not any(one.ok for one in found.variants):
        typer.echo(f"{found.ref}: no variant was shown to be right on this machine", err=True)


_VERDICTS = {True: "ok", False: "!!", None: "not run"}


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"
