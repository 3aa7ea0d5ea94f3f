"""Artifacts that installed packages ship, found through the entry point group `penstock.artifacts`."""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path

from penstock.artifacts.refs import is_release, sorted_versions
from penstock.artifacts.variant import MANIFEST
from penstock.errors import IntegrityError

GROUP = "penstock.artifacts"

CHAMPION = "champion"
"""The file next to the versions of a model that names, in one line, the default version."""


def bundled() -> dict[str, Path]:
    """The directory of each bundled model, by its name. The packages are not imported.

    An entry point's value is `package:directory`; each subdirectory that has a manifest, or has subdirectories with
    one, is a model. A package that is no longer installed ships nothing.
    """
    found: dict[str, Path] = {}
    for point in sorted(entry_points(group=GROUP), key=lambda point: point.name):
        for directory in _directories(point):
            for manifest in sorted([*directory.glob(f"*/{MANIFEST}"), *directory.glob(f"*/*/{MANIFEST}")]):
                name = manifest.relative_to(directory).parts[0]
                found.setdefault(name, directory / name)
    return found


def versions_in(home: Path) -> tuple[Path, ...]:
    """The artifacts of a bundled model, its default version first and then from high to low version.

    Either the directory is an artifact, or its subdirectories are, each named by its version. The file `champion` names
    the default version; without it, that is the highest release. Raises IntegrityError if the file names no version.
    """
    if (home / MANIFEST).is_file():
        return (home,)
    versions = sorted_versions([manifest.parent.name for manifest in home.glob(f"*/{MANIFEST}")])
    champion = next(filter(is_release, reversed(versions)), versions[-1])
    if (home / CHAMPION).is_file():
        champion = (home / CHAMPION).read_text(encoding="utf-8").strip()
    if champion not in versions:
        raise IntegrityError(f"{home / CHAMPION} names the version {champion!r}; versions: {', '.join(versions)}")
    return (home / champion, *(home / version for version in reversed(versions) if version != champion))


def _directories(point: EntryPoint) -> list[Path]:
    """Where the entry point's directory may be. Only the top package is located, which runs no code of it."""
    top, *inner = point.module.split(".")
    try:
        spec = find_spec(top)
    except (ImportError, ValueError):
        return []
    places = spec.submodule_search_locations if spec is not None else None
    return [Path(place, *inner, *point.attr.split("/")) for place in places or ()]
