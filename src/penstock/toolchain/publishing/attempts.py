"""One exported form: written, opened, judged against eager PyTorch, or refused with the reason."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from penstock.artifacts.artifact import VariantSource
from penstock.backends.base import Backend
from penstock.errors import PenstockError
from penstock.tensors import Arrays
from penstock.toolchain.export.exported import Exported, ExportFailed, ExportOptions, ExportSkipped
from penstock.toolchain.export.forms import FORMS, export_form, open_exported, precision_of
from penstock.toolchain.export.source import ModuleSource
from penstock.toolchain.publishing.publish import recorded
from penstock.toolchain.verification.measures import Errors
from penstock.toolchain.verification.trials import MAX_ROWS, trials
from penstock.toolchain.verification.verdicts import DEFAULT_TOLERANCE, Tolerance, Verdict, judge

_HALF = {"fp16": Tolerance(5e-3, 1e-2), "bf16": Tolerance(5e-2, 5e-2)}
Status = Literal["published", "refused", "skipped"]


@dataclass(frozen=True, slots=True)
class Attempt:
    """What became of one form that was asked for.

    `refused`: it cannot be exported, or gives other answers. `skipped`: this machine lacks what it needs. `errors` are
    its differences from eager PyTorch, None where it was not run. `source` is set for a form that is good.
    """

    name: str
    format: str
    precision: str
    status: Status
    why: str = ""
    errors: Errors | None = None
    notes: tuple[str, ...] = ()
    source: VariantSource | None = None

    def to_json(self) -> dict[str, Any]:
        """As `penstock export --json` prints it."""
        max_abs, max_rel, top1 = self.figures()
        return {
            "name": self.name,
            "format": self.format,
            "precision": self.precision,
            "status": self.status,
            "why": self.why,
            "max_abs": max_abs,
            "max_rel": max_rel,
            "top1": top1,
        }

    def figures(self) -> tuple[float | None, float | None, float | None]:
        """`max_abs`, `max_rel` and `top1` of the errors, without infinity, which JSON does not have."""
        found = self.errors
        return (None, None, None) if found is None else (_finite(found.max_abs), _finite(found.max_rel), found.top1)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def attempt(
    form: str,
    source: ModuleSource,
    reference: Backend,
    directory: Path,
    options: ExportOptions,
    *,
    tolerance: Tolerance,
    batchable: bool,
    max_rows: int = MAX_ROWS,
    more: Sequence[Arrays] = (),
) -> Attempt:
    """Export one form to `directory` and hold it to the reference; nothing is raised for a form that is not good."""
    precision = precision_of(source)
    failed = Attempt(FORMS[form].variant(precision), FORMS[form].format, precision, "refused")
    try:
        exported = export_form(form, source, directory, options)
    except ExportSkipped as error:
        return replace(failed, status="skipped", why=str(error))
    except ExportFailed as error:
        return replace(failed, why=str(error))
    made = replace(failed, name=exported.name, notes=exported.notes)
    try:
        candidate = open_exported(exported, source)
    except PenstockError as error:
        return replace(made, why=f"it was exported, but cannot be opened: {error}")
    with closing(candidate):
        atol, rtol, _ = _fitting(tolerance, precision)
        every = trials(source.signature, source.example, max_rows=max_rows, more=more)
        verdict = judge(candidate, reference, every, atol=atol, rtol=rtol, batchable=batchable)
        return _judged(made, exported, source, verdict)


def _fitting(tolerance: Tolerance, precision: str) -> Tolerance:
    """The default is that of fp32; the two runtimes of a model in half precision round each step in another way."""
    return _HALF.get(precision, tolerance) if tolerance == DEFAULT_TOLERANCE else tolerance


def _judged(made: Attempt, exported: Exported, source: ModuleSource, verdict: Verdict) -> Attempt:
    if not verdict.ok:
        return replace(made, why=verdict.why, errors=verdict.errors)
    variant = VariantSource(
        exported.format,
        exported.precision,
        exported.path,
        architecture=exported.architecture,
        architecture_args=exported.architecture_args,
        num_parameters=sum(parameter.numel() for parameter in source.module.parameters()),
        max_abs_error=verdict.errors.max_abs,
        companions=exported.companions,
        name=exported.name,
        requires=exported.requires,
        errors=recorded(verdict.errors),
        batch_invariant=verdict.batch_invariant,
        exporter=exported.exporter,
    )
    return replace(made, status="published", errors=verdict.errors, source=variant)
