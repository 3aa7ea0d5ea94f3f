"""A version of a model as `list`, `show` and `publish` print it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from penstock.artifacts.refs import parse_ref
from penstock.cli.output import print_table, size
from penstock.errors import ModelNotFound

if TYPE_CHECKING:
    from collections.abc import Iterable

    from penstock.artifacts.artifact import Artifact
    from penstock.registry.registry import Registry

CHAMPION = "champion"


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


def set_aliases(models: Registry, artifact: Artifact, aliases: Iterable[str], *, prove: bool = True) -> None:
    """Point every alias at the artifact's version, and `champion` too if it is the model's first version.

    Raises the ModelLoadError of a version that this machine cannot load, unless it is not to be proven.
    """
    for alias in aliases:
        models.set_alias(artifact.name, alias, artifact.version, force=not prove)
    first = models.versions(artifact.name) == [artifact.version]
    if first and CHAMPION not in models.aliases(artifact.name):
        models.set_alias(artifact.name, CHAMPION, artifact.version, force=True)


def live(models: Registry, artifact: Artifact) -> str:
    """What the model's bare name means, and how a version that was published besides it becomes that."""
    makes = f"penstock models alias {artifact.name} {CHAMPION} {artifact.version}"
    try:
        name, version = models.resolve(artifact.name)
    except ModelNotFound as error:  # the files of the champion were removed by hand
        return f"live: none, since {error}; {makes} makes {artifact.ref} live"
    why = CHAMPION if CHAMPION in models.aliases(name) else f"the highest release; there is no {CHAMPION}"
    sentence = f"live: {name}:{version} ({why})"
    if version == artifact.version:
        return sentence
    return f"{sentence}; {artifact.ref} is published but not live; {makes} makes it live"


def remove_last_champion(models: Registry, ref: str) -> None:
    """Remove the alias `champion` where nothing else holds the model's only version: there is no other to choose."""
    wanted = parse_ref(ref)
    only = [wanted.version] == models.versions(wanted.name)
    if only and models.aliases(wanted.name) == {CHAMPION: wanted.version}:
        models.remove_alias(wanted.name, CHAMPION)
