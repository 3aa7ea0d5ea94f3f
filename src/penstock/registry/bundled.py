"""Artifacts that installed packages ship, found through the entry point group `penstock.artifacts`."""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path

from penstock.registry.manifest import MANIFEST

GROUP = "penstock.artifacts"


def bundled() -> dict[str, Path]:
    """The artifact directories by their names. Nothing of the packages is imported.

    An entry point's value is `package:directory`; each directory in there that has a manifest is an artifact.
    A package that is not there any more ships nothing.
    """
    found: dict[str, Path] = {}
    for point in sorted(entry_points(group=GROUP), key=lambda point: point.name):
        for directory in _directories(point):
            for manifest in sorted(directory.glob(f"*/{MANIFEST}")):
                found.setdefault(manifest.parent.name, manifest.parent)
    return found


def _directories(point: EntryPoint) -> list[Path]:
    """Where the entry point's directory may be; only the top package is located, which runs none of its code."""
    top, *inner = point.module.split(".")
    try:
        spec = find_spec(top)
    except (ImportError, ValueError):
        return []
    places = spec.submodule_search_locations if spec is not None else None
    return [Path(place, *inner, *point.attr.split("/")) for place in places or ()]
