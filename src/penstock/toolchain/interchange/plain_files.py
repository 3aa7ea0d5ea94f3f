"""Writes the files of a variant back as they were."""

from __future__ import annotations

from pathlib import Path

from penstock.artifacts import files
from penstock.artifacts.artifact import Artifact, Variant

_ASIDE = ".copying"


def copy_variant(artifact: Artifact, variant: Variant, target: Path) -> list[str]:
    """Copy a variant's files, without its recipe, to `target`; each is checked against its sha256.

    Their names below the variant's directory stay, since the model refers to them. Returns the names, the main file's
    first. Raises IntegrityError for a file that was altered.
    """
    root = Path(variant.file).parent
    wanted = [entry for entry in variant.files if entry.path != variant.recipe]
    for entry in wanted:
        files.copy_entry(artifact.path, entry, target / _ASIDE)
        path = target / Path(entry.path).relative_to(root)
        path.parent.mkdir(parents=True, exist_ok=True)
        (target / _ASIDE / entry.path).rename(path)
    files.discard(target / _ASIDE)
    names = [str(Path(entry.path).relative_to(root)) for entry in wanted]
    return sorted(names, key=lambda name: name != Path(variant.file).name)
