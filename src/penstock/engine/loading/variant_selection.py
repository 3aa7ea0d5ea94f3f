"""Selects the variant of an artifact that this machine runs: the fastest that passes its golden samples.

A single runnable variant is used without a race. Of several, each is brought up (and so verified) and raced against the
fastest so far; the results are kept for this machine, and later loads open only the winner.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from penstock.artifacts.artifact import Artifact, Variant
from penstock.backends.axes.reading import all_axes
from penstock.backends.base import ModelFile
from penstock.backends.catalog import opens_quickly, runnable
from penstock.backends.devices import missing_features
from penstock.engine.batching.limits import BatchLimits
from penstock.engine.batching.row_proofs import KnownProofs
from penstock.engine.loading.bring_up import ReadyBackend, bring_up
from penstock.engine.loading.selection_cache import (
    SelectionResult,
    delete_selection,
    in_manifest_order,
    read_selection,
    selection_path,
    write_selection,
)
from penstock.engine.loading.variant_race import SelectedVariant, VariantRace
from penstock.errors import IntegrityError, ModelLoadError, UnsupportedFormat
from penstock.formats import FORMATS
from penstock.options import BackendOptions, Effort

log = logging.getLogger(__name__)

SELECTION_BUDGET_S = 2.0


@dataclass(frozen=True, slots=True)
class VariantSelection:
    """How a variant is selected: by the name `variant`, or by measuring with an `effort`.

    `directory` keeps the results; without it every load measures.
    """

    variant: str | None = None
    effort: Effort = "light"
    directory: Path | None = None

    @property
    def proofs(self) -> Path | None:
        """The directory of proofs that rows are independent."""
        return None if self.directory is None else self.directory.with_name("proofs")


def select_variant(
    artifact: Artifact, options: BackendOptions, limits: BatchLimits, selection: VariantSelection
) -> SelectedVariant:
    """Bring up the best variant.

    Raises IntegrityError at once for an altered file, else the ModelLoadError of the first variant that failed, or
    UnsupportedFormat if no variant can be tried here. InvalidInput if there is no variant `selection.variant`.
    """
    candidates, excluded = _candidates(artifact, options, selection)
    if selection.directory is None or len(candidates) < 2 or selection.effort == "first":
        return _measure(artifact, options, limits, selection, candidates, excluded)
    thorough = selection.effort == "all"
    path = selection_path(selection.directory, artifact, options, limits.batch_rows, candidates)
    known = read_selection(path, artifact.digest, thorough=thorough)
    if known is not None:
        selected = _reopen(artifact, options, limits, selection, candidates, known)
        if selected is not None:
            return selected
        delete_selection(path)
    selected = _measure(artifact, options, limits, selection, candidates, excluded)
    if selected.measured > 1:
        write_selection(path, artifact.digest, selected.results, thorough=thorough)
    return selected


def known_results(
    artifact: Artifact, options: BackendOptions, limits: BatchLimits, selection: VariantSelection
) -> tuple[SelectionResult, ...]:
    """The results of an earlier selection, or without one what is known without opening any file."""
    candidates, excluded = _candidates(artifact, options, selection)
    if len(candidates) > 1 and selection.directory is not None:
        path = selection_path(selection.directory, artifact, options, limits.batch_rows, candidates)
        known = read_selection(path, artifact.digest)
        if known is not None:
            return known
    first = "the only one that can be tried" if len(candidates) == 1 else "tried first; not measured on this machine"
    results = [SelectionResult(variant.name, True, first) for variant in candidates[:1]]
    results += [SelectionResult(variant.name, False, "not measured on this machine") for variant in candidates[1:]]
    return in_manifest_order(artifact, [*excluded, *results])


def _candidates(
    artifact: Artifact, options: BackendOptions, selection: VariantSelection
) -> tuple[list[Variant], list[SelectionResult]]:
    """The variants worth trying, best first, and the results of the others; opens no file.

    A variant that was requested by name is tried regardless of its precision.
    """
    if selection.variant is not None:
        return _requested(artifact, options, selection.variant)
    candidates: list[Variant] = []
    excluded: list[SelectionResult] = []
    checks = _CHECKS if _has_precision(artifact, options) else _CHECKS[1:]
    for variant in artifact.variants:
        reason = next(_objections(variant, options, checks), None)
        if reason is None:
            candidates.append(variant)
        else:
            excluded.append(SelectionResult(variant.name, False, reason))
    return sorted(candidates, key=lambda v: (v.precision != options.precision, _rank(v.format))), excluded


def _requested(artifact: Artifact, options: BackendOptions, name: str) -> tuple[list[Variant], list[SelectionResult]]:
    variant = artifact.manifest.variant(name)
    reason = next(_objections(variant, options, _CHECKS[1:]), None)
    if reason is not None:
        raise UnsupportedFormat(f"{artifact.ref}/{name}: {reason}")
    others = [SelectionResult(v.name, False, f"{name} was requested") for v in artifact.variants if v != variant]
    return [variant], others


def _rank(format: str) -> float:
    """From simple to complex: the order of the race, and the preference where speeds are equal."""
    return FORMATS[format].preference if format in FORMATS else math.inf


def _has_precision(artifact: Artifact, options: BackendOptions) -> bool:
    """False for an artifact of, say, int8 variants only: it runs in a precision that it has."""
    return any(_other_precision(variant, options) is None for variant in artifact.variants)


def _other_precision(variant: Variant, options: BackendOptions) -> str | None:
    if variant.precision in (options.precision, "fp32") or _is_accepted(variant, options):
        return None
    return f"its precision is {variant.precision}; {options.precision} was requested"


def _is_accepted(variant: Variant, options: BackendOptions) -> bool:
    """True for a variant that an accuracy budget accepted in place of fp32."""
    return bool(variant.accepted) and options.precision == "fp32"


def _no_runtime(variant: Variant, _options: BackendOptions) -> str | None:
    return None if runnable(variant.format) else f"this machine cannot run {variant.format}; see penstock doctor"


def _other_machine(variant: Variant, _options: BackendOptions) -> str | None:
    missing = missing_features(variant.requires)
    return f"it needs {', '.join(missing)}, which this machine does not have" if missing else None


Check = Callable[[Variant, BackendOptions], str | None]
_CHECKS: tuple[Check, ...] = (_other_precision, _no_runtime, _other_machine)


def _objections(variant: Variant, options: BackendOptions, checks: Iterable[Check]) -> Iterator[str]:
    return (reason for check in checks if (reason := check(variant, options)) is not None)


def _reopen(
    artifact: Artifact,
    options: BackendOptions,
    limits: BatchLimits,
    selection: VariantSelection,
    candidates: list[Variant],
    known: tuple[SelectionResult, ...],
) -> SelectedVariant | None:
    """The variant of an earlier selection; None if it is gone or does not load any more."""
    taken = next((result.variant for result in known if result.taken), None)
    variant = next((variant for variant in candidates if variant.name == taken), None)
    if variant is None:
        return None
    try:
        return SelectedVariant(variant, _bring_up(artifact, variant, options, limits, selection), known, ())
    except IntegrityError:
        raise
    except ModelLoadError as error:
        log.warning("%s, the fastest variant of an earlier load, is not used: %s", variant.name, error)
        return None


def _measure(
    artifact: Artifact,
    options: BackendOptions,
    limits: BatchLimits,
    selection: VariantSelection,
    candidates: list[Variant],
    excluded: list[SelectionResult],
) -> SelectedVariant:
    race = VariantRace(artifact, excluded)
    started = time.monotonic()
    for variant in candidates:
        reason = _skipped(variant, race.leader, options, selection.effort, time.monotonic() - started)
        if reason is not None:
            race.reject(variant, reason)
            continue
        try:
            ready = _bring_up(artifact, variant, options, limits, selection)
        except IntegrityError:
            race.abort()
            raise
        except ModelLoadError as error:
            race.fail(variant, error)
            continue
        race.enter(variant, ready)
    return race.finish(len(candidates))


def _skipped(
    variant: Variant, leader: Variant | None, options: BackendOptions, effort: Effort, spent_s: float
) -> str | None:
    """Why a variant is not opened once another one works."""
    if leader is None:
        return None
    if leader.precision == options.precision != variant.precision and not _is_accepted(variant, options):
        return f"{leader.name} has the requested precision"
    if effort == "all":
        return None
    if effort == "first":
        return f"{leader.name} is simpler; `choosing` is first, so nothing is measured"
    if not opens_quickly(variant.format):
        return f"not measured: {variant.format} would import PyTorch; `models show --try` measures it"
    if spent_s > SELECTION_BUDGET_S:
        return f"not measured: the selection took longer than {SELECTION_BUDGET_S:g} s; `models show --try` measures it"
    return None


def _bring_up(
    artifact: Artifact, variant: Variant, options: BackendOptions, limits: BatchLimits, selection: VariantSelection
) -> ReadyBackend:
    artifact.verify(variant)
    path, signature = artifact.variant_path(variant), artifact.signature
    axes = all_axes(signature) if artifact.manifest.batch_axes is not None else {}
    file = ModelFile(path, signature, variant.architecture, variant.architecture_args, batch_axes=axes)
    if options.precision in ("int8", variant.precision):  # held by a variant already, and int8 is never made at load
        options = options.override(precision="fp32")
    identity = "" if variant.architecture else f"{artifact.digest}/{variant.name}"  # its class may change
    measured = artifact.manifest.lineage.get("rows")
    known = KnownProofs(selection.proofs, identity, measured if isinstance(measured, dict) else {})
    what = f"{artifact.ref}/{variant.name}"
    return bring_up(variant.format, file, options, limits, artifact.golden_for(variant), what, known)
