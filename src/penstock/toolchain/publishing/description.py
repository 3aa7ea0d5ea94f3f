"""What an artifact says of an exported model: its task, where it comes from, and a minimal card."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from typing import Any, NamedTuple

from penstock.artifacts.artifact import TaskEntry
from penstock.artifacts.measured_card import DeclaredCard
from penstock.backends.base import Backend
from penstock.file_description import FileDescription
from penstock.tasks.catalog import load_task
from penstock.tasks.guessing import guess_task
from penstock.toolchain.export.source import ModuleSource
from penstock.toolchain.verification.verdicts import ATOL, RTOL, Tolerance


class Tasks(NamedTuple):
    """The default task and those that requests may name; `assumed` says why, where the user has not said it."""

    first: TaskEntry
    more: tuple[TaskEntry, ...] = ()
    assumed: str = ""


def tasks_of(reference: Backend, about: FileDescription) -> Tasks:
    """The task that is stated, else the one that the answers show.

    Raises InvalidInput or ModelLoadError for one that does not exist or does not fit the model.
    """
    signature = reference.signature
    guess = guess_task(signature, about, {}, reference.run)
    load_task(guess.kind, guess.config, signature)
    more = tuple(TaskEntry(kind=kind) for kind in guess.more)
    return Tasks(TaskEntry(kind=guess.kind, config=guess.config), more, guess.assumed)


def lineage_of(
    source: ModuleSource, origin: str, golden: str, tolerance: Tolerance, tasks: Tasks, extra: Mapping[str, Any]
) -> dict[str, Any]:
    """Where an exported model comes from. `origin` is the target that was named, or the class."""
    import torch

    wider = tolerance.atol > ATOL or tolerance.rtol > RTOL
    return {
        "source": origin,
        "python": platform.python_version(),
        "torch": torch.__version__.partition("+")[0],
        "golden_samples": golden,
        **({"tolerance": {"atol": tolerance.atol, "rtol": tolerance.rtol}} if wider else {}),
        **({"assumed": [tasks.assumed]} if tasks.assumed else {}),
        **({"notes": [*source.notes]} if source.notes else {}),
        **extra,
    }


def card_of(origin: str, *, batchable: bool) -> DeclaredCard:
    """What can be said of a model that has no description; the card adds what was measured."""
    alone = "" if batchable else " Its rows influence each other, so each request runs alone."
    return DeclaredCard(
        summary=f"Exported from `{origin}`, which has no description.",
        limits=f"Its accuracy was not measured.{alone}",
    )
