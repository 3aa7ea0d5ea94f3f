"""How fast one opened model is: latency and throughput by batch size, memory, and CPU time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from penstock.errors import InvalidInput
from penstock.toolchain.bench.figures import Figures
from penstock.toolchain.bench.sandbox import Sandbox, Usage
from penstock.toolchain.bench.turns import Ratio, in_turn

BATCHES = (1, 8, 32)
"""The batch sizes that are measured unless others are asked for."""
_WARM_UP = 0.25
_LONGEST_WARM_UP_S = 1.0
_MOST_RUNS = 1_000_000
_TURN_S = 0.05
"""One side of a round runs for about so long, so that the clock and the scheduler do not decide."""


@dataclass(frozen=True)
class BatchSpeed:
    """One batch size: the times of its runs, rows a second, and CPU time of all threads per row in milliseconds."""

    rows: int
    latency: Figures
    throughput_per_second: float
    cpu_ms_per_row: float

    def to_json(self) -> dict[str, float]:
        """The figures by name."""
        throughput, cpu = round(self.throughput_per_second, 2), round(self.cpu_ms_per_row, 5)
        return {**self.latency.to_json(), "throughput_per_second": throughput, "cpu_ms_per_row": cpu}


@dataclass(frozen=True)
class VariantSpeed:
    """What was measured of one variant; `why` says why nothing was, and `batches` is empty then.

    `inputs` says what it ran with, in words.
    """

    name: str
    format: str
    precision: str | None = None
    size_bytes: int | None = None
    parameters: int | None = None
    batches: dict[int, BatchSpeed] = field(default_factory=dict)
    usage: Usage | None = None
    device: str | None = None
    inputs: str = ""
    warnings: tuple[str, ...] = ()
    why: str | None = None

    @property
    def throughput_per_second(self) -> float | None:
        """Rows a second at the best batch size."""
        return max((speed.throughput_per_second for speed in self.batches.values()), default=None)

    def to_json(self) -> dict[str, Any]:
        """As `penstock bench REF --json` prints it for a variant."""
        usage = {} if self.usage is None else asdict(self.usage)
        memory = {name: usage[name] for name in ("peak_bytes", "model_bytes", "gpu_peak_bytes") if name in usage}
        best = self.throughput_per_second
        return {
            "name": self.name,
            "format": self.format,
            "precision": self.precision,
            "device": self.device,
            "inputs": self.inputs,
            "batches": {str(rows): speed.to_json() for rows, speed in self.batches.items()},
            "throughput_per_second": None if best is None else round(best, 2),
            "memory": memory or None,
            **{name: round(usage[name], 4) for name in ("import_s", "load_s", "first_run_s", "cpu_s") if name in usage},
            "parameters": self.parameters,
            "size_bytes": self.size_bytes,
            "warnings": list(self.warnings),
            "why": self.why,
        }


def measure(sandbox: Sandbox, batches: Sequence[int] | None, seconds: float) -> dict[int, BatchSpeed]:
    """Run each batch size for so many seconds after a warm-up; by default those of 1, 8 and 32 that the model takes.

    Raises InvalidInput for a batch size that it does not take.
    """
    return {rows: _measured(sandbox, rows, seconds) for rows in sizes_of(sandbox, batches)}


def sizes_of(sandbox: Sandbox, batches: Sequence[int] | None) -> tuple[int, ...]:
    """The batch sizes to measure: those asked for, else those that the model takes. Raises InvalidInput."""
    signature = sandbox.signature
    only = 1 if signature.whole else signature.fixed_rows
    if batches is None:
        return BATCHES if only is None else (only,)
    for rows in batches:
        if rows < 1:
            raise InvalidInput(f"batch: {rows} is not a number of rows; use 1 or more", field="batch")
        if only is not None and rows != only:
            what = (
                "has no batch axis and takes one request a run" if signature.whole else f"takes batches of {only} only"
            )
            raise InvalidInput(f"batch: {sandbox.name} {what}; {rows} rows cannot be measured", field="batch")
    return tuple(dict.fromkeys(batches))


def _measured(sandbox: Sandbox, rows: int, seconds: float) -> BatchSpeed:
    sandbox.time(rows, _MOST_RUNS, seconds=min(_LONGEST_WARM_UP_S, seconds * _WARM_UP))
    before = sandbox.usage().cpu_s
    taken = sandbox.time(rows, _MOST_RUNS, seconds=seconds)
    cpu_s, total = sandbox.usage().cpu_s - before, rows * len(taken)
    return BatchSpeed(rows, Figures.of(taken), total / sum(taken), cpu_s * 1000 / total)


def compare_speed(a: Sandbox, b: Sandbox, rows: int, *, rounds: int = 21, seconds: float = 30.0) -> Ratio:
    """How many times as fast `b` runs a batch as `a`, measured in turn; see `turns.in_turn`."""
    runs = {sandbox: _runs_of(sandbox, rows) for sandbox in (a, b)}

    def once(sandbox: Sandbox) -> float:
        taken = sandbox.time(rows, runs[sandbox])
        return sum(taken) / len(taken)

    return in_turn(lambda: once(a), lambda: once(b), rounds=rounds, seconds=seconds)


def _runs_of(sandbox: Sandbox, rows: int) -> int:
    """How many runs take about the time of a turn; it warms up as well."""
    taken = sandbox.time(rows, _MOST_RUNS, seconds=2 * _TURN_S)
    return max(1, int(_TURN_S / min(taken)))
