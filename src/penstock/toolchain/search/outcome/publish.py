"""Publishes what a search kept as the variants of a new version, with where it comes from and what was measured."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from penstock.artifacts.artifact import (
    Artifact,
    BatchingPolicy,
    Manifest,
    Variant,
    VariantErrors,
    VariantSource,
    write_artifact,
)
from penstock.artifacts.measured_card import updated_card
from penstock.artifacts.refs import check_version
from penstock.errors import InvalidInput
from penstock.formats import FORMATS
from penstock.registry.registry import Registry
from penstock.scan.trust import strongest
from penstock.toolchain.search.candidate import Candidate, Form, Judgement, Speed
from penstock.toolchain.search.machine import fingerprint, instruction_sets
from penstock.toolchain.search.outcome.report import curve_document
from penstock.toolchain.search.pareto import best_batch

_SECTION = "## Optimization"
_LAST_NUMBER = re.compile(r"(\d+)(?!.*\d)")


@dataclass(frozen=True)
class Kept:
    """What is published: the chosen candidate first, others worth keeping, and the baseline as it was.

    `old_speeds` are those of the variants that the model had, by name; the first of them is the baseline.
    """

    chosen: Candidate
    others: Sequence[Candidate]
    old_speeds: Mapping[str, Speed]
    summary: Mapping[str, Any]
    trust: str = "data"
    """What the variants that the model had were opened with."""


def next_version(registry: Registry, artifact: Artifact) -> str:
    """The first unused version above that of an artifact: its last number is counted up."""
    taken = set(registry.versions(artifact.name))
    version = artifact.version
    while version in taken:
        counted = _LAST_NUMBER.sub(lambda match: str(int(match[1]) + 1), version)
        version = counted if counted != version else f"{version}.1"
    return version


def require_unused(registry: Registry, artifact: Artifact, version: str | None) -> str:
    """The version to publish as. Raises InvalidInput when it is no version, or there already."""
    if version is None:
        return next_version(registry, artifact)
    if check_version(version) in registry.versions(artifact.name):
        raise InvalidInput(f"version: {artifact.name}:{version} exists already; choose another", field="version")
    return version


def publish(registry: Registry, artifact: Artifact, version: str, kept: Kept) -> Artifact:
    """Write the new version aside and publish it, which loads it as a server does. Raises what publishing raises."""
    old = [variant for variant in artifact.variants if variant.name in kept.old_speeds]
    variants = [_new(one, *one.measured) for one in (kept.chosen, *kept.others) if one.measured is not None]
    variants += [_as_it_was(artifact, variant, kept.old_speeds[variant.name]) for variant in old]
    tiers = [FORMATS[source.format].trust for source in variants]
    tier = strongest(registry.trusted(artifact.digest), kept.trust, *tiers)
    manifest = artifact.manifest
    with tempfile.TemporaryDirectory(prefix="penstock-optimize-") as scratch:
        written = write_artifact(
            Path(scratch) / "artifact",
            name=artifact.name,
            version=version,
            task=manifest.task,
            signature=manifest.signature,
            variants=variants,
            golden=artifact.golden(),
            card=lambda manifest: _card(artifact, manifest, kept),
            lineage=_lineage(artifact, kept),
            training_data=manifest.training_data,
            metrics=manifest.metrics,
            batching=batching(manifest.batching, kept.chosen.speed),
            padding=manifest.padding,
            ranges=manifest.ranges,
            more_tasks=manifest.more_tasks,
            batchable=manifest.batchable,
            reference=artifact.reference(),
            log_inputs=manifest.log_inputs,
        )
        return registry.publish(written.path, tier)


def batching(policy: BatchingPolicy | None, speed: Speed | None) -> BatchingPolicy | None:
    """The policy, with batches no larger than they are worth by the measured curve; a stricter one is kept."""
    worth = None if speed is None else best_batch(speed.p50_ms)
    if worth is None:
        return policy
    stated = None if policy is None else policy.max_batch_rows
    rows = worth if stated is None else min(worth, stated)
    return (policy or BatchingPolicy()).model_copy(update={"max_batch_rows": rows})


def benchmark_of(speed: Speed) -> dict[str, Any]:
    """What a manifest records of a variant's speed: where it was measured, and latencies by batch size."""
    machine = fingerprint()
    return {
        "environment": {name: machine[name] for name in ("id", "platform", "cpu", "cores", "instruction_sets")},
        "threads": speed.threads,
        "p50_ms": curve_document(speed.p50_ms),
        "p99_ms": curve_document(speed.p99_ms),
        "peak_memory_bytes": speed.memory_bytes,
    }


