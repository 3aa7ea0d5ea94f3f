"""`--check`: does an optimized version on this machine do what its report says? A gate for continuous integration."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from penstock.artifacts.artifact import Artifact, Variant
from penstock.backends.devices import missing_features
from penstock.backends.verification import verify
from penstock.errors import InferenceError, IntegrityError, InvalidInput, ModelLoadError, PenstockError
from penstock.registry.registry import Registry
from penstock.scan.trust import check_trust, strongest
from penstock.toolchain.report.terminal import SILENT, Progress
from penstock.toolchain.search.data import Data, read_data
from penstock.toolchain.search.model import form_of
from penstock.toolchain.search.outcome.report import SCHEMA, read_report
from penstock.toolchain.search.trying.gate import budget_of, figures
from penstock.toolchain.search.trying.measuring import Bench, Side, bench_of, best_threads, target_ratio

SLOWER = 0.85
"""An advantage over the baseline may shrink to this share of what the report says before it counts as lost."""
_SECONDS = 5.0
_ROUNDS = 40

Finding = dict[str, Any]


def check_report(
    ref: str,
    path: Path | str,
    *,
    data: Any = None,
    labels: Any = None,
    registry: Registry | Path | str | None = None,
    trust: str = "data",
    progress: Progress = SILENT,
) -> dict[str, Any]:
    """Compare a published, optimized version with the `report.json` of its search.

    The document has `ok` and `findings`: for each variant its files, its instruction sets, its answers, with `data`
    its accuracy, and how many times as fast as the baseline it is. Raises InvalidInput where the report is not one, or
    belongs to another model.
    """
    document = read_report(Path(path))
    with ExitStack() as stack:
        if not isinstance(registry, Registry):
            registry = stack.enter_context(Registry(registry))
        artifact = registry.get(ref)
        published = document.get("published")
        if not isinstance(published, dict):
            raise InvalidInput(f"check: {path} is of a search that published nothing", field="check")
        rows = None if data is None else read_data(data, artifact.signature, labels)
        tier = strongest(check_trust(trust), registry.trusted(artifact.digest))
        findings = list(_Check(artifact, document, rows, tier, stack, progress).findings())
    return {
        "schema_version": SCHEMA,
        "ref": artifact.ref,
        "report": str(path),
        "ok": all(finding["ok"] for finding in findings),
        "findings": findings,
    }


def _finding(variant: str, what: str, ok: bool, found: str) -> Finding:
    return {"variant": variant, "what": what, "ok": ok, "found": found}


class _Check:
    """The checks of one version."""

    def __init__(
        self,
        artifact: Artifact,
        document: Mapping[str, Any],
        rows: Data | None,
        trust: str,
        stack: ExitStack,
        progress: Progress,
    ) -> None:
        self._artifact = artifact
        self._document = document
        self._rows = rows
        self._stack = stack
        self._progress = progress
        self._trust = trust
        self._sides: dict[str, Side] = {}

    def findings(self) -> Iterator[Finding]:
        """Files first; what is not as published is not opened."""
        intact = True
        for finding in self._files():
            intact = intact and finding["ok"]
            yield finding
        if not intact:
            return
        self._bench = self._opened_bench()
        for variant in self._artifact.variants:
            self._progress.step(f"checking {variant.name}")
            yield from self._variant(variant)
        yield from self._accuracies()
        yield from self._speeds()

    def _files(self) -> Iterator[Finding]:
        published = self._document["published"]
        try:
            self._artifact.verify()
        except IntegrityError as error:
            yield _finding("", "files", False, str(error))
            return
        same = self._artifact.digest == published["digest"]
        found = (
            "the same version as in the report"
            if same
            else f"{self._artifact.ref} is not {published['ref']} as published"
        )
        yield _finding("", "digest", same, found)
        for name, expected in published["variants"].items():
            has = {one.name: one for one in self._artifact.variants}.get(name)
            if has is None:
                yield _finding(name, "files", False, "there is no such variant")
                continue
            files = {entry.path: entry.sha256 for entry in has.files}
            wrong = sorted(
                path for path in {*files, *expected["files"]} if files.get(path) != expected["files"].get(path)
            )
            yield _finding(name, "files", not wrong, f"{wrong[0]} differs" if wrong else f"{len(files)} as published")

    def _opened_bench(self) -> Bench:
        artifact = self._artifact
        golden = artifact.golden()
        inputs = self._rows.held_out if self._rows is not None else golden.inputs if golden is not None else {}
        axes = artifact.manifest.batch_axes is not None
        return bench_of(artifact.signature, inputs, self._document["target"], has_axes=axes, trust=self._trust)

    def _variant(self, variant: Variant) -> Iterator[Finding]:
        missing = missing_features(variant.requires)
        needs = f"this CPU has no {', '.join(missing)}" if missing else "this CPU has what it needs"
        yield _finding(variant.name, "instruction sets", not missing, needs)
        if missing:
            return
        threads = self._threads(variant.name)
        try:
            side = best_threads(self._bench, form_of(self._artifact, variant), [threads], self._stack)
        except PenstockError as error:
            yield _finding(variant.name, "opens", False, str(error))
            return
        self._sides[variant.name] = side
        yield self._answers(variant, side)

    def _threads(self, name: str) -> int:
        from penstock.toolchain.search.machine import this_machine

        known = [self._document["baseline"], *self._document["candidates"]]
        asked = next((one["threads"] for one in known if one["name"] == name), None)
        return max(1, min(asked or 1, this_machine().cores))

    def _answers(self, variant: Variant, side: Side) -> Finding:
        golden = self._artifact.golden_for(variant)
        if golden is None:
            return _finding(variant.name, "answers", True, "there are no golden samples")
        try:
            verify(side.sandbox.backend(), golden, 32, variant.name)
        except (ModelLoadError, InferenceError) as error:
            return _finding(variant.name, "answers", False, str(error))
        return _finding(variant.name, "answers", True, f"as the {golden.rows} golden samples")

    def _accuracies(self) -> Iterator[Finding]:
        """Accuracy, or agreement without labels, on the same rows: within the budget of the report."""
        rows, drop = self._rows, self._document["max_accuracy_drop"]
        reference = self._sides.get(self._reference_name())
        if rows is None or reference is None:
            return
        budget = budget_of(
            reference.sandbox.backend(),
            rows,
            self._artifact.signature,
            max_drop=drop,
            output=self._artifact.manifest.task.config.get("output"),
        )
        for name, side in self._sides.items():
            found = figures(side.sandbox.backend(), budget)
            before = budget.accuracy if found.accuracy is not None else 1.0
            now = found.accuracy if found.accuracy is not None else found.agreement
            what = "accuracy" if found.accuracy is not None else "agreement"
            lost = (before or 0.0) - (now or 0.0)
            yield _finding(name, what, lost <= drop + 1e-9, f"{now:.4f}, {max(lost, 0):.4f} below the reference's")

    def _reference_name(self) -> str:
        """The baseline, or another variant of fp32 where that is not there."""
        name = str(self._document["baseline"]["name"])
        fp32 = (one.name for one in self._artifact.variants if one.precision == "fp32" and one.name in self._sides)
        return name if name in self._sides else next(fp32, name)

    def _speeds(self) -> Iterator[Finding]:
        """How many times as fast as the baseline each one is: a figure that can be compared between machines."""
        baseline = self._sides.get(str(self._document["baseline"]["name"]))
        if baseline is None:
            return
        for one in self._document["candidates"]:
            side = self._sides.get(one["name"])
            if side is None or not one.get("ratio"):
                continue
            self._progress.step(f"comparing {side.name} with the baseline")
            median, _, high = target_ratio(baseline, side, self._bench, rounds=_ROUNDS, seconds=_SECONDS)
            then = one["ratio"]["median"]
            ok = high >= SLOWER * then or then <= 1
            yield _finding(
                side.name,
                str(self._document["target"]),
                ok,
                f"{median:.2f} times as good as the baseline; the report says {then:.2f}",
            )
