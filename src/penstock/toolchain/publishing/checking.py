"""Checks every variant of a published version on this machine, each in a child process that may crash alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Self

from penstock.artifacts.artifact import Artifact, Golden, Variant
from penstock.backends.axes.reading import all_axes
from penstock.backends.axes.seen import settle_axes
from penstock.backends.base import Backend, ModelFile
from penstock.backends.catalog import open_backend, runnable
from penstock.backends.devices import missing_features
from penstock.errors import InferenceError, IntegrityError, InvalidInput, ModelLoadError, Untrusted
from penstock.formats import FORMATS
from penstock.options import BackendOptions
from penstock.tensors import Arrays
from penstock.toolchain.bench.isolation.process import ChildProcess, Limits, SandboxFailed
from penstock.toolchain.publishing.publish import LOSSLESS
from penstock.toolchain.verification.measures import Errors
from penstock.toolchain.verification.trials import Trial, trials
from penstock.toolchain.verification.verdicts import ATOL, RTOL, Verdict, judge

SECONDS = 600.0
"""The limit for one variant: eager PyTorch of a large model runs every trial too."""
_THIS = "penstock.toolchain.publishing.checking"
_GOLDEN = "the golden samples"


@dataclass(frozen=True, slots=True)
class VariantCheck:
    """What was found of one variant. `max_abs` to `top1` are differences from its golden samples (see `Errors`).

    `ok` is None for a variant that this machine cannot run, which `why` says; a server passes over it as well.
    """

    name: str
    max_abs: float | None = None
    max_rel: float | None = None
    cosine: float | None = None
    top1: float | None = None
    batch_invariant: bool | None = None
    ok: bool | None = None
    why: str = ""

    def to_json(self) -> dict[str, Any]:
        """As `penstock verify --json` prints it; infinity is null."""
        return {one.name: _plain(getattr(self, one.name)) for one in fields(self)}

    @classmethod
    def of(cls, name: str, verdict: Verdict) -> Self:
        """The result of a comparison with the golden samples."""
        errors = verdict.errors
        return cls(
            name, errors.max_abs, errors.max_rel, errors.cosine, errors.top1, verdict.batch_invariant, verdict.ok,
            verdict.why,
        )  # fmt: skip


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


@dataclass(frozen=True, slots=True)
class Verification:
    """The variants of one version on this machine."""

    ref: str
    variants: tuple[VariantCheck, ...]

    @property
    def ok(self) -> bool:
        """True if no variant is wrong, and at least one was shown to be right."""
        return all(one.ok is not False for one in self.variants) and any(one.ok for one in self.variants)

    def to_json(self) -> dict[str, Any]:
        """As `penstock verify --json` prints it."""
        return {"ref": self.ref, "variants": [one.to_json() for one in self.variants]}


def verify_artifact(
    artifact: Artifact, trust: str = "data", on_variant: Callable[[str], None] | None = None
) -> Verification:
    """Check every variant against the golden samples and, where eager PyTorch runs here, against that.

    `on_variant` is called with the name of each before its check. Raises IntegrityError for altered golden samples.
    """
    artifact.golden()
    report = on_variant or (lambda _: None)
    eager = [variant for variant in artifact.variants if _is_eager(variant)]
    others = [variant for variant in artifact.variants if variant not in eager]
    found: dict[str, VariantCheck] = {}
    with closing(_Children(artifact, trust)) as children:
        for variant in (*eager, *others):
            report(variant.name)
            right = next((one.name for one in eager if one.name in found and found[one.name].ok), None)
            found[variant.name] = children.check(variant, right)
    return Verification(artifact.ref, tuple(found[variant.name] for variant in artifact.variants))


def _is_eager(variant: Variant) -> bool:
    """True for weights that their class runs: the reference for the other forms, if it is right itself."""
    row = FORMATS.get(variant.format)
    return row is not None and row.needs_architecture and variant.precision in LOSSLESS


class _Children:
    """Checks variants in a child process, and in a new one after one has crashed."""

    def __init__(self, artifact: Artifact, trust: str) -> None:
        self._artifact = artifact
        self._trust = trust
        self._process: ChildProcess | None = None

    def check(self, variant: Variant, eager: str | None) -> VariantCheck:
        """The result of one variant; a crash is one too."""
        missing = missing_for(variant)
        if missing:
            return VariantCheck(variant.name, why=missing)
        process = self._process = self._process or ChildProcess(variant.name, Limits(seconds=SECONDS))
        process.name = f"{self._artifact.ref}/{variant.name}"
        arguments = (self._artifact.path, variant.name, self._trust, eager)
        try:
            return VariantCheck(**process.call(f"{_THIS}:check_in_child", *arguments, doing="while it was verified"))
        except SandboxFailed as error:
            self.close()
            return VariantCheck(variant.name, ok=False, why=str(error))

    def close(self) -> None:
        """End the process, if there is one."""
        process, self._process = self._process, None
        if process is not None:
            process.close()


def missing_for(variant: Variant) -> str:
    """Why this machine cannot run a variant at all, empty if it can."""
    row = FORMATS.get(variant.format)
    if row is None:
        return f"this release does not know the format {variant.format}"
    if not runnable(variant.format):
        return f"{row.runtime.package} is not installed here; {row.runtime.remedy}"
    lacking = missing_features(variant.requires)
    return f"this machine lacks {', '.join(lacking)}" if lacking else ""


# In the child process


def check_in_child(directory: Path, variant: str, trust: str, eager: str | None) -> dict[str, Any]:
    """The fields of a `VariantCheck`, as plain data."""
    found = check_variant(Artifact.open(directory), variant, trust, eager)
    return {one.name: getattr(found, one.name) for one in fields(found)}


def check_variant(artifact: Artifact, name: str, trust: str, eager: str | None = None) -> VariantCheck:
    """Check one variant in this process; `eager` is the variant that it is compared with besides."""
    variant = artifact.manifest.variant(name)
    golden = artifact.golden_for(variant)
    try:
        artifact.verify(variant)
        with ExitStack() as opened:
            candidate = open_variant(artifact, variant, golden, trust, opened)
            if golden is None:
                return VariantCheck(name, why="there are no golden samples to compare its answers with")
            reference = _reference(artifact, golden, trust, opened, None if eager == name else eager)
            return _compared(artifact, variant, candidate, golden, reference)
    except Untrusted as error:
        return VariantCheck(name, why=str(error))
    except (IntegrityError, ModelLoadError, InferenceError, InvalidInput) as error:
        return VariantCheck(name, ok=False, why=str(error))


def _reference(artifact: Artifact, golden: Golden, trust: str, opened: ExitStack, eager: str | None) -> Backend | None:
    return None if eager is None else open_variant(artifact, artifact.manifest.variant(eager), golden, trust, opened)


def open_variant(artifact: Artifact, variant: Variant, golden: Golden | None, trust: str, opened: ExitStack) -> Backend:
    """A variant in this process, closed with `opened`. Raises ModelLoadError."""
    signature = artifact.signature
    axes = all_axes(signature) if artifact.manifest.batch_axes is not None else {}
    file = ModelFile(
        artifact.variant_path(variant), signature, variant.architecture, variant.architecture_args, batch_axes=axes
    )
    backend = open_backend(variant.format, file, BackendOptions(device="cpu", trust=trust))
    opened.callback(backend.close)
    if golden is not None and (file.stated is None or (backend.reading is not None and backend.reading.unsure)):
        settle_axes(backend, golden.inputs, written=True)
    return backend


def _compared(
    artifact: Artifact, variant: Variant, candidate: Backend, golden: Golden, eager: Backend | None
) -> VariantCheck:
    known = artifact.manifest.batchable
    batchable = bool(known) and variant.batch_invariant is not False
    found = judge(
        candidate,
        _Recorded(golden.outputs),
        [Trial(_GOLDEN, golden.inputs, "given")],
        atol=golden.atol,
        rtol=golden.rtol,
        absolute=True,
        batchable=batchable,
    )
    if not found.ok and not batchable and not found.batch_invariant:
        found = _alone(candidate, golden) or found
    check = VariantCheck.of(variant.name, found)
    if not found.ok or eager is None:
        return check
    other = _beyond_the_samples(variant, candidate, golden, eager, _tolerance(artifact), batchable=batchable)
    return (
        check
        if other.ok
        else VariantCheck.of(variant.name, Verdict(found.errors, found.batch_invariant, False, other.why))
    )


def _beyond_the_samples(
    variant: Variant,
    candidate: Backend,
    golden: Golden,
    eager: Backend,
    tolerance: tuple[float, float],
    *,
    batchable: bool,
) -> Verdict:
    """Other rows, lengths and values, against eager PyTorch; of a form that rounds by design only that it answers."""
    atol, rtol = tolerance if variant.precision in LOSSLESS else (math.inf, 0.0)
    every = trials(candidate.signature, golden.inputs, name=_GOLDEN)
    return judge(candidate, eager, every, atol=atol, rtol=rtol, batchable=batchable, prove=False)


def _tolerance(artifact: Artifact) -> tuple[float, float]:
    """What its lossless forms were held to when they were exported, if that was wider than the default."""
    asked = artifact.manifest.lineage.get("tolerance")
    given = asked if isinstance(asked, dict) else {}
    atol, rtol = (given.get(name) for name in ("atol", "rtol"))
    return (
        max(ATOL, float(atol)) if isinstance(atol, int | float) else ATOL,
        max(RTOL, float(rtol)) if isinstance(rtol, int | float) else RTOL,
    )


def _alone(candidate: Backend, golden: Golden) -> Verdict | None:
    """Each golden sample as a request of its own, as a server runs such a model; None if one differs."""
    if golden.whole or golden.axes or golden.rows < 2:
        return None
    errors: list[Errors] = []
    for row in range(golden.rows):
        part = slice(row, row + 1)
        trial = Trial(
            f"golden sample {row} alone", {name: array[part] for name, array in golden.inputs.items()}, "given"
        )
        answers = {name: array[part] for name, array in golden.outputs.items()}
        found = judge(
            candidate, _Recorded(answers), [trial], atol=golden.atol, rtol=golden.rtol, absolute=True, prove=False
        )
        if not found.ok:
            return None
        errors.append(found.errors)
    return Verdict(max(errors, key=lambda one: one.max_abs), batch_invariant=False, ok=True)


class _Recorded:
    """Answers that were recorded when the version was made."""

    def __init__(self, outputs: Arrays) -> None:
        self._outputs = outputs

    def run(self, inputs: Arrays) -> Arrays:  # noqa: ARG002  they belong to one input
        """The recorded answers."""
        return self._outputs
