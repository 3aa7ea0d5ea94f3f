"""One search: measures what a model has, makes candidates, judges and times them, and decides; publishes nothing."""

from __future__ import annotations

import time
from collections import deque
from contextlib import ExitStack
from dataclasses import dataclass, replace

from penstock.artifacts.artifact import Artifact
from penstock.artifacts.files import sha256_of
from penstock.errors import PenstockError
from penstock.toolchain.bench.sandbox import SandboxFailed
from penstock.toolchain.recipes.recipe import Recipe
from penstock.toolchain.report.terminal import SILENT, Progress
from penstock.toolchain.search.candidate import Candidate, Judgement, Planned, Speed
from penstock.toolchain.search.data import NO_DATA, Data
from penstock.toolchain.search.decision import Outcome, Tried, decide, pace_of
from penstock.toolchain.search.machine import Machine
from penstock.toolchain.search.model import Model, open_model
from penstock.toolchain.search.pareto import Target
from penstock.toolchain.search.plan import Facts, can_be_milder, exactly, milder, plan, unused_name
from penstock.toolchain.search.trying.gate import pass_gate
from penstock.toolchain.search.trying.maker import Maker, Pace
from penstock.toolchain.search.trying.measuring import LONG_S, Bench, best_threads, screened
from penstock.toolchain.search.trying.workspace import Workspace

COLUMNS = ("candidate", "outcome", "p50 ms", "times as fast", "accuracy", "why")
"""The columns of a row of progress."""

RESERVE_S = LONG_S * 2 + 10.0
"""Seconds that are kept for the last comparison and for publishing."""
_JUDGED_S = 8.0
"""Roughly what judging and timing one candidate takes."""
MOST_MAKING_S = 300.0
"""One of several candidates may take this long to make."""
_LEAST_S, _MOST_S = 5.0, 60.0
"""The limits of opening one candidate."""


@dataclass(frozen=True, eq=False)
class Task:
    """What is asked for: the model, the data, and the terms. `ends` is a time of the monotonic clock.

    `data_given`: the rows are a user's, not the golden samples.
    """

    artifact: Artifact
    data: Data
    machine: Machine
    bench: Bench
    workspace: Workspace
    ends: float
    max_drop: float
    recipe: Recipe | None = None
    data_given: bool = True
    progress: Progress = SILENT

    @property
    def target(self) -> Target:
        """What must improve."""
        return self.bench.target

    @property
    def left_s(self) -> float:
        """Seconds until the time budget ends."""
        return self.ends - time.monotonic()


def search(task: Task) -> Outcome:
    """Raises InvalidInput, ModelLoadError or InferenceError where the model itself cannot be measured or changed.

    One `recipe` that does not fit raises what it raises; of several candidates it is a loser.
    """
    with ExitStack() as stack:
        maker = stack.enter_context(Maker(task.artifact, task.bench.trust, task.bench.memory_bytes))
        task.progress.step("measuring the variants of the model")
        model = open_model(task.artifact, task.bench, task.data, task.machine, task.max_drop, stack)
        tried = Tried(task.bench, model.baseline, model.judgement, model.budget, model.eager, model.speeds)
        task.progress.step("opening the model for recipes")
        _Run(task, model, maker, tried).try_all()
        maker.close()
        task.progress.step("comparing the best")
        return decide(tried, task.left_s)


