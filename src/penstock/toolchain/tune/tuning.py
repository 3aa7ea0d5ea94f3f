"""The verb `tune`: from a model and an objective to the settings that serve it best on this machine."""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from penstock.artifacts.artifact import Artifact
from penstock.artifacts.policies import BatchingPolicy
from penstock.backends.devices import usable_cores, worker_count
from penstock.errors import InvalidInput, PenstockError, first_line
from penstock.option_types import parse_duration
from penstock.options import ModelOptions
from penstock.registry.registry import Registry
from penstock.settings import CONFIG_FILE, Settings, load_settings
from penstock.toolchain.report.terminal import SILENT, Progress
from penstock.toolchain.report.wording import number
from penstock.toolchain.tune import settings_file
from penstock.toolchain.tune.capacity import Capacity, Figures, capacity
from penstock.toolchain.tune.configuration import KEYS, Configuration, batches, counted, processes, waits
from penstock.toolchain.tune.exploring import (
    CLEAR,
    MARGIN,
    Exploration,
    Round,
    Trial,
    comparison_rate,
    in_turn,
    lost,
    unreachable,
    verdict,
    wins,
)
from penstock.toolchain.tune.measure import Bench, Meter, lowest_rate, out_of_reach, run_seconds
from penstock.toolchain.tune.result import Outcome, Tuning
from penstock.toolchain.tune.server import Serving
from penstock.toolchain.tune.state import State

COLUMNS = ("configuration", "outcome", "requests/s", "p99 ms", "why")
"""The columns of the progress."""
TIME_BUDGET = "3m"
_SHORTEST_BUDGET_S = 10.0
_KEPT_BACK = 0.4
"""The largest share of the time that is kept back for the comparison."""


def tune(
    ref: str,
    p99_ms: float | str,
    *,
    out: Path | str | None = None,
    time_budget: float | str = TIME_BUDGET,
    registry: Registry | Path | str | None = None,
    config: Path | str | None = None,
    device: str | None = None,
    trust: str | None = None,
    payload: Path | str | None = None,
    progress: Progress = SILENT,
) -> Tuning:
    """Find the workers, threads, batch size and wait with which this machine serves a model best.

    Best is the highest rate of requests whose 99th percentile of latency stays within `p99_ms` (milliseconds, or text
    such as "20ms"), measured on `penstock serve` with requests at fixed times. The baseline are the settings in force
    (`config` or `penstock.toml`, the environment, defaults); another configuration is chosen only when it wins against
    it in turn. `time_budget` is in seconds, or text such as "3m". `payload` is a file with a request to send; the
    default is the server's example or a golden sample. With `out`, the settings are written into that file unless no
    configuration met the objective. A run that was interrupted goes on where it was.

    Raises InvalidInput for an objective or a budget that is no time, ModelNotFound, ModelLoadError with the sentence of
    a server that cannot serve the model, ConfigError for settings that are wrong.
    """
    objective, budget_s = _milliseconds(p99_ms), _budget(time_budget)
    given = {"registry": _path_of(registry), "device": device, "trust": trust}
    file = None if config is None else Path(config)
    settings = load_settings(given, config_file=file).settings
    text = settings_file.read(Path(CONFIG_FILE) if file is None else file)
    if out is not None:
        settings_file.check(Path(out))
    if payload is not None and not Path(payload).is_file():
        raise InvalidInput(f"payload: {payload} is no file", field="payload")
    with ExitStack() as stack:
        models = registry if isinstance(registry, Registry) else stack.enter_context(_open(settings))
        models.ensure(ref)
        job = _Job(models.get(ref), models, settings, text, objective, None if payload is None else Path(payload))
        tuning = _Run(job, budget_s, progress).result()
    if out is not None and tuning.best is not None:
        tuning = replace(tuning, warnings=(*tuning.warnings, *tuning.write(out)))
    return tuning


def _open(settings: Settings) -> Registry:
    return Registry(settings.registry, settings.database_url, settings.require_signed)


def _path_of(registry: Registry | Path | str | None) -> Path | None:
    if isinstance(registry, Registry):
        return registry.path
    return None if registry is None else Path(registry)


def _milliseconds(p99_ms: float | str) -> float:
    try:
        return 1000 * parse_duration(p99_ms, "ms")
    except ValueError as error:
        raise InvalidInput(f"p99: {p99_ms!r} {error}", field="p99_ms") from None


def _budget(time_budget: float | str) -> float:
    try:
        seconds = parse_duration(time_budget)
    except ValueError as error:
        raise InvalidInput(f"time_budget: {time_budget!r} {error}", field="time_budget") from None
    if seconds < _SHORTEST_BUDGET_S:
        raise InvalidInput(
            f"time_budget: {time_budget!r} is too short to measure a server; give {_SHORTEST_BUDGET_S:g} s or more",
            field="time_budget",
        )
    return seconds


