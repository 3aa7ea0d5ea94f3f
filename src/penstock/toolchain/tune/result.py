"""What a tuning found: the settings, every configuration with its figures, and the settings file."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from penstock.errors import InvalidInput
from penstock.settings import load_settings
from penstock.toolchain.report.wording import number
from penstock.toolchain.tune import settings_file
from penstock.toolchain.tune.exploring import Round, Trial

Outcome = Literal["chosen", "baseline", "missed"]


@dataclass(frozen=True)
class Tuning:
    """The result of `tune`.

    `outcome`: chosen (`best` carries measurably more than the baseline), baseline (nothing does, and `best` is the
    baseline), or missed (no configuration met the objective, and `best` is None). `trials` has every configuration,
    the baseline first. `rounds` are the comparison of the best one with the baseline. `complete` is False when the time
    did not suffice for all configurations.
    """

    ref: str
    p99_ms: float
    outcome: Outcome
    best: Trial | None
    trials: tuple[Trial, ...]
    rounds: tuple[Round, ...]
    machine: Mapping[str, Any]
    payload: str
    created_at: str
    seconds: float
    complete: bool
    warnings: tuple[str, ...] = ()
    own_table: bool = False
    """The batch size and wait have to be in the model's own table, since that or its manifest sets them."""

    @property
    def baseline(self) -> Trial:
        """The configuration in force."""
        return self.trials[0]

    @property
    def lowest_p99_ms(self) -> float:
        """The lowest p99 of any run."""
        return min(trial.capacity.lowest_p99_ms for trial in self.trials)

    @property
    def sentence(self) -> str:
        """The result in one sentence."""
        if self.best is None:
            lowest = self.lowest_p99_ms
            found = "no run without failures" if math.isinf(lowest) else f"the lowest p99 was {number(lowest)} ms"
            tried = "no configuration" if self.complete else "none of the configurations that the time sufficed for"
            return f"{self.ref}: {tried} keeps p99 within {self.p99_ms:g} ms on this machine; {found}"
        figures = f"{number(self.best.rate)} requests/s with p99 {self._p99(self.best)} ms"
        if self.outcome == "baseline":
            return f"{self.ref}: nothing beats the settings in force ({self.best.configuration}): {figures}"
        before = f"{number(self.baseline.rate)} requests/s" if self.baseline.rate else "no rate within the objective"
        return f"{self.ref}: {self.best.configuration}: {figures}; before: {before} ({self.baseline.configuration})"

    def settings(self) -> dict[str, Any]:
        """The settings to write, None for the default. Raises InvalidInput if none met the objective."""
        if self.best is None:
            raise InvalidInput(self.sentence, field="p99_ms")
        return self.best.configuration.settings()

    def write(self, path: Path | str = "penstock.toml") -> list[str]:
        """Write the settings into a file, whose other content stays; sentences about what takes precedence over it.

        Raises InvalidInput if none met the objective, ConfigError for a file that cannot be changed.
        """
        path, settings = Path(path), self.settings()
        text = settings_file.read(path)
        model = self.ref.partition(":")[0]
        own = model if self.own_table or settings_file.sets_model(text, model) else None
        settings_file.write(path, settings_file.changed(text, settings, self._comments(), own))
        loaded = load_settings(config_file=path)
        return [
            f"{loaded.sources[key]} takes precedence over {key} in {path}"
            for key in settings
            if loaded.sources[key] not in ("default", path.name, str(path))
        ]

    def to_json(self) -> dict[str, Any]:
        """As `penstock tune --json` prints it."""
        return {
            "ref": self.ref,
            "objective": {"p99_ms": self.p99_ms},
            "outcome": self.outcome,
            "chosen": None if self.best is None else self.best.to_json(),
            "baseline": self.baseline.to_json(),
            "gain": self._gain(),
            "rounds": [_round(one) for one in self.rounds],
            "configurations": [trial.to_json() for trial in self.trials],
            "lowest_p99_ms": None if math.isinf(self.lowest_p99_ms) else round(self.lowest_p99_ms, 3),
            "payload": self.payload,
            "machine": dict(self.machine),
            "created_at": self.created_at,
            "seconds": round(self.seconds, 1),
            "complete": self.complete,
            "warnings": list(self.warnings),
            "sentence": self.sentence,
        }

    def _gain(self) -> float | None:
        """How many times the baseline's throughput the best one has."""
        both = self.best is not None and self.best.rate and self.baseline.rate
        return round(self.best.rate / self.baseline.rate, 3) if both and self.best else None

    def _p99(self, trial: Trial) -> str:
        return number(trial.capacity.best.p99_ms) if trial.capacity.best else number(None)

    def _comments(self) -> tuple[str, ...]:
        cores = self.machine.get("cores")
        return (f"p99 within {self.p99_ms:g} ms on {cores} cores, {self.created_at}", self.sentence)


def _round(one: Round) -> dict[str, Any]:
    return {
        "rate": round(one.rate, 2),
        "baseline_p99_ms": round(one.baseline.p99_ms, 3),
        "chosen_p99_ms": round(one.challenger.p99_ms, 3),
    }
