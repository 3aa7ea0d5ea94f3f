"""`penstock.optimize`: the fastest proven form of a published model, under an accuracy budget, as a new version."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from penstock.artifacts.artifact import Artifact
from penstock.artifacts.manifest import utc_now
from penstock.errors import InvalidInput
from penstock.registry.registry import Registry
from penstock.scan.trust import check_trust, strongest
from penstock.tensors import Arrays
from penstock.toolchain.recipes.recipe import Recipe
from penstock.toolchain.report.terminal import SILENT, Progress
from penstock.toolchain.search.candidate import Candidate
from penstock.toolchain.search.data import Data, read_data, take
from penstock.toolchain.search.decision import Outcome
from penstock.toolchain.search.machine import fingerprint, this_machine
from penstock.toolchain.search.outcome.publish import Kept, publish, require_unused
from penstock.toolchain.search.outcome.report import (
    SCHEMA,
    candidate_document,
    command_line,
    form_document,
    published_document,
    write_report,
)
from penstock.toolchain.search.pareto import check_target
from penstock.toolchain.search.run import Task, search
from penstock.toolchain.search.trying.measuring import bench_of
from penstock.toolchain.search.trying.workspace import Workspace, key_of

__all__ = ["Candidate", "Optimization", "optimize"]

MAX_ACCURACY_DROP = 0.005
TIME_BUDGET = "10m"
_TIMED_ROWS = 64
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h)?")
_LEAST_S = 10.0


@dataclass(frozen=True)
class Optimization:
    """What `optimize` found.

    `chosen` is None when nothing beat the baseline; `over_budget` then says whether something was faster but broke the
    accuracy budget. `artifact` is the new version, None when nothing was published. `report` is the document that
    `report.json` holds.
    """

    chosen: Candidate | None
    candidates: tuple[Candidate, ...]
    artifact: Artifact | None
    over_budget: bool
    report: Mapping[str, Any]

    @property
    def exit_code(self) -> int:
        """As the command: 0 published, 3 nothing beat the baseline, 4 what did broke the accuracy budget."""
        if self.chosen is not None:
            return 0
        return 4 if self.over_budget else 3


def optimize(
    ref: str,
    *,
    data: Path | str | Mapping[str, Any] | None = None,
    labels: Any = None,
    max_accuracy_drop: float = MAX_ACCURACY_DROP,
    target: str = "p99",
    time_budget: float | str = TIME_BUDGET,
    recipe: Recipe | Mapping[str, Any] | Path | str | None = None,
    version: str | None = None,
    report: Path | str | None = None,
    registry: Registry | Path | str | None = None,
    trust: str = "data",
    progress: Progress = SILENT,
) -> Optimization:
    """Search for a form of a published model that beats its fastest variant on this machine, and publish it.

    `data` are rows by input name, axis 0 the sample, as arrays or an `.npz` file; one half calibrates, the other
    judges. `labels` are their classes, or the name of the array that holds them. `max_accuracy_drop` is the share of
    accuracy that may be lost; without labels the share of rows with another answer than the reference's. `target` is
    what must improve: p99 (latency of one row), throughput, size or memory. `time_budget` is in seconds, or text such
    as "2m". `recipe` (a value, its document, or a file) is tried alone. `report` is a directory for report.json and
    report.html. `progress` is told what is being done, and each candidate as it is known.

    Interrupted, a later call with the same model, data and options goes on. Raises InvalidInput naming the argument,
    ModelNotFound, and what loading or publishing raises; nothing is published then.
    """
    with ExitStack() as stack:
        if not isinstance(registry, Registry):
            registry = stack.enter_context(Registry(registry))
        asked = _Asked(
            ref,
            _share(max_accuracy_drop),
            seconds_of(time_budget),
            _recipe(recipe),
            {
                "data": _path(data),
                "labels": labels if isinstance(labels, str) else None,
                "recipe": _path(recipe),
            },
            check_target(target),
            check_trust(trust),
        )
        return _optimized(asked, registry, data, labels, version, report, progress)


@dataclass(frozen=True)
class _Asked:
    """The options, checked."""

    ref: str
    max_drop: float
    budget_s: float
    recipe: Recipe | None
    files: Mapping[str, Any]
    target: Any
    trust: str

    def command(self, ref: str) -> str:
        """The command that repeats this."""
        return command_line(
            ref,
            {
                **self.files,
                "max_accuracy_drop": f"{self.max_drop:g}",
                "target": self.target,
                "time_budget": f"{self.budget_s:g}s",
            },
        )


def _optimized(
    asked: _Asked,
    registry: Registry,
    data: Any,
    labels: Any,
    version: str | None,
    report: Path | str | None,
    progress: Progress,
) -> Optimization:
    started = time.monotonic()
    artifact = registry.get(asked.ref)
    artifact.verify()
    version = require_unused(registry, artifact, version)
    rows = _data(artifact, data, labels)
    trust = strongest(asked.trust, registry.trusted(artifact.digest))
    bench = bench_of(
        artifact.signature,
        _timed_rows(rows, artifact),
        asked.target,
        has_axes=artifact.manifest.batch_axes is not None,
        trust=trust,
    )
    key = key_of(_identity(artifact, rows, asked))
    with Workspace.of(registry.path / ".cache" / "optimize", key) as workspace:
        task = Task(
            artifact,
            rows,
            this_machine(),
            bench,
            workspace,
            started + asked.budget_s,
            asked.max_drop,
            asked.recipe,
            data is not None,
            progress,
        )
        outcome = search(task)
        published = None
        if outcome.chosen is not None:
            progress.step("publishing")
            published = publish(registry, artifact, version, _kept(outcome, asked, rows))
        document = _document(asked, artifact, rows, outcome, published, time.monotonic() - started, workspace.resumed)
        if report is not None:
            write_report(Path(report), document)
    return Optimization(outcome.chosen, outcome.candidates, published, outcome.over_budget, document)


# --- arguments --------------------------------------------------------------------------------------------


def seconds_of(duration: float | str) -> float:
    """A duration in seconds: a number, or text such as 90s, 2m or 1h. Raises InvalidInput below 10 s."""
    match = _DURATION.fullmatch(duration.strip().lower()) if isinstance(duration, str) else None
    seconds = float(match[1]) * _UNITS[match[2] or "s"] if match else duration
    if isinstance(seconds, str | bool) or not seconds >= _LEAST_S:
        raise InvalidInput(
            f"time_budget: {duration!r} is no time of at least {_LEAST_S:g} s; write 90s, 2m or 1h", field="time_budget"
        )
    return float(seconds)


def _path(value: Any) -> str | None:
    """What was given as a file, for the command that repeats a search."""
    return str(value) if isinstance(value, str | Path) else None


def _share(drop: float) -> float:
    if isinstance(drop, bool) or not isinstance(drop, int | float) or not 0 <= drop <= 1:
        raise InvalidInput(
            f"max_accuracy_drop: {drop!r} is no share from 0 to 1; 0.005 is half a percentage point",
            field="max_accuracy_drop",
        )
    return float(drop)


def _recipe(recipe: Recipe | Mapping[str, Any] | Path | str | None) -> Recipe | None:
    if recipe is None:
        return None
    if isinstance(recipe, Recipe):
        return Recipe.from_json(recipe.to_json())
    return Recipe.from_file(Path(recipe)) if isinstance(recipe, str | Path) else Recipe.from_json(recipe)


def _data(artifact: Artifact, data: Any, labels: Any) -> Data:
    """The rows that are given, or the golden samples, which calibrate nothing."""
    if data is not None:
        return read_data(data, artifact.signature, labels)
    if labels is not None:
        raise InvalidInput("labels: they belong to rows of data; give data as well", field="labels")
    golden = artifact.golden()
    if golden is None:
        raise InvalidInput(
            f"data: {artifact.ref} has no golden samples, so that there is nothing to compare answers on; give data",
            field="data",
        )
    return Data(golden.inputs, rows=golden.rows, held_out_rows=golden.rows, digest=artifact.digest)


def _timed_rows(rows: Data, artifact: Artifact) -> Arrays:
    """Real rows for runs that are timed."""
    if artifact.signature.whole:
        return rows.held_out
    import numpy as np

    return take(rows.held_out, np.arange(min(_TIMED_ROWS, rows.held_out_rows)), artifact.signature)


def _identity(artifact: Artifact, rows: Data, asked: _Asked) -> dict[str, Any]:
    """What decides which candidates are tried and how they are judged."""
    return {
        "model": artifact.digest,
        "data": rows.digest,
        "max_accuracy_drop": asked.max_drop,
        "target": asked.target,
        "recipe": None if asked.recipe is None else asked.recipe.to_json(),
        "machine": fingerprint()["id"],
        "penstock": fingerprint()["versions"].get("penstock"),
    }


# --- results ----------------------------------------------------------------------------------------------


def _kept(outcome: Outcome, asked: _Asked, rows: Data) -> Kept:
    assert outcome.chosen is not None
    others = [one for one in outcome.candidates if one.status == "kept"]
    summary = {
        "target": asked.target,
        "max_accuracy_drop": asked.max_drop,
        "data_sha256": rows.digest,
        "baseline": outcome.tried.baseline.name,
        "penstock": fingerprint()["versions"].get("penstock"),
    }
    baseline = outcome.tried.baseline.name
    return Kept(outcome.chosen, others, {baseline: outcome.tried.speeds[baseline]}, summary, asked.trust)


def _document(
    asked: _Asked,
    artifact: Artifact,
    rows: Data,
    outcome: Outcome,
    published: Artifact | None,
    seconds: float,
    resumed: int,
) -> dict[str, Any]:
    notes = list(rows.notes)
    if resumed:
        notes.append(f"an earlier search was interrupted; {resumed} of its candidates were taken over")
    tried = outcome.tried
    baseline, eager = tried.baseline, tried.eager
    return {
        "schema_version": SCHEMA,
        "ref": artifact.ref if published is None else published.ref,
        "optimized_from": artifact.ref,
        "created_at": utc_now(),
        "command": asked.command(artifact.ref),
        "target": asked.target,
        "max_accuracy_drop": asked.max_drop,
        "time_budget_s": asked.budget_s,
        "seconds": round(seconds, 2),
        "reference_accuracy": tried.budget.accuracy,
        "baseline": form_document(baseline.form, tried.speeds[baseline.name], tried.judgement),
        "eager": None if eager is None else form_document(eager.form, tried.speeds[eager.name], None),
        "chosen": None if outcome.chosen is None else outcome.chosen.name,
        "candidates": [candidate_document(one, pareto=one.name in outcome.on_front) for one in outcome.candidates],
        "hashes": {"model": artifact.digest, "data": rows.digest},
        "data": {"rows": rows.rows, "calibration_rows": rows.calibration_rows, "held_out_rows": rows.held_out_rows},
        "published": None if published is None else published_document(published),
        "environment": fingerprint(),
        "notes": notes,
        "warnings": list(outcome.warnings),
    }
