"""`penstock.bench`: what was published, measured on this machine, alone or against another version in turn."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from penstock.artifacts.artifact import Artifact, Variant
from penstock.backends.base import ModelFile
from penstock.backends.catalog import format_of, runnable
from penstock.backends.devices import missing_features, usable_cores
from penstock.errors import InvalidInput, PenstockError, UnsupportedFormat
from penstock.formats import is_model_file
from penstock.options import BackendOptions
from penstock.registry.registry import Registry
from penstock.scan.trust import strongest
from penstock.toolchain.bench.latency import VariantSpeed, compare_speed, measure, sizes_of
from penstock.toolchain.bench.sandbox import Limits, Sandbox
from penstock.toolchain.bench.turns import Ratio


@dataclass(frozen=True)
class BenchResult:
    """What was measured of a reference: each variant, and the one that its figures are those of.

    `chosen` is the variant that was named, else the one with the lowest median latency at the smallest batch size,
    among those of precision fp32 if there is one, as a server takes it. With a second reference, `other` is what was
    measured of that, and `ratios` says by batch size how many times as fast its chosen variant is.
    """

    ref: str
    chosen: str
    variants: tuple[VariantSpeed, ...]
    threads: int
    other: BenchResult | None = None
    ratios: dict[int, Ratio] = field(default_factory=dict)

    @property
    def best(self) -> VariantSpeed:
        """The chosen variant."""
        return next(variant for variant in self.variants if variant.name == self.chosen)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What makes the figures doubtful, once each."""
        drifts = [f"batch {rows}: {ratio.warning}" for rows, ratio in self.ratios.items() if ratio.warning]
        return tuple(dict.fromkeys((*self.best.warnings, *drifts)))

    def to_json(self) -> dict[str, Any]:
        """As `penstock bench REF --json` prints it."""
        best = self.best.to_json()
        document = {
            "ref": self.ref,
            "variant": self.chosen,
            **{key: value for key, value in best.items() if key not in ("name", "why", "warnings")},
            "threads": self.threads,
            "variants": [variant.to_json() for variant in self.variants],
            "warnings": list(self.warnings),
        }
        if self.other is not None:
            document["ratio"] = self._ratio()
            document["other"] = self.other.to_json()
        return document

    def _ratio(self) -> dict[str, Any]:
        """The ratio at the smallest batch size, and that of each."""
        by_batch = {str(rows): ratio.to_json() for rows, ratio in self.ratios.items()}
        first = next(iter(by_batch))
        return {"batch": int(first), **by_batch[first], "batches": by_batch}


def bench(
    ref: str | Path | Artifact,
    other: str | Path | Artifact | None = None,
    *,
    registry: Registry | Path | str | None = None,
    batches: Sequence[int] | None = None,
    seconds: float = 1.0,
    variant: str | None = None,
    threads: int | None = None,
    device: str = "auto",
    trust: str = "data",
    limits: Limits | None = None,
) -> BenchResult:
    """Measure every variant of a version, or a model file, on this machine: latency, throughput, memory, size.

    Each runs in a process of its own, after a warm-up, for `seconds` per batch size (by default 1, 8 and 32 rows), with
    its golden samples or else inputs that are made up. `variant` picks one by name. With `other`, the chosen variants
    of both are measured in turn as well, and the ratio has a confidence interval of 95 %. Raises InvalidInput for a
    batch size that a model does not take, and what opening raises where no variant runs.
    """
    if not 0 < seconds <= 3600:
        raise InvalidInput(f"seconds: {seconds:g} is not between 0 and 3600", field="seconds")
    options = BackendOptions(device=device, trust=trust, threads=threads)
    with _registry(registry) as models:
        subjects = [_Subject(_opened(one, models), models, options, limits) for one in (ref, other) if one is not None]
        results = [subject.measured(batches, seconds, variant) for subject in subjects]
        if other is None:
            return results[0]
        ratios = _ratios(subjects, results, seconds)
    first, second = results
    return BenchResult(first.ref, first.chosen, first.variants, first.threads, second, ratios)


@contextlib.contextmanager
def _registry(given: Registry | Path | str | None) -> Iterator[Registry]:
    """The registry; one that was opened here is closed again."""
    if isinstance(given, Registry):
        yield given
        return
    with Registry(given) as opened:
        yield opened


def _opened(ref: str | Path | Artifact, registry: Registry) -> Artifact | Path:
    """The artifact or the file that `ref` means; a starter model is published first."""
    if isinstance(ref, Artifact):
        return ref
    if isinstance(ref, Path) or is_model_file(ref):
        return Path(ref)
    registry.ensure(ref)
    return registry.get(ref)


