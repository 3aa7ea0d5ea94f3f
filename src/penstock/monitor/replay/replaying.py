"""Runs logged requests on another version of their model, and compares its answers with the logged ones.

Only the backends run, on the logged inputs: no task, no observer, no registry entry, no cache that stays. So nothing is
stored and nobody is told, whatever the model's task does with its answers in a server.
"""

from __future__ import annotations

import random
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from penstock.artifacts.artifact import Artifact
from penstock.engine.loading.loaded_model import LoadedModel
from penstock.engine.loading.manager import ModelManager
from penstock.engine.predictor.local_runs import LocalRuns
from penstock.errors import ConfigError, PenstockError
from penstock.formats import is_model_file
from penstock.monitor.prediction_log.reading import LogReader
from penstock.monitor.prediction_log.records import DISAGREEMENT, Record, moment
from penstock.monitor.replay.comparing import Comparison, Labels, difference
from penstock.options import EngineOptions
from penstock.registry.registry import Registry
from penstock.tasks.classification import ClassScores
from penstock.tensors import Arrays

MOST_OLD = 4
"""Earlier versions that are loaded beside the new one, to compare times."""
WARM_UP = 3
"""Runs of each version that do not count for times."""


class Limits(NamedTuple):
    """What a new version may do worse; None for anything."""

    disagreement: float | None = None
    slowdown: float | None = None


class Selection(NamedTuple):
    """Which records are replayed. With a `seed`, `limit` of them are chosen at random, else the first ones."""

    model: str | None = None
    limit: int | None = None
    seed: int | None = None


class Runner:
    """One loaded version, which runs one request at a time."""

    def __init__(self, model: LoadedModel) -> None:
        self.model = model
        self._runs = LocalRuns(model)
        self._ran = 0

    def run(self, inputs: Arrays) -> tuple[Arrays, float | None]:
        """Outputs, and milliseconds; None while warming up. Raises PenstockError."""
        checked, rows = self.model.signature.validate(inputs)
        began = time.perf_counter()
        (outputs,) = self._runs.outputs([checked], [rows], max(1, self.model.batcher.limits.batch_rows))
        took = (time.perf_counter() - began) * 1e3
        self._ran += 1
        return outputs, took if self._ran > WARM_UP else None


class Replay:
    """The result: what was compared, and what was skipped and why."""

    def __init__(self, reader: LogReader, against: str, keep: int) -> None:
        self.reader = reader
        self.against = against
        self.comparison = Comparison(keep)
        self.skipped: Counter[str] = Counter()
        self.notes: list[str] = []

    def breaches(self, limits: Limits) -> list[str]:
        """One sentence for each limit that is not kept, or could not be looked at: no data never passes."""
        found, sentences = self.comparison, []
        if not found.rows:
            return ["no logged request could be replayed"]
        if limits.disagreement is not None and found.disagreement.rate > limits.disagreement:
            sentences.append(
                f"{found.disagreement.rate:.2%} of the rows disagree, {limits.disagreement:.2%} are allowed"
            )
        if limits.slowdown is not None and found.slowdown is None:
            sentences.append("the time could not be compared: no earlier version runs here")
        elif limits.slowdown is not None and found.slowdown is not None and found.slowdown > limits.slowdown:
            sentences.append(f"it takes {found.slowdown:.2f} times as long, {limits.slowdown:g} times is allowed")
        return sentences

    def to_json(self, limits: Limits) -> dict[str, Any]:
        """The figures, for programs."""
        found = self.comparison
        old, new = ([pair[index] for pair in found.times] for index in (0, 1))
        times = None
        if found.slowdown is not None:
            means = {"old_ms": sum(old) / len(old), "new_ms": sum(new) / len(new)}
            times = {"ratio": found.slowdown, "requests": len(old), **means}
        return {
            "log": str(self.reader.path),
            "against": self.against,
            "requests": found.requests,
            "rows": found.rows,
            "disagreement": {**found.disagreement._asdict(), "rows": found.disagreeing} if found.rows else None,
            "max_abs": found.max_abs,
            "kl": {"mean": sum(found.kl) / len(found.kl), "max": max(found.kl)} if found.kl else None,
            "not_finite": found.not_finite,
            "failed": found.failed,
            "first_failure": found.first_failure or None,
            "slowdown": times,
            "skipped": {**self.skipped, "damaged_lines": self.reader.damaged},
            "damaged_segments": [path.name for path in self.reader.cut_off],
            "worst": found.worst,
            "notes": self.notes,
            "breaches": self.breaches(limits),
        }


def replay(
    log: Path, against: str, registry: Registry, options: EngineOptions, selection: Selection, *, keep: int = 10
) -> Replay:
    """Replay a log on the version or the file `against`. Raises PenstockError if that cannot be loaded."""
    reader = LogReader(log)
    with tempfile.TemporaryDirectory(prefix="penstock-replay-") as cache:
        manager = ModelManager(registry, options.override(cache_dir=Path(cache)))
        try:
            return _replay(reader, against, manager, selection, keep)
        finally:
            manager.close()


