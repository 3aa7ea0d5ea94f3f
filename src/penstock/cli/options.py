"""Options shared by several commands, and the settings and the registry that they select."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from penstock.cli import completion

if TYPE_CHECKING:
    from penstock.registry.registry import Registry
    from penstock.settings import Settings

ConfigOption = Annotated[
    Path | None, typer.Option("--config", help="Settings file; the default is ./penstock.toml if it exists.")
]
RegistryOption = Annotated[
    Path | None, typer.Option("--registry", help="Directory of the model registry.", show_default="registry")
]
DeviceOption = Annotated[
    str | None, typer.Option("--device", help="auto, cpu, cuda, cuda:N or mps.", show_default="auto")
]
ThreadsOption = Annotated[
    int | None, typer.Option("--threads", min=1, help="Threads inside one run.", show_default="usable cores")
]
TrustOption = Annotated[
    str | None,
    typer.Option(
        "--trust",
        help="Models that may be opened besides those the registry trusts: data, code (programs) or native "
        "(machine code).",
        show_default="data",
    ),
]
PinOption = Annotated[
    str,
    typer.Option(
        "--trust",
        help="Trust the source of the model: code (programs) or native (machine code); its digest is pinned to that.",
    ),
]
AliasesOption = Annotated[
    list[str] | None, typer.Option("--alias", help="Point this alias at the version; repeatable.")
]
ProveOption = Annotated[
    bool, typer.Option(help="Load the model and run its golden samples first; refuse it if that fails.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
RefArgument = Annotated[
    str,
    typer.Argument(metavar="REF", help="name, name:version or name@alias.", autocompletion=completion.refs),
]


def read_settings(config: Path | None = None, **overrides: Any) -> Settings:
    """The settings in force; those of the command line take precedence. Raises ConfigError."""
    from penstock.settings import load_settings

    return load_settings(overrides, config_file=config).settings


def open_registry(settings: Settings) -> Registry:
    """The registry of the settings."""
    from penstock.registry.registry import Registry

    return Registry(settings.registry, settings.database_url, settings.require_signed)