@dataclass(frozen=True)
class _Job:
    """What was asked: the model, the settings in force with the text of their file, and the objective."""

    artifact: Artifact
    registry: Registry
    settings: Settings
    text: str
    p99_ms: float
    payload: Path | None

    @property
    def baseline(self) -> Configuration:
        """The settings in force for this model."""
        table = self.settings.models.get(self.artifact.name) or ModelOptions.model_validate({})
        own = self.artifact.manifest.batching or BatchingPolicy()
        batch_size = table.batch_size or own.max_batch_rows or self.settings.batch_size
        waits_ms = (table.max_wait_ms, own.max_wait_ms, self.settings.max_wait_ms)
        wait_ms = next(wait for wait in waits_ms if wait is not None)
        return Configuration(worker_count(self.settings.workers), self.settings.threads, batch_size, wait_ms)

    @property
    def own_table(self) -> bool:
        """True if the batch size and wait have to be in the model's own table to take effect."""
        batching = self.artifact.manifest.batching
        own = batching is not None and (batching.max_batch_rows or batching.max_wait_ms is not None)
        return bool(own) or settings_file.sets_model(self.text, self.artifact.name)

    @property
    def bench(self) -> Bench:
        """What starts servers of this model."""
        options = {"registry": self.settings.registry, "device": self.settings.device, "trust": self.settings.trust}
        arguments = tuple(f"--{name}={value}" for name, value in options.items())
        return Bench(Serving(self.artifact.ref, arguments, Path.cwd()), self.p99_ms, self.registry, self.payload)

    def config(self, configuration: Configuration) -> str:
        """The settings file for a configuration: as it will be written."""
        model = self.artifact.name if self.own_table else None
        return settings_file.changed(self.text, configuration.settings(), (), model)

    def fingerprint(self) -> dict[str, Any]:
        """All that the figures depend on."""
        elsewhere = {"host", "port", "admin_key", "key_pepper", "previous_key_pepper", "database_url"}
        settings = self.settings.model_dump(mode="json", exclude={*KEYS, *elsewhere})
        payload = b"" if self.payload is None else self.payload.read_bytes()
        return {
            "artifact": self.artifact.digest,
            "p99_ms": self.p99_ms,
            "machine": machine(),
            "settings": settings,
            "payload": hashlib.sha256(payload).hexdigest(),
        }


def machine() -> dict[str, Any]:
    """The machine, as far as it decides what serving costs."""
    return {
        "cores": usable_cores(),
        "platform": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "python": platform.python_version(),
        "penstock": importlib.metadata.version("penstock"),
    }


