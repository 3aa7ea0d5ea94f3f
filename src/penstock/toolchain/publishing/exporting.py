"""From a PyTorch module to a published version: forms are exported, held to eager PyTorch, and published if good."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from penstock.artifacts.artifact import Artifact, Golden
from penstock.backends.base import Backend
from penstock.errors import InvalidInput
from penstock.file_description import FileDescription
from penstock.registry.publishing import Rows
from penstock.registry.registry import Registry
from penstock.toolchain.export.branches import other_branch_inputs
from penstock.toolchain.export.exported import ExportFailed, ExportOptions
from penstock.toolchain.export.forms import DEFAULTS, FALLBACK, FORMS
from penstock.toolchain.export.source import ModuleSource
from penstock.toolchain.publishing.attempts import Attempt, attempt
from penstock.toolchain.publishing.description import Tasks, card_of, lineage_of, tasks_of
from penstock.toolchain.publishing.publish import MOST_GOLDEN, golden_of, publish_variants, require_new
from penstock.toolchain.verification.trials import MAX_ROWS, rows_of
from penstock.toolchain.verification.verdicts import DEFAULT_TOLERANCE, Tolerance, rows_proof

_one_export = threading.RLock()
"""PyTorch's exporters change state of the whole process."""

Step = Callable[[str], None]


def silent(step: str) -> None:
    """Report nothing."""


@dataclass(frozen=True, slots=True)
class ExportReport:
    """What became of every form. `artifact` is the published version, None when no form was good.

    `batchable`: rows of the model were shown to be independent. `notes` are sentences for the user.
    """

    ref: str
    attempts: tuple[Attempt, ...]
    batchable: bool
    artifact: Artifact | None = None
    notes: tuple[str, ...] = field(default=())

    def to_json(self) -> dict[str, Any]:
        """As `penstock export --json` prints it."""
        variants = [one.to_json() for one in self.attempts]
        return {"ref": self.ref, "variants": variants, "batchable": self.batchable}

    @property
    def failure(self) -> str:
        """Why nothing was published, form by form."""
        reasons = "; ".join(f"{one.name}: {one.why}" for one in self.attempts)
        return f"{self.ref}: nothing was published, since no form is good ({reasons})"


@dataclass(frozen=True, slots=True)
class ExportRequest:
    """How a module is exported and published: the forms in order, and the tolerance that each is held to.

    Without `forms` they are the defaults, and the fallback for a model that only the weights of can be exported.
    `origin` says where the module comes from; `made_up`: its example was not given but made up. `reference` is that of
    `Registry.publish`, and so is `log_inputs`.
    """

    name: str
    version: str
    forms: Sequence[str] | None = None
    options: ExportOptions = field(default_factory=ExportOptions)
    tolerance: Tolerance = DEFAULT_TOLERANCE
    about: FileDescription = field(default_factory=FileDescription)
    max_rows: int = MAX_ROWS
    origin: str = ""
    made_up: bool = False
    card: str | None = None
    lineage: Mapping[str, Any] = field(default_factory=dict)
    reference: Rows | None = None
    log_inputs: bool | None = None

    def check(self, registry: Registry) -> None:
        """Raise InvalidInput for what can be known before the model is even built."""
        require_new(registry, self.name, self.version)
        unknown = next((form for form in self.forms or () if form not in FORMS), None)
        if unknown is not None:
            raise InvalidInput(
                f"formats: {unknown!r} is not a form to export to; use {', '.join(FORMS)}", field="formats"
            )
        if self.forms is not None and not self.forms:
            raise InvalidInput(f"formats: name at least one of {', '.join(FORMS)}", field="formats")
        for option, value in (("atol", self.tolerance.atol), ("rtol", self.tolerance.rtol)):
            if not value >= 0:
                raise InvalidInput(f"{option}: it is {value}; give a number of at least 0", field=option)


def export_and_publish(
    registry: Registry, source: ModuleSource, request: ExportRequest, on_step: Step = silent
) -> ExportReport:
    """Export each form, compare it with eager PyTorch on many inputs, and publish the good ones as one version.

    When none is good nothing is published, and the registry is as before. `on_step` hears what is done. Raises
    InvalidInput for a name, version, form or example that cannot be used, ModelLoadError or another PenstockError from
    the registry's own proof.
    """
    request.check(registry)
    _require_usable(source)
    reference = source.reference()
    try:
        return _published(registry, source, reference, request, on_step)
    finally:
        reference.close()


