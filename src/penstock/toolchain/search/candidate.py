"""One form of a model that a search tries, and all that became known of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from penstock.toolchain.recipes.recipe import Recipe

Status = Literal["chosen", "kept", "dominated", "rejected", "failed", "skipped", "planned"]
"""`chosen` and `kept` are published. `dominated`: another one is at least as good in every respect. `rejected`: it
breaks the accuracy budget, its tolerance, or lets rows influence each other. `failed`: it could not be made or run.
`skipped`: not tried, by a rule or for lack of time. `planned`: not tried yet."""


@dataclass(frozen=True)
class Planned:
    """What a search will try: a recipe under the name of its variant.

    Lower `rank` is simpler, and is preferred where speeds are equal. `cost_s` is a rough estimate of the seconds that
    making it takes. `skip` says why a rule leaves it out.
    """

    name: str
    recipe: Recipe
    rank: int = 0
    cost_s: float = 5.0
    skip: str | None = None


@dataclass(frozen=True)
class Form:
    """A file that can be opened and measured: a variant of the model, or one that a recipe made.

    `trust` is what opening it takes when it was made here; what the model had is opened as far as it is trusted.
    """

    name: str
    format: str
    precision: str
    path: Path
    companions: Mapping[str, Path] = field(default_factory=dict)
    architecture: str | None = None
    architecture_args: Mapping[str, Any] = field(default_factory=dict)
    exporter: str | None = None
    requires: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    num_parameters: int | None = None
    trust: str = "data"

    @property
    def size_bytes(self) -> int:
        """The bytes of its files on disk."""
        return sum(path.stat().st_size for path in (self.path, *self.companions.values()))


@dataclass(frozen=True)
class Judgement:
    """What the gate found on the rows held out: figures, and why it is refused (None: accepted).

    `accuracy` is the share of right classes, None without labels. `agreement` is the share of rows that give the
    reference's answer. `kl` is the mean divergence from the reference's classes, in nats. `over_budget`: it is refused
    for nothing but the accuracy budget.
    """

    agreement: float | None = None
    accuracy: float | None = None
    kl: float | None = None
    max_abs: float | None = None
    max_rel: float | None = None
    cosine: float | None = None
    samples: int | None = None
    batch_invariant: bool | None = None
    why: str | None = None
    over_budget: bool = False
    errors: tuple[float, ...] = ()
    """The largest error of each row held out, for a histogram."""


@dataclass(frozen=True)
class Speed:
    """Latencies in milliseconds by batch size, on `threads` threads; and the memory of the process that ran it.

    `ratio`, with its interval, is how many times as fast as the baseline it is at what the target names.
    """

    threads: int
    p50_ms: Mapping[int, float] = field(default_factory=dict)
    p99_ms: Mapping[int, float] = field(default_factory=dict)
    memory_bytes: int | None = None
    load_s: float | None = None
    ratio: tuple[float, float, float] | None = None

    def row_ms(self) -> float | None:
        """The lowest milliseconds for a row over all batch sizes."""
        return min((value / rows for rows, value in self.p50_ms.items()), default=None)


@dataclass(frozen=True)
class Candidate:
    """A planned form with its status and one sentence that says why."""

    planned: Planned
    status: Status = "planned"
    why: str = ""
    form: Form | None = None
    judgement: Judgement | None = None
    speed: Speed | None = None
    build_s: float | None = None

    @property
    def name(self) -> str:
        """The name of its variant."""
        return self.planned.name

    @property
    def measured(self) -> tuple[Form, Judgement, Speed] | None:
        """All that is known of a candidate that the gate accepted and that was timed; None for any other."""
        if self.form is None or self.judgement is None or self.judgement.why is not None or self.speed is None:
            return None
        return self.form, self.judgement, self.speed

    def now(self, status: Status, why: str) -> Candidate:
        """The same candidate with another status."""
        return replace(self, status=status, why=why)