class _Run:
    """One tuning: measures the baseline, explores, and compares the best one with the baseline in turn."""

    def __init__(self, job: _Job, budget_s: float, progress: Progress) -> None:
        self._job = job
        self._bench = job.bench
        self._progress = progress
        self._started = time.monotonic()
        self._budget_s, self._ends = budget_s, self._started + budget_s
        directory = job.settings.cache_dir or job.registry.path / ".cache"
        self._state = State(Path(directory) / "tune", job.fingerprint())
        self._start_s = 0.0
        """How long the last server took to start."""
        self._payload = ""
        self._warnings: list[str] = []

    def result(self) -> Tuning:
        """Do it all."""
        if self._state:
            self._progress.note(
                f"going on: {counted(len(self._state), 'configuration')} measured before the interruption"
            )
        baseline = self._baseline()
        exploration = Exploration(baseline, self._attempt, self._time_left)
        self._explore(exploration)
        best, rounds = self._decide(exploration, baseline)
        outcome: Outcome = "missed" if best is None else "baseline" if best.status == "baseline" else "chosen"
        self._state.forget()
        return Tuning(
            ref=self._job.artifact.ref,
            p99_ms=self._job.p99_ms,
            outcome=outcome,
            best=best,
            trials=tuple(exploration.trials),
            rounds=tuple(rounds),
            machine=machine(),
            payload=self._payload,
            created_at=datetime.now(UTC).isoformat(timespec="seconds"),
            seconds=time.monotonic() - self._started,
            complete=exploration.complete,
            warnings=tuple(self._warnings),
            own_table=self._job.own_table,
        )

    # --- the parts

    def _baseline(self) -> Trial:
        configuration = self._job.baseline
        self._progress.step(f"starting the settings in force: {configuration}")
        found = self._state.get(configuration)
        if found is None:
            with self._meter(configuration) as meter:
                found = self._capacity(configuration, meter)
            self._state.put(configuration, found)
        why = "the settings in force" if found.best else f"the settings in force; {unreachable(found)}"
        return self._shown(Trial(configuration, "baseline", why, found))

    def _explore(self, exploration: Exploration) -> None:
        job, cores = self._job, usable_cores()
        if exploration.best.configuration.max_wait_ms:
            exploration.climb([[replace(exploration.best.configuration, max_wait_ms=0.0)]])
        exploration.widen(processes(cores, exploration.best.configuration))
        batchable = job.artifact.manifest.batchable is not False and job.settings.use_dynamic_batching
        if not batchable:
            rest = [one for many in batches(exploration.best.configuration) for one in many]
            exploration.skip(rest, "requests of this model do not share runs")
            return
        exploration.climb(batches(exploration.best.configuration))
        exploration.climb(waits(exploration.best.configuration, job.p99_ms))

    def _attempt(self, configuration: Configuration, best: Trial) -> Trial:
        """A configuration against the best so far: first a little above what that carries, further only if it holds."""
        self._progress.step(f"starting {configuration}")
        found = self._state.get(configuration)
        try:
            if found is None:
                with self._meter(configuration) as meter:
                    found = self._capacity(configuration, meter, MARGIN * best.rate)
                self._state.put(configuration, found)
        except PenstockError as error:
            return self._shown(Trial(configuration, "failed", first_line(error)))
        trial = Trial(configuration, "better", "", found)
        return self._shown(trial if found.rate > MARGIN * best.rate * 0.999 else lost(trial, best, self._job.p99_ms))

    def _capacity(self, configuration: Configuration, meter: Meter, least: float = 0.0) -> Capacity:
        """What a server carries; lower rates than `least` are of no interest."""

        def drive(rate: float) -> Figures:
            self._progress.step(f"{configuration}: {number(rate)} requests/s")
            return meter.drive(rate)

        self._payload = meter.target.payload
        self._progress.step(f"{configuration}: one request at a time")
        alone = meter.alone()
        if out_of_reach(alone, self._job.p99_ms):
            return Capacity(None, (alone,))
        start, lowest = least or meter.crowded() / 2, least or lowest_rate(alone)
        return capacity(drive, self._job.p99_ms, start, lowest=lowest, time_left=self._time_left)

    def _decide(self, exploration: Exploration, baseline: Trial) -> tuple[Trial | None, list[Round]]:
        """The best configuration, None if none met the objective, and the comparison with the baseline."""
        best = exploration.best
        if best is baseline:
            return (baseline if baseline.rate else None), []
        if not baseline.rate:
            return self._chosen(exploration, best, "the settings in force meet the objective at no rate"), []
        try:
            rounds = self._compare(baseline, best)
        except PenstockError as error:
            exploration.settle(replace(best, why=f"it could not be compared with the settings in force: {error}"))
            return baseline, []
        said = verdict(rounds, self._job.p99_ms)
        if wins(rounds, self._job.p99_ms):
            return self._chosen(exploration, best, said), rounds
        exploration.settle(replace(best, why=f"{said}: inside the noise, the settings in force stay"))
        return baseline, rounds

    def _chosen(self, exploration: Exploration, best: Trial, why: str) -> Trial:
        chosen = self._shown(replace(best, status="chosen", why=why))
        exploration.settle(chosen)
        return chosen

    def _compare(self, baseline: Trial, best: Trial) -> list[Round]:
        rate = comparison_rate(baseline, best)
        self._progress.step(f"comparing {best.configuration} with the settings in force, in turn")
        with ExitStack() as stack:
            meters = [stack.enter_context(self._meter(one.configuration)) for one in (baseline, best)]
            for meter in meters:
                meter.alone()
            one, other = (meter.drive for meter in meters)
            return in_turn(one, other, rate, self._job.p99_ms, lambda: time.monotonic() < self._ends)

    @contextmanager
    def _meter(self, configuration: Configuration) -> Iterator[Meter]:
        """A running server with this configuration."""
        began = time.monotonic()
        with self._bench.meter(configuration, self._job.config(configuration)) as meter:
            self._start_s = time.monotonic() - began
            yield meter

    def _time_left(self) -> bool:
        """True while there is time for more than the comparison at the end."""
        comparison_s = 2 * self._start_s + 2 * CLEAR * run_seconds(1e9, self._job.p99_ms)
        return time.monotonic() + min(comparison_s, _KEPT_BACK * self._budget_s) < self._ends

    def _shown(self, trial: Trial) -> Trial:
        best = trial.capacity.best
        figures = (None, None) if best is None else (best.rate, best.p99_ms)
        self._progress.row(str(trial.configuration), trial.status, *figures, trial.why)
        if best is not None and any(run.strained for run in trial.capacity.runs):
            self._warn(
                f"the load generator used a whole core at {number(best.rate)} requests/s: on a machine of its own it "
                "might find that the server carries more"
            )
        return trial

    def _warn(self, sentence: str) -> None:
        if not any(sentence[:40] == known[:40] for known in self._warnings):
            self._warnings.append(sentence)
            self._progress.note(sentence)