class _Run:
    """Tries the candidates of the plan, from simple to complex."""

    def __init__(self, task: Task, model: Model, maker: Maker, tried: Tried) -> None:
        self._task = task
        self._model = model
        self._maker = maker
        self._tried = tried
        self._pace = Pace()

    def try_all(self) -> None:
        """Make, judge and time the candidates, as far as time allows."""
        plans = deque(self._plan())
        while plans:
            planned, done = plans.popleft(), len(self._tried.candidates)
            self._task.progress.step(f"trying {planned.name}", done, done + len(plans) + 1)
            candidate = self._done(planned)
            self._tried.candidates[candidate.name] = candidate
            self._task.progress.row(*row_of(candidate))
            if candidate.measured is None:
                plans.extendleft(reversed(self._milder(candidate)))
            else:  # what leaves more in fp32 is not needed
                plans = deque(one for one in plans if one.rank != planned.rank)

    def _plan(self) -> list[Planned]:
        task, found = self._task, self._maker.facts()
        if task.recipe is not None:
            return exactly(task.recipe)
        data, variants = task.data if task.data_given else NO_DATA, task.artifact.variants
        return plan(
            Facts(
                operators=frozenset(found["operators"]),
                has_module=found["has_module"],
                forms=frozenset(one.format for one in variants if one.precision == "fp32"),
                taken=frozenset(one.name for one in variants),
                machine=task.machine,
                target=task.target,
                lossy_objection=data.objection_to_lossy(),
                batchable=self._model.budget.batchable,
            )
        )

    def _milder(self, candidate: Candidate) -> list[Planned]:
        """What to try next when int8 for all operators breaks the budget: some with the worst of them in fp32."""
        over, planned = candidate.judgement is not None and candidate.judgement.over_budget, candidate.planned
        seconds = (self._task.left_s - RESERVE_S) / 4
        if self._task.recipe is not None or not over or not can_be_milder(planned) or seconds < _LEAST_S:
            return []
        scratch = self._task.workspace.scratch(f"{candidate.name}-losses")
        return milder(planned, self._maker.worst_operators(planned, self._task.data, scratch, seconds))

    def _done(self, planned: Planned) -> Candidate:
        """As an earlier search left it, or tried now."""
        known = self._task.workspace.known(planned)
        if known is not None:
            return known
        objection = planned.skip or self._too_late(planned)
        if objection is not None:
            return Candidate(planned, "skipped", objection)
        candidate = self._made(planned)
        if candidate.status == "planned":
            candidate = self._judged(candidate)
        self._task.workspace.keep(candidate)
        return candidate

    def _too_late(self, planned: Planned) -> str | None:
        takes, left = self._pace.estimate(planned.cost_s + _JUDGED_S), self._task.left_s - RESERVE_S
        if takes <= left or (self._task.recipe is not None and left > 0):
            return None
        return (
            f"no time is left for it: it takes about {takes:.0f} s, and {max(left, 0):.0f} s of the time budget remain"
        )

    def _made(self, planned: Planned) -> Candidate:
        """Carry out the recipe."""
        alone, started = self._task.recipe is not None, time.monotonic()
        left = self._task.left_s - RESERVE_S
        limit = max(_LEAST_S, left) if alone else min(max(_LEAST_S, left), 12 * planned.cost_s, MOST_MAKING_S)
        try:
            name, form = self._maker.make(planned, self._task.data, self._task.workspace.scratch(planned.name), limit)
        except PenstockError as error:
            if alone and not isinstance(error, SandboxFailed):
                raise
            return Candidate(planned, "failed", self._without_ref(error))
        seconds = time.monotonic() - started
        self._pace.add(planned, seconds)
        if alone:
            name = unused_name(name, frozenset(one.name for one in self._task.artifact.variants))
            planned, form = replace(planned, name=name), replace(form, name=name)
        candidate = Candidate(planned, form=form, build_s=round(seconds, 3))
        same = self._model.digests.setdefault(sha256_of(form.path.read_bytes()), form.name)
        return candidate if same == form.name else candidate.now("dominated", f"its file is the same as that of {same}")

    def _without_ref(self, error: PenstockError) -> str:
        """The sentence of an error of the maker, which begins with the model's name."""
        return str(error).removeprefix(f"{self._task.artifact.ref}: ")

    def _judged(self, candidate: Candidate) -> Candidate:
        """Open the form, judge its answers, and time it; what breaks only the accuracy budget is timed as well."""
        form, lossy = candidate.form, candidate.planned.recipe.lossy
        assert form is not None
        limit = max(_LEAST_S, min(_MOST_S, self._task.left_s))
        with ExitStack() as stack:
            try:
                side = best_threads(self._task.bench, form, self._task.machine.threads, stack, limit)
                found = pass_gate(side.sandbox.backend(), self._model.reference, self._model.budget, lossy=lossy)
                candidate = replace(candidate, judgement=found)
                if found.why is not None and not found.over_budget:
                    return candidate.now("rejected", found.why)
                candidate = replace(candidate, speed=screened(self._model.baseline, side, self._task.bench))
            except PenstockError as error:
                return candidate.now("failed", str(error).removeprefix(f"{form.name}: "))
        if found.why is not None:
            return candidate.now("rejected", f"{found.why}; it is {pace_of(candidate, self._tried)}")
        return candidate


def row_of(one: Candidate) -> tuple[object, ...]:
    """The cells of a candidate, by COLUMNS."""
    speed, found = one.speed or Speed(0), one.judgement or Judgement()
    first = min(speed.p50_ms.items())[1] if speed.p50_ms else None
    right = found.accuracy if found.accuracy is not None else found.agreement
    status = "measured" if one.status == "planned" else one.status
    return one.name, status, first, None if speed.ratio is None else speed.ratio[0], right, one.why