def requires_of(format: str) -> tuple[str, ...]:
    """The instruction sets that a form needs: machine code is compiled for those of this CPU."""
    needed = [flag for flag in instruction_sets() if flag.startswith(("avx2", "avx512", "fma"))]
    return tuple(needed) if FORMATS[format].trust == "native" else ()


def _new(candidate: Candidate, form: Form, judgement: Judgement, speed: Speed) -> VariantSource:
    return VariantSource(
        form.format,
        form.precision,
        form.path,
        name=candidate.name,
        num_parameters=form.num_parameters,
        max_abs_error=judgement.max_abs,
        benchmark=benchmark_of(speed),
        companions=form.companions,
        requires=form.requires or requires_of(form.format),
        errors=_errors(judgement),
        batch_invariant=judgement.batch_invariant,
        exporter=form.exporter,
        recipe=_recipe(candidate),
        accepted=True if candidate.planned.recipe.lossy else None,
    )


def _errors(judgement: Judgement) -> VariantErrors:
    return VariantErrors(
        max_abs=judgement.max_abs or 0.0,
        max_rel=judgement.max_rel,
        cosine=judgement.cosine,
        top1=judgement.agreement,
        samples=judgement.samples or None,
    )


def _recipe(candidate: Candidate) -> bytes:
    return (json.dumps(candidate.planned.recipe.to_json(), indent=2) + "\n").encode()


def _as_it_was(artifact: Artifact, variant: Variant, speed: Speed) -> VariantSource:
    home = artifact.path / variant.file
    recipe = artifact.path / variant.recipe if variant.recipe is not None else None
    beside = [artifact.path / entry.path for entry in variant.files if entry.path not in (variant.file, variant.recipe)]
    return VariantSource(
        variant.format,
        variant.precision,
        home,
        variant.architecture,
        variant.architecture_args,
        variant.num_parameters,
        variant.max_abs_error,
        benchmark_of(speed),
        {path.relative_to(home.parent).as_posix(): path for path in beside},
        variant.name,
        variant.requires,
        variant.errors,
        variant.batch_invariant,
        variant.exporter,
        recipe.read_bytes() if recipe is not None else None,
        variant.accepted,
    )


def _lineage(artifact: Artifact, kept: Kept) -> dict[str, Any]:
    before = {name: value for name, value in artifact.manifest.lineage.items() if name != "optimization"}
    return before | {
        "parent": artifact.ref,
        "optimized_from": artifact.ref,
        "optimized_from_digest": artifact.digest,
        "optimization": {"chosen": kept.chosen.name, **kept.summary},
    }


def _card(artifact: Artifact, manifest: Manifest, kept: Kept) -> str:
    """The model's card with a section about what was measured, in place of one of an earlier search."""
    text = artifact.card_text() or f"# {artifact.name} {artifact.version}\n"
    card = updated_card(text, manifest, artifact.version)
    parts = re.split(r"^(?=## )", card, flags=re.MULTILINE)
    rest = "".join(part for part in parts if not part.startswith(_SECTION))
    return f"{rest.rstrip()}\n\n{_section(artifact, kept)}"


def _section(artifact: Artifact, kept: Kept) -> str:
    rows = [_row(one.name, one.judgement, one.speed, one.form) for one in (kept.chosen, *kept.others)]
    rows += [_row(name, None, speed, None) for name, speed in kept.old_speeds.items()]
    head = "| variant | accuracy | agreement | p50 ms, one row | times as fast | size |\n|---|---|---|---|---|---|"
    machine = fingerprint()
    return (
        f"{_SECTION}\n\nOptimized from {artifact.ref} by `penstock optimize`; {kept.chosen.name} was chosen. "
        f"Measured on {machine['cpu']} with {machine['cores']} cores, on rows that nothing was calibrated with.\n\n"
        + "\n".join([head, *rows])
        + "\n"
    )


def _row(name: str, judgement: Judgement | None, speed: Speed | None, form: Any) -> str:
    found = judgement or Judgement()
    first = None if speed is None or not speed.p50_ms else speed.p50_ms[min(speed.p50_ms)]
    ratio = None if speed is None or speed.ratio is None else speed.ratio[0]
    size = f"{form.size_bytes}" if form is not None else ""
    cells = [
        name,
        "" if found.accuracy is None else f"{found.accuracy:.4f}",
        "" if found.agreement is None else f"{found.agreement:.4f}",
        "" if first is None else f"{first:.3g}",
        "" if ratio is None else f"{ratio:.2f}",
        size,
    ]
    return f"| {' | '.join(cells)} |"