class _Subject:
    """One reference, and how to open its variants."""

    def __init__(
        self, what: Artifact | Path, registry: Registry, options: BackendOptions, limits: Limits | None
    ) -> None:
        self._what = what
        self._limits = limits or Limits(threads=options.threads)
        self._options = options
        if isinstance(what, Artifact):
            granted = strongest(options.trust, registry.trusted(what.digest))
            self._options = options.override(trust=granted)

    @property
    def ref(self) -> str:
        return self._what.ref if isinstance(self._what, Artifact) else str(self._what)

    def measured(self, batches: Sequence[int] | None, seconds: float, variant: str | None) -> BenchResult:
        """Every variant, or the one of this name. Raises the first error when none runs."""
        errors: list[PenstockError] = []
        speeds = [self._speed(name, batches, seconds, errors) for name in self._names(variant)]
        if errors and not any(speed.batches for speed in speeds):
            raise errors[0]
        threads = self._options.threads or usable_cores()
        return BenchResult(self.ref, _chosen(speeds).name, tuple(speeds), threads)

    def open(self, name: str) -> Sandbox:
        """The variant of this name in a sandbox."""
        if isinstance(self._what, Artifact):
            variant = self._what.manifest.variant(name)
            return Sandbox.of_variant(self._what, variant, self._options, limits=self._limits)
        return Sandbox.open(name, ModelFile(self._what), self._options, name=str(self._what), limits=self._limits)

    def _names(self, variant: str | None) -> list[str]:
        if isinstance(self._what, Artifact):
            every = [one.name for one in self._what.variants]
            return every if variant is None else [self._what.manifest.variant(variant).name]
        format = format_of(self._what)
        if variant not in (None, format):
            raise InvalidInput(f"variant: {self._what} is a file, which has no variants", field="variant")
        return [format]

    def _speed(
        self, name: str, batches: Sequence[int] | None, seconds: float, errors: list[PenstockError]
    ) -> VariantSpeed:
        known = self._known(name)
        try:
            self._require_runnable(name)
            with self.open(name) as sandbox:
                speeds, facts = measure(sandbox, batches, seconds), sandbox.facts
                return VariantSpeed(
                    **{**known, "parameters": known["parameters"] or facts["num_parameters"]},
                    batches=speeds,
                    usage=sandbox.usage(),
                    device=facts["device"],
                    inputs="made-up inputs" if facts["made_up"] else f"{facts['rows']} golden samples",
                    warnings=tuple(facts["warnings"]),
                )
        except InvalidInput:
            raise
        except PenstockError as error:
            errors.append(error)
            return VariantSpeed(**known, why=str(error))

    def _known(self, name: str) -> dict[str, Any]:
        """What is known of a variant without opening it."""
        if not isinstance(self._what, Artifact):
            size = self._what.stat().st_size if self._what.is_file() else None
            return {"name": name, "format": name, "size_bytes": size, "parameters": None}
        one = self._what.manifest.variant(name)
        known = {"name": one.name, "format": one.format, "precision": one.precision}
        return {**known, "size_bytes": one.size_bytes, "parameters": one.num_parameters}

    def _require_runnable(self, name: str) -> None:
        if not isinstance(self._what, Artifact):
            return
        variant: Variant = self._what.manifest.variant(name)
        missing = missing_features(variant.requires)
        if missing:
            raise UnsupportedFormat(
                f"{self.ref}/{name}: it needs {', '.join(missing)}, which this machine does not have"
            )
        if not runnable(variant.format):
            raise UnsupportedFormat(
                f"{self.ref}/{name}: this machine cannot run {variant.format}; see `penstock doctor`"
            )


def _chosen(speeds: Sequence[VariantSpeed]) -> VariantSpeed:
    """The fastest at its smallest batch size; those of precision fp32 come first, as on a server."""

    def rank(speed: VariantSpeed) -> tuple[bool, bool, float]:
        first = next(iter(speed.batches.values()), None)
        other = speed.precision not in (None, "fp32")
        return first is None, other, first.latency.p50_ms if first is not None else 0.0

    return min(speeds, key=rank)


def _ratios(subjects: Sequence[_Subject], results: Sequence[BenchResult], seconds: float) -> dict[int, Ratio]:
    """The chosen variants in turn, at the batch sizes that both were measured with."""
    common = [rows for rows in results[0].best.batches if rows in results[1].best.batches]
    if not common:
        taken = [", ".join(map(str, result.best.batches)) for result in results]
        raise InvalidInput(
            f"batch: {results[0].ref} takes batches of {taken[0]} and {results[1].ref} of {taken[1]}, so that there is "
            "nothing to compare",
            field="batch",
        )
    with subjects[0].open(results[0].chosen) as a, subjects[1].open(results[1].chosen) as b:
        return {rows: compare_speed(a, b, rows, seconds=10 * seconds) for rows in sizes_of(a, common)}
