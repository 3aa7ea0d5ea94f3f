"""Garbage collection: versions without a reference, and the leftovers of interrupted writers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from penstock.artifacts.refs import Ref, check_name
from penstock.errors import InvalidInput, ModelNotFound
from penstock.registry.registry import Registry

KEEP = 3
"""The number of highest versions of a model that are kept without a reference."""


@dataclass(frozen=True, slots=True)
class Garbage:
    """`versions` and `leftovers` with their sizes in bytes; `records` are of versions without a directory."""

    versions: tuple[tuple[Ref, int], ...] = ()
    leftovers: tuple[tuple[Path, int], ...] = ()
    records: tuple[Ref, ...] = ()

    @property
    def size_bytes(self) -> int:
        """The size of all of it."""
        return sum(size for _, size in (*self.versions, *self.leftovers))


def find_garbage(registry: Registry, names: Iterable[str] = (), keep: int = KEEP) -> Garbage:
    """The garbage of a registry; with `names`, only versions of those models.

    A version is kept if an alias points at it, if its model's bare name resolves to it, and if it is one of the `keep`
    highest. Raises ModelNotFound for a name that does not exist.
    """
    if keep < 0:
        raise InvalidInput("keep: give a number of versions, 0 or more", field="keep")
    chosen = list(dict.fromkeys(names))
    versions = tuple(
        (Ref(name, version), _size(registry.path / name / version))
        for name in chosen or registry.list()
        for version in _unreferenced(registry, name, keep)
    )
    if chosen:
        return Garbage(versions)
    leftovers = tuple((path, _size(path)) for path in registry.leftovers())
    return Garbage(versions, leftovers, tuple(registry.stale_records()))


def _unreferenced(registry: Registry, name: str, keep: int) -> list[str]:
    _, default = registry.resolve(check_name(name))
    versions = registry.versions(name)
    kept = {default, *registry.aliases(name).values(), *versions[max(0, len(versions) - keep) :]}
    return [version for version in versions if version not in kept]


def remove_garbage(registry: Registry, garbage: Garbage) -> Garbage:
    """Remove the garbage; returns what was removed. A version that got an alias meanwhile is kept."""
    removed = []
    for ref, size in garbage.versions:
        try:
            registry.remove(ref)
        except (InvalidInput, ModelNotFound):
            continue
        removed.append((ref, size))
    swept = set(registry.sweep()) if garbage.leftovers or garbage.records else set()
    leftovers = tuple(one for one in garbage.leftovers if one[0] in swept)
    return Garbage(tuple(removed), leftovers, garbage.records)


def _size(path: Path) -> int:
    if path.is_symlink() or path.is_file():
        return path.lstat().st_size
    return sum(file.lstat().st_size for file in path.rglob("*") if not file.is_dir())