def _replay(reader: LogReader, against: str, manager: ModelManager, selection: Selection, keep: int) -> Replay:
    new = Runner(manager.load_model(against))
    result = Replay(reader, new.model.key, keep)
    wanted = selection.model or (None if is_model_file(against) else new.model.name)
    records = _limited(_replayable(reader, wanted, result), selection)
    _require_one_model(records, wanted)
    old = OldVersions(manager, new, result)
    outputs = {spec.name: spec for spec in new.model.signature.outputs}
    scores = _scores(new.model)
    for number, record in enumerate(records):
        about = {"request_id": record.request_id, "at": moment(record.at), "version": record.version}
        try:
            found = _run(record, new, old.of(record), result, new_first=bool(number % 2))
            labels = old.labels(record)
            result.comparison.add(difference(record.outputs or {}, found, outputs, scores, labels), about)
        except (PenstockError, ValueError) as error:
            result.comparison.fail(record.rows, str(error), about)
    return result


def _replayable(reader: LogReader, model: str | None, result: Replay) -> Iterator[Record]:
    """The records that can be replayed; the others are counted by the reason."""
    for record in reader:
        if record.outcome not in ("ok", DISAGREEMENT) or not record.outputs:
            result.skipped["not_answered"] += 1
        elif model not in (None, record.model, f"{record.model}:{record.version}"):
            result.skipped["of_other_models"] += 1
        elif record.inputs is None:
            result.skipped["without_inputs"] += 1
        else:
            yield record


def _limited(records: Iterable[Record], selection: Selection) -> list[Record]:
    limit, kept = selection.limit, list[tuple[int, Record]]()
    chance = random.Random(selection.seed)  # noqa: S311  which records, not a secret
    for index, record in enumerate(records):
        if limit is None or len(kept) < limit:
            kept.append((index, record))
        elif selection.seed is not None:
            place = chance.randrange(index + 1)
            if place < limit:
                kept[place] = (index, record)
    return [record for _, record in sorted(kept, key=lambda pair: pair[0])]


def _require_one_model(records: Iterable[Record], wanted: str | None) -> None:
    names = sorted({record.model for record in records})
    if wanted is None and len(names) > 1:
        raise ConfigError(f"the log holds requests for {', '.join(names)}; choose one by model=…")


def _run(record: Record, new: Runner, old: Runner | None, result: Replay, *, new_first: bool) -> Arrays:
    """The new version's answer; where the old one runs here, it runs just before or after, to compare their times."""
    inputs = record.inputs or {}
    before = None if old is None or new_first else _timed(old, inputs)
    outputs, took = new.run(inputs)
    if old is not None and new_first:
        before = _timed(old, inputs)
    if before is not None and took is not None:
        result.comparison.times.append((before, took))
    return outputs


def _timed(old: Runner, inputs: Arrays) -> float | None:
    try:
        return old.run(inputs)[1]
    except PenstockError:  # it answered once, perhaps with more memory
        return None


class OldVersions:
    """The versions that gave the logged answers, as far as this registry has them."""

    def __init__(self, manager: ModelManager, new: Runner, result: Replay) -> None:
        self._manager = manager
        self._found: dict[str, Runner | None] = {}
        self._labels: dict[str, Labels | None] = {}
        self._new = new
        self._result = result

    def of(self, record: Record) -> Runner | None:
        """The version that answered a record; None if it does not run here."""
        ref = f"{record.model}:{record.version}"
        if ref not in self._found:
            self._found[ref] = self._loaded(ref)
        return self._found[ref]

    def labels(self, record: Record) -> Labels | None:
        """The names of the classes of the version that answered a record and of the new one; None if unknown."""
        ref = f"{record.model}:{record.version}"
        if ref not in self._labels:
            old, new = self._names(ref), _names(self._new.model.artifact)
            self._labels[ref] = None if old is None or new is None or old == new else Labels(old, new)
        return self._labels[ref]

    def _names(self, ref: str) -> list[str] | None:
        try:
            return _names(self._manager.registry.get(ref))
        except PenstockError:
            return None

    def _loaded(self, ref: str) -> Runner | None:
        if ref == self._new.model.key:
            return None if self._new.model.path is not None else Runner(self._new.model)
        if sum(runner is not None for runner in self._found.values()) >= MOST_OLD:
            return None
        try:
            return Runner(self._manager.load_model(ref))
        except PenstockError as error:
            self._result.notes.append(f"no time is compared with {ref}: {error}")
            return None


def _names(artifact: Artifact | None) -> list[str] | None:
    """The names of the classes in the order of the scores."""
    tasks = () if artifact is None else artifact.manifest.tasks()
    found = (task.config.get("labels") for task in tasks)
    return next((list(map(str, names)) for names in found if isinstance(names, list)), None)


def _scores(model: LoadedModel) -> str | None:
    """The output with a score for each class."""
    tasks = (getattr(runner.task, "scores", None) for runner in model.runners.values())
    return next((scores.name for scores in tasks if isinstance(scores, ClassScores)), None)
