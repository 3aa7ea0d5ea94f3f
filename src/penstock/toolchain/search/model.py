"""The model as it is: every variant in a process, the fastest of them, and the answers that candidates are held to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

from penstock.artifacts.artifact import Artifact, Variant
from penstock.artifacts.files import sha256_of
from penstock.backends.base import Backend
from penstock.errors import PenstockError, UnsupportedFormat
from penstock.toolchain.search.candidate import Form, Judgement, Speed
from penstock.toolchain.search.data import Data
from penstock.toolchain.search.machine import Machine
from penstock.toolchain.search.pareto import beats
from penstock.toolchain.search.trying.gate import Budget, budget_of, figures
from penstock.toolchain.search.trying.measuring import Bench, Side, best_threads, measure_curves, screened

EAGER = "pytorch"
"""The format whose variant is eager PyTorch."""


@dataclass(eq=False)
class Model:
    """The variants of a model, measured: `baseline` is the fastest, `reference` has the right answers.

    The reference is eager PyTorch where there is such a variant, else the first of fp32. `digests` are the names of the
    variants by the sha256 of their main file.
    """

    baseline: Side
    reference: Backend
    budget: Budget
    judgement: Judgement
    eager: Side | None
    speeds: dict[str, Speed]
    digests: dict[str, str] = field(default_factory=dict)


def open_model(
    artifact: Artifact, bench: Bench, data: Data, machine: Machine, max_drop: float, stack: ExitStack
) -> Model:
    """Measure every variant that this machine runs; the processes of those that are needed on end with the stack.

    Raises the first failure where none runs, and InvalidInput where the labels do not fit.
    """
    sides = list(_opened(artifact, bench, machine, stack))
    for side in sides:
        measure_curves([side], bench.batches, rounds=2, seconds=1.0)
    speeds = {side.name: side.speed() for side in sides}
    baseline = _fastest(sides, bench)
    eager = next((side for side in sides if side.form.format == EAGER), None)
    right = eager or next((side for side in sides if side.form.precision == "fp32"), sides[0])
    reference, output = right.sandbox.backend(), artifact.manifest.task.config.get("output")
    golden = artifact.golden()
    budget = budget_of(reference, data, bench.signature, max_drop=max_drop, output=output, golden=golden)
    judgement = figures(baseline.sandbox.backend(), budget)
    for side in sides:
        if side not in (baseline, right, eager):
            side.sandbox.close()
    digests = {sha256_of(side.form.path.read_bytes()): side.name for side in sides}
    return Model(baseline, reference, budget, judgement, eager, speeds, digests)


def form_of(artifact: Artifact, variant: Variant) -> Form:
    """A variant of an artifact as a form."""
    home = artifact.path / variant.file
    beside = [artifact.path / entry.path for entry in variant.files if entry.path not in (variant.file, variant.recipe)]
    return Form(
        variant.name,
        variant.format,
        variant.precision,
        home,
        {path.relative_to(home.parent).as_posix(): path for path in beside},
        variant.architecture,
        variant.architecture_args,
        variant.exporter,
        variant.requires,
        num_parameters=variant.num_parameters,
    )


def _opened(artifact: Artifact, bench: Bench, machine: Machine, stack: ExitStack) -> Iterator[Side]:
    failures: list[PenstockError] = []
    for variant in artifact.variants:
        try:
            yield best_threads(bench, form_of(artifact, variant), machine.threads, stack)
        except PenstockError as error:
            failures.append(error)
    if len(failures) == len(artifact.variants):
        raise failures[0] if failures else UnsupportedFormat(f"{artifact.ref}: it has no variants")


def _fastest(sides: Sequence[Side], bench: Bench) -> Side:
    best = sides[0]
    for side in sides[1:]:
        speed = screened(best, side, bench)
        if speed.ratio is not None and beats(speed.ratio):
            best = side
    return best