def _published(
    registry: Registry, source: ModuleSource, reference: Backend, request: ExportRequest, on_step: Step
) -> ExportReport:
    golden = _golden(source, reference, request.tolerance)
    tasks = tasks_of(reference, request.about)
    on_step("measuring whether rows are independent")
    batchable = rows_proof(reference, source.example).batchable
    with tempfile.TemporaryDirectory(prefix="penstock-export-") as scratch:
        attempts = attempt_forms(source, reference, Path(scratch), request, on_step, batchable=batchable)
        report = ExportReport(f"{request.name}:{request.version}", attempts, batchable, notes=source.notes)
        good = [one for one in attempts if one.source is not None]
        if not good:
            return report
        on_step(f"publishing {report.ref}")
        artifact = _publish(registry, source, request, golden, tasks, good, batchable=batchable)
    return ExportReport(report.ref, attempts, batchable, artifact, source.notes)


def attempt_forms(
    source: ModuleSource,
    reference: Backend,
    scratch: Path,
    request: ExportRequest,
    on_step: Step = silent,
    *,
    batchable: bool,
) -> tuple[Attempt, ...]:
    """Export each form to `scratch` and hold it to the reference; nothing is published."""
    with _one_export:
        more = other_branch_inputs(source)

        def tried(form: str) -> Attempt:
            on_step(f"exporting {form}")
            return attempt(
                form, source, reference, scratch, request.options,
                tolerance=request.tolerance, batchable=batchable, max_rows=request.max_rows, more=more,
            )  # fmt: skip

        found = [tried(form) for form in dict.fromkeys(request.forms or DEFAULTS)]
        graphs = [one for one in found if one.source is not None and one.format != "pytorch"]
        if request.forms is None and not graphs:
            found.append(tried(FALLBACK))
    return tuple(found)


def _publish(
    registry: Registry,
    source: ModuleSource,
    request: ExportRequest,
    golden: Golden,
    tasks: Tasks,
    good: Sequence[Attempt],
    *,
    batchable: bool,
) -> Artifact:
    origin = request.origin or type(source.module).__name__
    where = "made-up inputs" if request.made_up else "the example"
    said = f"the answers of eager PyTorch to {golden.rows} {'row' if golden.rows == 1 else 'rows'} of {where}"
    card = request.card or card_of(origin, batchable=batchable)
    return publish_variants(
        registry,
        name=request.name,
        version=request.version,
        task=tasks.first,
        more_tasks=tasks.more,
        signature=source.signature,
        variants=[one.source for one in good if one.source is not None],
        golden=golden,
        card=card,
        lineage=lineage_of(source, origin, said, request.tolerance, tasks, request.lineage),
        batchable=batchable,
        reference=request.reference,
        log_inputs=request.log_inputs,
    )


def _golden(source: ModuleSource, reference: Backend, tolerance: Tolerance) -> Golden:
    """The first rows of the example, with the answers of eager PyTorch."""
    rows = source.signature.rows(source.example)
    inputs = rows_of(source.example, source.signature, min(rows, MOST_GOLDEN))
    outputs = reference.run({name: array.copy() for name, array in inputs.items()})
    infinite = next(
        (name for name, one in outputs.items() if one.dtype.kind == "f" and not np.isfinite(one).all()), None
    )
    if infinite is not None:
        raise InvalidInput(
            f"example_input: the model's output {infinite!r} is NaN or infinite for it; give other rows, or look at "
            "the weights",
            field="example_input",
        )
    return golden_of(inputs, outputs, source.signature, tolerance)


def _require_usable(source: ModuleSource) -> None:
    """Raise InvalidInput for an example without rows, or with values that are not finite."""
    for name, array in source.example.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise InvalidInput(f"example_input: {name} holds NaN or infinity; give real rows", field="example_input")
    if not source.signature.rows(source.example):
        raise InvalidInput("example_input: it has no rows; give at least one", field="example_input")


def require_published(report: ExportReport) -> Artifact:
    """The published version. Raises ExportFailed that says of each form why it is not good."""
    if report.artifact is None:
        raise ExportFailed(report.failure)
    return report.artifact
