"""The `penstock` command in this process, made once: typer takes a tenth of a second to make all subcommands."""

from __future__ import annotations

from functools import cache
from typing import Any

import typer

from penstock.cli.main import app


def penstock_command(arguments: list[str]) -> object:
    """Run one command, without the part that makes sentences of errors (`penstock.cli.main.run`)."""
    return _made()(arguments, prog_name="penstock")


@cache
def _made() -> Any:
    return typer.main.get_command(app)
