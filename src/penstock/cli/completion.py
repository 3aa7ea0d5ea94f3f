"""What the shell offers after TAB: models, versions and aliases of the registry in force. It never fails."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from penstock.registry.registry import Registry

Candidates = Iterable[tuple[str, str]]
"""What may be inserted, each with a hint."""


Find = Callable[["Registry", typer.Context, str], Candidates]
Offer = Callable[[typer.Context, str], list[tuple[str, str]]]


def _offered(find: Find) -> Offer:
    """The candidates that continue what was typed; none where the registry cannot be read."""

    def offer(ctx: typer.Context, incomplete: str) -> list[tuple[str, str]]:
        with contextlib.suppress(Exception), _registry(ctx) as registry:  # an error would end up on the command line
            return [each for each in find(registry, ctx, incomplete) if each[0].startswith(incomplete)]
        return []

    return offer


def _registry(ctx: typer.Context) -> Registry:
    """The registry that the options typed so far select."""
    from penstock.registry.registry import Registry
    from penstock.settings import load_settings

    loaded = load_settings({"registry": ctx.params.get("registry")}, config_file=ctx.params.get("config"))
    return Registry(loaded.settings.registry, loaded.settings.database_url)


@_offered
def names(registry: Registry, ctx: typer.Context, incomplete: str) -> Candidates:  # noqa: ARG001
    """Models."""
    return ((name, "") for name in registry.list())


@_offered
def refs(registry: Registry, ctx: typer.Context, incomplete: str) -> Candidates:  # noqa: ARG001
    """Models and aliases, and the versions of a model once its name and the colon are there."""
    return _refs(registry, incomplete)


@_offered
def refs_and_files(registry: Registry, ctx: typer.Context, incomplete: str) -> Candidates:  # noqa: ARG001
    """References, and model files."""
    return [*_refs(registry, incomplete), *_files(incomplete)]


@_offered
def exact_refs(registry: Registry, ctx: typer.Context, incomplete: str) -> Candidates:  # noqa: ARG001
    """Versions, as `name:version`."""
    return ((f"{name}:{version}", "") for name in registry.list() for version in registry.versions(name))


@_offered
def aliases(registry: Registry, ctx: typer.Context, incomplete: str) -> Candidates:  # noqa: ARG001
    """Aliases of the model that was typed before."""
    return registry.aliases(str(ctx.params.get("name"))).items()


@_offered
def versions(registry: Registry, ctx: typer.Context, incomplete: str) -> Candidates:  # noqa: ARG001
    """Versions of the model that was typed before."""
    return ((version, "") for version in registry.versions(str(ctx.params.get("name"))))


def _refs(registry: Registry, incomplete: str) -> Iterator[tuple[str, str]]:
    typed, colon, _ = incomplete.partition(":")
    for name in registry.list():
        if colon and name == typed:
            yield from ((f"{name}:{version}", "") for version in registry.versions(name))
        elif not colon:
            yield name, ""
            yield from ((f"{name}@{alias}", version) for alias, version in registry.aliases(name).items())


def _files(incomplete: str) -> Iterator[tuple[str, str]]:
    """Model files and directories that continue a path."""
    from penstock.formats import is_model_file

    parent = incomplete.rpartition("/")[0]
    folder = incomplete[: len(parent) + 1] if "/" in incomplete else ""
    for entry in sorted(Path(folder or ".").expanduser().iterdir()):
        shown = f"{folder}{entry.name}"
        if entry.is_dir() and shown.startswith(incomplete or "\0"):
            yield f"{shown}/", ""
        elif is_model_file(entry.name) and entry.is_file():
            yield shown, ""
