"""A version of a model as `list`, `show` and `publish` print it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from penstock.cli.output import print_table, size

if TYPE_CHECKING:
    from collections.abc import Iterable

    from penstock.artifacts.artifact import Artifact
    from penstock.registry.registry import Registry


def summarize(models: Registry, artifact: Artifact) -> dict[str, Any]:
    """The fields that `--json` prints for one version."""
    aliases = models.aliases(artifact.name)
    return {
        "name": artifact.name,
        "version": artifact.version,
        "aliases": sorted(alias for alias, version in aliases.items() if version == artifact.version),
        "task": artifact.manifest.task.kind,
        "variants": [variant.name for variant in artifact.variants],
        "size_bytes": artifact.size_bytes,
        "created_at": artifact.manifest.created_at,
        "digest": artifact.digest,
    }


def print_summaries(summaries: Iterable[dict[str, Any]]) -> None:
    """One row per version."""
    rows = (
        (row["name"], row["version"], ", ".join(row["aliases"]), row["task"], ", ".join(row["variants"]),
         size(row["size_bytes"]), row["created_at"])
        for row in summaries
    )  # fmt: skip
    print_table(("name", "version", "aliases", "task", "variants", "size", "created"), rows)


def check_aliases(aliases: Iterable[str]) -> None:
    """Raises InvalidInput for the first that is not a valid name, before anything is published."""
    from penstock.artifacts.refs import check_name

    for alias in aliases:
        check_name(alias, "alias")


def set_aliases(models: Registry, artifact: Artifact, aliases: Iterable[str]) -> None:
    """Point every alias at the artifact's version."""
    for alias in aliases:
        models.set_alias(artifact.name, alias, artifact.version)
