"""What is signed and verified: a version of the registry, or an artifact directory."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from penstock.cli import completion

if TYPE_CHECKING:
    from penstock.artifacts.artifact import Artifact
    from penstock.registry.registry import Registry

SubjectArgument = Annotated[
    str,
    typer.Argument(
        metavar="REF",
        help="name, name:version, name@alias, or an artifact directory, such as ./build/digits.",
        autocompletion=completion.refs,
    ),
]


def is_directory(ref: str) -> bool:
    """True for a path: it holds a separator, which no reference does, or is `.` or `..`."""
    return os.sep in ref or ref in (".", "..")


def subject(models: Registry, ref: str) -> Artifact:
    """The artifact, whether or not it has the signature that the settings require."""
    from penstock.artifacts.artifact import Artifact

    if is_directory(ref):
        return Artifact.open(Path(ref).expanduser().resolve())
    return replace(models.get(ref), signers=None)
